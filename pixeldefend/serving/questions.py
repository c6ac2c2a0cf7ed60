"""The images that a client asks about: one is a question, those of a request are an inquiry."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from ..errors import ImageError
from ..screening import Record, Screened
from ..screening.records import to_storable
from .metrics import INTERNAL

File = tuple[str, bytes | ImageError]  # its name, and its bytes or why there are none


@dataclass(eq=False)
class Question:
    """One image that a client asks about.

    Attributes:
        result: The record, and the decoded image.
        client: The name of the client's key, or its address.
        request: The id of the request.
        data: The bytes of the file, for quarantine.
        judged: Whether the record is complete.
        query_attack: Whether the image resembles several of the client's last images.
        id: The id of its row in the log, once it is there.
        pixels: How many pixels were decoded for it, in all frames together.
    """

    result: Screened
    client: str
    request: str
    data: bytes | None = None
    judged: bool = False
    query_attack: bool = False
    id: str | None = None
    pixels: int = 0

    @classmethod
    def of_pixels(cls, image: np.ndarray, detector: str, client: str, request: str) -> Question:
        """Returns the question about an image, (H, W) or (H, W, 3) uint8, that came without a file."""
        height, width = image.shape[:2]
        sha256 = hashlib.sha256(image.tobytes()).hexdigest()
        record = Record("", detector=detector, sha256=sha256, width=width, height=height)
        return cls(Screened(record, image), client, request)

    @property
    def record(self) -> Record:
        """The verdict."""
        return self.result.record

    @property
    def failed(self) -> bool:
        """Whether a bug of pixeldefend left it without a verdict."""
        return self.record.error_kind == INTERNAL

    def answer(self) -> dict[str, Any]:
        """Returns the fields of `schemas.Verdict`, without details of internal errors, in valid Unicode."""
        record = self.record
        if self.failed:
            record = replace(
                record, error="internal error: the log of the service holds the reason under the id of the request"
            )
        values = {name: to_storable(value) for name, value in asdict(record).items()}
        return {"id": self.id, **values, "query_attack": self.query_attack}


class Inquiry:
    """The questions of one request.

    They are logged together, once all are judged, or not at all if the request is given up before: because of its
    deadline, because its client has gone, or because something failed.

    Args:
        questions: The questions.
        at_once: Whether they are logged as soon as they are judged.
    """

    def __init__(self, questions: list[Question], *, at_once: bool = True) -> None:
        self.questions, self.at_once = questions, at_once
        self._decided = Lock()  # taken once, for good, by whoever decides

    def decide(self) -> bool:
        """Decides to log the questions, or to give them up; returns whether nobody had decided before."""
        return self._decided.acquire(blocking=False)

    @property
    def complete(self) -> bool:
        """Whether all questions are judged."""
        return all(question.judged for question in self.questions)

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Does work that may log the questions, and gives them up if it fails or is cancelled before that."""
        task = asyncio.create_task(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if self.decide():
                task.cancel()
                raise
            await task  # the rows are there, or are being written: the client gets its answer
        except BaseException:
            self.decide()
            raise
