"""What the service does, apart from HTTP: images in, verdicts out, each logged before it is given."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..calibration import ConformalMartingale
from ..detectors import Detector
from ..detectors.backends import PRECISION
from ..images import image_size, match_channels, to_batch
from ..purification import purify
from ..screening import Record, Screened, Screener
from ..screening.audit_log import AuditLog
from ..screening.figures import heat_map
from ..serialization import whole_file
from ..zoo import detector_sha256
from .batching import Batcher
from .metrics import Metrics, log_line
from .query_detection import QueryAttacks

DRIFT_LEVEL = 0.01  # the probability that clean traffic ever sets off the drift alarm, a stretch of WATCHED images
WATCHED = 100_000  # images; then a new stretch begins, so that the memory of it is bounded
EXPLAINED_AT_ONCE = 4  # purification is dear: further ones wait, so that screening has its turns
TIDIED_EVERY = 3600.0  # seconds; old rows leave the log of an idle service too
Result = TypeVar("Result")


@dataclass(eq=False)
class Question:
    """One image somebody asked about. data: its bytes, for quarantine. id: of its row in the log, once it is there."""

    result: Screened
    client: str
    request: str
    data: bytes | None = None
    query_attack: bool = False
    id: str | None = None

    def answer(self) -> dict[str, Any]:
        """Returns the record as the command line has it, its id, and whether it looks like part of a query attack."""
        return {"id": self.id, **asdict(self.result.record), "query_attack": self.query_attack}


class Service:
    """Screens what several clients send at the same time, in common batches.

    detector, fpr, device, classifier, backend: as for `screening.screen`. log: every verdict is written there before it
    is given. quarantine: a folder for the bytes of flagged images; by default no image is kept. batch_size, wait:
    images scored at once, and seconds that the first of them waits for others. capacity: images that may wait or be
    decoded; beyond, `Full` is raised. max_pixels: of an image. An image of a size that none of the detectors models is
    refused by its header: decoded, many of them would fill the memory. Raises as `screening.Screener` does. Use it as
    `async with`; leaving it finishes what was accepted.
    """

    def __init__(
        self,
        log: AuditLog,
        detector: str | Detector | None = None,
        *,
        fpr: float | None = None,
        device: str = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
        quarantine: Path | None = None,
        batch_size: int = 64,
        wait: float = 0.005,
        capacity: int = 512,
        max_pixels: int = 2**20,
    ) -> None:
        self.log, self.classifier, self.quarantine, self.max_pixels = log, classifier, quarantine, max_pixels
        self.screener = Screener(detector, fpr=fpr, device=device, classifier=classifier, backend=backend)
        self.detectors = {Path(name).stem: made for name, made in self.screener.detectors.items()}
        self.hashes = {name: detector_sha256(name) for name in self.screener.detectors}
        self.metrics = Metrics()
        self.queries = QueryAttacks()
        self.batcher = Batcher(self._work, most=batch_size, wait=wait, capacity=capacity, seen=self.metrics.batch)
        self._sizes = _sizes(self.screener)
        self._martingales: dict[str, ConformalMartingale] = {}
        self._watched = dict.fromkeys(self.screener.detectors, 0)
        self._explaining = asyncio.Semaphore(EXPLAINED_AT_ONCE)
        if quarantine is not None:
            quarantine.mkdir(parents=True, exist_ok=True)
        for name in self.screener.detectors:
            self._new_stretch(name)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Service:
        # two threads decode: more of them would take the cores from scoring
        self._decoding = self._stack.enter_context(ThreadPoolExecutor(2, "decoding"))
        await self._stack.enter_async_context(self.batcher)
        self._tidying = asyncio.create_task(self._tidy())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._tidying.cancel()
        with suppress(asyncio.CancelledError):
            await self._tidying
        await self._stack.aclose()

    async def screen(self, files: Sequence[tuple[str, bytes]], client: str, request: str) -> list[Question]:
        """files: names and bytes. Returns a question each, answered and logged. Raises Full, before anything is
        decoded, if they do not all fit into the queue."""
        with self.batcher.reserve(len(files)):
            questions = [await self._decode(name, data, client, request) for name, data in files]
        return await self._ask(questions)

    async def screen_arrays(self, images: Sequence[np.ndarray], name: str, client: str, request: str) -> list[Question]:
        """images: each (H, W) or (H, W, 3) uint8. name: of the detector. The rest is as for `screen`."""
        key = next(key for key in self.screener.detectors if Path(key).stem == name)
        return await self._ask([Question(_as_screened(image, key), client, request) for image in images])

    async def explain(self, name: str, data: bytes, client: str, request: str, eps: int) -> tuple[Question, Any]:
        """Returns the question, answered and logged, and pictures: data URIs of the image, its surprisal, the purified
        image and the difference; labels before and after, if there is a classifier for such images. None instead if it
        has no verdict. Raises Full as `screen` does."""
        (question,) = await self.screen([(name, data)], client, request)
        if question.result.record.verdict == "error":
            return question, None
        async with self._explaining:
            return question, await self.batcher.run(lambda: self._pictures(question.result, eps))

    async def apart(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Returns what the function does, in one of the few threads that take apart what strangers send."""
        return await asyncio.get_running_loop().run_in_executor(self._decoding, function, *arguments)

    def drift(self) -> dict[str, Any]:
        """Returns for each detector how far its martingales have come, and whether one has raised the alarm."""
        return {
            Path(name).stem: {
                "images": self._watched[name],
                "wealth": martingale.wealth_,
                "highest": martingale.highest_,
                "alarm_from": 2 / DRIFT_LEVEL,
                "alarms": martingale.alarms(DRIFT_LEVEL),
                "false_alarm_bound": DRIFT_LEVEL,
            }
            for name, martingale in self._martingales.items()
        }

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.log.prune)
            except sqlite3.Error as error:  # the disk is full, say: answers fail by themselves, and this tries again
                log_line("log not pruned", error=str(error))
            await asyncio.sleep(TIDIED_EVERY)

    async def _decode(self, name: str, data: bytes, client: str, request: str) -> Question:
        result = await self.apart(self._read, name, data)
        return Question(result, client, request, data if self.quarantine is not None else None)

    def _read(self, name: str, data: bytes) -> Screened:
        with suppress(ValueError):  # which `read` says better
            height, width = image_size(data, max_pixels=self.max_pixels)
            # it may have been taken with the camera turned
            if self._sizes and not {(height, width), (width, height)} & self._sizes:
                there = " or ".join(f"{h} x {w}" for h, w in sorted(self._sizes))
                error = f"the image is {height} x {width}, the detectors here model {there} (height x width)"
                sha256 = hashlib.sha256(data).hexdigest()
                return Screened(Record(name, sha256=sha256, width=width, height=height, error=error))
        return self.screener.read(name, data, max_pixels=self.max_pixels)

    async def _ask(self, questions: list[Question]) -> list[Question]:
        self.metrics.depth(self.batcher.depth + len(questions))
        await self.batcher(questions)
        return questions

    def _work(self, questions: Sequence[Question]) -> None:
        """In the thread that scores: verdicts, what they say together, and the log."""
        self.screener.judge([question.result for question in questions])
        rows = []
        for question in questions:
            record, image = question.result.record, question.result.image
            if image is not None and record.verdict != "error":  # what is refused shall not displace what is remembered
                question.query_attack = self.queries.is_attack(question.client, image)
            if record.detector is not None and record.score is not None:
                self._watch(record.detector, record.score)
            if record.verdict == "adversarial" and question.data is not None:
                self._keep(record.sha256, question.data)
            self.metrics.verdict(record, question.query_attack)
            row: dict[str, Any] = {**asdict(record), "client": question.client, "request": question.request}
            if record.detector is not None:
                row["detector_sha256"] = self.hashes[record.detector]
                row["precision"] = PRECISION[self.screener.detectors[record.detector].backend]
            rows.append({**row, "query_attack": int(question.query_attack)})
        for question, id in zip(questions, self.log.add(rows, source="serve"), strict=True):
            question.id = id
        self.metrics.depth(self.batcher.depth)

    def _watch(self, name: str, score: float) -> None:
        martingale = self._martingales.get(name)
        if martingale is None:
            return
        before = martingale.alarms(DRIFT_LEVEL)
        martingale.update(np.array([score]))
        self._watched[name] += 1
        self.metrics.drift(Path(name).stem, martingale, DRIFT_LEVEL)
        for what, alarm in martingale.alarms(DRIFT_LEVEL).items():
            if alarm and not before[what]:
                self.metrics.alarm(Path(name).stem, what, DRIFT_LEVEL)
        if self._watched[name] >= WATCHED:
            self._new_stretch(name)

    def _new_stretch(self, name: str) -> None:
        self._watched[name] = 0
        detector = self.screener.detectors[name]
        if not detector.corruptions_:  # such calibration images are not like any traffic
            self._martingales[name] = detector.drift_monitor()
            self.metrics.drift(Path(name).stem, self._martingales[name], DRIFT_LEVEL)

    def _keep(self, sha256: str | None, data: bytes) -> None:
        assert self.quarantine is not None
        path = self.quarantine / f"{sha256}.bin"
        if not path.exists():
            with whole_file(path, "wb") as file:
                file.write(data)

    def _pictures(self, result: Screened, eps: int) -> dict[str, Any]:
        assert result.image is not None
        detector = self.screener.detectors[str(result.record.detector)]
        x = to_batch(result.image)[0]
        purified = purify(x, eps, detector)
        assert detector.density is not None
        x = match_channels(x, purified.shape[1])
        moved = (purified.float() - 255 * x)[0].permute(1, 2, 0).numpy()
        found: dict[str, Any] = {
            "image": _uri(result.image),
            "surprisal": _uri(heat_map(detector.surprisal_map(x)[0])),
            "purified": _uri(_squeezed(purified[0].permute(1, 2, 0).numpy())),
            "difference": _uri(_squeezed(np.clip(127.5 + 4 * moved, 0, 255).astype(np.uint8))),
            "p_value_purified": float(detector.p_value(purified)[0]),
            "label_before": None,
            "label_after": None,
        }
        if self.classifier is not None and getattr(self.classifier, "image_shape", x.shape[1:]) == x.shape[1:]:
            place = next((p.device for p in self.classifier.parameters()), torch.device("cpu"))
            with torch.inference_mode():
                labels = self.classifier(torch.cat([x, purified / 255]).to(place)).argmax(1).tolist()
            found["label_before"], found["label_after"] = labels
        return found


def _sizes(screener: Screener) -> set[tuple[int, int]]:
    """Returns heights and widths of what the detectors model; none if one takes images of any size."""
    shapes = [made.density.event_shape for made in screener.detectors.values() if made.density is not None]
    return set() if None in shapes else {(s[1], s[2]) for s in shapes if s is not None and len(s) == 3}


def _as_screened(image: np.ndarray, detector: str) -> Screened:
    height, width = image.shape[:2]
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    return Screened(Record("", detector=detector, sha256=sha256, width=width, height=height), image)


def _squeezed(image: np.ndarray) -> np.ndarray:
    return image[..., 0] if image.shape[2] == 1 else image


def _uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
