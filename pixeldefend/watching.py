"""Watched folders: every new file is screened once, and flagged ones are moved if asked."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .audit import AuditLog
from .detector import Detector
from .images import MAX_BYTES, SUFFIXES
from .screening import Record, _starts_like_an_image, screen
from .storage import sha256_of
from .zoo import detector_sha256


def watch_folder(
    folder: str | os.PathLike[str],
    log: AuditLog,
    *,
    detector: str | Detector | None = None,
    fpr: float | None = None,
    quarantine: str | os.PathLike[str] | None = None,
    settle: float = 1.0,
    once: bool = False,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Iterator[Record]:
    """Screens what is in the folder and, unless `once`, what comes into it. A file is taken when neither its size nor
    its time has changed for `settle` seconds. quarantine: a folder that flagged files are moved to, atomically, under
    their name and the start of their sha256.

    Each content under a path is screened once, across restarts: the log, which is written before a file is moved,
    knows. A file that was judged but not yet moved when the last run was killed is moved now. Yields the records of
    what is screened. options: as `screening.screen` takes them. Raises FileNotFoundError if folder is none, ValueError
    if quarantine lies inside it, and as `screen` does.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    aside = None if quarantine is None else Path(quarantine).resolve()
    if aside is not None:
        if aside == root or root in aside.parents:
            raise ValueError(f"quarantine {quarantine} must not lie in the watched folder {folder}")
        aside.mkdir(parents=True, exist_ok=True)
    waiting: dict[str, tuple[int, int, float]] = {}  # path -> size, time of change, since when they are so
    done: dict[str, tuple[int, int]] = {}
    changes = None if once else _changes(root, settle)
    list(screen([], detector, fpr=fpr, **options))  # a wrong detector is refused now
    while True:
        ready = []
        now = time.monotonic()
        there = set()
        for path in _files(root):
            try:
                state = os.stat(path)
            except OSError:
                continue  # gone again
            there.add(path)
            look = (state.st_size, state.st_mtime_ns)
            if done.get(path) == look:
                continue
            if path not in waiting or waiting[path][:2] != look:
                waiting[path] = (*look, now)
            old = time.time() - state.st_mtime > settle
            if (once and old) or now - waiting[path][2] >= settle:
                ready.append(path)
        for path in [path for path in waiting if path not in there]:
            del waiting[path]
        for path in [path for path in done if path not in there]:
            del done[path]
        new = []
        for path in ready:
            size, changed, _ = waiting.pop(path)
            done[path] = (size, changed)
            known = log.seen(path, _sha256(path, size))
            if known is None:
                new.append(path)
            elif known["verdict"] == "adversarial" and aside is not None:
                _move(path, known["sha256"], aside)
        for result in screen(new, detector, fpr=fpr, **options):
            record = result.record
            log.add([_row(record)], source="watch")
            if record.verdict == "adversarial" and aside is not None:
                record.error = _move(record.path, record.sha256, aside)
            yield record
        if stop() or (once and not waiting):
            return
        if changes is None:
            time.sleep(min(0.2, settle))
        else:
            next(changes)


def _files(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and (Path(name).suffix.lower() in SUFFIXES or _starts_like_an_image(path)):
                yield path


def _changes(root: Path, settle: float) -> Iterator[Any]:
    """Yields when something has changed, and otherwise now and then: a file system may not tell."""
    from watchfiles import watch

    return watch(
        root,
        rust_timeout=max(50, int(500 * settle)),
        yield_on_timeout=True,
        raise_interrupt=False,
        step=50,
        debounce=200,
    )


def _sha256(path: str, size: int) -> str | None:
    """None if it is too large to be screened, or gone."""
    try:
        return sha256_of(path) if size <= MAX_BYTES else None
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


def _row(record: Record) -> dict[str, Any]:
    digest = None if record.detector is None else detector_sha256(record.detector)
    return {**vars(record), "detector_sha256": digest}
