"""Histories of clean photographs: what became of them before somebody received them.

A detector of photographs has to keep its rate of false alarms whatever the history. Training, calibration and tests
draw histories here.

`HISTORIES` lists them by name. To add one, add an entry there: a function of a PIL image in RGB, both of whose sides
are at least `SMALLEST_SOURCE`, and of a numpy `Generator`. It returns the bytes of a JPEG, WebP or PNG, both of whose
sides are at least 64. The file counts, not only its pixels: detectors also read formats and quantization tables.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ...ambient import torch_defaults
from ...errors import ImageError, ParameterError
from .camera import photographed, to_image
from .drawn import drawing, screenshot
from .encoding import jpeg_file, opened, png_file, webp_file, written
from .resampling import SMALLEST_SIDE, resized, shrunk

History = Callable[[Image.Image, np.random.Generator], bytes]

SMALLEST_SOURCE = 96


def _camera(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph straight from a camera: a JPEG of quality 75 to 99."""
    return jpeg_file(photographed(shrunk(image, rng, 0.3, 0.6), rng), rng, 75, 99, camera=True)


def _resize(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph resized by 0.25 to 2, as a PNG."""
    return png_file(_resized(image, rng))


def _resize_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph resized by 0.25 to 2, as a JPEG of quality 50 to 98."""
    return jpeg_file(_resized(image, rng), rng, 50, 98)


def _resize_webp(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph resized by 0.25 to 2, as a WebP of quality 50 to 98."""
    return webp_file(_resized(image, rng), rng, 50, 98)


def _jpeg_twice(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG of a decoded JPEG, half the time cropped off its grid of 8 x 8 pixels."""
    once = opened(jpeg_file(_scene(image, rng), rng, 50, 98))
    return jpeg_file(_cropped(once, rng) if rng.random() < 0.5 else once, rng, 50, 98)


def _lossless(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A PNG of a photograph that was never a JPEG of its size."""
    return png_file(shrunk(image, rng, 0.25, 0.5))


def _decoded_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A PNG of a decoded JPEG of quality 50 to 98."""
    return png_file(opened(jpeg_file(_scene(image, rng), rng, 50, 98)))


def _screen(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A screenshot with text, flat areas and often a photograph, mostly as a PNG."""
    shot = screenshot(image, rng)
    if rng.random() < 0.2:
        shot = resized(shot, rng, 0.5, 1)
    return png_file(shot) if rng.random() < 0.75 else jpeg_file(shot, rng, 60, 95)


def _sensor(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph with all the noise of its sensor, half the time shrunk by up to 0.3, as a PNG."""
    noisy = photographed(shrunk(image, rng, 0.3, 0.6), rng, finished=False)
    return png_file(resized(noisy, rng, 0.3, 1) if rng.random() < 0.5 else noisy)


def _denoise(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph smoothed by a Gaussian, a median or a bilateral filter."""
    opened_image = _opened_by_an_editor(image, rng)
    kind = rng.integers(3)
    if kind == 0:
        smooth = opened_image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
    elif kind == 1:
        smooth = opened_image.filter(ImageFilter.MedianFilter(3))
    else:
        smooth = to_image(bilateral(np.asarray(opened_image, np.float32), rng.uniform(0.8, 2), rng.uniform(5, 25)))
    return _saved(smooth, rng)


def _sharpen(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph sharpened by an unsharp mask."""
    mask = ImageFilter.UnsharpMask(rng.uniform(0.5, 3), int(rng.integers(30, 200)), int(rng.integers(0, 4)))
    return _saved(_opened_by_an_editor(image, rng).filter(mask), rng)


def _brighten(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph whose brightness, contrast or gamma was changed, or all of them."""
    x = np.arange(256.0)
    chosen = rng.random(3) < 0.5
    chosen[rng.integers(3)] = True
    if chosen[0]:
        x = x * rng.uniform(0.75, 1.35) + rng.uniform(-15, 15)
    if chosen[1]:
        x = (x - 128) * rng.uniform(0.8, 1.35) + 128
    if chosen[2]:
        x = 255 * (np.clip(x, 0, 255) / 255) ** np.exp(rng.uniform(-0.4, 0.4))
    return _saved(_mapped(_opened_by_an_editor(image, rng), [x] * 3), rng)


def _white_balance(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph whose channels were multiplied by up to 0.8 or 1.25."""
    gains = np.exp(rng.uniform(-0.22, 0.22, 3))
    return _saved(_mapped(_opened_by_an_editor(image, rng), [gain * np.arange(256) for gain in gains]), rng)


def _grey(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A photograph without colours, as a grey file or with three equal channels."""
    picture = _opened_by_an_editor(image, rng).convert("L")
    return _saved(picture if rng.random() < 0.6 else picture.convert("RGB"), rng)


def _off_grid(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A decoded JPEG of quality 50 to 98, cropped off its grid of 8 x 8 pixels."""
    cropped = _cropped(opened(jpeg_file(_scene(image, rng), rng, 50, 98)), rng)
    return png_file(cropped) if rng.random() < 0.6 else jpeg_file(cropped, rng, 50, 98)


def _draw(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A drawing, a chart or a flat image."""
    drawn = drawing(image, rng)
    kind = rng.random()
    if kind < 0.15:
        return png_file(
            drawn.quantize(int(2 ** rng.integers(4, 9)), Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        )
    if kind < 0.6:
        return png_file(drawn)
    if kind < 0.7:
        return written(drawn, "WEBP", lossless=True, quality=0, method=0)
    return _saved(drawn, rng)


HISTORIES: dict[str, History] = {
    "camera": _camera,
    "resized": _resize,
    "resized_jpeg": _resize_jpeg,
    "resized_webp": _resize_webp,
    "jpeg_twice": _jpeg_twice,
    "png_lossless": _lossless,
    "png_of_jpeg": _decoded_jpeg,
    "screenshot": _screen,
    "sensor_noise": _sensor,
    "denoised": _denoise,
    "sharpened": _sharpen,
    "brightened": _brighten,
    "white_balanced": _white_balance,
    "grey": _grey,
    "off_grid": _off_grid,
    "drawing": _draw,
}


@torch_defaults()
def through_history(image: Image.Image, name: str, *, seed: int) -> bytes:
    """Gives a photograph a history.

    Args:
        image: A photograph in RGB, a decoded JPEG or one that was never compressed. Each side has at least
            `SMALLEST_SOURCE` pixels. Some histories shrink it to a third, so a large image is cropped rather than
            shrunk beforehand: a megapixel takes up to 0.3 s.
        name: A key of `HISTORIES`.
        seed: The seed of all randomness, at least 0.

    Returns:
        The bytes of a JPEG, WebP or PNG, with at least 64 pixels on each side.

    Raises:
        ParameterError: If there is no history of this name.
        ImageError: If the image is smaller or not RGB.
    """
    if name not in HISTORIES:
        raise ParameterError(f"unknown history {name!r}; there are: {', '.join(HISTORIES)}")
    if image.mode != "RGB":
        raise ImageError(f"the image has mode {image.mode!r}; convert it to RGB", "mode")
    if min(image.size) < SMALLEST_SOURCE:
        raise ImageError(
            f"the image has {image.width} x {image.height} pixels, wanted {SMALLEST_SOURCE} a side", "size"
        )
    return HISTORIES[name](image, np.random.default_rng([seed, zlib.crc32(name.encode())]))


def bilateral(pixels: np.ndarray, sigma: float, step: float) -> np.ndarray:
    """Smooths within two steps to neighbours, but not across edges.

    Args:
        pixels: (H, W, 3), floating point in [0, 255].
        sigma: The standard deviation of the weights over pixels.
        step: The standard deviation of the weights over differences of brightness, in grey levels.

    Returns:
        float32 (H, W, 3).
    """
    height, width, _ = pixels.shape
    padded = np.pad(pixels.astype(np.float32), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    brightness = padded.mean(2)
    centre = brightness[2:-2, 2:-2]
    total = np.zeros_like(centre)
    smooth = np.zeros((height, width, 3), np.float32)
    for down, right in np.ndindex(5, 5):
        if abs(down - 2) + abs(right - 2) > 2:
            continue
        window = slice(down, down + height), slice(right, right + width)
        distance = ((down - 2) ** 2 + (right - 2) ** 2) / sigma**2
        weight = np.exp(-0.5 * (((brightness[window] - centre) / np.float32(step)) ** 2 + np.float32(distance)))
        total += weight
        smooth += weight[..., None] * padded[window]
    return smooth / total[..., None]


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns a photograph at another size: the one given, or what a camera makes of it."""
    return resized(opened(_camera(image, rng)) if rng.random() < 0.35 else image, rng, 0.25, 2)


def _scene(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns what is compressed: the photograph, or a smaller one in which no JPEG has left traces."""
    return shrunk(image, rng, 0.3, 0.7, smallest=SMALLEST_SIDE + 7) if rng.random() < 0.6 else image


def _opened_by_an_editor(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns what somebody edits: the photograph, a resized one, or a camera's."""
    kind = rng.random()
    if kind < 0.35:
        return image
    return resized(image, rng, 0.35, 1) if kind < 0.7 else opened(_camera(image, rng))


def _mapped(image: Image.Image, values: list[np.ndarray]) -> Image.Image:
    """Replaces each of the 256 values of each channel by another one."""
    return image.point(np.clip(np.rint(np.concatenate(values)), 0, 255).astype(int).tolist())


def _saved(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Saves an edited image, mostly as a JPEG."""
    kind = rng.random()
    if kind < 0.3:
        return png_file(image)
    return jpeg_file(image, rng, 60, 98) if kind < 0.9 else webp_file(image, rng, 60, 98)


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crops a JPEG of at least 71 pixels a side at its top and left, off its grid of 8 x 8 pixels."""
    phase = int(rng.integers(1, 64))
    left, top = (8 * int(rng.integers(0, max(0, side // 4 - 16) // 8 + 1)) for side in image.size)
    left, top = left + phase % 8, top + phase // 8
    return image.crop((left, top, *image.size))
