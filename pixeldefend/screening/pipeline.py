"""Screens many image files into one record each, in order; one bad file never stops the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..calibration import ConformalMartingale
from ..errors import ParameterError
from ..images import Frames
from ..images import files as image_files
from .records import Record
from .screener import Screened, Screener

if TYPE_CHECKING:
    from ..detectors import Detector


PIXELS_AT_ONCE = 2**25  # bounds the memory that a batch of large images takes


@dataclass
class Statistics:
    """The counts and the times of a screening.

    Attributes:
        seconds: The seconds of "scoring", and of "decoding" as far as scoring had to wait for it.
        verdicts: The number of images by verdict.
        errors: The number of images by kind of error.
        skipped: The paths that were skipped in folders, by reason, a key of `pixeldefend.images.files.SKIP_REASONS`.
        martingales: With `screen(drift=True)`, by the names of detectors, tests of whether the images still look like
            the calibration images.
        not_tested: The detectors that judged images but are calibrated for corruptions, which allows no such test.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"decoding": 0.0, "scoring": 0.0})
    verdicts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    martingales: dict[str, ConformalMartingale] = field(default_factory=dict)
    not_tested: set[str] = field(default_factory=set)

    @property
    def internal_errors(self) -> int:
        """The number of images that met a bug of pixeldefend."""
        return self.errors["internal"]

    @property
    def not_looked_at(self) -> int:
        """The number of files, folders and patterns that have no verdict and may hold an image."""
        skipped = sum(len(paths) for reason, paths in self.skipped.items() if reason in image_files.NOT_LOOKED_AT)
        return self.verdicts["error"] + skipped

    def count(self, record: Record) -> None:
        """Counts a record."""
        self.verdicts[record.verdict] += 1
        if record.error is not None:
            self.errors[record.error_kind or "other"] += 1

    def skip(self, path: str, reason: str) -> None:
        """Notes a path that a search has skipped."""
        self.skipped.setdefault(reason, []).append(path)

    def summary(self) -> str:
        """Returns one line with the number of images by verdict and the number of skipped files by reason."""
        counts = ", ".join(f"{self.verdicts[verdict]} {verdict}" for verdict in ("clean", "adversarial", "error"))
        text = f"{self.verdicts.total()} files: {counts}"
        if self.internal_errors:
            text += f" ({self.internal_errors} internal: bugs of pixeldefend, please report the traceback)"
        skipped = skipped_text({reason: len(paths) for reason, paths in self.skipped.items()})
        return f"{text}; {skipped}" if skipped else text


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Returns the number of skipped files by reason in words, and how many of them may be images; empty if none."""
    if not skipped:
        return ""
    text = f"skipped: {', '.join(f'{number} {reason}' for reason, number in skipped.items())}"
    missed = sum(number for reason, number in skipped.items() if reason in image_files.NOT_LOOKED_AT)
    return f"{text} ({missed} could not be looked at)" if missed else text


def find_files(sources: Iterable[str], statistics: Statistics | None = None) -> Iterator[str | Record]:
    """Finds image files, as `pixeldefend.images.files.find_files` does.

    Args:
        sources: Files, folders, which are searched with all their sub-folders, and glob patterns.
        statistics: The object that counts skipped files.

    Yields:
        Paths, or an error record for a folder that cannot be read and for a folder or a pattern without images.
    """
    for found in image_files.find_files(sources, (statistics or Statistics()).skip):
        yield found if isinstance(found, str) else Record(found.path, error=found.reason, error_kind=found.kind)


def screen(
    files: Iterable[str | Record],
    detector: str | Detector | None = None,
    *,
    fpr: float | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    maps: bool = False,
    drift: bool = False,
    classifier: nn.Module | None = None,
    backend: str | None = None,
    frames: Frames | None = None,
    convert: bool = False,
    statistics: Statistics | None = None,
) -> Iterator[Screened]:
    """Screens image files.

    Args:
        files: Paths, or records to pass on, such as `find_files` yields.
        detector: A detector, the name of a shipped one, the path of a saved one, or None for the shipped one that
            takes each image.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        batch_size: The number of images at once, at least 1.
        device: Where the detector runs, as torch names it.
        maps: Whether to compute the surprisal of every pixel, too.
        drift: Whether to update `statistics.martingales`.
        classifier: The classifier that the detector's statistic uses, if it needs one.
        backend: As for `pixeldefend.zoo.DetectorSet`.
        frames: Which frames of an animation are judged, "first" or "all"; None refuses animations.
        convert: Whether images that need a conversion are converted, or refused.
        statistics: The object that counts images, errors and seconds.

    Returns:
        An iterator over one result per file, in order. If a file cannot be screened, its record holds the error. An
        endless stream of files is screened as it comes.

    Raises:
        PixelDefendError: If the detector cannot be loaded, has too few calibration images for fpr, or cannot test for
            drift, or if batch_size is below 1. It is raised before the first result.
        FileNotFoundError: If there is no such detector file.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    screener = Screener(
        detector, fpr=fpr, device=device, classifier=classifier, backend=backend, frames=frames, convert=convert
    )
    if drift and len(screener.detectors) == 1:  # of several, those calibrated for corruptions are not tested
        for made in screener.detectors.values():
            made.drift_monitor()
    return screen_with(screener, files, batch_size=batch_size, maps=maps, drift=drift, statistics=statistics)


def screen_with(
    screener: Screener,
    files: Iterable[str | Record],
    *,
    batch_size: int = 64,
    maps: bool = False,
    drift: bool = False,
    statistics: Statistics | None = None,
) -> Iterator[Screened]:
    """Screens image files with a screener that was made before.

    Args:
        screener: The screener.
        files: As for `screen`.
        batch_size: As for `screen`.
        maps: As for `screen`.
        drift: As for `screen`.
        statistics: As for `screen`.

    Yields:
        As `screen`.
    """
    statistics = statistics or Statistics()
    read = (Screened(file) if isinstance(file, Record) else screener.read_file(file) for file in files)
    started = perf_counter()
    for results in _ahead(batches(read, batch_size)):
        decoded = perf_counter()
        screener.judge(results, maps=maps)
        statistics.seconds["decoding"] += decoded - started
        statistics.seconds["scoring"] += perf_counter() - decoded
        for result in results:
            statistics.count(result.record)
            if drift:
                _test_for_drift(screener, statistics, result.record)
            yield result
        started = perf_counter()


def _test_for_drift(screener: Screener, statistics: Statistics, record: Record) -> None:
    """Adds a record to the martingale of its detector, unless the detector is calibrated for corruptions."""
    if record.detector is None or record.score is None:
        return
    if screener.detectors[record.detector].corruptions_:
        statistics.not_tested.add(record.detector)
        return
    if record.detector not in statistics.martingales:
        statistics.martingales[record.detector] = screener.detectors[record.detector].drift_monitor()
    statistics.martingales[record.detector].update(np.array([record.score]), [record.history])


def batches(read: Iterable[Screened], batch_size: int) -> Iterator[list[Screened]]:
    """Collects images while they are read.

    Args:
        read: The images.
        batch_size: The largest number of images in a batch; there are fewer if they have `PIXELS_AT_ONCE` pixels.

    Yields:
        The batches, none of which is empty.
    """
    batch: list[Screened] = []
    pixels = 0
    for result in read:
        batch.append(result)
        pixels += result.pixels
        if len(batch) == batch_size or pixels >= PIXELS_AT_ONCE:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _ahead(found: Iterator[list[Screened]]) -> Iterator[list[Screened]]:
    """Yields batches, and has the next one read while the caller works on this one."""
    with ThreadPoolExecutor(1, "decoding") as pool:
        coming = pool.submit(next, found, None)
        while batch := coming.result():
            coming = pool.submit(next, found, None)
            yield batch
