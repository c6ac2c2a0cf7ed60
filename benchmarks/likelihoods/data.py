"""The data sets of the likelihood benchmark, split as in the papers that published figures on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pixeldefend.data import Images, load_dataset, mu_law_encode

Split = tuple[Images, Images, Images]  # train, validation, test


def nade_binary(name: str) -> Callable[[Path], list[Split]]:
    def read(folder: Path) -> list[Split]:
        with np.load(folder / f"nade_binary/{name}.npz") as file:
            return [as_split(*(file[f"{part}_data"] for part in ("train", "valid", "test")))]

    return read


def binarized_mnist(folder: Path) -> list[Split]:
    """Reads binarized MNIST; 1,000 of the validation images, which were sorted by class, are enough to validate on."""
    with np.load(folder / "binarized_mnist.npz") as file:
        parts = [255 * file[part].reshape(-1, 1, 28, 28) for part in ("train", "valid", "test")]
    parts[1] = parts[1][np.random.RandomState(0).permutation(len(parts[1]))[:1000]]
    parts[2] = parts[2][np.random.RandomState(0).permutation(len(parts[2]))]
    return [as_split(*parts)]


def red_wine(folder: Path) -> list[Split]:
    """Reads NADE's ten folds, each standardised by its training rows, as in the paper.

    Of the nine parts of the training rows eight train and one validates.
    """
    import h5py

    splits = []
    with h5py.File(folder / "uci/red_wine_nade.hdf5") as file:
        for fold in range(1, 11):
            training = [file[f"folds/{fold}/training/{part}/data"][:] for part in range(1, 10)]
            test = file[f"folds/{fold}/tests/1/data"][:]
            rows = np.concatenate(training[:8])
            mean, deviation = rows.mean(0), rows.std(0)
            splits.append(as_split(*((x - mean) / deviation for x in (rows, training[8], test)), levels=None))
    return splits


def shakespeare(folder: Path) -> list[Split]:
    """Reads Shakespeare in pieces of 256 characters.

    The last tenth of the text tests, in pieces of 1,024 characters, and the twentieth before it validates.
    """
    x = np.frombuffer((folder / "text/tinyshakespeare.txt").read_bytes(), np.uint8)
    vocabulary, x = np.unique(x, return_inverse=True)
    cuts = int(0.85 * len(x)), int(0.9 * len(x))
    lengths = (256, 256, 1024)
    parts = [
        part[: len(part) // length * length].reshape(-1, length).astype(np.uint8)
        for part, length in zip(np.split(x, cuts), lengths, strict=True)
    ]
    return [as_split(*parts, levels=len(vocabulary))]


def spoken_digits(folder: Path) -> list[Split]:
    """Reads spoken digits as 8-bit mu-law in pieces of 1,024 samples, an eighth of a second.

    The last speaker tests; of the others every 20th clip validates.
    """
    with np.load(folder / "fsdd/fsdd.npz") as file:
        audio, offset, speaker = file["audio"], file["offset"], file["speaker"]
    pieces: list[list[np.ndarray]] = [[], [], []]
    for i, who in enumerate(speaker):
        clip = torch.from_numpy(audio[offset[i] : offset[i + 1]] / np.float32(32768))
        codes = (255 * mu_law_encode(clip)).round().to(torch.uint8).numpy()
        part = 2 if who == speaker.max() else 1 if i % 20 == 0 else 0
        pieces[part].append(codes[: len(codes) // 1024 * 1024].reshape(-1, 1024))
    return [as_split(*(np.concatenate(part) for part in pieces), levels=256)]


def fashion_mnist(folder: Path) -> list[Split]:
    data = load_dataset("fashion-mnist", folder)
    return [(data.train, data.validation[:1000], data.test)]


def cifar10(folder: Path) -> list[Split]:
    """Reads cifar10.npz (x, y, x_test, y_test) if it is there, and downloads the data otherwise."""
    file = folder / "cifar10.npz"
    data = load_dataset(str(file) if file.exists() else "cifar10", folder)
    return [(data.train, data.validation[:500], data.test)]


def as_split(*parts: np.ndarray, levels: int | None = 2) -> Split:
    train_, valid, test = (Images(torch.from_numpy(x), None, torch.arange(len(x)), levels) for x in parts)
    return train_, valid, test


DATA: dict[str, Callable[[Path], list[Split]]] = {
    "DNA": nade_binary("dna"),
    "Mushrooms": nade_binary("mushrooms"),
    "NIPS-0-12": nade_binary("nips"),
    "binarized MNIST": binarized_mnist,
    "red wine": red_wine,
    "Tiny Shakespeare, a character": shakespeare,
    "spoken digits, a sample": spoken_digits,
    "Fashion-MNIST": fashion_mnist,
    "CIFAR-10": cifar10,
}
