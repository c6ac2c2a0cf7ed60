"""The preprocessor that resizes images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..errors import ParameterError
from .base import Preprocessor, TileBatch


class Resize(Preprocessor):
    """Resizes every image, bilinearly and antialiased, without keeping its proportions.

    Resizing averages pixels, so that perturbations of single pixels become weaker.

    Args:
        height: The height of the resized image, in pixels.
        width: The width of the resized image, in pixels; None for the height.
    """

    def __init__(self, height: int, width: int | None = None) -> None:
        self.height = height
        self.width = width

    def __call__(self, x: Tensor) -> TileBatch:
        size = (self.height, self.height if self.width is None else self.width)
        if min(size) < 1:
            raise ParameterError(f"height and width must be at least 1, got {size[0]} and {size[1]}")
        if x.ndim != 4:
            raise ParameterError(f"only images can be resized, got x of shape {tuple(x.shape)}")
        resized = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        grid = (resized.detach() * 255).round().clamp(0, 255) / 255
        # densities model 8-bit values; the gradient passes the rounding straight through
        resized = resized + (grid - resized).detach() if resized.requires_grad else grid
        height, width = x.shape[2:]
        return TileBatch.of_whole_images(resized, height, width)

    def accepts(self, size: tuple[int, int], tile: tuple[int, int] | None) -> bool:
        made = (self.height, self.height if self.width is None else self.width)
        return min(size) >= 1 and tile in (None, made)

    def takes(self, tile: tuple[int, int] | None, images: str) -> str:
        return f"{images} of any size"
