"""How far the spectrum of an image reaches, which tells of resizing and of blur."""

from __future__ import annotations

import numpy as np

from ..errors import ImageError
from .grid import luma

FREQUENCIES = (0.125, 0.25, 0.375, 0.5)  # in cycles a pixel: 0.5 is the highest of a row or a column
SIDE = 64  # pixels of a patch
MOST_PATCHES = 16  # a side


def energy_above(pixels: np.ndarray) -> np.ndarray:
    """Returns which shares of an image's spectral energy lie above some radial frequencies.

    An image enlarged by s has hardly any energy above 0.5 / s, and one that was shrunk without antialiasing has more
    than others. The spectrum is the mean over patches of 64 x 64 pixels, spread evenly and weighted towards their
    middle, without their mean brightness.

    Args:
        pixels: uint8 (H, W) or (H, W, 3), of at least 64 pixels a side.

    Returns:
        float64, (4,): the share above each of `FREQUENCIES`, in [0, 1]; 0 for a flat image.

    Raises:
        ImageError: If the image is smaller or has another shape.
    """
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or min(pixels.shape[:2]) < SIDE:
        wanted = f"(H, W) or (H, W, 3), with {SIDE} pixels a side or more"
        raise ImageError(f"got shape {pixels.shape}; wanted {wanted}", "size")
    tops, lefts = (
        np.linspace(0, side - SIDE, min(MOST_PATCHES, -(-side // SIDE))).astype(int) for side in pixels.shape[:2]
    )
    patches = np.stack([luma(pixels[top : top + SIDE, left : left + SIDE]) for top in tops for left in lefts])
    window = np.hanning(SIDE + 2)[1:-1]
    window = np.outer(window, window)
    means = (patches * window).sum((1, 2)) / window.sum()
    patches = (patches - means[:, None, None]) * window
    power = np.abs(np.fft.rfft2(patches)) ** 2
    power[:, :, 1:-1] *= 2  # the columns that rfft2 leaves out
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    mean = power.mean(0)
    total = mean.sum()
    if total < 1e-6:
        return np.zeros(len(FREQUENCIES))
    return np.array([mean[radius > frequency].sum() for frequency in FREQUENCIES]) / total
