"""Folders of photographs, as the data of a benchmark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...classifier import predict_labels
from ...data import Images
from ...errors import DataError, ImageError, PixelDefendError
from ...imagenet import resized_and_cropped
from ...images import from_uint8, read_image, to_uint8
from ...images.files import NotFound, find_files

NATIVE = "native"  # the view of photographs at their own size
MAX_PIXELS = 1_000_000  # of a photograph that is attacked
WORDNET_ID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Photographs:
    """Clean photographs with their labels.

    Attributes:
        name: The name of the folder.
        view: The side of the square crops in pixels, or "native".
        x: N images as the classifier gets them, (3, H, W) uint8. In the native view their sizes differ.
        y: Labels, (N,) int64.
        index: The positions of the photographs among the files of the folder, in the order of their names, (N,).
        paths: The N files.
        labels: "given", or "predicted" if the labels are what the classifier makes of the clean images.
        left_out: How many files cannot be read, or have too many pixels to be attacked.
    """

    name: str
    view: str
    x: list[Tensor]
    y: Tensor
    index: Tensor
    paths: list[Path]
    labels: str
    left_out: int

    def __len__(self) -> int:
        return len(self.x)

    def take(self, places: Iterable[int]) -> Photographs:
        """Returns the photographs at these positions."""
        chosen = list(places)
        at = torch.tensor(chosen, dtype=torch.long)
        x, paths = [self.x[i] for i in chosen], [self.paths[i] for i in chosen]
        return replace(self, x=x, y=self.y[at], index=self.index[at], paths=paths)

    def files(self) -> Iterator[bytes]:
        """Yields the images of this view as the bytes of PNG files."""
        yield from png_files(self.x)

    def batches(self, pixels: int) -> list[Images]:
        """Groups the images by their size.

        Args:
            pixels: The largest number of pixels of a group of more than one image.

        Returns:
            Images of one size each. Their index holds positions in these photographs.
        """
        by_size: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(self.x):
            by_size.setdefault(tuple(image.shape), []).append(place)
        found = []
        for (_, height, width), places in by_size.items():
            for part in torch.tensor(places).split(max(1, pixels // (height * width))):
                found.append(Images(torch.stack([self.x[i] for i in part.tolist()]), self.y[part], part))
        return found

    def digest(self) -> str:
        """Returns the sha256 of the images."""
        sha = hashlib.sha256()
        for image in self.x:
            sha.update(f"{tuple(image.shape)}".encode())
            sha.update(image.contiguous().numpy().tobytes())
        return sha.hexdigest()


def read_photographs(
    folder: Path,
    classifier: nn.Module,
    *,
    view: str | None = None,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    log: Callable[[str], None] = lambda line: None,
) -> Photographs:
    """Reads photographs of a folder and of its sub-folders, in an order that is shuffled with a fixed seed.

    The labels are given if each path holds the WordNet id or the name of one of the classifier's classes: a sub-folder
    with one of these names, or a file whose name begins with the id, such as n01440764_tench.JPEG. Otherwise the
    classifier's predictions for the clean images of this view are the labels.

    Args:
        folder: The folder.
        classifier: The classifier that is attacked. Its attributes `wordnet_ids`, `class_names` and `input_size` are
            used, if it has them.
        view: "native" for photographs at their own size; or the side in pixels of the square crop that is attacked, in
            the middle of the resized photograph; None for the classifier's input.
        limit: The largest number of photographs; None for all.
        max_pixels: The largest number of pixels of a photograph at its own size.
        log: Called with a line for each file that is left out.

    Returns:
        The photographs.

    Raises:
        DataError: If the view is something else, or the folder holds no photograph that can be used.
    """
    size = input_size_of(classifier)
    view = str(size) if view is None else view
    if view != NATIVE and not (view.isdecimal() and int(view) > 0):
        raise DataError(f"the view must be {NATIVE!r} or the side of a crop in pixels, such as {size}, got {view!r}")
    x: list[Tensor] = []
    paths: list[Path] = []
    index: list[int] = []
    left_out = 0
    files = _files(folder)
    for place in np.random.RandomState(0).permutation(len(files)).tolist():
        if limit is not None and len(x) == limit:
            break
        found = files[place]
        try:
            image = read_photograph(found)
            if view == NATIVE and image.shape[1] * image.shape[2] > max_pixels:
                raise ImageError(f"{image.shape[2]} x {image.shape[1]}, the limit is {max_pixels} pixels", "too large")
        except (PixelDefendError, OSError) as error:
            log(f"{found} is left out: {error}")
            left_out += 1
            continue
        x.append(image if view == NATIVE else cropped(image, classifier, int(view)))
        paths.append(Path(found))
        index.append(place)
    if not x:
        raise DataError(f"{folder} holds no photograph that can be used; {left_out} files were left out")
    given = [label_of(path, folder, classifier) for path in paths]
    photographs = Photographs(
        folder.name, view, x, torch.zeros(len(x), dtype=torch.long), torch.tensor(index), paths, "given", left_out
    )
    if None in given:
        log("the folder gives no labels: the labels are the classifier's predictions for the clean images")
        return replace(photographs, y=predicted(classifier, photographs.x), labels="predicted")
    return replace(photographs, y=torch.tensor(given))


def input_size_of(classifier: nn.Module) -> int:
    """Returns the side of a classifier's input in pixels, 224 if it does not say."""
    return int(getattr(classifier, "input_size", 224))


def label_of(path: Path, folder: Path, classifier: nn.Module) -> int | None:
    """Returns the label that a path gives, or None.

    Args:
        path: A file.
        folder: A folder above it, whose name says nothing.
        classifier: The classifier, whose classes have WordNet ids or names.
    """
    inside = path.relative_to(folder)
    for part in (*reversed(inside.parts[:-1]), inside.name):
        ids, names = (getattr(classifier, kind, None) or [] for kind in ("wordnet_ids", "class_names"))
        if (number := WORDNET_ID.match(part)) and number[0] in ids:
            return list(ids).index(number[0])
        if part in names:
            return list(names).index(part)
    return None


def colour(image: np.ndarray) -> Tensor:
    """Returns an image, uint8 (H, W) or (H, W, 3), as a tensor (3, H, W)."""
    array = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).contiguous()


def cropped(image: Tensor, classifier: nn.Module, size: int) -> Tensor:
    """Returns the square crop of a photograph, as 8-bit values.

    Args:
        image: (3, H, W) uint8.
        classifier: The classifier. A crop of the size of its input is made in its own way, if it has one.
        size: The side of the crop in pixels.

    Returns:
        (3, size, size) uint8.
    """
    x = from_uint8(image[None])
    own = getattr(classifier, "cropped", None)
    crop = own(x) if own is not None and size == input_size_of(classifier) else resized_and_cropped(x, size)
    return to_uint8(crop)[0]


def predicted(classifier: nn.Module, x: Iterable[Tensor]) -> Tensor:
    """Returns the classes that a classifier gives to images of any sizes, (N,) int64.

    Args:
        classifier: (N, 3, H, W) in [0, 1] -> (N, classes) logits.
        x: N images, (3, H, W) uint8.
    """
    return torch.cat([torch.zeros(0, dtype=torch.long), *(predict_labels(classifier, image[None]) for image in x)])


def read_photograph(file: str | Path) -> Tensor:
    """Returns the image in a file, (3, H, W) uint8.

    Raises:
        PixelDefendError: If it cannot be decoded, or a package is missing that decodes it.
        OSError: If it cannot be read.
    """
    return colour(read_image(file, convert=True))


def png_files(x: Iterable[Tensor]) -> Iterator[bytes]:
    """Yields images, (3, H, W) uint8, as the bytes of PNG files."""
    for image in x:
        yield encoded(image, "PNG", compress_level=1)


def encoded(image: Tensor, format: str, **options: Any) -> bytes:
    """Returns an image, (3, H, W) uint8, as the bytes of a file.

    Args:
        image: The image.
        format: The name of a format of Pillow.
        **options: Further options of `PIL.Image.Image.save`.
    """
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format, **options)
    return buffer.getvalue()


def _files(folder: Path) -> list[str]:
    """Returns the image files of a folder and of its sub-folders, in the order of their paths."""
    files = []
    for found in find_files([str(folder)]):
        if isinstance(found, NotFound):
            raise DataError(f"{found.path}: {found.reason}")
        files.append(found)
    return sorted(files)
