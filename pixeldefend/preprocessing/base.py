"""Preprocessors turn an image of any size into tiles of the size that a density models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor


@dataclass(frozen=True)
class TileBatch:
    """Tiles of N images.

    Attributes:
        x: (T, C, h, w) in [0, 1], the tiles.
        owner: (T,) int64, the index of each tile's image, in ascending order.
        box: (T, 4) int64, the place of each tile in its image: top, left, bottom, right, in pixels.
    """

    x: Tensor
    owner: Tensor
    box: Tensor

    @classmethod
    def of_whole_images(cls, x: Tensor, height: int, width: int) -> TileBatch:
        """Returns a batch with one tile of each image.

        Args:
            x: (N, C, h, w), the tiles.
            height: The height of an image, in pixels.
            width: The width of an image, in pixels.
        """
        n = len(x)
        box = torch.tensor([[0, 0, height, width]], device="cpu")
        return cls(x, torch.arange(n, device="cpu"), box.expand(n, 4))


class Preprocessor(BaseEstimator, ABC):  # type: ignore[misc]
    """The base of preprocessors, which turn images into tiles.

    A subclass's constructor takes plain values and stores them under their names, as scikit-learn requires.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> TileBatch:
        """Cuts images into tiles.

        Args:
            x: (N, *event) in [0, 1], images of one size, or rows.

        Returns:
            At least one tile of each image.
        """

    @abstractmethod
    def accepts(self, size: tuple[int, int], tile: tuple[int, int] | None) -> bool:
        """Returns whether images of a size become tiles of a given size.

        Args:
            size: (height, width) of an image.
            tile: (height, width) of a tile; None if a tile may have any size.
        """

    @abstractmethod
    def takes(self, tile: tuple[int, int] | None, images: str) -> str:
        """Returns a phrase for the images that become tiles of a given size.

        Args:
            tile: (height, width) of a tile; None if a tile may have any size.
            images: "images" or "grey images".
        """

    def config(self) -> dict[str, Any]:
        """Returns the name and the parameters, from which `preprocessing.build` makes the preprocessor again."""
        return {"name": type(self).__name__.lower(), **self.get_params()}
