"""The quarantine: a folder to which flagged files are moved, whole, under names of their own."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from ..paths import derived_name
from ..serialization import whole_file
from .records import Record


def move_aside(record: Record, aside: Path) -> None:
    """Moves a flagged file to quarantine; if that fails, its record gets the error.

    Args:
        record: The record of the file, with its path.
        aside: The folder of the quarantine, which is made if it is missing.
    """
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
