"""The service without HTTP: images in, verdicts out, each logged before it is given."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from ..detectors import ConformalDetector
from ..errors import ImageError, NoDetectorError
from ..images import Frames
from ..screening import Record, Screened, Screener
from ..screening.audit_log import AuditLog
from ..screening.screener import note_error
from ..serialization import whole_file
from .batching import Batcher, Full
from .drift import DriftMonitors
from .explanation import explain
from .log_lines import TracebackLines, log_line
from .metrics import Metrics
from .query_detection import QueryAttacks
from .questions import File, Inquiry, Question

DECODING_THREADS = 2  # more threads would take cores from scoring
DRAWING_THREADS = 1  # maps and purification take many seconds: further explanations wait
# of the images that are scored at once; scoring does not stop when a request is given up, and a megapixel takes seconds
PIXELS_AT_ONCE = 2**20
PIXELS_HELD = 2**27  # of decoded images in memory at once; a request holds its images until it is answered
PRUNED_EVERY = 3600.0  # seconds; old rows are deleted even if the service is idle
Result = TypeVar("Result")


@dataclass(frozen=True)
class Served:
    """A detector of the service.

    Attributes:
        name: Its name in URLs and metrics.
        key: Its name in records; for a saved detector, the path of its file.
        detector: The detector.
        image_shape: The shape of the images that it takes, (C, H, W); None if it takes several sizes.
        provenance: What the log notes about it, as `zoo.DetectorSet.provenance` returned it at the start. The file may
            be replaced while the service runs.
    """

    name: str
    key: str
    detector: ConformalDetector
    image_shape: tuple[int, int, int] | None
    provenance: dict[str, Any]


class Service:
    """The service, which screens the images of several clients in common batches.

    Use it with `async with`: at the end of the block it finishes all images that it accepted.

    Args:
        log: The audit log, where every verdict is written before it is given.
        detector: A detector, the name of a shipped one, or the path of a saved one; None for the shipped one that takes
            each image.
        fpr: The false-alarm rate; None for the detector's own.
        device: Where the detectors run.
        classifier: (N, C, H, W) in [0, 1] -> logits. Explanations show its labels, and statistics that need a
            classifier use it.
        backend: The backend that runs the density; None for the detector's own.
        quarantine: A folder for the files of flagged images; None to keep no image.
        batch_size: The largest number of images that are scored at once; there are fewer if the images are large.
        wait: How many seconds the first image of a batch waits for others.
        capacity: The largest number of images that wait or are being decoded; beyond it, and beyond `PIXELS_HELD`,
            `Full` is raised.
        max_pixels: The largest number of pixels of an image.
        frames: Which frames of an animation are judged, "first" or "all"; None refuses animations.
        convert: Whether images that need a conversion are converted, or refused.

    Raises:
        PixelDefendError: If the detector cannot be loaded, or has too few calibration images for fpr.
        OSError: If there is no such file.
    """

    def __init__(
        self,
        log: AuditLog,
        detector: str | ConformalDetector | None = None,
        *,
        fpr: float | None = None,
        device: str = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
        quarantine: Path | None = None,
        batch_size: int = 64,
        wait: float = 0.005,
        capacity: int = 512,
        max_pixels: int = 2**24,
        frames: Frames | None = None,
        convert: bool = False,
    ) -> None:
        self.log, self.classifier, self.quarantine, self.max_pixels = log, classifier, quarantine, max_pixels
        self.screener = Screener(
            detector, fpr=fpr, device=device, classifier=classifier, backend=backend, frames=frames, convert=convert
        )
        there = self.screener.detector_set
        served = [
            Served(Path(key).stem, key, made, _only_shape(made), there.provenance(key))
            for key, made in there.detectors.items()
        ]
        self.detectors = {one.name: one for one in served}
        self._by_key = {one.key: one for one in served}
        self.metrics = Metrics()
        self.queries = QueryAttacks()
        self.drift = DriftMonitors({one.name: one.detector for one in served}, self.metrics)
        self.batcher = Batcher(
            self._judge,
            max_batch=batch_size,
            max_wait=wait,
            capacity=capacity,
            size_of=lambda item: item[0].result.pixels,
            max_size=PIXELS_AT_ONCE,
            on_batch=self.metrics.batch,
        )
        self._free_decoder = asyncio.Semaphore(DECODING_THREADS)
        self._pixels = 0
        if quarantine is not None:
            quarantine.mkdir(parents=True, exist_ok=True)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Service:
        self._stack.enter_context(TracebackLines.installed())
        self._decoding = self._stack.enter_context(ThreadPoolExecutor(DECODING_THREADS, "decoding"))
        self._drawing = self._stack.enter_context(ThreadPoolExecutor(DRAWING_THREADS, "drawing"))
        await self._stack.enter_async_context(self.batcher)
        self._pruning = asyncio.create_task(self._prune())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._pruning.cancel()
        with suppress(asyncio.CancelledError):
            await self._pruning
        await self._stack.aclose()

    async def screen(
        self, files: Sequence[File], client: str, request: str, *, name: str | None = None
    ) -> list[Question]:
        """Screens image files.

        Args:
            files: The names of the files, and their bytes or why there are none.
            client: Who asks.
            request: The id of the request.
            name: The name of the only detector that may judge them; None for any.

        Returns:
            A question for each file, in order, answered and logged.

        Raises:
            Full: If the images do not all fit into the queue or into memory.
        """
        with self._decoded() as questions, self.batcher.reserve(len(files)) as give_back:
            for file in files:
                await self._decode(questions, file, client, request, name)
            return await self._score(Inquiry(questions), give_back)

    async def screen_arrays(self, images: Sequence[np.ndarray], name: str, client: str, request: str) -> list[Question]:
        """Screens decoded images.

        Args:
            images: Each (H, W) or (H, W, 3), uint8.
            name: The name of the detector.
            client: Who asks.
            request: The id of the request.

        Returns:
            A question for each image, in order, answered and logged.

        Raises:
            Full: If the images do not all fit into the queue.
        """
        key = self.detectors[name].key
        questions = [Question.of_pixels(image, key, client, request) for image in images]
        return await self._score(Inquiry(questions))

    async def explain(
        self, name: str, data: bytes, client: str, request: str, eps: int
    ) -> tuple[Question, dict[str, Any] | None]:
        """Screens one image file and draws pictures that explain the verdict.

        Args:
            name: The name of the file.
            data: The bytes of the file.
            client: Who asks.
            request: The id of the request.
            eps: How far purification may move a sub-pixel, in steps of the 8-bit grid, 0 to 255.

        Returns:
            The question, answered and logged, and the fields of `schemas.Pictures`. These are None if there is no
            verdict, or no density that can purify the image.

        Raises:
            Full: If the queue or the memory is full.
        """
        with self._decoded() as questions:
            with self.batcher.reserve(1) as give_back:
                await self._decode(questions, (name, data), client, request, None)
                inquiry = Inquiry(questions, at_once=False)
                await self._score(inquiry, give_back)
            return await self._explained(inquiry, eps)

    async def _explained(self, inquiry: Inquiry, eps: int) -> tuple[Question, dict[str, Any] | None]:
        (question,), pictures = inquiry.questions, None
        image, key = question.result.image, question.record.detector
        if question.record.verdict != "error" and image is not None and key is not None:
            detector = self._by_key[key].detector
            # not where batches are scored, which would wait
            pictures = await asyncio.get_running_loop().run_in_executor(
                self._drawing, explain, image, detector, self.classifier, eps
            )
        # only now, because the pictures may fail or take too long, and then there is no answer
        await inquiry.finish(self.batcher.run(lambda: self._log([inquiry])))
        return question, pictures

    async def in_decoding_thread(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Runs a function in one of the few threads that decode images, and returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function, *arguments)

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _prune(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.log.prune)
            except (sqlite3.Error, OSError) as error:  # for example a full disk: answers report it; this tries again
                log_line("log not pruned", error=str(error))
            await asyncio.sleep(PRUNED_EVERY)

    @contextmanager
    def _decoded(self) -> Iterator[list[Question]]:
        """Counts the pixels of the questions that the block adds to the list, until the block ends."""
        questions: list[Question] = []
        try:
            yield questions
        finally:
            self._pixels -= sum(question.pixels for question in questions)

    async def _decode(self, questions: list[Question], file: File, client: str, request: str, only: str | None) -> None:
        """Decodes an image and adds a question about it to those of the request."""
        async with self._free_decoder:  # so that images are counted before many more are decoded
            if sum(question.pixels for question in questions) >= PIXELS_HELD:
                error = ImageError(
                    f"the images before it in the request have {PIXELS_HELD} pixels or more", "too large"
                )
                file = file[0], error
            elif self._pixels >= PIXELS_HELD:
                raise Full
            question = await self._question(file, client, request, only)
            self._pixels += question.pixels
            questions.append(question)

    async def _question(self, file: File, client: str, request: str, only: str | None) -> Question:
        name, data = file
        if isinstance(data, ImageError):
            result = Screened(Record(name))
            note_error(result.record, data)
            return Question(result, client, request)
        read = partial(self.screener.read, name, data, max_pixels=self.max_pixels)
        result = await self.in_decoding_thread(read)
        if only is not None and result.image is not None:
            named, record = self.detectors[only], result.record
            if named.detector.accepts(result.image):
                record.detector = named.key  # even if there is another one that takes it
            else:
                size = f"{record.height} x {record.width} (height x width)"
                note_error(record, NoDetectorError(f"the image is {size}; {only} takes {named.detector.takes}"))
                result.image, result.others, record.detector = None, (), None
        kept = data if self.quarantine is not None else None
        return Question(result, client, request, kept, pixels=result.pixels)

    async def _score(self, inquiry: Inquiry, give_back: Callable[[], None] = lambda: None) -> list[Question]:
        self.metrics.depth(self.batcher.depth + len(inquiry.questions))
        await inquiry.finish(self.batcher([(question, inquiry) for question in inquiry.questions], give_back))
        return inquiry.questions

    def _judge(self, batch: Sequence[tuple[Question, Inquiry]]) -> None:
        """Judges a batch, and logs the requests that it completes, in the thread that scores."""
        self.screener.judge([question.result for question, _ in batch])
        for question, _ in batch:
            question.judged = True
        self._log([one for one in dict.fromkeys(inquiry for _, inquiry in batch) if one.at_once and one.complete])
        self.metrics.depth(self.batcher.depth)

    def _log(self, inquiries: Sequence[Inquiry]) -> None:
        """Logs and counts the verdicts of the requests that have not been given up."""
        questions = [question for inquiry in inquiries if inquiry.decide() for question in inquiry.questions]
        if not questions:
            return
        for question in questions:
            record, image = question.record, question.result.image
            if image is not None and record.verdict != "error":  # refused images must not displace remembered ones
                question.query_attack = self.queries.is_attack(question.client, image)
            if record.verdict == "adversarial" and question.data is not None:
                with record.noting("quarantine", "the file cannot be kept"):
                    self._keep(record.sha256, question.data)
        ids = self.log.add([self._row(question) for question in questions], source="serve")
        for question, id in zip(questions, ids, strict=True):
            question.id = id
            self._count(question)

    def _count(self, question: Question) -> None:
        record = question.record
        if record.detector is not None and record.score is not None:
            self.drift.update(self._by_key[record.detector].name, record.score, record.history)
        if question.failed:
            self.metrics.internal_error(request=question.request, error=record.error)
        self.metrics.verdict(record, question.query_attack)

    def _row(self, question: Question) -> dict[str, Any]:
        """Returns the row of a verdict in the log."""
        row: dict[str, Any] = {
            **asdict(question.record),
            "client": question.client,
            "request": question.request,
            "query_attack": question.query_attack,
        }
        key = question.record.detector
        return row if key is None else row | self._by_key[key].provenance

    def _keep(self, sha256: str | None, data: bytes) -> None:
        assert self.quarantine is not None
        path = self.quarantine / f"{sha256}.bin"
        if not path.exists():
            with whole_file(path, "wb") as file:
                file.write(data)


def _only_shape(detector: ConformalDetector) -> tuple[int, int, int] | None:
    """Returns (C, H, W) if the detector takes only images of one size."""
    density = getattr(detector, "density", None)
    shape = None if density is None else density.event_shape
    if shape is None or len(shape) != 3:
        return None
    channels, height, width = shape
    if channels is None or height is None or width is None:
        return None
    takes_others = detector.accepts(np.zeros((2 * height, 2 * width), np.uint8))
    return None if takes_others else (channels, height, width)
