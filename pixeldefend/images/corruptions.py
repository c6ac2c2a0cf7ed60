"""What happens to clean images on their way: recompression, rescaling, blur, noise, light. None of it is an attack, and
all of it may be flagged: `pixeldefend benchmark --controls` says how often, and `Detector.fit(corruptions=...)`
calibrates for those of one's own pipeline."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ParameterError
from .batch import to_uint8

Transformation = Callable[[Tensor, torch.Generator], Tensor]


def jpeg(x: Tensor, generator: torch.Generator, *, quality: int) -> Tensor:
    """Written as JPEG of this quality (1 to 95, Pillow's default chroma subsampling) and read again."""
    return _through_files(x, format="JPEG", quality=quality)


def webp(x: Tensor, generator: torch.Generator, *, quality: int) -> Tensor:
    """Written as lossy WebP of this quality (0 to 100) and read again."""
    return _through_files(x, format="WEBP", quality=quality)


def blur(x: Tensor, generator: torch.Generator, *, sigma: float) -> Tensor:
    """A Gaussian blur, sigma in pixels, images mirrored at their edges."""
    from torchvision.transforms.functional import gaussian_blur

    reach = [min(max(1, round(3 * sigma)), side - 1) for side in (x.shape[3], x.shape[2])]
    return gaussian_blur(x, [2 * r + 1 for r in reach], [sigma, sigma]) if x.numel() else x


def noise(x: Tensor, generator: torch.Generator, *, deviation: float) -> Tensor:
    """Independent normal noise, its standard deviation in 8-bit steps."""
    return x + deviation / 255 * torch.randn(x.shape, generator=generator).to(x)


def rescale(x: Tensor, generator: torch.Generator, *, factor: float) -> Tensor:
    """Resized by this factor and back again, bilinearly and antialiased."""
    size = [max(1, round(factor * side)) for side in x.shape[2:]]
    small = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[2:], mode="bilinear", antialias=True)


def brightness(x: Tensor, generator: torch.Generator, *, factor: float) -> Tensor:
    """All values times this factor, clipped."""
    return x * factor


CORRUPTIONS: dict[str, Transformation] = {
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
}


def corrupt(x: Tensor, name: str, *, seed: int = 0) -> Tensor:
    """x: (N, C, H, W) in [0, 1], C = 1 or 3. name: a key of `CORRUPTIONS`. seed: of noise. Returns the images as
    they come out, of the same shape and on the 8-bit grid. Raises ParameterError for an unknown name, or what are no
    images."""
    check_name(name)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ParameterError(f"x must be images (N, 1 or 3, H, W), got shape {tuple(x.shape)}")
    made = CORRUPTIONS[name](x, torch.Generator().manual_seed(seed))
    return to_uint8(made.clamp(0, 1)) / 255


def check_name(name: str) -> None:
    """Raises ParameterError unless there is a transformation of this name."""
    if name not in CORRUPTIONS:
        raise ParameterError(f"unknown transformation {name!r}; there are: {', '.join(CORRUPTIONS)}")


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
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(x.device) / 255
