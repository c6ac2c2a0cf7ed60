"""Attacked photographs, and what becomes of them when they are saved again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...attacks import ATTACKS, Attack, Attacked, craft
from ...data import Images
from ...images import read_image
from ..attacked import attack_key
from ..cache import Cache
from .data import Photographs, colour, encoded, predicted

PIXELS_AT_ONCE = 16 * 224 * 224  # of a batch of an attack; the outcome depends on it
# name -> the format and the options with which attacked images are saved
SAVED_AS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg-90": ("JPEG", {"quality": 90}),
    "webp-80": ("WEBP", {"quality": 80}),
}


@dataclass(frozen=True)
class AttackedPhotographs:
    """The result of an attack on N photographs.

    Attributes:
        images: N attacked images, (3, H, W) uint8.
        attempted: (N,) bool, whether the classifier gives the original its label.
        succeeded: (N,) bool, as for `pixeldefend.attacks.Attacked`.
        linf: (N,) Linf distance from the original, in units of [0, 1].
        l2: (N,) L2 distance from the original, in units of [0, 1].
        model_calls: The number of images that went through the classifier.
    """

    images: list[Tensor]
    attempted: Tensor
    succeeded: Tensor
    linf: Tensor
    l2: Tensor
    model_calls: int


def attack_photographs(
    classifier: nn.Module,
    photographs: Photographs,
    attacks: list[str],
    *,
    seed: int = 0,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, AttackedPhotographs]:
    """Attacks photographs with each of several attacks, batch by batch, in groups of one size.

    Args:
        classifier: (N, 3, H, W) in [0, 1] -> (N, classes) logits.
        photographs: The photographs. In the native view the classifier takes images of any size.
        attacks: Keys of `ATTACKS`.
        seed: Seed of what each attack draws for a batch.
        cache: Where attacked images are kept, a file for each attack and batch.
        log: Called with a line for each attack.

    Returns:
        The results, by attack.
    """
    made = {}
    for name in attacks:
        made[name] = result = _attacked(classifier, photographs, ATTACKS[name], seed, cache or Cache())
        log(f"{name}: {int(result.succeeded.sum())} of {int(result.attempted.sum())} succeeded")
    return made


def _attacked(
    classifier: nn.Module, photographs: Photographs, attack: Attack, seed: int, cache: Cache
) -> AttackedPhotographs:
    n = len(photographs)
    images: list[Any] = [None] * n
    attempted, succeeded = (torch.zeros(n, dtype=torch.bool) for _ in range(2))
    linf, l2 = torch.zeros(n), torch.zeros(n)
    calls = 0
    for batch in photographs.batches(PIXELS_AT_ONCE):
        key = attack_key(attack, classifier, batch, seed) if cache.folder else {}
        found = Attacked(**cache(key, partial(_crafted, classifier, batch, attack, seed)))  # type: ignore[arg-type]
        for place, image in zip(batch.index.tolist(), found.images, strict=True):
            images[place] = image
        attempted[batch.index], succeeded[batch.index] = found.attempted, found.succeeded
        linf[batch.index], l2[batch.index] = found.linf, found.l2
        calls += int(found.model_calls)
    return AttackedPhotographs(images, attempted, succeeded, linf, l2, calls)


def _crafted(classifier: nn.Module, batch: Images, attack: Attack, seed: int) -> dict[str, Tensor]:
    result = craft(classifier, batch.x, batch.y, attack, seed=seed, batch_size=len(batch))
    return {name: torch.as_tensor(value) for name, value in vars(result).items()}


def saved_again(images: list[Tensor], how: str) -> Iterator[bytes]:
    """Saves images with a loss.

    Args:
        images: (3, H, W) uint8 each.
        how: A key of `SAVED_AS`.

    Yields:
        The bytes of the files.
    """
    format, options = SAVED_AS[how]
    for image in images:
        yield encoded(image, format, **options)


def still_misclassified(classifier: nn.Module, files: list[bytes], labels: Tensor) -> Tensor:
    """Returns (N,) bool: whether the classifier gives each file another class than its label.

    Args:
        classifier: (N, 3, H, W) in [0, 1] -> (N, classes) logits.
        files: The bytes of N image files.
        labels: (N,) int64.
    """
    return predicted(classifier, (colour(read_image(file)) for file in files)) != labels
