"""A data set in five parts that share no event."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .readers import Source


@dataclass(frozen=True)
class Images:
    """Images or other events, with their labels.

    Attributes:
        x: Images, (N, C, H, W) uint8, or rows, (N, D) uint8 or float32.
        y: Labels, (N,) int64, or None.
        index: Positions in the training or the test part of the source, (N,) int64.
        levels: The number of values that x takes, 0 ... levels - 1. It is 256 for 8-bit images and audio, 2 for binary
            data (0 and 255 in images), the number of characters for text, and None for real numbers.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    levels: int | None = 256

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice | Tensor) -> Images:
        return Images(self.x[which], None if self.y is None else self.y[which], self.index[which], self.levels)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one event: (C, H, W) or (D,)."""
        return tuple(self.x.shape[1:])

    def digest(self) -> str:
        """Returns the sha256 of x, which model files store to identify their training images."""
        return hashlib.sha256(self.x.contiguous().numpy().tobytes()).hexdigest()

    def float(self) -> Tensor:
        """Returns x as floating point, (N, *event): `levels` values in [0, 1], or the real numbers as they are."""
        if self.levels is None:
            return self.x.float()
        return self.x / (255 if self.x.ndim == 4 else self.levels - 1)


@dataclass(frozen=True)
class DataSet:
    """A data set in five disjoint parts.

    Attributes:
        name: The name for reports and file names.
        train: The events that densities and classifiers learn from.
        validation: The events that monitor their training.
        fit: Clean images for statistics that learn.
        calibration: Clean images for p-values and thresholds.
        test: Images that nothing has used before the evaluation.
        vocabulary: The characters of text, in the order of its levels, or None.
    """

    name: str
    train: Images
    validation: Images
    fit: Images
    calibration: Images
    test: Images
    vocabulary: str | None = None


def split(name: str, source: Source) -> DataSet:
    """Divides a source into the five parts of a data set, always in the same way.

    Events are shuffled with a fixed seed, the same on every machine. Text and audio, whose neighbours belong together,
    are cut into consecutive parts instead. A twelfth of the training events goes to `validation`, another to `fit`. If
    the source has test events, they are halved into `calibration` and `test`. Otherwise two further twelfths of the
    training events are held out for these.

    Calibration images must be as new to the density as future images. Images that are held out from the training images
    may not be: in Fashion-MNIST they show variants of products in the training images, and are less surprising than
    test images.

    Args:
        name: The name of the data set.
        source: The content of a source, as a reader returns it.

    Returns:
        The data set.

    Raises:
        DataError: If the source holds too few events.
    """
    levels = source.levels()
    everything = _images(source.x, source.y, levels)
    if not source.ordered:
        everything = _shuffled(everything)
    held = len(everything) // 12
    if held < 1:
        what = f"pieces of length {source.x.shape[1]}" if source.ordered else "images"
        raise DataError(f"{name} holds {len(everything)} {what}; wanted at least 12")
    if source.test_x is not None:
        validation, fit, train = _parts(everything, held, held)
        new = _shuffled(_images(source.test_x, source.test_y, levels))
        if len(new) < 2:
            raise DataError(f"{name} holds {len(new)} test images in x_test; wanted at least 2, or no x_test")
        calibration, test = _parts(new, len(new) // 2)
    elif source.ordered:
        train, validation, fit, calibration, test = _parts(everything, len(everything) - 4 * held, held, held, held)
    else:
        validation, fit, calibration, test, train = _parts(everything, held, held, held, held)
    return DataSet(name, train, validation, fit, calibration, test, source.vocabulary)


def _shuffled(images: Images) -> Images:
    return images[torch.from_numpy(np.random.RandomState(0).permutation(len(images)))]


def _parts(images: Images, *sizes: int) -> list[Images]:
    """Returns consecutive parts of these sizes, and the rest."""
    ends = [0, *np.cumsum(sizes).tolist(), len(images)]
    return [images[start:end] for start, end in pairwise(ends)]


def _images(x: np.ndarray, y: np.ndarray | None, levels: int | None) -> Images:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2).contiguous()
    if tensor.ndim == 4 and levels == 2:
        tensor = 255 * tensor  # black and white, for models of 8-bit images
    labels = None if y is None else torch.from_numpy(np.asarray(y, np.int64))
    return Images(tensor, labels, torch.arange(len(tensor)), levels)
