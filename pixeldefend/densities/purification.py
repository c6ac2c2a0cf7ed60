"""PixelDefend's algorithm 1, which moves an image back towards the data.

An attack moves pixels a little to values that are improbable given their neighbours. PixelDefend (Song, Kim, Nowozin,
Ermon & Kushman 2018) undoes this greedily: in the density's order it sets each sub-pixel to its most probable value
within eps of the original, given the purified sub-pixels before it. Values that are determined site after site like
this are computed by `sampling.solve`.

This is the bare algorithm, which the anomaly scores use too; `pixeldefend.purification` checks its input and loads
detectors.
"""

from __future__ import annotations

from torch import Tensor

from .autoregressive import Autoregressive
from .sampling import MostProbable, solve


def most_probable_within(density: Autoregressive, x: Tensor, eps: int, *, method: str = "auto") -> Tensor:
    """Sets every sub-pixel to its most probable value within eps, given those before it.

    Args:
        density: A density of 8-bit images.
        x: (N, C, H, W) in [0, 1], on the 8-bit grid.
        eps: How far a sub-pixel may move, in steps of the 8-bit grid, 0 to 255.
        method: As for `sampling.solve`.

    Returns:
        (N, C, H, W), on the 8-bit grid. Among equally probable values the lowest is taken.

    Raises:
        ParameterError: If there is no such method.
        ModelError: If the density gives NaN.

    Reference:
        Song, Kim, Nowozin, Ermon & Kushman 2018, "PixelDefend", arXiv:1710.10766, algorithm 1.
    """
    low, high = (((255 * x).round() + move).clamp(0, 255) / 255 for move in (-eps, eps))
    return solve(density, x, MostProbable(low, high), method=method)
