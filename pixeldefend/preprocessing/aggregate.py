"""Combines the scores of tiles into one score per image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ParameterError

Aggregate = Callable[[Tensor], Tensor]

# name -> (T, ...) scores of one image's tiles -> its score, (...)
AGGREGATES: dict[str, Aggregate] = {
    # detects anomalies in a single place; grows with the number of tiles, so calibrate on images of similar sizes
    "max": lambda scores: scores.amax(0),
    # best for anomalies that are everywhere; does not grow with the number of tiles
    "mean": lambda scores: scores.mean(0),
    # between the two: the mean of the highest tenth, at least one tile
    "top_tenth": lambda scores: scores.topk(max(1, len(scores) // 10), 0).values.mean(0),
}


def aggregated(scores: Tensor, owner: Tensor, name: str) -> Tensor:
    """Combines the scores of each image's tiles into one score.

    Args:
        scores: (T, ...), the scores of T tiles.
        owner: (T,) int64, in ascending order: the index of each tile's image. Every image has at least one tile.
        name: A key of `AGGREGATES`.

    Returns:
        (N, ...), with a gradient if scores have one.

    Raises:
        ParameterError: If there is no aggregate of this name.
    """
    if name not in AGGREGATES:
        raise ParameterError(f"unknown aggregate {name!r}; there are: {', '.join(AGGREGATES)}")
    counts = owner.bincount().tolist()
    if len(counts) == len(scores):  # one tile an image
        return scores
    return torch.stack([AGGREGATES[name](part) for part in scores.split(counts)])
