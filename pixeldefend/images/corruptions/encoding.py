"""Image files as cameras, editors and web sites write them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
COMMON_QUALITIES = (50, 60, 70, 75, 80, 82, 85, 87, 90, 92, 94, 95, 98)  # what programs offer or preset
# The base of libjpeg's luminance table, in rows (Annex K of the standard).
# fmt: off
LUMINANCE = np.array([
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
])
# fmt: on


def jpeg_file(
    image: Image.Image, rng: np.random.Generator, lowest: int, highest: int, *, camera: bool = False
) -> bytes:
    """Writes a JPEG of random settings.

    Args:
        image: RGB or L.
        rng: The source of random numbers.
        lowest: The lowest quality of libjpeg's scale.
        highest: The highest quality.
        camera: Whether 4:2:2 is as common as on cameras, and half the files have tables of another maker than libjpeg.

    Returns:
        The bytes of the file.
    """
    quality = _quality(rng, lowest, highest)
    weights = (0.25, 0.4, 0.35) if camera else (0.3, 0.08, 0.62)
    settings: dict[str, Any] = {"subsampling": str(rng.choice(SUBSAMPLINGS, p=weights))} if image.mode == "RGB" else {}
    if camera and rng.random() < 0.5:
        settings["qtables"] = _tables(rng, quality)
    else:
        settings["quality"] = quality
    return written(image, "JPEG", progressive=bool(not camera and rng.random() < 0.25), **settings)


def webp_file(image: Image.Image, rng: np.random.Generator, lowest: int, highest: int) -> bytes:
    """Writes a lossy WebP of random quality.

    Args:
        image: RGB or L.
        rng: The source of random numbers.
        lowest: The lowest quality, at least 0.
        highest: The highest quality, at most 100.

    Returns:
        The bytes of the file.
    """
    return written(image, "WEBP", quality=_quality(rng, lowest, highest), method=int(rng.integers(0, 4)))


def png_file(image: Image.Image) -> bytes:
    """Writes a PNG with little compression, which is fast and changes no pixel.

    Args:
        image: RGB, L or P.

    Returns:
        The bytes of the file.
    """
    return written(image, "PNG", compress_level=1)


def written(image: Image.Image, format: str, **settings: Any) -> bytes:
    """Writes an image file to memory.

    Args:
        image: An image of a mode that the format has.
        format: A format of Pillow.
        **settings: Passed to Pillow.

    Returns:
        The bytes of the file.
    """
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    """Reads a file that was written here.

    Args:
        data: The bytes of the file.

    Returns:
        The image in RGB.
    """
    return Image.open(io.BytesIO(data)).convert("RGB")


def _quality(rng: np.random.Generator, lowest: int, highest: int) -> int:
    """Draws a quality: half the time one that programs offer, otherwise any."""
    common = [quality for quality in COMMON_QUALITIES if lowest <= quality <= highest]
    return int(rng.choice(common) if rng.random() < 0.5 else rng.integers(lowest, highest + 1))


def _tables(rng: np.random.Generator, quality: int) -> list[list[int]]:
    """Draws tables of another shape than libjpeg's: smoother, and steeper or flatter towards high frequencies."""
    rows, columns = np.indices((8, 8)).reshape(2, -1)
    smooth = 9 + 4 * (rows + columns) ** rng.uniform(1.0, 1.4)
    luminance = LUMINANCE + rng.uniform(0.3, 1) * (smooth - LUMINANCE)
    chrominance = np.minimum(luminance * rng.uniform(1, 1.8), 99 + rng.uniform(-30, 60))
    scale = (200 - 2 * quality if quality >= 50 else 5000 / quality) / 100
    return [np.clip(np.rint(table * scale), 1, 255).astype(int).tolist() for table in (luminance, chrominance)]
