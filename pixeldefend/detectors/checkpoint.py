"""What is in the files of detectors."""

from __future__ import annotations

import os
from typing import Any

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
