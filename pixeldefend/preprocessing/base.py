"""From an image of any size to tiles of the size that a density models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator
from torch import Tensor


@dataclass(frozen=True)
class TileBatch:
    """Tiles of N images.

    Attributes:
        x: (T, C, h, w) in [0, 1], the tiles.
        owner: (T,) int64, the image that each tile is of, in ascending order.
        box: (T, 4) int64, where in its image each tile lies: top, left, bottom, right, in pixels.
    """

    x: Tensor
    owner: Tensor
    box: Tensor


class Preprocessor(BaseEstimator, ABC):  # type: ignore[misc]
    """Turns images into tiles.

    A subclass's constructor takes plain values and stores them under their names, as scikit-learn wants it.
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
    def accepts(self, size: tuple[int, int], tile: tuple[int, int]) -> bool:
        """Returns whether images of this size become tiles of that size, both (height, width)."""

    @abstractmethod
    def takes(self, tile: tuple[int, int], images: str) -> str:
        """Returns a phrase that says which images become tiles of this size, (height, width).

        Args:
            tile: (height, width) of a tile.
            images: "images" or "grey images".
        """

    def config(self) -> dict[str, Any]:
        """Returns what `preprocessing.build` needs to make it again: its name and its parameters."""
        return {"name": type(self).__name__.lower(), **self.get_params()}
