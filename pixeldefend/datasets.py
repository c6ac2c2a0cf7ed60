"""Named data sets, folders of images and .npz files, as tensors in five parts that share no image."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """x: (N, C, H, W) uint8. y: (N,) int64 labels, or None. index: (N,) positions in the source, test or training."""

    x: Tensor
    y: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice | Tensor) -> Images:
        return Images(self.x[which], None if self.y is None else self.y[which], self.index[which])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, c, h, w = self.x.shape
        return c, h, w

    def digest(self) -> str:
        """Returns the sha256 of the images: whether a model was trained on these very ones."""
        return hashlib.sha256(self.x.contiguous().numpy().tobytes()).hexdigest()

    def float(self) -> Tensor:
        """Returns (N, C, H, W) in [0, 1]."""
        return self.x / 255


@dataclass(frozen=True)
class DataSet:
    """One data set in five disjoint parts.

    train: what densities and classifiers learn from. validation: what their training is watched on. fit: clean images
    for what a score learns. calibration: clean images for p-values and thresholds. test: seen by nothing before the
    evaluation.
    """

    name: str
    train: Images
    validation: Images
    fit: Images
    calibration: Images
    test: Images


# name -> (train x, train y, test x or None, test y or None); x (N, H, W[, C]) uint8
Source = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]


def _torchvision(class_name: str) -> Callable[[Path], Source]:
    def read(data_dir: Path) -> Source:
        import torchvision

        make = getattr(torchvision.datasets, class_name)
        train, test = make(data_dir, train=True, download=True), make(data_dir, train=False, download=True)
        return (
            np.asarray(train.data),
            np.asarray(train.targets),
            np.asarray(test.data),
            np.asarray(test.targets),
        )

    return read


DATASETS: dict[str, Callable[[Path], Source]] = {
    "fashion-mnist": _torchvision("FashionMNIST"),
    "mnist": _torchvision("MNIST"),
    "cifar10": _torchvision("CIFAR10"),
}


def load_dataset(name: str, data_dir: str | Path = "data") -> DataSet:
    """name: a key of `DATASETS` (downloaded into data_dir if absent), a folder of images of one size (files in
    sub-folders are labelled by the sub-folder), or an .npz file with x (N, H, W[, C]) uint8 and, maybe, y (N,), and
    maybe x_test and y_test.

    The order is shuffled with a fixed seed, the same on every machine; a twelfth of the training images goes to
    `validation`, another to `fit`. Where the source has test images of its own, they are halved into `calibration` and
    `test`: calibration images must be as new to the density as those to come, and images held out of the training
    ones need not be (in Fashion-MNIST they are variants of products that were trained on, and less surprising than
    test images). Where it has none, two further twelfths are held out.
    Raises ValueError if the source is of none of these kinds or holds too few images.
    """
    path = Path(name)
    if name in DATASETS:
        x, y, test_x, test_y = DATASETS[name](Path(data_dir))
    elif path.suffix == ".npz":
        x, y, test_x, test_y = _read_npz(path)
    elif path.is_dir():
        x, y, test_x, test_y = _read_folder(path)
    else:
        raise ValueError(f"{name!r} is no data set ({', '.join(DATASETS)}), no folder and no .npz file")
    everything = _shuffled(_images(x, y))
    held = len(everything) // 12
    if held < 1:
        raise ValueError(f"{name} holds {len(everything)} images, at least 12 are needed")
    if test_x is not None:
        validation, fit, train = _parts(everything, held, held)
        new = _shuffled(_images(test_x, test_y))
        calibration, test = _parts(new, len(new) // 2)
    else:
        validation, fit, calibration, test, train = _parts(everything, held, held, held, held)
    title = name if name in DATASETS else path.stem
    return DataSet(title, train, validation, fit, calibration, test)


def _shuffled(images: Images) -> Images:
    return images[torch.from_numpy(np.random.RandomState(0).permutation(len(images)))]


def _parts(images: Images, *sizes: int) -> list[Images]:
    """Returns consecutive parts of these sizes, and the rest."""
    ends = [0, *np.cumsum(sizes).tolist(), len(images)]
    return [images[start:end] for start, end in pairwise(ends)]


def _images(x: np.ndarray, y: np.ndarray | None) -> Images:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    tensor = tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()
    return Images(tensor, None if y is None else torch.from_numpy(np.asarray(y, np.int64)), torch.arange(len(tensor)))


def _read_npz(path: Path) -> Source:
    try:
        opened = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file: {error}") from None
    with opened as file:
        if "x" not in file:
            raise ValueError(f"{path} holds {', '.join(file.files) or 'nothing'}; an array x (and y) is wanted")
        arrays = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
    x, y = arrays["x"], arrays.get("y")
    for key, array in arrays.items():
        if key.startswith("x") and (
            array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[3:] not in ((), (1,), (3,))
        ):
            wanted = "uint8 (N, H, W) or (N, H, W, 1 or 3)"
            raise ValueError(f"{key} in {path} must be {wanted}, got {array.dtype} {array.shape}")
    for images, labels in (("x", "y"), ("x_test", "y_test")):
        if labels in arrays and len(arrays[labels]) != len(arrays.get(images, ())):
            counts = f"{len(arrays.get(images, ()))} images and {labels} {len(arrays[labels])} labels"
            raise ValueError(f"{path}: {images} holds {counts}")
    if "x_test" in arrays and arrays["x_test"].shape[1:] != x.shape[1:]:
        raise ValueError(f"{path}: x holds images of shape {x.shape[1:]}, x_test of {arrays['x_test'].shape[1:]}")
    return x, y, arrays.get("x_test"), arrays.get("y_test")


def _read_folder(folder: Path) -> Source:
    from .images import SUFFIXES, read_image

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    images = []
    for file in files:
        try:
            images.append(read_image(file))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(f"images must be of one size: {files[0]} is {images[0].shape}, {file} is {image.shape}")
    classes = sorted({file.parent.name for file in files})
    labelled = len(classes) > 1 and all(file.parent.parent == folder for file in files)
    y = np.array([classes.index(file.parent.name) for file in files]) if labelled else None
    return np.stack(images), y, None, None
