"""Many images -> one record each, in order; one bad file never stops the rest."""

from __future__ import annotations

import copy
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
from torch import nn

from ..calibration import ConformalMartingale
from ..detectors import Detector
from ..errors import ParameterError
from ..images import MAX_BYTES, MAX_PIXELS, SUFFIXES, looks_like_an_image, read_bytes, read_image, to_batch
from ..zoo import cached_detector, detector_for, shipped


@dataclass
class Record:
    """The verdict on one file. verdict: "clean", "adversarial" or "error". What could not be found out is None."""

    path: str
    verdict: Literal["clean", "adversarial", "error"] = "error"
    p_value: float | None = None
    bits_per_dim: float | None = None
    score: float | None = None
    detector: str | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None

    def picture_name(self) -> str:
        """Returns the name for a PNG that is made of the file: its own, and the start of its sha256."""
        return f"{Path(self.path).stem[:100]}-{(self.sha256 or '')[:8]}.png"


@dataclass
class Screened:
    """A record, and for pictures of it: the image, uint8 (H, W) or (H, W, 3), and nats of surprisal a pixel, (H, W)."""

    record: Record
    image: np.ndarray | None = None
    surprisal_map: np.ndarray | None = None


@dataclass
class Statistics:
    """Where the time of a screening went, in seconds (of decoding, as far as scoring had to wait for it), and what was
    seen: verdicts, `skipped` files of folders, and, if watched, for each detector by name whether the images still look
    like those that calibrated it."""

    seconds: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "scoring": 0.0})
    verdicts: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    martingales: dict[str, ConformalMartingale] = field(default_factory=dict)


def find_files(sources: Iterable[str], statistics: Statistics | None = None) -> Iterator[str | Record]:
    """sources: files, folders (searched recursively) and glob patterns.

    Yields paths in order, folders sorted; or an error record for a source that is missing, empty or unreadable. In a
    folder a file counts as an image by its name (PNG, JPEG, WebP, BMP) or, failing that, by its first bytes; others
    are skipped and counted.
    """
    for source in sources:
        if os.path.isdir(source):
            yield from _walk(source, statistics or Statistics())
        elif not os.path.lexists(source) and glob.has_magic(source):
            matches = sorted(glob.glob(source, recursive=True))
            if "**" in source:  # its folders' files are among the matches
                matches = [match for match in matches if not os.path.isdir(match)]
            for match in matches:
                yield from _walk(match, statistics or Statistics()) if os.path.isdir(match) else [match]
            if not matches:
                yield Record(source, error="no file matches the pattern")
        else:
            yield source


def screen(
    files: Iterable[str | Record],
    detector: str | Detector | None = None,
    *,
    fpr: float | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    maps: bool = False,
    watch: bool = False,
    classifier: nn.Module | None = None,
    backend: str | None = None,
    statistics: Statistics | None = None,
) -> Iterator[Screened]:
    """files: paths, or records to pass on. detector: a `Detector`, the name of a shipped one, the path of a saved one,
    or None for the shipped one that fits each image. fpr: the rate of false alarms, if not the detector's own. watch:
    also keep `statistics.martingales`. classifier: the one that the detector's score asks, if it does. backend: a key
    of `pixeldefend.detectors.backends.PRECISION`, if not the detector's own.

    Yields one result a file, in order. Whatever is wrong with a file becomes its record's `error`. Raises ParameterError
    or FileNotFoundError, before the first result, if the detector cannot be loaded, cannot promise fpr or cannot watch.
    """
    statistics = statistics or Statistics()
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    screener = Screener(detector, fpr=fpr, device=device, classifier=classifier, backend=backend)
    if watch:
        for made in screener.detectors.values():
            made.watch()
    return _screen(files, screener, batch_size, maps, watch, statistics)


class Screener:
    """What turns bytes into records. The arguments are as for `screen`, whose errors it raises. detectors: by name,
    those that may be asked."""

    def __init__(
        self,
        detector: str | Detector | None = None,
        *,
        fpr: float | None = None,
        device: str = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
    ) -> None:
        self.fixed = None if detector is None else "custom" if isinstance(detector, Detector) else str(detector)
        self.detectors: dict[str, Detector] = {}
        for name in shipped("detector") if self.fixed is None else [self.fixed]:
            made = detector if isinstance(detector, Detector) else cached_detector(name, device)
            if backend is not None:
                made = made.with_backend(backend)
            if classifier is not None:
                made = copy.copy(made)
                made.classifier = classifier
            try:
                self.detectors[name] = made if fpr is None else made.with_fpr(fpr)
            except ValueError as error:
                if self.fixed is not None:
                    raise  # else say whose rate it is
                raise ParameterError(f"detector {name}: {error}") from None

    def read(self, path: str, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Screened:
        """Decodes an image, and finds the detector for it. What is wrong with it becomes its record's `error`."""
        record = Record(path)
        try:
            if len(data) <= MAX_BYTES:  # otherwise it is not the whole file
                record.sha256 = hashlib.sha256(data).hexdigest()
            image = read_image(data, max_pixels=max_pixels)
            record.height, record.width = image.shape[:2]
            shape = (image.shape[2] if image.ndim == 3 else 1, *image.shape[:2])
            record.detector = self.fixed or detector_for(shape)
        except (ValueError, OSError) as error:
            record.error = _reason(error)
            return Screened(record)
        return Screened(record, image)

    def judge(self, results: Iterable[Screened], *, maps: bool = False) -> None:
        """Fills in the records of what was decoded. maps: also the surprisal of every pixel."""
        groups: dict[tuple[str, tuple[int, ...]], list[Screened]] = {}
        for result in results:
            if result.image is not None and result.record.detector is not None:
                groups.setdefault((result.record.detector, result.image.shape), []).append(result)
        for (name, _), group in groups.items():
            _judge(self.detectors[name], group, maps)


def _screen(
    files: Iterable[str | Record],
    screener: Screener,
    batch_size: int,
    maps: bool,
    watch: bool,
    statistics: Statistics,
) -> Iterator[Screened]:
    remaining = iter(files)

    def decode() -> list[Screened]:
        batch = islice(remaining, batch_size)
        return [Screened(file) if isinstance(file, Record) else _read(file, screener) for file in batch]

    started = perf_counter()
    for results in _ahead(decode):
        decoded = perf_counter()
        screener.judge(results, maps=maps)
        statistics.seconds["decoding"] += decoded - started
        statistics.seconds["scoring"] += perf_counter() - decoded
        for result in results:
            statistics.verdicts[result.record.verdict] += 1
            if watch and result.record.detector is not None and result.record.score is not None:
                name = result.record.detector
                if name not in statistics.martingales:
                    statistics.martingales[name] = screener.detectors[name].watch()
                statistics.martingales[name].update(np.array([result.record.score]))
            yield result
        started = perf_counter()


def _ahead(decode: Callable[[], list[Screened]]) -> Iterator[list[Screened]]:
    """Yields what decode returns until that is nothing; the next batch is decoded while this one is scored."""
    with ThreadPoolExecutor(1, "decoding") as pool:
        coming = pool.submit(decode)
        while batch := coming.result():
            coming = pool.submit(decode)
            yield batch


def _read(path: str, screener: Screener) -> Screened:
    try:
        data = read_bytes(path)
    except OSError as error:
        return Screened(Record(path, error=_reason(error)))
    return screener.read(path, data)


def _judge(detector: Detector, group: list[Screened], maps: bool) -> None:
    try:
        verdicts = detector.judge(
            to_batch(np.stack([result.image for result in group if result.image is not None]))[0], maps=maps
        )
    except (ValueError, RuntimeError, MemoryError) as error:  # in colour for a grey detector, out of memory ...
        if len(group) == 1:
            group[0].record.error = _reason(error)
        else:  # one bad image must not take the others with it
            for result in group:
                _judge(detector, [result], maps)
        return
    for i, result in enumerate(group):
        result.record.verdict = "adversarial" if verdicts.is_adversarial[i] else "clean"
        result.record.p_value = float(verdicts.p_value[i])
        result.record.score = float(verdicts.score[i])
        result.record.bits_per_dim = float(verdicts.bits_per_dim[i])
        if verdicts.surprisal_map is not None:
            result.surprisal_map = verdicts.surprisal_map[i]


def _walk(folder: str, statistics: Statistics) -> Iterator[str | Record]:
    problems: list[OSError] = []
    found = False
    for root, folders, names in os.walk(folder, onerror=problems.append):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            if Path(name).suffix.lower() in SUFFIXES or _starts_like_an_image(path):
                found = True
                yield path
            else:
                statistics.skipped += 1
    for problem in problems:
        yield Record(str(problem.filename), error=_reason(problem))
    if not found and not problems:
        yield Record(folder, error="the folder holds no image")


def _starts_like_an_image(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return looks_like_an_image(file.read(32))
    except OSError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())
