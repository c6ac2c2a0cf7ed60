"""What statistics say about the tiles of images, part by part, so that memory does not grow with the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..densities import Density
from ..errors import ModelError, ParameterError
from ..preprocessing import TileBatch
from ..scores import Evidence

Statistic = Callable[[Evidence], Tensor]


def over_tiles(
    statistics: Sequence[Statistic],
    x: Tensor,
    density: Density,
    size: int,
    classifier: nn.Module | None = None,
    fast: Density | None = None,
    alternative: Density | None = None,
) -> list[Tensor]:
    """Computes statistics of tiles, all from one pass of the density.

    Args:
        statistics: Functions of `Evidence` that return (n, ...) for n tiles.
        x: (T, *event) in [0, 1], tiles on the density's device.
        density: What is asked.
        size: The most tiles at once; what was computed about them is forgotten before the next.
        classifier: For statistics that use it.
        fast: The density on another backend, asked for conditionals in its place.
        alternative: A density of perturbed images, for statistics that use it.

    Returns:
        (T, ...) for each statistic.
    """
    found: list[list[Tensor]] = [[] for _ in statistics]
    for part in x.split(max(size, 1)) if len(x) else (x,):
        evidence = Evidence(density, density.to_support(part), classifier, fast, alternative)
        for values, statistic in zip(found, statistics, strict=True):
            values.append(evidence.once(statistic))
    return [torch.cat(values) for values in found]


def stitched(maps: Tensor, tiles: TileBatch, n: int, height: int, width: int) -> Tensor:
    """Puts the maps of tiles where the tiles lie.

    Args:
        maps: (T, h, w), of the tiles.
        tiles: The tiles.
        n: The number of images.
        height: Of an image.
        width: Of an image.

    Returns:
        (N, H, W), on the CPU: at each pixel the mean of the tiles that cover it.
    """
    total, count = (torch.zeros(n, height, width, dtype=maps.dtype, device="cpu") for _ in range(2))
    for owner, box, tile in zip(tiles.owner.tolist(), tiles.box.tolist(), maps.cpu(), strict=True):
        top, left, bottom, right = box
        size = (bottom - top, right - left)
        if tuple(tile.shape) != size:  # of a resized image
            tile = F.interpolate(tile[None, None], size=size, mode="nearest")[0, 0]
        total[owner, top:bottom, left:right] += tile
        count[owner, top:bottom, left:right] += 1
    return total / count


def surprisal_of_pixels(evidence: Evidence) -> Tensor:
    """Returns (N, H, W) nats, summed over channels; of rows (N, D)."""
    return evidence.surprisal.sum(1) if evidence.surprisal.ndim == 4 else evidence.surprisal


def of_each(values: Tensor, tiles: TileBatch, n: int) -> np.ndarray:
    """Divides what was computed of tiles among their images.

    Args:
        values: (T, ...), of the tiles.
        tiles: The tiles.
        n: The number of images.

    Returns:
        (n,) tensors, each with the values of one image's tiles.
    """
    found = np.empty(n, object)
    counts = torch.bincount(tiles.owner.cpu(), minlength=n).tolist()
    for image, part in enumerate(values.split(counts)):
        found[image] = part
    return found


def joined(features: Sequence[Tensor], statistic: str) -> Tensor:
    """Returns the features of all images, (N, ...), from which a statistic learns.

    Args:
        features: (n, ...) each, of the tiles of one image.
        statistic: Its name in messages.

    Raises:
        ParameterError: If the shapes differ.
    """
    if len({part.shape[1:] for part in features}) > 1:
        raise ParameterError(f"{statistic} learns from images of one size: give such images (X_fit)")
    return torch.cat(list(features))


def to_numbers(tensor: Tensor) -> np.ndarray:
    """Returns a tensor as a float64 array.

    Raises:
        ModelError: For NaN, which no threshold would catch.
    """
    return checked(tensor).double().cpu().numpy()


def checked(tensor: Tensor) -> Tensor:
    """Returns a tensor without its gradient.

    Raises:
        ModelError: For NaN.
    """
    if torch.isnan(tensor).any():
        images = int(torch.isnan(tensor).flatten(1).any(1).sum()) if tensor.ndim > 1 else int(torch.isnan(tensor).sum())
        raise ModelError(
            f"the density or the statistic gives NaN for {images} of {len(tensor)} images: the density diverged in "
            "training, its weights are damaged, or a statistic of your own fails"
        )
    return tensor.detach()
