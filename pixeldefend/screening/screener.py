"""Turns the bytes of images into records: decodes an image, finds its detector, and judges it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import nn

from ..batching import is_out_of_memory
from ..errors import PixelDefendError
from ..images import MAX_BYTES, MAX_PIXELS, read_bytes, read_image, to_batch
from ..zoo import DetectorSet
from .records import Record

if TYPE_CHECKING:
    from ..detectors import Detector

logger = logging.getLogger("pixeldefend")
T = TypeVar("T")


@dataclass
class Screened:
    """A record with the image and the map that figures are drawn from.

    Attributes:
        record: The record.
        image: uint8 (H, W) or (H, W, 3), None if it could not be read.
        surprisal_map: (H, W), the surprisal of each pixel in nats; None if it was not asked for.
    """

    record: Record
    image: np.ndarray | None = None
    surprisal_map: np.ndarray | None = None


class Screener:
    """Turns the bytes of images into records.

    Args:
        detector: A detector, the name of a shipped one, the path of a saved one, or None for the shipped one that
            takes each image.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        device: Where the detector runs, as torch names it.
        classifier: The classifier that the detector's statistic uses, if it needs one.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`; None for the detector's own.

    Attributes:
        detector_set: The detectors, and the choice of one for an image.
        detectors: The detectors by name.

    Raises:
        PixelDefendError: If the detector cannot be loaded, or has too few calibration images for fpr.
        FileNotFoundError: If there is no such file.
    """

    def __init__(
        self,
        detector: str | Detector | None = None,
        *,
        fpr: float | None = None,
        device: str = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
    ) -> None:
        self.detector_set = DetectorSet(detector, fpr=fpr, device=device, classifier=classifier, backend=backend)
        self.detectors = self.detector_set.detectors

    def read_file(self, path: str) -> Screened:
        """Reads an image file as `read` does; if that fails, the record holds the error."""
        try:
            data = read_bytes(path)
        except Exception as error:
            record = Record(path)
            note_error(record, error)
            return Screened(record)
        return self.read(path, data)

    def read(self, path: str, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Screened:
        """Decodes an image and finds the detector for it.

        Args:
            path: The name of the image, for its record.
            data: The bytes of the image file.
            max_pixels: The largest number of pixels that an image may have.

        Returns:
            The image and a record without a verdict. If the image cannot be screened, the record holds the error.
        """
        record = Record(path)
        try:
            if len(data) <= MAX_BYTES:  # otherwise it is not the whole file
                record.sha256 = hashlib.sha256(data).hexdigest()
            image = read_image(data, max_pixels=max_pixels)
            record.height, record.width = image.shape[:2]
            record.detector = self.detector_set.choose(image)
        except Exception as error:
            note_error(record, error)
            return Screened(record)
        return Screened(record, image)

    def judge(self, results: Iterable[Screened], *, maps: bool = False) -> None:
        """Fills in the records of the images that were read.

        Args:
            results: The results of `read`.
            maps: Whether to compute the surprisal of every pixel, too.
        """
        groups: dict[tuple[str, tuple[int, ...]], list[Screened]] = {}
        for result in results:
            if result.image is not None and result.record.detector is not None:
                groups.setdefault((result.record.detector, result.image.shape), []).append(result)
        for (name, _), group in groups.items():
            together_or_alone(group, partial(_judge, detector=self.detectors[name], maps=maps), _record_of)


def together_or_alone(group: list[T], work: Callable[[list[T]], None], record_of: Callable[[T], Record]) -> None:
    """Works on several images at once or, if that fails, on each alone, so that one bad image does not stop the others.

    Args:
        group: The images.
        work: A function that works on some of the images.
        record_of: Returns the record of an image, which gets the error if the work on this image alone fails.
    """
    try:
        work(group)
    except Exception as error:
        if len(group) == 1:
            note_error(record_of(group[0]), error)
        else:
            for item in group:
                together_or_alone([item], work, record_of)


def note_error(record: Record, error: Exception) -> None:
    """Writes an error into a record, in words and as a kind.

    The traceback of a bug goes to the logger "pixeldefend".

    Args:
        record: The record.
        error: What was raised while its image was screened.
    """
    record.verdict = "error"
    if isinstance(error, PixelDefendError):
        record.error, record.error_kind = _one_line(error), error.kind
    elif is_out_of_memory(error):
        record.error, record.error_kind = f"out of memory: {_one_line(error)}", "memory"
    elif isinstance(error, OSError):
        record.error, record.error_kind = error.strerror or _one_line(error), "unreadable"
    else:
        logger.error("internal error while screening %r", record.path, exc_info=error)
        record.error, record.error_kind = f"internal error: {type(error).__name__}: {_one_line(error)}", "internal"


def _record_of(result: Screened) -> Record:
    return result.record


def _judge(group: list[Screened], detector: Detector, maps: bool) -> None:
    images = np.stack([result.image for result in group if result.image is not None])
    verdicts = detector.judge(to_batch(images)[0], maps=maps)
    for i, result in enumerate(group):
        result.record.verdict = "adversarial" if verdicts.is_adversarial[i] else "clean"
        result.record.p_value = float(verdicts.p_value[i])
        result.record.score = float(verdicts.score[i])
        bits = float(verdicts.bits_per_dim[i])
        result.record.bits_per_dim = None if math.isnan(bits) else bits  # some detectors have no density of pixels
        if verdicts.surprisal_map is not None:
            result.surprisal_map = verdicts.surprisal_map[i]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
