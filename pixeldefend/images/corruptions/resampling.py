"""Resizing as Pillow, OpenCV and torchvision do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

SMALLEST_SIDE = 64  # of what a history returns
MOST_PIXELS = 3 * 2**19  # of what resizing returns: enlarging an image of a megapixel by 2 takes long
# The shorter sides that classifiers and web pages ask for.
COMMON_SIDES = (224, 256, 299, 320, 384, 480, 512, 600, 640, 720, 768, 800, 1024, 1080)

Resize = Callable[[Image.Image, tuple[int, int]], Image.Image]


def _pillow(kernel: Image.Resampling) -> Resize:
    return lambda image, size: image.resize(size, kernel)


def _torch(mode: str, *, antialias: bool) -> Resize:
    """Returns what torchvision does, or what OpenCV does if there is no antialiasing."""

    def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        y = F.interpolate(x, size=size[::-1], mode=mode, antialias=antialias, align_corners=False)
        return Image.fromarray(y[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy())

    return resize


def _area(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Averages over the area of each new pixel, parts of pixels included, as OpenCV's INTER_AREA does."""
    if size[0] > image.width or size[1] > image.height:  # which OpenCV interpolates
        return _torch("bilinear", antialias=False)(image, size)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    y = _coverage(size[1], image.height) @ x @ _coverage(size[0], image.width).T
    return Image.fromarray(y.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def _coverage(new: int, old: int) -> torch.Tensor:
    """Returns (new, old): the share that each old pixel has in the area of a new one."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * new / old).float()


# name -> how often, and what it does
RESIZERS: dict[str, tuple[float, Resize]] = {
    "Pillow nearest": (0.02, _pillow(Image.Resampling.NEAREST)),
    "Pillow box": (0.05, _pillow(Image.Resampling.BOX)),
    "Pillow bilinear": (0.15, _pillow(Image.Resampling.BILINEAR)),
    "Pillow hamming": (0.03, _pillow(Image.Resampling.HAMMING)),
    "Pillow bicubic": (0.2, _pillow(Image.Resampling.BICUBIC)),
    "Pillow lanczos": (0.22, _pillow(Image.Resampling.LANCZOS)),
    "OpenCV linear": (0.09, _torch("bilinear", antialias=False)),
    "OpenCV cubic": (0.03, _torch("bicubic", antialias=False)),
    "OpenCV area": (0.08, _area),
    "torchvision bilinear": (0.09, _torch("bilinear", antialias=True)),
    "torchvision bicubic": (0.04, _torch("bicubic", antialias=True)),
}


def resized(image: Image.Image, rng: np.random.Generator, lowest: float, highest: float) -> Image.Image:
    """Resizes an image by a random factor with a random kernel.

    Some factors are those that lead to a common size, and some images change their aspect ratio a little.

    Args:
        image: RGB.
        rng: The source of random numbers.
        lowest: The smallest factor; a larger one is taken if a side would have fewer than `SMALLEST_SIDE` pixels.
        highest: The largest factor; a smaller one is taken if there would be more than `MOST_PIXELS` pixels.

    Returns:
        RGB.
    """
    shorter = min(image.size)
    factor = float(np.exp(rng.uniform(np.log(lowest), np.log(highest))))
    common = [side for side in COMMON_SIDES if lowest * shorter <= side <= highest * shorter]
    if common and rng.random() < 0.3:
        factor = float(rng.choice(common)) / shorter
    stretched = rng.uniform(0.9, 1.1) if rng.random() < 0.15 else 1.0
    names = list(RESIZERS)
    weights = np.array([weight for weight, _ in RESIZERS.values()])
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    return RESIZERS[name][1](image, _size(image, factor, stretched))


def shrunk(
    image: Image.Image, rng: np.random.Generator, lowest: float, highest: float, *, smallest: int = SMALLEST_SIDE
) -> Image.Image:
    """Shrinks an image with antialiasing, so that hardly a trace of what was done to it before is left.

    Args:
        image: RGB.
        rng: The source of random numbers.
        lowest: The smallest factor; a larger one is taken if a side would be shorter than `smallest`.
        highest: The largest factor, below 1.
        smallest: The shortest side that may come out, in pixels.

    Returns:
        RGB.
    """
    kernel = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.HAMMING)[rng.integers(3)]
    return image.resize(_size(image, rng.uniform(lowest, highest), 1, smallest), kernel)


def _size(image: Image.Image, factor: float, stretched: float, smallest: int = SMALLEST_SIDE) -> tuple[int, int]:
    """Returns the width and the height, within the limits."""
    width, height = image.size
    factor = min(factor, (MOST_PIXELS / (width * height * stretched)) ** 0.5)
    factor = max(factor, smallest / min(width * stretched, height))
    return max(smallest, round(width * factor * stretched)), max(smallest, round(height * factor))
