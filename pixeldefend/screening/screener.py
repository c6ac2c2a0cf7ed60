"""Turns the bytes of images into records: decodes an image, finds its detector, and judges it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import nn

from ..batching import is_out_of_memory
from ..errors import PixelDefendError
from ..images import MAX_BYTES, MAX_PIXELS, Frames, Origin, decode_image, read_bytes
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
        image: uint8 (H, W) or (H, W, 3), None if it could not be read. Of several frames, the one that the record is
            about.
        surprisal_map: (H, W), the surprisal of each pixel in nats; None if it was not asked for.
        origin: What the file says of itself.
        others: The further frames, until they are judged.
    """

    record: Record
    image: np.ndarray | None = None
    surprisal_map: np.ndarray | None = None
    origin: Origin | None = None
    others: tuple[np.ndarray, ...] = ()

    @property
    def pixels(self) -> int:
        """The number of decoded pixels that it holds, of all frames together."""
        frames = [frame for frame in (self.image, *self.others) if frame is not None]
        return sum(frame.shape[0] * frame.shape[1] for frame in frames)


class Screener:
    """Turns the bytes of images into records.

    Args:
        detector: A detector, the name of a shipped one, the path of a saved one, or None for the shipped one that
            takes each image.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        device: Where the detector runs, as torch names it.
        classifier: The classifier that the detector's statistic uses, if it needs one.
        backend: As for `pixeldefend.zoo.DetectorSet`.
        frames: Which frames of an animation are judged, "first" or "all"; None refuses animations. Of all frames, the
            most suspicious one gives the verdict.
        convert: Whether images that need a conversion are converted, as `decode_image` does, or refused.

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
        frames: Frames | None = None,
        convert: bool = False,
    ) -> None:
        self.frames, self.convert = frames, convert
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

            def check_size(height: int, width: int) -> None:
                record.height, record.width = height, width
                self.detector_set.check_size(height, width)

            decoded = decode_image(
                data, max_pixels=max_pixels, frames=self.frames, convert=self.convert, check_size=check_size
            )
            image, *others = decoded.frames
            record.height, record.width = image.shape[:2]
            record.frame = 0 if others else None
            record.conversion = decoded.conversion
            record.detector = self.detector_set.choose(image, decoded.origin)
        except Exception as error:
            note_error(record, error)
            return Screened(record)
        return Screened(record, image, origin=decoded.origin, others=tuple(others))

    def judge(self, results: Iterable[Screened], *, maps: bool = False) -> None:
        """Fills in the records of the images that were read.

        Args:
            results: The results of `read`.
            maps: Whether to compute the surprisal of every pixel, too.
        """
        results = list(results)
        frames = {id(result): self._further_frames(result) for result in results if result.others}
        groups: dict[tuple[str, tuple[int, ...]], list[Screened]] = {}
        for result in [*results, *chain(*frames.values())]:
            if result.image is not None and result.record.detector is not None:
                groups.setdefault((result.record.detector, result.image.shape), []).append(result)
        for (name, _), group in groups.items():
            together_or_alone(group, partial(_judge, detector=self.detectors[name], maps=maps), _record_of)
        for result in results:
            if result.others:
                worst = min([result, *frames[id(result)]], key=_suspicion)
                result.record, result.image, result.surprisal_map = worst.record, worst.image, worst.surprisal_map
                result.others = ()

    def _further_frames(self, result: Screened) -> list[Screened]:
        """Returns each further frame as an image of its own, with a record."""
        found = []
        for number, image in enumerate(result.others, 1):
            height, width = image.shape[:2]
            record = replace(result.record, frame=number, height=height, width=width)
            try:
                if record.detector is None or not self.detectors[record.detector].accepts(image):
                    record.detector = self.detector_set.choose(image, result.origin)
            except PixelDefendError as error:
                note_error(record, error)
            found.append(Screened(record, None if record.error else image, origin=result.origin))
        return found


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


def _suspicion(result: Screened) -> tuple[int, float, float]:
    """Returns a key by which the most suspicious frame comes first; one without a verdict comes before clean ones."""
    record = result.record
    order = ("adversarial", "error", "clean").index(record.verdict)
    return order, record.p_value or 0.0, -(record.score or 0.0)


def _judge(group: list[Screened], detector: Detector, maps: bool) -> None:
    images = [result.image for result in group]
    verdicts = detector.judge(images, maps=maps, origins=[result.origin for result in group])
    for i, result in enumerate(group):
        result.record.verdict = "adversarial" if verdicts.is_adversarial[i] else "clean"
        result.record.p_value = float(verdicts.p_value[i])
        result.record.backend = getattr(detector, "backend", None)
        result.record.score = float(verdicts.score[i])
        bits = float(verdicts.bits_per_dim[i])
        result.record.bits_per_dim = None if math.isnan(bits) else bits  # some detectors have no density of pixels
        if verdicts.history is not None:
            result.record.history = verdicts.history[i]
        if verdicts.surprisal_map is not None:
            result.surprisal_map = verdicts.surprisal_map[i]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
