"""How much noise an image has."""

from __future__ import annotations

import numpy as np

from ..errors import ImageError

MEDIAN_OF_NORMAL = 0.6744897501960817  # the median absolute value of a standard normal number


def noise_level(pixels: np.ndarray) -> np.ndarray:
    """Estimates the standard deviation of independent noise in each channel.

    The diagonal differences of 2 x 2 pixels are nearly free of smooth content, and their median of edges. Of noise that
    is correlated between neighbours, such as a camera's, only the part of high frequency is found.

    Args:
        pixels: uint8 (H, W) or (H, W, C), of at least 2 pixels a side.

    Returns:
        float64, (1,) or (C,), in grey levels. 0 where most neighbours are equal, as in flat images.

    Raises:
        ImageError: If the image is smaller or has another shape.

    Reference:
        D. L. Donoho and I. M. Johnstone: Ideal spatial adaptation by wavelet shrinkage (1994).
    """
    if pixels.ndim not in (2, 3) or min(pixels.shape[:2]) < 2:
        raise ImageError(f"got shape {pixels.shape}; wanted (H, W) or (H, W, C), with 2 pixels a side or more", "size")
    x = pixels.reshape(*pixels.shape[:2], -1).astype(np.int16)
    diagonal = np.abs(x[:-1, :-1] - x[:-1, 1:] - x[1:, :-1] + x[1:, 1:])
    return np.array([_median(channel) for channel in np.moveaxis(diagonal, 2, 0)]) / (2 * MEDIAN_OF_NORMAL)


def _median(values: np.ndarray) -> float:
    """Returns the median of whole numbers, each of which stands for an interval of width 1: ties are spread evenly."""
    counts = np.bincount(values.ravel())
    below = counts.cumsum()
    half = values.size / 2
    middle = int(np.searchsorted(below, half))
    if middle == 0:  # numbers from 0 to 0.5
        return 0.5 * max(0.0, 2 * half / counts[0] - 1)
    return middle - 0.5 + (half - below[middle - 1]) / counts[middle]
