"""The evidence about the tiles of a batch of images, and the scores and maps of the images that result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..densities import Density
from ..errors import ModelError
from ..preprocessing import TileBatch, aggregated
from ..scores import Evidence, bits_per_dim


class ScoredTiles:
    """Tiles of N images, in parts that fit into memory, with the evidence about each part.

    Args:
        tiles: The tiles, on the density's device.
        density: The density.
        size: The largest number of tiles at once.
        classifier: The classifier, for statistics that use it.
        fast: The density on a faster backend, which computes the conditionals if it is given.
    """

    def __init__(
        self,
        tiles: TileBatch,
        density: Density,
        size: int,
        classifier: nn.Module | None = None,
        fast: Density | None = None,
    ) -> None:
        self.tiles = tiles
        parts = tiles.x.split(max(size, 1)) if len(tiles.x) else (tiles.x,)
        self.evidence = [Evidence(density, density.to_support(x), classifier, fast) for x in parts]

    def each(self, function: Callable[[Evidence], Tensor]) -> Tensor:
        """Returns a statistic of every tile, (T, ...)."""
        return torch.cat([evidence.once(function) for evidence in self.evidence])

    def scores(self, function: Callable[[Evidence], Tensor], aggregate: str) -> Tensor:
        """Returns a statistic of every image, (N, ...).

        Args:
            function: The statistic.
            aggregate: A key of `pixeldefend.preprocessing.AGGREGATES`.
        """
        return aggregated(self.each(function), self.tiles.owner, aggregate)

    def bits_per_dim(self) -> Tensor:
        """Returns (N,): the mean over an image's tiles; NaN for rows of real numbers, which have no bits/dim."""
        evidence = self.evidence[0]
        if not evidence.density.has_bits(tuple(evidence.x.shape[1:])):
            return torch.full((len(self.tiles.x),), torch.nan)
        return self.scores(bits_per_dim, "mean")

    def surprisal_maps(self, n: int, height: int, width: int) -> Tensor:
        """Returns (N, H, W): the nats of each pixel, the mean over the tiles that cover it."""
        maps = self.each(surprisal_of_pixels).cpu()
        total, count = (torch.zeros(n, height, width, dtype=maps.dtype) for _ in range(2))
        for owner, box, tile in zip(self.tiles.owner.tolist(), self.tiles.box.tolist(), maps, strict=True):
            top, left, bottom, right = box
            size = (bottom - top, right - left)
            if tuple(tile.shape) != size:  # of a resized image
                tile = F.interpolate(tile[None, None], size=size, mode="nearest")[0, 0]
            total[owner, top:bottom, left:right] += tile
            count[owner, top:bottom, left:right] += 1
        return total / count


def surprisal_of_pixels(evidence: Evidence) -> Tensor:
    """Returns (N, H, W) nats, summed over channels, or (N, D) for rows."""
    return evidence.surprisal.sum(1) if evidence.surprisal.ndim == 4 else evidence.surprisal


def to_numbers(tensor: Tensor) -> np.ndarray:
    """Returns a tensor as a float64 array.

    Raises:
        ModelError: If a value is NaN, which no threshold would catch.
    """
    if torch.isnan(tensor).any():
        raise ModelError("the density gives NaN for some images: it diverged in training, or its weights are damaged")
    return tensor.detach().double().cpu().numpy()
