"""The attacked test images of a benchmark."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import ambient
from .. import classifier as classifier_module
from .. import images as images_package
from ..attacks import ATTACKS, Attack, Attacked, craft
from ..data import DataSet, Images
from ..errors import DataError
from .cache import Cache, images_key, module_key, source_digest, versions


def attack_all(
    classifier: nn.Module,
    data: DataSet,
    attacks: list[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Attacked]:
    """Attacks the first test images with each of several attacks.

    Args:
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        data: The data set whose test images are attacked.
        attacks: Keys of `ATTACKS`.
        limit: How many images are attacked; None for all.
        seed: Seed of the random starts.
        cache: Where attacked images are kept.
        log: Called with a line for each attack.

    Returns:
        The results of `craft`, by attack.

    Raises:
        DataError: If the test images have no labels.
    """
    victims = labelled_test(data, limit)
    attacked = {}
    for name in attacks:
        preset = ATTACKS[name]

        def make(preset: Attack = preset) -> dict[str, Tensor]:
            result = craft(classifier, victims.x, victims.y, preset, seed=seed)
            return {name: torch.as_tensor(value) for name, value in vars(result).items()}

        key = attack_key(preset, classifier, victims, seed) if cache and cache.folder else {}
        parts: dict[str, Any] = (cache or Cache())(key, make)
        attacked[name] = result = Attacked(**{**parts, "model_calls": int(parts["model_calls"])})
        log(f"{name}: {int(result.succeeded.sum())} of {int(result.attempted.sum())} succeeded")
    return attacked


def attack_key(preset: Attack, classifier: nn.Module, images: Images, seed: int) -> dict[str, Any]:
    """Returns everything that the outcome of an attack depends on, as the key of a cache.

    Args:
        preset: The attack.
        classifier: The classifier that is attacked.
        images: The images that are attacked.
        seed: Seed of the random starts.

    Returns:
        Plain JSON values.
    """
    kind = type(preset.make())
    from ..attacks import criteria  # needs foolbox

    code = [sys.modules[Attack.__module__], sys.modules[Attacked.__module__], criteria, images_package]
    code += [ambient, classifier_module]
    # versions tell foolbox's code
    others = (base.__module__ for base in kind.__mro__)
    code += [sys.modules[name] for name in others if name.partition(".")[0] not in ("foolbox", "abc", "builtins")]
    return {
        "attack": preset.as_json(),
        "seed": seed,
        "classifier": module_key(classifier),
        **images_key(images),
        "code": source_digest(*code),
        "versions": versions("torch", "foolbox"),
    }


def labelled_test(data: DataSet, limit: int | None) -> Images:
    """Returns the first test images with their labels.

    Args:
        data: The data set.
        limit: How many images to return; None for all.

    Raises:
        DataError: If the test images have no labels.
    """
    if data.test.y is None:
        raise DataError(f"{data.name} has no labels, which an attack needs")
    return data.test[:limit]
