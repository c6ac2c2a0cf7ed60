"""The preprocessor that cuts images into tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImageError, ParameterError
from .base import Preprocessor, TileBatch


class Tiles(Preprocessor):
    """Cuts images into square tiles that cover every pixel.

    Neighbouring tiles lie `stride` apart. The last tile of a row or column ends at the image's edge, so it overlaps the
    tile before it if the image is not a whole number of tiles wide or high.

    Args:
        size: Height and width of a tile, in pixels.
        stride: The number of pixels from one tile to the next, 1 to size; None for the size, without overlap.
    """

    def __init__(self, size: int, stride: int | None = None) -> None:
        self.size = size
        self.stride = stride

    def __call__(self, x: Tensor) -> TileBatch:
        stride = self.size if self.stride is None else self.stride
        if self.size < 1 or not 1 <= stride <= self.size:
            raise ParameterError(f"size must be at least 1 and stride from 1 to size, got {self.size} and {stride}")
        if x.ndim != 4:
            raise ParameterError(f"only images can be tiled, got x of shape {tuple(x.shape)}")
        n, _, height, width = x.shape
        if min(height, width) < self.size:
            raise ImageError(
                f"the image is {height} x {width}, smaller than a tile of {self.size} x {self.size}", "size"
            )
        corners = [
            (top, left) for top in _starts(height, self.size, stride) for left in _starts(width, self.size, stride)
        ]
        tiles = [x[:, :, top : top + self.size, left : left + self.size] for top, left in corners]
        box = torch.tensor([[top, left, top + self.size, left + self.size] for top, left in corners], device="cpu")
        owner = torch.arange(n, device="cpu").repeat_interleave(len(corners))
        return TileBatch(torch.stack(tiles, 1).flatten(0, 1), owner, box.repeat(n, 1))

    def accepts(self, size: tuple[int, int], tile: tuple[int, int] | None) -> bool:
        return min(size) >= self.size and tile in (None, (self.size, self.size))

    def takes(self, tile: tuple[int, int] | None, images: str) -> str:
        return f"{images} of at least {self.size} x {self.size}"


def _starts(length: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, length - size + 1, stride))
    return starts if starts[-1] == length - size else [*starts, length - size]
