"""The images or rows that a user gives to a detector, in groups of one size, each of which is one tensor."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..ambient import ordinary
from ..batching import in_batches, is_out_of_memory
from ..errors import CalibrationError, ImageError, ParameterError
from ..images import from_uint8, read_image, to_batch, to_uint8
from ..images.corruptions import corrupt
from ..threads import in_threads

PIXELS_AT_ONCE = 2**24  # bounds the memory that a batch of large images takes
OfBatch = Callable[[Tensor], tuple[np.ndarray, ...]]  # (n, ...) -> arrays (n, ...)
IMAGES_A_THREAD = 8  # for fewer images, a further thread does not pay


class Samples:
    """N images or rows.

    Args:
        groups: Pairs of positions, (n,) int64, and of the samples there: (n, C, H, W) images of one size, uint8 or in
            [0, 1], or (n, D) rows. Each of the positions 0 to N - 1 is in one group.
    """

    def __init__(self, groups: list[tuple[np.ndarray, Tensor]]) -> None:
        self.groups = groups

    @classmethod
    def of(cls, x: Tensor) -> Samples:
        """Returns the samples of one tensor, (N, ...)."""
        return cls([(np.arange(len(x)), x)])

    @classmethod
    def of_images(cls, X: Any, size: tuple[int, int] = (1, 1)) -> Samples:
        """Groups images by their size.

        Args:
            X: Images as `images.to_batch` takes them, or a list of such images of any sizes.
            size: (height, width) of the empty batch that an empty list gives.

        Returns:
            The samples, uint8 if they came in a list.

        Raises:
            ImageError: If an image is malformed.
            OSError: If a file cannot be read.
        """
        if not isinstance(X, list | tuple):
            return cls.of(to_batch(X)[0])
        by_size: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for place, image in enumerate(X):
            try:
                x = uint8_image(image)
            except ImageError as error:
                which = f"image {place} of {len(X)}: " if len(X) > 1 else ""
                raise ImageError(f"{which}{error}", error.kind) from None
            by_size.setdefault(tuple(x.shape), []).append((place, x))
        return cls(
            [
                (np.array([place for place, _ in found]), _together([image for _, image in found]))
                for found in by_size.values()
            ]
            or [(np.arange(0), torch.zeros(0, 1, *size, dtype=torch.uint8, device="cpu"))]
        )

    @classmethod
    def of_table(cls, X: np.ndarray, shape: tuple[int | None, ...] | None, levels: int) -> Samples:
        """Returns the rows of a table, or the images that were flattened to them.

        Args:
            X: (N, D), whole numbers if it is uint8, otherwise values as the density takes them.
            shape: The shape of the density's events; None if it may be any.
            levels: The number of values of a uint8 number.

        Raises:
            ParameterError: If rows have another number of values than the events.
        """
        x = torch.from_numpy(np.asarray(X, dtype=np.float32)) / (levels - 1 if X.dtype == np.uint8 else 1)
        if shape is None:
            return cls.of(x)
        sides = [side for side in shape if side is not None]
        if x.shape[1] != math.prod(sides):
            raise ParameterError(f"this density models events of shape {shape}, got rows of {x.shape[1]} values")
        return cls.of(x.reshape(-1, *sides))

    def __len__(self) -> int:
        return sum(len(places) for places, _ in self.groups)

    def take(self, index: np.ndarray) -> Samples:
        """Returns the samples at these positions, in their order."""
        new_place = {int(old): new for new, old in enumerate(index)}
        groups = []
        for places, x in self.groups:
            chosen = [k for k, place in enumerate(places.tolist()) if place in new_place]
            chosen.sort(key=lambda k: new_place[int(places[k])])
            if chosen:
                groups.append((np.array([new_place[int(places[k])] for k in chosen]), x[chosen]))
        return Samples(groups or [(np.arange(0), self.groups[0][1][:0])])

    def keys(self) -> list[bytes]:
        """Returns a short key for each sample, which is the same for copies."""
        keys = [b""] * len(self)
        for places, x in self.groups:
            for place, image in zip(places.tolist(), x, strict=True):
                if image.ndim == 3 and image.is_floating_point():
                    rounded = to_uint8(image)
                    if torch.allclose(from_uint8(rounded), image.float(), rtol=0, atol=1e-6):
                        image = rounded  # the same key as that of the 8-bit image
                shape = str(tuple(image.shape)).encode()
                keys[place] = hashlib.sha256(shape + image.detach().cpu().numpy().tobytes()).digest()
        return keys

    @property
    def are_images(self) -> bool:
        """Whether these are images and not rows."""
        return all(x.ndim == 4 for _, x in self.groups)

    def check_sizes(self, accepts: Callable[[tuple[int, int]], bool], takes: str) -> None:
        """Refuses images of a size that a detector does not take.

        Args:
            accepts: Whether it takes a size, (height, width).
            takes: The images that it takes, as a phrase.

        Raises:
            ImageError: If it does not take an image.
        """
        for _, x in self.groups:
            if len(x) and not accepts((x.shape[2], x.shape[3])):
                size = f"{x.shape[2]} x {x.shape[3]} (height x width)"
                raise ImageError(f"the image is {size}, the detector takes {takes}", "size")

    def changed(self, function: Callable[[Tensor], Tensor]) -> Samples:
        """Applies a function, (n, ...) -> (n, ...), to each group."""
        return Samples([(places, function(_floating(x))) for places, x in self.groups])

    def corrupted(self, name: str) -> Samples:
        """Returns the images after a benign corruption, a key of `images.corruptions.CORRUPTIONS`."""
        return self.changed(lambda x: corrupt(x, name))

    def with_corrupted(self, names: Sequence[str]) -> Samples:
        """Returns the images, and then each of them again after one of several benign corruptions, in turn.

        Args:
            names: Keys of `images.corruptions.CORRUPTIONS`; without any, the images are returned once.
        """
        corrupted = []
        for places, x in self.groups if names else []:
            changed = _floating(x).clone()
            for turn, name in enumerate(names):
                here = torch.from_numpy(places % len(names) == turn)
                if here.any():
                    changed[here] = corrupt(changed[here], name)
            corrupted.append((len(self) + places, changed))
        return Samples([*self.groups, *corrupted])

    def each(
        self,
        function: OfBatch,
        batch_size: int,
        *,
        floating: bool = True,
        threads: bool = False,
    ) -> list[Any]:
        """Calls a function with batches of images of one size.

        Args:
            function: Takes a batch, in floating point.
            batch_size: The largest number of images at once, in each thread; there are fewer if the images are large.
            floating: Whether the function needs floating point. If not, 8-bit images stay as they are.
            threads: Whether several threads may call the function at once, if there are many images.

        Returns:
            One array (N, ...) for each of the function's results, or a list of N arrays if their shapes differ.
        """
        found = []
        for places, x in self.groups:
            size = batch_size
            workers = min(len(x) // IMAGES_A_THREAD, torch.get_num_threads()) if threads else 1
            if x.ndim == 4 and batch_size > 0:
                pixels = PIXELS_AT_ONCE // max(1, workers)
                size = max(1, min(batch_size, pixels // max(1, x.shape[2] * x.shape[3])))
            evaluate = (lambda part: function(_floating(part))) if floating else function
            parts = _in_threads(evaluate, x, size, workers) if workers > 1 else in_batches(evaluate, x, size)
            results = [values[0] if len(values) == 1 else np.concatenate(values) for values in zip(*parts, strict=True)]
            found.append((places, results))
        return [
            _in_order(len(self), [(places, results[k]) for places, results in found]) for k in range(len(found[0][1]))
        ]


def uint8_image(image: Any) -> Tensor:
    """Returns one image as uint8 (C, H, W).

    Args:
        image: As `pixeldefend.images.to_batch` takes it.

    Raises:
        ImageError: If the image is malformed.
        ParameterError: If there are several images.
        OSError: If the file cannot be read.
    """
    if isinstance(image, str | os.PathLike | bytes):
        image = read_image(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (3,)):
        # 8-bit images stay 8-bit, without a detour through floating point; torch wants arrays that may be written to
        x = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        return x[None] if x.ndim == 2 else x.permute(2, 0, 1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) in (1, 3):
        return image
    batch = to_batch(image)[0]
    if len(batch) != 1:
        raise ParameterError(f"wanted one image, got {len(batch)}")
    return to_uint8(batch[0])


def check_distinct(samples: Samples, what: str) -> None:
    """Refuses images of which more than a tenth are copies, since n copies of one image are not n images.

    Natural data hold a few copies. Rows of few values may hold many.

    Args:
        samples: The images.
        what: The name of the images in the message.

    Raises:
        CalibrationError: If there are too many copies.
    """
    if samples.are_images:
        check_distinct_keys(samples.keys(), what)


def check_distinct_keys(keys: list[bytes], what: str) -> None:
    """Refuses images as `check_distinct` does, by their keys.

    Args:
        keys: (N,), as `Samples.keys` returns them.
        what: The name of the images in the message.

    Raises:
        CalibrationError: If there are too many copies.
    """
    copies = len(keys) - len(set(keys))
    if copies > max(1, len(keys) // 10):
        raise CalibrationError(f"{copies} of {len(keys)} {what} are copies of others: give each image once")


def learning_images(samples: Samples, given: Samples | None, statistic: str) -> tuple[Samples, np.ndarray]:
    """Chooses the images that a statistic learns from and those that calibrate it, since no image may do both.

    Args:
        samples: The images that the user gave for calibration.
        given: The images that the user gave for the statistic; without them it learns from a fifth of the others, drawn
            with a fixed seed.
        statistic: The name of the statistic in messages.

    Returns:
        The images that it learns from, and the positions of those that calibrate it.

    Raises:
        CalibrationError: If fewer than 2 images remain to learn from, if most are copies, or if most calibrate too.
    """
    index = np.arange(len(samples))
    if given is None:
        index = np.random.RandomState(0).permutation(len(samples))
        held = max(1, len(samples) // 5)
        learn, index = samples.take(index[:held]), index[held:]
    else:
        learn = without_calibration_images(given, samples)
    if len(learn) < 2:
        raise CalibrationError(f"{statistic} learns from at least 2 clean images, got {len(learn)}: give more (X_fit)")
    check_distinct(learn, "images to fit the statistic on")
    return learn, index


def without_calibration_images(learn: Samples, calibrate: Samples) -> Samples:
    """Returns the images for fitting a statistic without those that also calibrate it.

    Args:
        learn: The images to fit on. Rows are returned unchanged, since different rows of few values are often equal.
        calibrate: The calibration images.

    Raises:
        CalibrationError: If fewer than half of the images remain, since then the two sets have been mixed up.
    """
    if not learn.are_images:
        return learn
    calibrating = set(calibrate.keys())
    kept = [i for i, key in enumerate(learn.keys()) if key not in calibrating]
    if 2 * len(kept) < len(learn):
        raise CalibrationError(
            f"{len(learn) - len(kept)} of the {len(learn)} images to fit the statistic on (X_fit) are also "
            "calibration images, so p-values would not be valid: give other images"
        )
    return learn.take(np.array(kept, dtype=int))


def is_images(X: Any, size: tuple[int, int] | None) -> bool:
    """Returns whether X are images, and not a table of flattened images (or something to refuse).

    Args:
        X: Any value that a user gives.
        size: (height, width). An array of this shape is one image; any other array with two axes is a table. If it is
            None, every array with two axes is one image.
    """
    if isinstance(X, str | os.PathLike | bytes | Image.Image):
        return True
    if isinstance(X, list | tuple):
        return not X or is_images(X[0], size) or getattr(X[0], "ndim", 0) >= 2
    ndim = getattr(X, "ndim", None)
    return ndim is not None and (ndim != 2 or size is None or tuple(X.shape) == size)


def _in_order(n: int, parts: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Returns the values for the positions 0 to n - 1, in this order."""
    if len(parts) == 1 and (parts[0][0] == np.arange(n)).all():
        return parts[0][1]
    if len(parts) == 1 or len({values.shape[1:] for _, values in parts}) == 1:
        whole = np.empty((n, *parts[0][1].shape[1:]), parts[0][1].dtype)
        for places, values in parts:
            whole[places] = values
        return whole
    listed: list[Any] = [None] * n
    for places, values in parts:
        for place, value in zip(places.tolist(), values, strict=True):
            listed[place] = value
    return listed


def _in_threads(function: OfBatch, x: Tensor, batch_size: int, workers: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Calls a function with batches, as `in_batches` does, which takes over if memory runs out."""
    parts = x.split(min(batch_size, math.ceil(len(x) / workers)))
    try:
        return iter(list(in_threads(function, parts, workers)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return in_batches(function, x, batch_size)


def _together(images: list[Tensor]) -> Tensor:
    """Returns images of one size as one tensor, without a copy of a single one: it may be large."""
    return torch.stack(images) if len(images) > 1 else images[0][None]


def _floating(x: Tensor) -> Tensor:
    return from_uint8(x).contiguous() if x.dtype == torch.uint8 else ordinary(x)
