"""Watched folders: every new file is screened once, and flagged files can be moved to quarantine."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, ParameterError
from ..images import MAX_BYTES
from ..images.files import find_files, skip_reason
from ..paths import derived_name
from ..serialization import sha256_of, whole_file
from .audit_log import AuditLog
from .pipeline import screen
from .records import RECORD_COLUMNS, Record, to_row
from .screener import Screener

if TYPE_CHECKING:
    from ..detectors import Detector

FULL_SEARCH_INTERVAL = 60.0  # seconds between full searches, since a file system may not report every change


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
    """Screens the images in a folder and all images that are added to it.

    Each content is scored only once, even across restarts, because the log holds its verdict before the file is moved.
    A copy under another name gets a row and a record with the known verdict, and is moved like the first. If the last
    run was killed after it judged a file and before it moved it, the file is moved now.

    Args:
        folder: The folder, which is watched with all its sub-folders. `pixeldefend.images.files` says which files are
            images.
        log: The audit log, which gets a row for each record.
        detector: A detector, the name of a shipped one, the path of a saved one, or None for the shipped one that
            takes each image.
        quarantine: A folder outside the watched one. Flagged files are moved there, atomically, and named by their name
            and the start of their sha256.
        settle: How many seconds a file must be unchanged before it is screened.
        once: Whether to end when all present files have been screened.
        stop: An event that ends the watch when it is set, after the current file.
        batch_size: The number of images at once.
        options: Further arguments of `Screener`.

    Yields:
        The records of new files. A file that was flagged but could not be moved has an error of kind "quarantine",
        with the verdict "adversarial".

    Raises:
        FileNotFoundError: If there is no such folder.
        ParameterError: If the quarantine is inside the folder.
        PixelDefendError: As `Screener` does.
        MissingExtraError: If watchfiles is missing, unless `once`.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    aside = None if quarantine is None else Path(quarantine).resolve()
    if aside is not None:
        if aside == root or root in aside.parents:
            raise ParameterError(f"quarantine {quarantine} must not be inside the watched folder {folder}")
        aside.mkdir(parents=True, exist_ok=True)
    detectors = Screener(detector, **options).detector_set  # a wrong detector is refused now
    made_by = {name: detectors.provenance(name) for name in detectors.detectors}
    stop = stop or threading.Event()
    changes = None if once else _changes(root, settle, stop)
    files, searched = _Files(root, aside, settle, once), -FULL_SEARCH_INTERVAL
    while True:
        # the watch begins before the first search, so that no file is missed in between
        changed = set() if changes is None else next(changes, None)
        if changed is None or stop.is_set():
            return
        if time.monotonic() - searched >= FULL_SEARCH_INTERVAL:
            searched = time.monotonic()
            changed = {str(root), *files.taken}
            log.prune()
        new, copies, unmoved = _sorted_out(files.settled(changed), log, aside)
        judged = screen(new, detector, batch_size=batch_size, **options)
        rows = (vars(result.record) | made_by.get(result.record.detector or "", {}) for result in judged)
        for row in chain(rows, _rows_of_copies(copies, log, files)):
            log.add([row], source="watch")
            record = Record(**to_row(row, RECORD_COLUMNS))
            if record.verdict == "adversarial" and aside is not None:
                _quarantine(record, aside)
            yield record
            if stop.is_set():
                return
        yield from unmoved
        if changes is None:
            if not files.waiting:
                return
            stop.wait(min(0.2, settle))


def _sorted_out(
    settled: Iterable[str], log: AuditLog, aside: Path | None
) -> tuple[list[str], dict[str, str], list[Record]]:
    """Returns new files, copies of known files with their hash, and records of known files that could not be moved."""
    new: dict[str, str | None] = {}
    copies: dict[str, str] = {}
    unmoved: list[Record] = []
    for path in settled:
        digest = _sha256(path)
        known = log.seen(digest, path)
        if known is None and digest is not None and (digest in new.values() or log.seen(digest) is not None):
            copies[path] = digest
        elif known is None:
            new[path] = digest
        elif known["verdict"] == "adversarial" and aside is not None:
            record = Record(**{**to_row(known, RECORD_COLUMNS), "path": path})
            _quarantine(record, aside)
            if record.error is not None:
                unmoved.append(record)
    return list(new), copies, unmoved


class _Files:
    """The known files in a folder.

    `waiting` holds files that may be incomplete, with their state and the time since when they have had it. `taken`
    holds the state of all other files.
    """

    def __init__(self, root: Path, aside: Path | None, settle: float, once: bool) -> None:
        self.root, self.aside, self.settle, self.once = root, aside, settle, once
        self.waiting: dict[str, tuple[tuple[int, ...], float]] = {}
        self.taken: dict[str, tuple[int, ...]] = {}

    def settled(self, changed: Iterable[str]) -> list[str]:
        """Returns the images that are now complete, and moves them to `taken`.

        Candidates are the waiting files and the changed files and folders, which are searched.
        """
        now, ready = time.monotonic(), []
        for path in dict.fromkeys([*self.waiting, *self._images(changed)]):
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

    def look_again(self, path: str) -> None:
        """Forgets a file, so that it counts as new."""
        self.waiting[path] = ((), time.monotonic())
        self.taken.pop(path, None)

    def _images(self, places: Iterable[str]) -> Iterator[str]:
        """Yields the paths that may be images: the places themselves, or the files in them if they are folders."""
        own: dict[str, str | None] = {}
        for place in places:
            found = find_files([place]) if os.path.isdir(place) else [place] if skip_reason(place) is None else []
            for path in found:
                if isinstance(path, str):
                    folder, name = os.path.split(path)
                    if folder not in own:
                        own[folder] = self._own_name(folder)
                    if own[folder] is not None:
                        yield os.path.join(str(own[folder]), name)

    def _own_name(self, folder: str) -> str | None:
        """Returns the path of a folder without links, if it lies in the watched one; None for the quarantine."""
        real = Path(folder).resolve()
        if self.aside is not None and real.is_relative_to(self.aside):
            return None
        return str(real) if real.is_relative_to(self.root) else folder


def _look(path: str) -> tuple[int, ...] | None:
    """Returns the size and times of a file, including its change of permissions; None if it is no regular file."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns) if stat.S_ISREG(state.st_mode) else None


def _changes(root: Path, settle: float, stop: threading.Event) -> Iterator[set[str]]:
    """Yields the changed paths until stop is set, and regularly none, so that waiting files are checked."""
    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise MissingExtraError("watchfiles", "serve") from None

    pause = max(50, int(500 * settle))
    options: dict[str, Any] = dict(rust_timeout=pause, yield_on_timeout=True, step=50, debounce=200)
    for found in watch(root, watch_filter=None, stop_event=stop, **options):
        yield {path for _, path in found}


def _rows_of_copies(copies: dict[str, str], log: AuditLog, files: _Files) -> Iterator[dict[str, Any]]:
    """Yields a row for each copy of a file that is in the log by now."""
    for path, digest in copies.items():
        known = log.seen(digest)
        if known is None:  # the other file has changed in the meantime
            files.look_again(path)
        else:
            yield {name: known[name] for name in known.keys() - {"id", "time", "feedback"}} | {"path": path}


def _sha256(path: str) -> str | None:
    """Returns the sha256 of a file, or None if it is too large to be screened, cannot be read, or is gone."""
    try:
        return sha256_of(path) if os.path.getsize(path) <= MAX_BYTES else None
    except OSError:
        return None


def _quarantine(record: Record, aside: Path) -> None:
    """Moves a flagged file; if that fails, its record gets the error."""
    source = Path(record.path)
    with record.noting("quarantine", "cannot be moved to quarantine"):
        try:
            aside.mkdir(parents=True, exist_ok=True)  # it may have been deleted
            _move(source, _free(source, (record.sha256 or "")[:8], aside))
        except FileNotFoundError:
            if source.exists():  # otherwise somebody else has moved it
                raise


def _free(source: Path, mark: str, aside: Path) -> Path:
    """Returns a path in the quarantine that no other file has: an image of a hostile sender may have any name."""
    marks = chain([f"-{mark}"], (f"-{mark}-{number}" for number in count(2)))
    paths = (aside / derived_name(str(source), mark, folder=aside) for mark in marks)
    return next(path for path in paths if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()))


def _move(source: Path, target: Path) -> None:
    """Moves a file, whole or not at all."""
    if not source.is_symlink():
        try:
            os.replace(source, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    # the target is on another file system, or the image behind a link: a link could lead to another file tomorrow
    with open(source, "rb") as data, whole_file(target, "wb") as copy:
        shutil.copyfileobj(data, copy)
    with suppress(OSError):
        shutil.copystat(source, target)
    try:
        source.unlink()
    except OSError:
        target.unlink()
        raise
