"""A camera: a sensor with noise behind a mosaic of colour filters, and what makes a picture of its values.

A photograph stands for the scene. All values are linear in the light until the tone curve.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

# Malvar, He and Cutler (2004): neighbours of the same colour, corrected by the Laplacian of the colour at the place.
GREEN = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
BESIDE = [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
ACROSS = [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]


def photographed(image: Image.Image, rng: np.random.Generator, *, finished: bool = True) -> Image.Image:
    """Takes a picture of a scene.

    Args:
        image: RGB: the scene. It should be sharp and free of noise, such as a photograph that has been shrunk.
        rng: The source of random numbers: of the camera's settings and of its noise.
        finished: Whether the camera may remove noise and sharpen.

    Returns:
        RGB, of the same size.
    """
    scene = linear(np.asarray(image))
    # The sensor's colours are those of the picture, mixed and each of another sensitivity.
    mixing = rng.uniform(0.0, 0.5)
    matrix = ((1 + mixing) * np.eye(3) - mixing / 3).astype(np.float32)
    gains = np.array([rng.uniform(1.3, 2.4), 1.0, rng.uniform(1.2, 2.2)], np.float32)
    light = np.maximum(scene @ np.linalg.inv(matrix), 0) / gains
    top, left = rng.integers(0, 2, 2)  # makers begin the mosaic at different colours
    light = np.pad(light, ((top, 0), (left, 0), (0, 0)), mode="edge")
    electron = float(np.exp(rng.uniform(np.log(3e-5), np.log(3e-3))))  # in shares of white: grows with the ISO speed
    raw = sensor_noise(mosaic(light), rng, electron=electron, reading=rng.uniform(1, 4))
    balanced = np.minimum(raw * mosaic(np.broadcast_to(gains, light.shape)), 1)
    demosaic = malvar if rng.random() < 0.6 else bilinear
    colour = demosaic(balanced)
    picture = tone_curve(
        np.clip(colour[top:, left:] @ matrix, 0, 1), contrast=rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    )
    if not finished:
        return to_image(255 * picture)
    if rng.random() < 0.5:
        # cameras remove more noise where there is more of it, and most of it from the colours
        strength = rng.uniform(0.3, 1) * min(1.0, (electron / 1e-3) ** 0.5)
        picture = _without_noise(picture, luminance=0.8 * strength, colours=2.5 * strength)
    finished_image = to_image(255 * picture)
    if rng.random() < 0.6:
        finished_image = finished_image.filter(
            ImageFilter.UnsharpMask(rng.uniform(0.5, 1.5), int(rng.integers(20, 120)), int(rng.integers(0, 3)))
        )
    return finished_image


def linear(pixels: np.ndarray) -> np.ndarray:
    """Converts sRGB to linear light.

    Args:
        pixels: In [0, 255].

    Returns:
        float32 in [0, 1], of the same shape.
    """
    x = np.arange(256) / 255
    table = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[pixels]


def tone_curve(light: np.ndarray, *, contrast: float) -> np.ndarray:
    """Converts linear light to sRGB, and then raises the contrast of the middle tones.

    Args:
        light: In [0, 1].
        contrast: 0 for none, 1 for a smooth step.

    Returns:
        In [0, 1], of the same shape.
    """
    x = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return (1 - contrast) * x + contrast * x * x * (3 - 2 * x) if contrast else x


def sensor_noise(light: np.ndarray, rng: np.random.Generator, *, electron: float, reading: float) -> np.ndarray:
    """Counts electrons, whose number has a Poisson distribution, and reads them with normal noise.

    Args:
        light: At least 0; 1 is white.
        rng: The source of random numbers.
        electron: What one electron adds to the light.
        reading: The standard deviation of the reading, in electrons.

    Returns:
        Light with noise, of the same shape, which may be below 0.
    """
    # a normal distribution is as good as the Poisson one where there are many electrons, and drawn faster
    mean = light / electron
    deviation = np.sqrt(mean + reading**2).astype(np.float32)
    counted = mean + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    return electron * counted


def mosaic(image: np.ndarray) -> np.ndarray:
    """Keeps of each pixel the colour of its filter: red and green in even rows, green and blue in odd ones.

    Args:
        image: (H, W, 3).

    Returns:
        (H, W).
    """
    raw = image[..., 1].copy()
    raw[::2, ::2] = image[::2, ::2, 0]
    raw[1::2, 1::2] = image[1::2, 1::2, 2]
    return raw


def bilinear(raw: np.ndarray) -> np.ndarray:
    """Fills in missing colours with the mean of their nearest neighbours.

    Args:
        raw: float32 (H, W), as `mosaic` returns it.

    Returns:
        (H, W, 3).
    """
    cross = torch.tensor([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    square = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    padded = F.pad(torch.from_numpy(raw)[None, None], (2, 2, 2, 2), mode="reflect")[0, 0]  # which keeps the colours
    sparse = (padded * _filters(*padded.shape))[None, :, 1:-1, 1:-1]
    return F.conv2d(sparse, torch.stack([square, cross, square])[:, None], groups=3)[0].permute(1, 2, 0).numpy()


def malvar(raw: np.ndarray) -> np.ndarray:
    """Fills in missing colours as Malvar, He and Cutler do.

    Args:
        raw: float32 (H, W), as `mosaic` returns it.

    Returns:
        (H, W, 3).

    Reference:
        H. S. Malvar, L. He and R. Cutler: High-quality linear interpolation for demosaicing of Bayer-patterned color
        images (2004).
    """
    kernels = torch.tensor([GREEN, BESIDE, np.transpose(np.array(BESIDE)).tolist(), ACROSS])[:, None] / 8
    x = torch.from_numpy(raw)
    green, beside, above, across = F.conv2d(F.pad(x[None, None], (2, 2, 2, 2), mode="reflect"), kernels)[0]
    is_red, is_green, is_blue = _filters(*x.shape)
    even_row = torch.arange(x.shape[0])[:, None] % 2 == 0
    red = torch.where(is_red, x, torch.where(is_blue, across, torch.where(even_row, beside, above)))
    blue = torch.where(is_blue, x, torch.where(is_red, across, torch.where(even_row, above, beside)))
    return torch.stack([red, torch.where(is_green, x, green), blue], 2).numpy()


def _filters(height: int, width: int) -> Tensor:
    """Returns (3, H, W): which pixels have a red, a green and a blue filter."""
    odd_row, odd_column = torch.arange(height)[:, None] % 2 == 1, torch.arange(width)[None] % 2 == 1
    return torch.stack([~odd_row & ~odd_column, odd_row ^ odd_column, odd_row & odd_column])


def _without_noise(picture: np.ndarray, *, luminance: float, colours: float) -> np.ndarray:
    """Smooths the luminance and, more, the colours of a picture (H, W, 3), with Gaussians of the given widths."""
    from scipy.ndimage import gaussian_filter

    grey = picture.mean(2, keepdims=True)
    colour = gaussian_filter(picture - grey, (colours, colours, 0), mode="mirror", truncate=2.5)
    return gaussian_filter(grey, (luminance, luminance, 0), mode="mirror", truncate=2.5) + colour


def to_image(pixels: np.ndarray) -> Image.Image:
    """Rounds pixels to 8 bits.

    Args:
        pixels: (H, W, 3), floating point. Values outside [0, 255] are clipped.

    Returns:
        RGB.
    """
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
