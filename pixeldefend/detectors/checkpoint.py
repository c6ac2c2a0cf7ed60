"""What is in the files of detectors."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..densities import Density, restored
from ..errors import ModelError, ParameterError
from ..scores import LearnedScore, Score
from ..scores.likelihood_ratio import LikelihoodRatio


def density_of(
    path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any], role: str = "density"
) -> Density:
    """Returns a density in a detector's file.

    Args:
        path: The file, for messages.
        tensors: The tensors in the file.
        meta: The metadata of the file.
        role: "density", or "alternative" for the density of perturbed images.

    Raises:
        ModelError: If the weights do not belong to the density.
    """
    return restored(path, meta[role], part_of(tensors, role))


def ratio_of(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> LikelihoodRatio:
    """Returns the likelihood ratio in the file of a detector of photographs.

    Args:
        path: The file, for messages.
        tensors: The tensors in the file.
        meta: The metadata of the file.

    Raises:
        ModelError: If the weights do not belong to it.
    """
    try:
        ratio = LikelihoodRatio(**meta["ratio"])
        ratio.load_state_dict(part_of(tensors, "ratio"))
    except (KeyError, TypeError, RuntimeError, ParameterError) as error:
        raise ModelError(f"{path}: the likelihood ratio is damaged or of another version ({error})") from None
    return ratio.eval()


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Returns the tensors of one part of a detector's file, by their names without that of the part.

    Args:
        tensors: The tensors in the file.
        part: Such as "density", "ratio" or "learned".
    """
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def learned(score: Score) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the plain JSON values that a statistic has learned, by name.

    Args:
        score: A statistic.
    """
    state = score.state() if isinstance(score, LearnedScore) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


# what the scores of a file's calibration depend on
FIXED = frozenset({"density", "alternative", "ratio", "preprocessor", "statistic", "aggregate"})


def check_replaceable(given: Collection[str]) -> None:
    """Refuses parameters in place of those in a file, if the file's calibration depends on them.

    Args:
        given: The names of the parameters.

    Raises:
        ParameterError: If one of them is in `FIXED`.
    """
    if fixed := FIXED.intersection(given):
        raise ParameterError(
            f"{' and '.join(sorted(fixed))} cannot be replaced, since the calibration in the file depends on it: fit a "
            "new detector"
        )


def plain_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters that JSON can hold, by name, with numbers of numpy as Python's.

    Args:
        parameters: Any values by name.
    """
    plain = {}
    for name, value in parameters.items():
        value = value.item() if isinstance(value, np.generic) else value
        try:
            json.dumps(value)
        except TypeError:
            continue
        plain[name] = value
    return plain
