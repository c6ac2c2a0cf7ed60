"""Readers of files and folders, which `READERS` lists by the suffix of the file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError
from ..images import SUFFIXES, read_image
from .audio import mu_law_encode, read_wav


@dataclass(frozen=True)
class Source:
    """The content of a source, before it is divided into parts.

    Attributes:
        x: Images, (N, H, W) or (N, H, W, C) uint8, or rows, (N, D) uint8 or floating point.
        y: Labels, (N,), or None.
        test_x: The source's own test part, or None.
        test_y: The labels of the test part, or None.
        ordered: Whether neighbours belong together, as in text and audio, so that parts must be consecutive.
        vocabulary: The characters of text, in the order of their numbers in x, or None.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None
    ordered: bool = False
    vocabulary: str | None = None

    def levels(self) -> int | None:
        """Returns the number of values of x: 2 if all are 0 or 1, None for real numbers."""
        if self.vocabulary is not None:
            return len(self.vocabulary)
        if self.x.dtype != np.uint8:
            return None
        most = max(part.max(initial=0) for part in (self.x, self.test_x) if part is not None)
        return 2 if most <= 1 else 256


def read_npz(path: Path, length: int) -> Source:
    """Reads images or rows from a numpy archive.

    Args:
        path: An .npz file with x, uint8 images (N, H, W), (N, H, W, 1) or (N, H, W, 3), or uint8 or floating point rows
            (N, D). It may hold labels y, (N,), and test images of its own, x_test and y_test.
        length: Not used.

    Returns:
        What it holds. Images and rows whose values are all 0 or 1 are binary.

    Raises:
        DataError: If the file is damaged, holds pickles, or its arrays do not fit together.
    """
    with path.open("rb") as whole:  # numpy would leave the file open if it cannot read it
        try:
            file = np.load(whole, allow_pickle=False)
        except Exception as error:  # zipfile and numpy raise errors of many types
            raise DataError(f"{path} is not a readable .npz file: {error}") from None
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is not an .npz file; write one with numpy.savez(path, x=...)")
        if "x" not in file:
            raise DataError(f"{path} holds {', '.join(file.files) or 'nothing'}; wanted an array x, and optionally y")
        try:
            arrays = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
        except Exception as error:
            raise DataError(f"{path} is damaged, holds pickled objects, or does not fit into memory: {error}") from None
    x, y = arrays["x"], arrays.get("y")
    for key, array in arrays.items():
        pixels = array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[3:] in ((), (1,), (3,))
        table = array.ndim == 2 and (array.dtype == np.uint8 or array.dtype.kind == "f")
        if key.startswith("x") and (not (pixels or table) or 0 in array.shape[1:]):
            wanted = "uint8 (N, H, W) or (N, H, W, 1 or 3), or (N, D) uint8 or floating point"
            raise DataError(f"{key} in {path} must be {wanted}, got {array.dtype} {array.shape}")
        whole_numbers = array.dtype.kind in "iubf" and array.ndim == 1 and not (array % 1).any()
        if key.startswith("y") and not whole_numbers:
            raise DataError(f"{key} in {path} must be (N,) whole numbers, got {array.dtype} {array.shape}")
    for images, labels in (("x", "y"), ("x_test", "y_test")):
        if labels in arrays and len(arrays[labels]) != len(arrays.get(images, ())):
            counts = f"{len(arrays.get(images, ()))} images and {labels} {len(arrays[labels])} labels"
            raise DataError(f"{path}: {images} holds {counts}")
    if "x_test" in arrays and arrays["x_test"].shape[1:] != x.shape[1:]:
        raise DataError(f"{path}: x holds images of shape {x.shape[1:]}, x_test of {arrays['x_test'].shape[1:]}")
    if "x_test" in arrays and arrays["x_test"].dtype != x.dtype:
        raise DataError(f"{path}: x is {x.dtype}, x_test is {arrays['x_test'].dtype}")
    test_x = _numbers(arrays["x_test"], path) if "x_test" in arrays else None
    return Source(_numbers(x, path), y, test_x, arrays.get("y_test"))


def _numbers(x: np.ndarray, path: Path) -> np.ndarray:
    """Returns real numbers as float32; raises DataError if a number is missing or infinite."""
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{path} holds {int((~np.isfinite(x)).sum())} missing or infinite numbers")
    return x


def read_csv(path: Path, length: int) -> Source:
    """Reads a table of numbers.

    Args:
        path: A .csv file in UTF-8, with one event per row and at most one line of names above.
        length: Not used.

    Returns:
        What it holds. A table of zeros and ones is binary.

    Raises:
        DataError: If the table is empty, its rows differ in length, or a value is no finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a table in UTF-8: {error}") from None
    if lines and not any(map(_is_number, lines[0])):  # a line of names
        lines = lines[1:]
    if not lines:
        raise DataError(f"{path} is empty")
    for number, line in enumerate(lines):
        if len(line) != len(lines[0]):
            raise DataError(f"{path}: row {number + 1} has {len(line)} numbers, row 1 has {len(lines[0])}")
    try:
        x = np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path} must hold only numbers: {error}") from None
    return Source(x.astype(np.uint8) if np.isin(x, (0, 1)).all() else _numbers(x, path))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_text(path: Path, length: int) -> Source:
    """Reads a text, in which every character is an element.

    Args:
        path: A .txt file in UTF-8.
        length: The number of characters of one event.

    Returns:
        The consecutive pieces of the text, and its vocabulary.

    Raises:
        DataError: If the file is not UTF-8, or has fewer than 2 or more than 256 different characters.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None
    vocabulary = "".join(sorted(set(text)))
    if not 2 <= len(vocabulary) <= 256:
        raise DataError(f"{path} has {len(vocabulary)} different characters; wanted 2 to 256")
    codes = {character: code for code, character in enumerate(vocabulary)}
    x = np.array([codes[character] for character in text], dtype=np.uint8)
    return Source(_pieces(x, length), ordered=True, vocabulary=vocabulary)


def read_wav_files(path: Path, length: int) -> Source:
    """Reads audio in 8-bit mu-law.

    Args:
        path: A .wav file as `read_wav` takes it, or a folder of such files, all of one sample rate.
        length: The number of samples of one event.

    Returns:
        The consecutive pieces of the audio.

    Raises:
        DataError: If a file cannot be read, or the sample rates differ.
    """
    files = _wav_files(path) if path.is_dir() else [path]
    pieces: list[np.ndarray] = []
    rates: dict[int, Path] = {}
    for file in files:
        samples, rate = read_wav(file)
        rates.setdefault(rate, file)
        if len(rates) > 1:
            listed = ", ".join(f"{name} has {hertz} Hz" for hertz, name in rates.items())
            raise DataError(f"audio files must have one sample rate: {listed}")
        codes = (mu_law_encode(torch.from_numpy(samples)) * 255).round().to(torch.uint8)
        pieces.append(_pieces(codes.numpy(), length))
    return Source(np.concatenate(pieces), ordered=True)


def _wav_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".wav")


def _pieces(x: np.ndarray, length: int) -> np.ndarray:
    """(T,) -> (T // length, length)."""
    if length < 1:
        raise DataError(f"length must be at least 1, got {length}")
    return x[: len(x) // length * length].reshape(-1, length)


def read_folder(folder: Path, length: int) -> Source:
    """Reads a folder of audio or of images.

    Args:
        folder: A folder of .wav files, or of images of one size. Images in sub-folders are labelled by the sub-folder.
        length: The number of samples of one event of audio.

    Returns:
        What it holds.

    Raises:
        DataError: If there is no image, an image cannot be read, or their sizes differ.
    """
    if _wav_files(folder):
        return read_wav_files(folder, length)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})")
    images = []
    for file in files:
        try:
            images.append(read_image(file))
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(f"images must have one size: {files[0]} is {images[0].shape}, {file} is {image.shape}")
    classes = sorted({file.parent.name for file in files})
    labelled = len(classes) > 1 and all(file.parent.parent == folder for file in files)
    y = np.array([classes.index(file.parent.name) for file in files]) if labelled else None
    return Source(np.stack(images), y)


# suffix of a file, in small letters -> its reader, which takes the path and the length of an event of text and audio
READERS: dict[str, Callable[[Path, int], Source]] = {
    ".npz": read_npz,
    ".csv": read_csv,
    ".txt": read_text,
    ".wav": read_wav_files,
}
