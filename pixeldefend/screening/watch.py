"""Watched folders: every new file is screened once, and flagged ones are moved if asked."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from ..detectors import Detector
from ..detectors.backends import PRECISION
from ..errors import ParameterError
from ..images import MAX_BYTES, SUFFIXES
from ..serialization import sha256_of
from ..zoo import detector_sha256
from .audit_log import AuditLog
from .screener import Record, Screener, _starts_like_an_image, screen

ALL_AGAIN = 60.0  # seconds between looks at everything: a file system need not tell of every change


def watch_folder(
    folder: str | os.PathLike[str],
    log: AuditLog,
    *,
    detector: str | Detector | None = None,
    quarantine: str | os.PathLike[str] | None = None,
    settle: float = 1.0,
    once: bool = False,
    stop: threading.Event | None = None,
    batch_size: int = 64,
    **options: Any,
) -> Iterator[Record]:
    """Screens what is in the folder and, unless `once`, what comes into it. A file is taken when it has not changed for
    `settle` seconds. quarantine: a folder that flagged files are moved to, atomically, under their name and the start
    of their sha256. stop: to be set from elsewhere; the file in hand is finished.

    Each content is scored once, across restarts: the log, which is written before a file is moved, knows. A copy under
    another name gets a row and a record with the verdict that is known, and is moved like the first. A file that was
    judged but not yet moved when the last run was killed is moved now. Yields the records of what is new. options: as
    `screening.Screener` takes them. Raises FileNotFoundError if folder is none, ValueError if quarantine lies inside
    it, and as `Screener` does.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    aside = None if quarantine is None else Path(quarantine).resolve()
    if aside is not None:
        if aside == root or root in aside.parents:
            raise ParameterError(f"quarantine {quarantine} must not lie in the watched folder {folder}")
        aside.mkdir(parents=True, exist_ok=True)
    detectors = Screener(detector, **options).detectors  # a wrong one is refused now
    made_by = {
        name: {"detector_sha256": detector_sha256(name), "precision": PRECISION[made.backend]}
        for name, made in detectors.items()
    }
    stop = stop or threading.Event()
    changes = None if once else _changes(root, settle, stop)
    files, looked = _Files(settle, once), -ALL_AGAIN
    while True:
        # the watch begins before the first look: nothing can come between them
        changed = set() if changes is None else next(changes, None)
        if changed is None or stop.is_set():
            return
        if time.monotonic() - looked >= ALL_AGAIN:
            looked = time.monotonic()
            changed = {str(root), *files.taken}
            log.prune()
        new: dict[str, str | None] = {}
        copies: dict[str, str] = {}
        for path in files.settled(changed):
            digest = _sha256(path)
            known = log.seen(digest, path)
            if known is None and digest is not None and (digest in new.values() or log.seen(digest) is not None):
                copies[path] = digest
            elif known is None:
                new[path] = digest
            elif known["verdict"] == "adversarial" and aside is not None:
                _move(path, digest, aside)
        judged = screen(new, detector, batch_size=batch_size, **options)
        rows = ({**vars(result.record), **made_by.get(result.record.detector or "", {})} for result in judged)
        for row in chain(rows, _copied(copies, log, files)):
            log.add([row], source="watch")
            record = Record(**{field.name: row[field.name] for field in fields(Record)})
            if record.verdict == "adversarial" and aside is not None:
                record.error = _move(record.path, record.sha256, aside)
            yield record
            if stop.is_set():
                return
        if changes is None:
            if not files.waiting:
                return
            time.sleep(min(0.2, settle))


class _Files:
    """waiting: files that may be incomplete, what they looked like and since when. taken: the others, likewise."""

    def __init__(self, settle: float, once: bool) -> None:
        self.settle, self.once = settle, once
        self.waiting: dict[str, tuple[tuple[int, ...], float]] = {}
        self.taken: dict[str, tuple[int, ...]] = {}

    def settled(self, changed: Iterable[str]) -> list[str]:
        """changed: files, and folders that are looked through. Returns the images among these and those that waited
        that are complete now, which are taken with this."""
        now, ready = time.monotonic(), []
        for path in dict.fromkeys([*self.waiting, *(found for place in changed for found in _images(place))]):
            look = _look(path)
            if look is None or look == self.taken.get(path):
                self.waiting.pop(path, None)
                if look is None:
                    self.taken.pop(path, None)
                continue
            if path not in self.waiting or self.waiting[path][0] != look:
                self.waiting[path] = (look, now)
            old = self.once and time.time() - look[-1] / 1e9 > self.settle
            if old or now - self.waiting[path][1] >= self.settle:
                del self.waiting[path]
                self.taken[path] = look
                ready.append(path)
        return ready

    def again(self, path: str) -> None:
        """It is looked at as if it had just come."""
        self.waiting[path] = ((), time.monotonic())
        self.taken.pop(path, None)


def _look(path: str) -> tuple[int, ...] | None:
    """Returns size and times of a file, the last that of any change, permissions' included; None if it is none, or
    gone. (A pipe would block whoever opens it.)"""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns) if stat.S_ISREG(state.st_mode) else None


def _images(place: str) -> Iterator[str]:
    """Yields what may be an image: the place itself, or what is in it if it is a folder."""
    if os.path.isdir(place) and not os.path.islink(place):
        found: Iterable[str] = (
            os.path.join(folder, name) for folder, _, names in os.walk(place) for name in sorted(names)
        )
    else:
        found = [place]
    for path in found:
        hidden = os.path.basename(path).startswith(".")
        if not hidden and (Path(path).suffix.lower() in SUFFIXES or _starts_like_an_image(path)):
            yield path


def _changes(root: Path, settle: float, stop: threading.Event) -> Iterator[set[str]]:
    """Yields what has changed, and now and then nothing: files that wait have to be looked at. Ends with stop."""
    from watchfiles import watch

    pause = max(50, int(500 * settle))
    options: dict[str, Any] = dict(rust_timeout=pause, yield_on_timeout=True, step=50, debounce=200)
    for found in watch(root, watch_filter=None, stop_event=stop, **options):
        yield {path for _, path in found}


def _copied(copies: dict[str, str], log: AuditLog, files: _Files) -> Iterator[dict[str, Any]]:
    """copies: path -> sha256 of a content that is in the log by now. Yields their rows."""
    for path, digest in copies.items():
        known = log.seen(digest)
        if known is None:  # the other file was written to in between
            files.again(path)
        else:
            yield {name: known[name] for name in known.keys() - {"id", "time", "feedback"}} | {"path": path}


def _sha256(path: str) -> str | None:
    """None if it is too large to be screened, cannot be read, or is gone."""
    try:
        return sha256_of(path) if os.path.getsize(path) <= MAX_BYTES else None
    except OSError:
        return None


def _move(path: str, sha256: str | None, aside: Path) -> str | None:
    """Returns what went wrong, or None."""
    source = Path(path)
    target = aside / f"{source.stem}-{(sha256 or '')[:8]}{source.suffix}"
    try:
        try:
            os.replace(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            partial = target.with_name(f".{target.name}.partial")  # another file system: a whole copy first
            shutil.copy2(source, partial)
            os.replace(partial, target)
            source.unlink()
    except FileNotFoundError:
        return None  # somebody else was faster
    except OSError as error:
        return f"cannot be moved to quarantine: {error.strerror}"
    return None
