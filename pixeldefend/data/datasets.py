"""Named data sets, and those in files: images, tables, text and audio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import DataError
from .readers import READERS, Source, read_folder
from .splits import DataSet, split


def _torchvision(class_name: str) -> Callable[[Path], Source]:
    def read(data_dir: Path) -> Source:
        import torchvision

        make = getattr(torchvision.datasets, class_name)
        train, test = make(data_dir, train=True, download=True), make(data_dir, train=False, download=True)
        x, y, test_x, test_y = (np.asarray(part) for part in (train.data, train.targets, test.data, test.targets))
        return Source(x, y, test_x, test_y)

    return read


# name -> a function of the folder of the data sets; the options' help and the documentation follow
DATASETS: dict[str, Callable[[Path], Source]] = {
    "fashion-mnist": _torchvision("FashionMNIST"),
    "mnist": _torchvision("MNIST"),
    "cifar10": _torchvision("CIFAR10"),
}


def load_dataset(name: str, data_dir: str | Path = "data", *, length: int = 256) -> DataSet:
    """Loads a data set and divides it as `pixeldefend.data.split` does.

    Args:
        name: A key of `DATASETS`, the path of a file with a suffix in `READERS`, or a folder of images or audio.
        data_dir: The folder of the named data sets, which are downloaded if they are missing.
        length: The number of characters or samples of one event of text or audio.

    Returns:
        The data set in five parts that share no event.

    Raises:
        DataError: If the source is of none of these kinds, is damaged, or holds too few images.
    """
    path = Path(name)
    if name in DATASETS:
        return split(name, DATASETS[name](Path(data_dir)))
    if path.is_dir():
        return split(path.stem, read_folder(path, length))
    if path.suffix.lower() not in READERS:
        raise DataError(
            f"{name!r} is neither a data set ({', '.join(DATASETS)}) nor a folder nor a file of a known kind "
            f"({', '.join(READERS)})"
        )
    return split(path.stem, READERS[path.suffix.lower()](path, length))
