"""Watched folders: every new file is screened once, and flagged files can be moved to quarantine."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, ParameterError
from ..images import MAX_BYTES
from ..images.files import OnSkip, skip_reason
from ..serialization import sha256_of
from .audit_log import AuditLog
from .pipeline import Statistics, find_files, screen_with
from .quarantine import move_aside
from .records import RECORD_COLUMNS, Record, to_row, visible
from .screener import Screener

if TYPE_CHECKING:
    from ..detectors import Detector

logger = logging.getLogger("pixeldefend")
PATIENCE = 20  # how many times as long as `settle` a file may change before `once` screens it as it is
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
    on_skip: OnSkip | None = None,
    batch_size: int = 64,
    **options: Any,
) -> Iterator[Record]:
    """Screens the images in a folder and all images that are added to it.

    Each content is scored only once, even across restarts, because the log holds its verdict before the file is moved.
    A copy under another name gets a row and a record with the known verdict, and is moved like the first. If the last
    run was killed after it judged a file and before it moved it, the file is moved now.

    If the folder is deleted, moved away or unmounted, the watch waits until there is a folder of this name again. The
    logger "pixeldefend" gets a warning in both cases.

    Args:
        folder: The folder, which is watched with all its sub-folders. `pixeldefend.images.files` says which files are
            images.
        log: The audit log, which gets a row for each record.
        detector: A detector, the name of a shipped one, the path of a saved one, or None for the shipped one that
            takes each image.
        quarantine: A folder outside the watched one. Flagged files are moved there, atomically, and named by their name
            and the start of their sha256.
        settle: How many seconds a file must be unchanged before it is screened.
        once: Whether to end when all present files have been screened. A file that goes on changing is then screened
            as it is after `PATIENCE` times `settle`.
        stop: An event that ends the watch when it is set, after the current file.
        on_skip: A function that is called once with each path that is skipped, and a key of
            `pixeldefend.images.files.SKIP_REASONS`.
        batch_size: The number of images at once.
        options: Further arguments of `Screener`.

    Yields:
        The records of new files. A file that was flagged but could not be moved has an error of kind "quarantine",
        with the verdict "adversarial". A file or a folder that cannot be read has a record in every run.

    Raises:
        FileNotFoundError: If there is no such folder.
        ParameterError: If the quarantine is inside the folder, or batch_size is below 1.
        PixelDefendError: As `Screener` does.
        MissingExtraError: If watchfiles is missing, unless `once`.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    root = _real(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    aside = None if quarantine is None else _real(quarantine)
    if aside is not None:
        if aside == root or root in aside.parents:
            raise ParameterError(f"quarantine {quarantine} must not be inside the watched folder {folder}")
        aside.mkdir(parents=True, exist_ok=True)
    screener = Screener(detector, **options)  # a wrong detector is refused now
    detectors = screener.detector_set
    made_by = {name: detectors.provenance(name) for name in detectors.detectors}
    stop = stop or threading.Event()
    place = Path(folder).absolute()  # not without links: a link may come to lead to another folder
    files = _Files(root, aside, settle, once, on_skip or (lambda path, reason: None))
    for changed in _one_search(settle, stop) if once else _changes(place, settle, stop):
        if stop.is_set():
            return
        if changed is None:
            files.root = _real(place)
            changed = {str(files.root), *files.taken}
            log.prune()
        new, copies, unmoved = _sorted_out(files.settled(changed), log, aside)
        judged = screen_with(screener, new, batch_size=batch_size)
        rows = (vars(result.record) | made_by.get(result.record.detector or "", {}) for result in judged)
        for row in chain(rows, _rows_of_copies(copies, log, files)):
            if not _is_logged(row, log):
                log.add([row], source="watch")
            record = Record(**to_row(row, RECORD_COLUMNS))
            if record.verdict == "adversarial" and aside is not None:
                move_aside(record, aside)
            yield record
            if stop.is_set():
                return
        yield from unmoved
        if once and not files.waiting:
            return


def _sorted_out(
    settled: Iterable[str | Record], log: AuditLog, aside: Path | None
) -> tuple[list[str | Record], dict[str, str], list[Record]]:
    """Returns what is new, copies of known files with their hash, and records of known files that could not be moved.

    Folders and files that cannot be read always count as new.
    """
    new: list[str | Record] = []
    copies: dict[str, str] = {}
    unmoved: list[Record] = []
    digests = set()
    for found in settled:
        digest = None if isinstance(found, Record) else _sha256(found)
        if isinstance(found, Record) or digest is None:
            if isinstance(found, Record) or os.path.lexists(found):  # it may be gone by now
                new.append(found)
            continue
        known = log.seen(digest, found)
        if known is None and (digest in digests or log.seen(digest) is not None):
            copies[found] = digest
        elif known is None:
            new.append(found)
            digests.add(digest)
        elif known["verdict"] == "adversarial" and aside is not None:
            record = Record(**{**to_row(known, RECORD_COLUMNS), "path": found})
            move_aside(record, aside)
            if record.error is not None:
                unmoved.append(record)
    return new, copies, unmoved


def _is_logged(row: dict[str, Any], log: AuditLog) -> bool:
    """Returns whether an earlier run has logged the same of what cannot be read."""
    known = None if row["sha256"] is not None else log.seen(None, row["path"])
    return known is not None and known["error"] == row["error"]


class _Files:
    """The known files in a folder.

    `waiting` holds files that may be incomplete, with their state, the time since when they have had it, and the time
    when they were first seen. `taken` holds the state of all other files, and `skipped` the reason if they are no
    images. `reported` holds folders that are repeated or cannot be read.
    """

    def __init__(self, root: Path, aside: Path | None, settle: float, once: bool, on_skip: OnSkip) -> None:
        self.root, self.aside, self.settle, self.once, self.on_skip = root, aside, settle, once, on_skip
        self.waiting: dict[str, tuple[tuple[int, ...], float, float]] = {}
        self.taken: dict[str, tuple[int, ...]] = {}
        self.skipped: dict[str, str] = {}
        self.reported: dict[str, str] = {}

    def settled(self, changed: Iterable[str]) -> list[str | Record]:
        """Returns the images that are now complete, which move to `taken`, and folders that cannot be read.

        Candidates are the waiting files and the changed files and folders, which are searched.
        """
        now = time.monotonic()
        found, unreadable = self._found(changed)
        ready: list[str | Record] = [*unreadable]
        for path in dict.fromkeys([*self.waiting, *found]):
            look = _look(path)
            if look is None or look == self.taken.get(path):
                self.waiting.pop(path, None)
                if look is None:
                    self.taken.pop(path, None)
                    self.skipped.pop(path, None)
                continue
            seen, since, first = self.waiting.get(path, ((), now, now))
            since = since if seen == look else now
            self.waiting[path] = look, since, first
            if now - since >= self.settle or (self.once and self._need_not_wait(path, look, now - first)):
                del self.waiting[path]
                self.taken[path] = look
                reason, before = skip_reason(path), self.skipped.pop(path, None)
                if reason is None:
                    ready.append(path)
                else:
                    self.skipped[path] = reason
                    if reason != before:
                        self.on_skip(path, reason)
        return ready

    def _need_not_wait(self, path: str, look: tuple[int, ...], waited: float) -> bool:
        """Returns whether a file is old or no image, or has changed for so long that it may never end."""
        old = time.time() - look[-1] / 1e9 > self.settle
        return old or waited > PATIENCE * self.settle or skip_reason(path) is not None

    def look_again(self, path: str) -> None:
        """Forgets a file, so that it counts as new."""
        self.waiting[path] = (), time.monotonic(), time.monotonic()
        self.taken.pop(path, None)

    def _found(self, places: Iterable[str]) -> tuple[list[str], list[Record]]:
        """Returns the files among the places and in those that are folders, and new records of unreadable folders."""
        self.reported = {path: news for path, news in self.reported.items() if _is_still_so(path, news)}
        found: list[str] = []
        unreadable = []
        for place in places:
            if not os.path.isdir(place):
                found.append(place)
                continue
            statistics = Statistics()
            for what in find_files([place], statistics):
                if isinstance(what, str):
                    found.append(what)
                elif what.error_kind == "unreadable" and self._is_news(what.path, what.error or ""):
                    unreadable.append(what)
            repeated = statistics.skipped.pop("repeated folder", [])
            for path in repeated if place == str(self.root) else []:  # others are repeated only within this search
                if self._is_news(path, "repeated folder"):
                    self.on_skip(path, "repeated folder")
            found.extend(chain.from_iterable(statistics.skipped.values()))
        return list(self._own_names(found)), unreadable

    def _is_news(self, path: str, news: str) -> bool:
        """Notes what is to say of a folder, and returns whether it has not been said."""
        if not _is_still_so(path, news) or self.reported.get(path) == news or self._own_name(path) is None:
            return False
        self.reported[path] = news
        return True

    def _own_names(self, paths: Iterable[str]) -> Iterator[str]:
        """Yields the path of each file in a folder under the folder's own name, without those in the quarantine."""
        own: dict[str, str | None] = {}
        for path in paths:
            folder, name = os.path.split(path)
            if folder not in own:
                own[folder] = self._own_name(folder)
            if own[folder] is not None:
                yield os.path.join(str(own[folder]), name)

    def _own_name(self, folder: str) -> str | None:
        """Returns the path of a folder without links, if it lies in the watched one; None for the quarantine."""
        real = _real(folder)
        if self.aside is not None and real.is_relative_to(self.aside):
            return None
        return str(real) if real.is_relative_to(self.root) else folder


def _real(path: str | os.PathLike[str]) -> Path:
    """Returns a path without links; `Path.resolve` would refuse a link to itself."""
    return Path(os.path.realpath(path))


def _is_still_so(path: str, news: str) -> bool:
    """Returns whether a folder is there and still cannot be read, or still may be repeated."""
    try:
        os.scandir(path).close()
    except OSError:
        return os.path.lexists(path) and news != "repeated folder"
    return news == "repeated folder"


def _look(path: str) -> tuple[int, ...] | None:
    """Returns the size and times of a file, including its change of permissions; None if it is gone or a folder.

    For a link that leads nowhere these are its own.
    """
    try:
        state = os.stat(path) if os.path.exists(path) else os.lstat(path)
    except OSError:
        return None
    return None if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _one_search(settle: float, stop: threading.Event) -> Iterator[set[str] | None]:
    """Yields None, for a search of everything, and then no changes until all files are complete."""
    yield None
    while True:
        stop.wait(min(0.2, settle))
        yield set()


def _changes(folder: Path, settle: float, stop: threading.Event) -> Iterator[set[str] | None]:
    """Yields the changed paths until stop is set, and regularly none, so that waiting files are checked.

    None stands for everything: there is a new watch. A watch is deaf once its folder has been deleted or replaced, and
    knows nothing of links that were made since it began. It lasts until that happens, or until the next full search.
    """
    try:
        from watchfiles import Change, watch
        from watchfiles import _rust_notify as notify
    except ModuleNotFoundError:
        raise MissingExtraError("watchfiles", "serve") from None

    pause = max(50, int(500 * settle))
    options: dict[str, Any] = dict(rust_timeout=pause, yield_on_timeout=True, step=50, debounce=200)
    options.update(watch_filter=None, stop_event=stop, ignore_permission_denied=True)
    gone = False
    while not stop.is_set():
        identity = _identity(folder)
        if gone is not (identity is None):
            gone = identity is None
            news = "is gone: waiting for a folder of this name" if gone else "is back, and watched again"
            logger.warning("the watched folder %s %s", visible(str(folder)), news)
        if gone:
            yield set()
            stop.wait(pause / 1000)
            continue
        root = os.path.realpath(folder)
        begun = None
        try:
            with closing(watch(root, **options)) as reports:
                for found in reports:
                    if begun is None:  # it has begun before the search, so that no file is missed in between
                        begun = time.monotonic()
                        yield None
                    elif (
                        time.monotonic() - begun >= FULL_SEARCH_INTERVAL
                        or (Change.deleted, root) in found
                        or _identity(folder) != identity
                        or any(os.path.islink(path) and os.path.isdir(path) for _, path in found)
                    ):
                        break
                    else:
                        yield {path for _, path in found}
        except (FileNotFoundError, NotADirectoryError):
            continue  # it has gone just now
        except (notify.WatchfilesRustInternalError, UnicodeEncodeError):  # some name is not valid UTF-8
            yield None
            stop.wait(pause / 1000)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Returns what tells a folder from one that was made later under its name; None if there is none."""
    try:
        state = os.stat(folder)
    except OSError:
        return None
    return (state.st_dev, state.st_ino) if stat.S_ISDIR(state.st_mode) else None


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
