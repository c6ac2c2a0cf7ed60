"""The luminance table of libjpeg, the most common encoder of JPEGs, and the quality that another table resembles."""

from __future__ import annotations

from functools import cache

import numpy as np

# Table K.1 of the standard, which stands for quality 50.
# fmt: off
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])
# fmt: on


@cache
def luminance_tables() -> np.ndarray:
    """Returns libjpeg's luminance tables.

    Returns:
        int, (100, 8, 8): the steps of the coefficients, for the qualities 1 to 100.
    """
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    tables = np.clip((LUMINANCE * scale[:, None, None] + 50) // 100, 1, 255)
    tables.setflags(write=False)
    return tables


def nearest_quality(table: np.ndarray) -> int:
    """Returns the quality of libjpeg whose luminance table is most like another table.

    Args:
        table: (8, 8): the steps of the coefficients, at least 1.

    Returns:
        The quality, 1 to 100, for which the mean absolute difference of the natural logarithms of the steps is least.
        Of equally near qualities the highest is returned.
    """
    distances = np.abs(np.log(luminance_tables() / table)).mean((1, 2))[::-1]
    return 100 - int(distances.argmin())
