"""The preprocessor that leaves images as they are."""

from __future__ import annotations

from torch import Tensor

from .base import Preprocessor, TileBatch


class Identity(Preprocessor):
    """Takes each image as one tile, without changes; images must have a size that the density models."""

    def __call__(self, x: Tensor) -> TileBatch:
        height, width = (x.shape[2], x.shape[3]) if x.ndim == 4 else (1, x[:1].numel())
        return TileBatch.of_whole_images(x, height, width)

    def accepts(self, size: tuple[int, int], tile: tuple[int, int] | None) -> bool:
        return tile is None or size == tile

    def takes(self, tile: tuple[int, int] | None, images: str) -> str:
        return f"{images} of any size" if tile is None else f"{tile[0]} x {tile[1]} {images}"
