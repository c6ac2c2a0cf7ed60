"""Named data sets, images, tables, text and audio, as tensors in five parts that share no event."""

from __future__ import annotations

import csv
import hashlib
import wave
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..serialization import whole_file


@dataclass(frozen=True)
class Images:
    """Images, or events of another kind. x: (N, C, H, W) uint8, or (N, D) uint8 or float32. y: (N,) int64 labels, or
    None. index: (N,) positions in the source, test or training. levels: how many values x takes, 0 ... levels - 1: 256
    for 8-bit images and audio, 2 for binary data (of images, 0 and 255), the number of characters for text; None for
    real numbers."""

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
        """Of one event: (C, H, W), or (D,)."""
        return tuple(self.x.shape[1:])

    def digest(self) -> str:
        """Returns the sha256 of the images: whether a model was trained on these very ones."""
        return hashlib.sha256(self.x.contiguous().numpy().tobytes()).hexdigest()

    def float(self) -> Tensor:
        """Returns (N, *event): on the grid of `levels` values in [0, 1], or the real numbers as they are."""
        if self.levels is None:
            return self.x.float()
        return self.x / (255 if self.x.ndim == 4 else self.levels - 1)


@dataclass(frozen=True)
class DataSet:
    """One data set in five disjoint parts.

    train: what densities and classifiers learn from. validation: what their training is watched on. fit: clean images
    for what a score learns. calibration: clean images for p-values and thresholds. test: seen by nothing before the
    evaluation. vocabulary: the characters of text, in the order of its levels.
    """

    name: str
    train: Images
    validation: Images
    fit: Images
    calibration: Images
    test: Images
    vocabulary: str | None = None


@dataclass(frozen=True)
class Source:
    """What a source holds. x: (N, H, W[, C]) uint8, or (N, D) uint8 or floating point. y: (N,). test_x, test_y: the
    source's own test part. ordered: whether neighbours belong together (text, audio), so that parts are cut, not drawn.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    test_x: np.ndarray | None = None
    test_y: np.ndarray | None = None
    ordered: bool = False
    vocabulary: str | None = None

    def levels(self) -> int | None:
        if self.vocabulary is not None:
            return len(self.vocabulary)
        if self.x.dtype != np.uint8:
            return None
        most = max(part.max(initial=0) for part in (self.x, self.test_x) if part is not None)
        return 2 if most <= 1 else 256


def _torchvision(class_name: str) -> Callable[[Path], Source]:
    def read(data_dir: Path) -> Source:
        import torchvision

        make = getattr(torchvision.datasets, class_name)
        train, test = make(data_dir, train=True, download=True), make(data_dir, train=False, download=True)
        x, y, test_x, test_y = (np.asarray(part) for part in (train.data, train.targets, test.data, test.targets))
        return Source(x, y, test_x, test_y)

    return read


DATASETS: dict[str, Callable[[Path], Source]] = {
    "fashion-mnist": _torchvision("FashionMNIST"),
    "mnist": _torchvision("MNIST"),
    "cifar10": _torchvision("CIFAR10"),
}


def load_dataset(name: str, data_dir: str | Path = "data", *, length: int = 256) -> DataSet:
    """name: one of these.

    - a key of `DATASETS` (downloaded into data_dir if absent);
    - a folder of images of one size (files in sub-folders are labelled by the sub-folder);
    - an .npz file with x, (N, H, W[, C]) uint8 images or (N, D) rows, uint8 or floating point, and maybe y (N,), x_test
      and y_test. Rows and images whose values are all 0 or 1 are binary;
    - a .csv file of numbers, a row an event, under at most one line of names; binary if all are 0 or 1;
    - a .txt file, in pieces of `length` characters (UTF-8);
    - a .wav file or a folder of them, 8 or 16 bits, the first channel, in pieces of `length` samples in 8-bit mu-law.

    The order is shuffled with a fixed seed, the same on every machine, except that of text and audio, which are cut
    into consecutive parts; a twelfth of the training images goes to `validation`, another to `fit`. Where the source
    has test images of its own, they are halved into `calibration` and `test`: calibration images must be as new to the
    density as those to come, and images held out of the training ones need not be (in Fashion-MNIST they are variants
    of products that were trained on, and less surprising than test images). Where it has none, two further twelfths
    are held out.
    Raises DataError if the source is of none of these kinds, damaged, or holds too few images.
    """
    path = Path(name)
    if name in DATASETS:
        source = DATASETS[name](Path(data_dir))
    elif path.suffix == ".npz":
        source = _read_npz(path)
    elif path.suffix == ".csv":
        source = _read_csv(path)
    elif path.suffix == ".txt":
        source = _read_text(path, length)
    elif path.suffix.lower() == ".wav" or (path.is_dir() and _wav_files(path)):
        source = _read_wav(path, length)
    elif path.is_dir():
        source = _read_folder(path)
    else:
        kinds = "no folder and no .npz, .csv, .txt or .wav file"
        raise DataError(f"{name!r} is no data set ({', '.join(DATASETS)}), {kinds}")
    levels = source.levels()
    everything = _images(source.x, source.y, levels)
    if not source.ordered:
        everything = _shuffled(everything)
    held = len(everything) // 12
    if held < 1:
        what = f"pieces of length {length}" if source.ordered else "images"
        raise DataError(f"{name} holds {len(everything)} {what}, at least 12 are needed")
    if source.test_x is not None:
        validation, fit, train = _parts(everything, held, held)
        new = _shuffled(_images(source.test_x, source.test_y, levels))
        if len(new) < 2:
            raise DataError(f"{name} holds {len(new)} test images, at least 2 are needed, or none of its own (x_test)")
        calibration, test = _parts(new, len(new) // 2)
    elif source.ordered:
        train, validation, fit, calibration, test = _parts(everything, len(everything) - 4 * held, held, held, held)
    else:
        validation, fit, calibration, test, train = _parts(everything, held, held, held, held)
    title = name if name in DATASETS else path.stem
    return DataSet(title, train, validation, fit, calibration, test, source.vocabulary)


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
        tensor = 255 * tensor  # black and white, for all that take 8-bit images
    labels = None if y is None else torch.from_numpy(np.asarray(y, np.int64))
    return Images(tensor, labels, torch.arange(len(tensor)), levels)


def _read_npz(path: Path) -> Source:
    with path.open("rb") as whole:  # which numpy would leave open if it cannot read it
        try:
            file = np.load(whole, allow_pickle=False)
        except Exception as error:  # zipfile and numpy raise what their readers happen to run into
            raise DataError(f"{path} is not a readable .npz file: {error}") from None
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is no .npz file; write one with numpy.savez(path, x=...)")
        if "x" not in file:
            raise DataError(f"{path} holds {', '.join(file.files) or 'nothing'}; an array x (and y) is wanted")
        try:
            arrays = {key: file[key] for key in ("x", "y", "x_test", "y_test") if key in file}
        except Exception as error:
            raise DataError(f"{path} is damaged, or not of plain arrays that fit into memory: {error}") from None
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
    """Real numbers as float32. Raises DataError if any is missing or infinite."""
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise DataError(f"{path} holds {int((~np.isfinite(x)).sum())} missing or infinite numbers")
    return x


def _read_csv(path: Path) -> Source:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no table in UTF-8: {error}") from None
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
        raise DataError(f"{path} must hold numbers alone: {error}") from None
    return Source(x.astype(np.uint8) if np.isin(x, (0, 1)).all() else _numbers(x, path))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_text(path: Path, length: int) -> Source:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}") from None
    vocabulary = "".join(sorted(set(text)))
    if not 2 <= len(vocabulary) <= 256:
        raise DataError(f"{path} has {len(vocabulary)} different characters; from 2 to 256 can be modelled")
    codes = {character: code for code, character in enumerate(vocabulary)}
    x = np.array([codes[character] for character in text], dtype=np.uint8)
    return Source(_pieces(x, length), ordered=True, vocabulary=vocabulary)


def _read_wav(path: Path, length: int) -> Source:
    from ..densities.wavenet import mu_law_encode

    files = _wav_files(path) if path.is_dir() else [path]
    pieces: list[np.ndarray] = []
    rates: dict[int, Path] = {}
    for file in files:
        samples, rate = read_wav(file)
        rates.setdefault(rate, file)
        if len(rates) > 1:
            told = ", ".join(f"{name} has {hertz} Hz" for hertz, name in rates.items())
            raise DataError(f"audio must be of one sample rate: {told}")
        audio = torch.from_numpy(samples)
        pieces.append(_pieces((mu_law_encode(audio) * 255).round().to(torch.uint8).numpy(), length))
    return Source(np.concatenate(pieces), ordered=True)


def _wav_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() == ".wav")


def read_wav(path: str | Path) -> tuple[np.ndarray, int]:
    """Returns the first channel, (T,) float32 in [-1, 1], and the sample rate in Hz. Raises DataError if the file is
    no PCM of 8 or 16 bits."""
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # the last without a word, where chunks overlap
        raise DataError(f"{path} is no readable WAV file: {error}") from None
    if width not in (1, 2):
        raise DataError(f"{path} has {8 * width} bits a sample, 8 or 16 are read")
    data = data[: len(data) // (width * channels) * width * channels]
    samples = np.frombuffer(data, "<i2" if width == 2 else np.uint8)[::channels].astype(np.float32)
    return (samples / 32768 if width == 2 else (samples - 128) / 128), rate


def write_wav(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """audio: (T,) in [-1, 1], written with 16 bits at `rate` Hz."""
    with whole_file(path, "wb") as whole, wave.open(whole, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(audio, -1, 1) * 32767).round().astype("<i2").tobytes())


def _pieces(x: np.ndarray, length: int) -> np.ndarray:
    """(T,) -> (T // length, length)."""
    if length < 1:
        raise DataError(f"length must be at least 1, got {length}")
    return x[: len(x) // length * length].reshape(-1, length)


def _read_folder(folder: Path) -> Source:
    from ..images import SUFFIXES, read_image

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
            raise DataError(f"images must be of one size: {files[0]} is {images[0].shape}, {file} is {image.shape}")
    classes = sorted({file.parent.name for file in files})
    labelled = len(classes) > 1 and all(file.parent.parent == folder for file in files)
    y = np.array([classes.index(file.parent.name) for file in files]) if labelled else None
    return Source(np.stack(images), y)
