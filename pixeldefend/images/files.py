"""The search for image files, which screening here, screening by Ray and watched folders share."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .decoding import SUFFIXES, looks_like_an_image

# reason for which the search skips a path in a folder -> its meaning
SKIP_REASONS = {
    "not an image": "neither its name nor its first bytes are those of an image file",
    "not a file": "it is a pipe, a socket or a device",
    "broken link": "it is a link to something that does not exist",
    "unreadable": "its name is not that of an image, and its first bytes cannot be read",
    "repeated folder": "it leads to a folder that was searched already",
}

# the reasons for which an image may have been missed
NOT_LOOKED_AT = frozenset({"broken link", "unreadable"})

# called with a path and a key of `SKIP_REASONS`
OnSkip = Callable[[str, str], None]


@dataclass(frozen=True)
class NotFound:
    """A source or a folder in which the search found no images.

    Attributes:
        path: The source or the folder.
        reason: What is wrong, in words.
        kind: "unreadable", or "nothing found".
    """

    path: str
    reason: str
    kind: str


def find_files(sources: Iterable[str], on_skip: OnSkip | None = None) -> Iterator[str | NotFound]:
    """Finds image files.

    A file that is itself a source, or that matches a pattern, is always found, whatever it is. Folders are searched
    with all their sub-folders. A file in a folder counts as an image if its name has a suffix of `SUFFIXES`, or else by
    its first bytes. Special characters of patterns mean nothing in the names of these files, and names that begin with
    a dot are found too. Links are followed, but each folder is searched only once per source, under its own path if the
    source contains it.

    Args:
        sources: Files, folders and patterns (`*`, `?`, `[...]`, and `**` for folders of any depth). A source that
            exists is never treated as a pattern.
        on_skip: A function that is called with each path that is skipped in a folder, and a key of `SKIP_REASONS`.

    Yields:
        The path of each file, source after source. The files of a folder come in the order of their names, then those
        of its sub-folders, then those that links lead to. A `NotFound` takes the place of a path if a folder cannot be
        read, or if a folder or a pattern has no image.
    """
    on_skip = on_skip or (lambda path, reason: None)
    for source in sources:
        if os.path.isdir(source):
            yield from _search(source, set(), on_skip)
        elif glob.has_magic(source) and not os.path.lexists(source):
            yield from _search_matches(source, on_skip)
        else:
            yield source


def skip_reason(path: str) -> str | None:
    """Returns the reason for which a search skips a file, a key of `SKIP_REASONS`, or None if it does not."""
    named = os.path.splitext(path)[1].lower() in SUFFIXES
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a file"
        if named:
            return None
        with open(path, "rb") as file:
            return None if looks_like_an_image(file.read(32)) else "not an image"
    except OSError as error:
        if named:
            return None  # the error is reported when the file is read
        nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        return "broken link" if nowhere and os.path.islink(path) else "unreadable"


def _search(folder: str, searched: set[tuple[int, int]], on_skip: OnSkip) -> Iterator[str | NotFound]:
    empty = True
    for _, files in _walk(folder, searched, on_skip):
        if isinstance(files, NotFound):
            empty = False
            yield files
            continue
        for path in files:
            reason = skip_reason(path)
            if reason is None:
                empty = False
                yield path
            else:
                on_skip(path, reason)
    if empty:
        yield NotFound(folder, "the folder holds no image", "nothing found")


def _search_matches(pattern: str, on_skip: OnSkip) -> Iterator[str | NotFound]:
    expanded = set(_expand("", _parts(pattern)))
    matches = sorted(
        (found for found in expanded if isinstance(found, str)), key=lambda match: (os.path.islink(match), match)
    )
    unreadable = sorted((found for found in expanded if isinstance(found, NotFound)), key=lambda found: found.path)
    named = {match for match in matches if not os.path.isdir(match)}
    searched: set[tuple[int, int]] = set()

    def skip(path: str, reason: str) -> None:
        if path not in named:
            on_skip(path, reason)

    yield from unreadable
    empty = not unreadable
    for match in matches:
        if match in named:
            empty = False
            yield match
        elif _identity(match) not in searched:  # otherwise it was found in another matching folder
            for found in _search(match, searched, skip):
                # many of the folders that ** matches hold only folders, or only files that match themselves
                if found in named or (
                    isinstance(found, NotFound) and found.kind == "nothing found" and "**" in pattern
                ):
                    continue
                empty = False
                yield found
    if empty:
        yield NotFound(pattern, "no file matches the pattern", "nothing found")


def _walk(top: str, searched: set[tuple[int, int]], on_skip: OnSkip) -> Iterator[tuple[str, list[str] | NotFound]]:
    """Yields top and each folder below it with the sorted paths of its files; folders behind links come last."""
    waiting, links = [top], deque[str]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        identity = _identity(folder)
        if identity is not None and identity in searched:
            on_skip(folder, "repeated folder")
            continue
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            yield folder, NotFound(folder, error.strerror or str(error), "unreadable")
            continue
        if identity is not None:
            searched.add(identity)
        folders = [entry for entry in entries if _is_folder(entry)]
        links.extend(entry.path for entry in folders if entry.is_symlink())
        waiting.extend(entry.path for entry in reversed(folders) if not entry.is_symlink())
        names = {entry.name for entry in folders}
        yield folder, [entry.path for entry in entries if entry.name not in names]


def _identity(folder: str) -> tuple[int, int] | None:
    try:
        state = os.stat(folder)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _parts(pattern: str) -> list[str]:
    """Returns the parts of a pattern, each with the separators that follow it."""
    separators = re.escape(os.sep + (os.altsep or ""))
    return re.findall(rf"[^{separators}]*[{separators}]+|[^{separators}]+", pattern)


def _expand(base: str, parts: list[str]) -> Iterator[str | NotFound]:
    """Yields existing paths that match, and folders that cannot be read.

    Python's `glob` would follow circular links up to the system's limit, and pass over folders that it cannot read.
    """
    if not parts:
        yield base or os.curdir
        return
    part = parts[0].rstrip(os.sep + (os.altsep or ""))
    separator, rest = parts[0][len(part) :], parts[1:]
    try:
        if part == "**":
            for folder, _ in _walk(base or os.curdir, set(), lambda path, reason: None):
                inner = os.path.relpath(folder, base or os.curdir)
                yield from _expand(base if inner == os.curdir else f"{base}{inner}{os.sep}", rest)
        elif glob.has_magic(part):
            for name in os.listdir(base or os.curdir):
                if fnmatchcase(name, part) and (not separator or _may_be_folder(f"{base}{name}")):
                    yield from _expand(f"{base}{name}{separator}", rest)
        else:
            os.lstat(f"{base}{parts[0]}")
            yield from _expand(f"{base}{parts[0]}", rest)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no name holds the character NUL
        return
    except OSError as error:
        yield NotFound(base.rstrip(os.sep) or base or os.curdir, error.strerror or str(error), "unreadable")


def _may_be_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        return isinstance(error, PermissionError)
