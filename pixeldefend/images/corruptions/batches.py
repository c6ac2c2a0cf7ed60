"""Benign corruptions, which clean images undergo on their way: recompression, rescaling, blur, noise and others.

They are no attacks, but detectors may flag them. `pixeldefend benchmark --corruptions` measures how often.
`Detector.fit(corruptions=...)` calibrates a detector for the corruptions of a pipeline.

`CORRUPTIONS` lists them by name. To add one, add an entry there: a function of images (N, C, H, W) in [0, 1], C = 1 or
3, and of a `torch.Generator`, the source of random numbers. It returns images of the same shape; `corrupt` clips and
rounds them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...ambient import torch_defaults
from ...errors import ImageError, ParameterError
from ..batch import from_uint8, quantize, to_uint8

Corruption = Callable[[Tensor, torch.Generator], Tensor]


def jpeg(x: Tensor, generator: torch.Generator, *, quality: int) -> Tensor:
    """Writes images as JPEG files and reads them again.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: Not used.
        quality: 1 to 95, with Pillow's default chroma subsampling.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    return _through_files(x, format="JPEG", quality=quality)


def webp(x: Tensor, generator: torch.Generator, *, quality: int) -> Tensor:
    """Writes images as lossy WebP files and reads them again.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: Not used.
        quality: 0 to 100.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    return _through_files(x, format="WEBP", quality=quality)


def blur(x: Tensor, generator: torch.Generator, *, sigma: float) -> Tensor:
    """Blurs images with a Gaussian, mirroring them at their edges.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: Not used.
        sigma: The standard deviation in pixels, above 0.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    from torchvision.transforms.functional import gaussian_blur

    reach = [min(max(1, round(3 * sigma)), side - 1) for side in (x.shape[3], x.shape[2])]
    return gaussian_blur(x, [2 * r + 1 for r in reach], [sigma, sigma]) if x.numel() else x


def noise(x: Tensor, generator: torch.Generator, *, deviation: float) -> Tensor:
    """Adds independent normal noise.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: The source of the noise.
        deviation: The standard deviation in 8-bit steps.

    Returns:
        (N, C, H, W), not clipped.
    """
    return x + deviation / 255 * torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu").to(x)


def rescale(x: Tensor, generator: torch.Generator, *, factor: float) -> Tensor:
    """Resizes images and back, bilinearly with antialiasing.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: Not used.
        factor: The factor of both sides, above 0.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    size = [max(1, round(factor * side)) for side in x.shape[2:]]
    small = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bilinear", antialias=True)


def brightness(x: Tensor, generator: torch.Generator, *, factor: float) -> Tensor:
    """Multiplies all pixel values.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: Not used.
        factor: At least 0.

    Returns:
        (N, C, H, W), not clipped.
    """
    return x * factor


def tone(
    x: Tensor, generator: torch.Generator, *, brightness: float = 1.0, contrast: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """Changes the brightness, contrast and gamma of each image by random amounts.

    Each amount is log-uniform between 1 / limit and limit, and drawn for each image.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        generator: The source of the amounts.
        brightness: The limit of the number that pixel values are multiplied by, at least 1.
        contrast: The limit of the number that differences from the image's mean are multiplied by, at least 1.
        gamma: The limit of the exponent of pixel values, at least 1.

    Returns:
        (N, C, H, W), not clipped.
    """

    def amounts(limit: float) -> Tensor:
        uniform = torch.rand((len(x), 1, 1, 1), generator=generator, dtype=torch.float32, device="cpu").to(x)
        return torch.exp((2 * uniform - 1) * math.log(limit))

    y = x.clamp(0, 1) ** amounts(gamma)
    mean = y.mean((1, 2, 3), keepdim=True)
    return amounts(brightness) * (mean + amounts(contrast) * (y - mean))


CORRUPTIONS: dict[str, Corruption] = {
    "jpeg-95": partial(jpeg, quality=95),
    "jpeg-85": partial(jpeg, quality=85),
    "jpeg-75": partial(jpeg, quality=75),
    "jpeg-50": partial(jpeg, quality=50),
    "webp-80": partial(webp, quality=80),
    "blur-0.5": partial(blur, sigma=0.5),
    "blur-1": partial(blur, sigma=1.0),
    "noise-1": partial(noise, deviation=1.0),
    "noise-4": partial(noise, deviation=4.0),
    "rescale-0.5": partial(rescale, factor=0.5),
    "rescale-2": partial(rescale, factor=2.0),
    "darker-10%": partial(brightness, factor=0.9),
    "brighter-10%": partial(brightness, factor=1.1),
    # at random, from 1 / 1.2 to 1.2
    "brightness-20%": partial(tone, brightness=1.2),
    "contrast-20%": partial(tone, contrast=1.2),
    "gamma-20%": partial(tone, gamma=1.2),
}


@torch_defaults()
def corrupt(x: Tensor, name: str, *, seed: int = 0) -> Tensor:
    """Applies a benign corruption to images.

    Args:
        x: (N, C, H, W) in [0, 1], C = 1 or 3.
        name: A key of `CORRUPTIONS`.
        seed: The seed of any randomness.

    Returns:
        (N, C, H, W) in [0, 1], on the 8-bit grid.

    Raises:
        ParameterError: If there is no corruption of this name.
        ImageError: If x has another shape.
    """
    check_corruption(name)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ImageError(f"x must be images (N, 1 or 3, H, W), got shape {tuple(x.shape)}")
    return quantize(CORRUPTIONS[name](x, torch.Generator().manual_seed(seed)).clamp(0, 1))


def check_corruption(name: str) -> None:
    """Checks that there is a corruption of a name.

    Args:
        name: Any text.

    Raises:
        ParameterError: If it is not a key of `CORRUPTIONS`.
    """
    if name not in CORRUPTIONS:
        raise ParameterError(f"unknown corruption {name!r}; there are: {', '.join(CORRUPTIONS)}")


def _through_files(x: Tensor, **settings: int | str) -> Tensor:
    images = []
    for image in to_uint8(x).permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        grey = image.shape[2] == 1
        Image.fromarray(image[:, :, 0] if grey else image).save(file, **settings)  # type: ignore[arg-type]
        decoded = np.asarray(Image.open(file).convert("L" if grey else "RGB"))
        images.append(decoded[..., None] if grey else decoded)
    if not images:
        return x
    return from_uint8(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).to(x.device)
