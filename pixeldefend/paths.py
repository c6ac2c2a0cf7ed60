"""Folders, and names of files. Names are bytes, and the file system limits their number."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

NAME_MAX = 255  # bytes; what nearly every file system takes
SUFFIX_MAX = 40  # bytes of a suffix that a derived name keeps


def cache_folder() -> Path:
    """Returns the folder of what is measured once and remembered; it may be missing.

    It is `pixeldefend` in the folder that the environment variable XDG_CACHE_HOME names, by default `~/.cache`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixeldefend"


def name_max(folder: str | os.PathLike[str]) -> int:
    """Returns the largest number of bytes of a name in a folder, at most 255."""
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # the system or the file system does not say
        return NAME_MAX
    return min(limit, NAME_MAX) if limit > 0 else NAME_MAX


def shortened(name: str, most: int) -> str:
    """Cuts a name between UTF-8 characters, and leaves bytes that are not valid UTF-8 as they are.

    Args:
        name: The name.
        most: The largest number of bytes.
    """
    held = os.fsencode(name)
    if len(held) <= most:
        return name
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # leaves out the character that was cut
    return os.fsdecode(decoder.decode(held[: max(0, most)]).encode("utf-8", "surrogateescape"))


def derived_name(path: str, mark: str, suffix: str | None = None, folder: str | os.PathLike[str] = os.curdir) -> str:
    """Returns the name of a file that is made of another file: "in/a.png" with the mark "-1" gives "a-1.png".

    Args:
        path: The path of the other file.
        mark: What the name says after the other's name.
        suffix: The suffix; None for that of the other file.
        folder: The folder of the new file, which limits the length of the name.

    Returns:
        The name, which no listing hides and no command takes for an option: in front of a dot or a dash it has a "_".
    """
    source = Path(path)
    ending = mark + (shortened(source.suffix, SUFFIX_MAX) if suffix is None else suffix)
    stem = f"_{source.stem}" if source.stem.startswith((".", "-")) else source.stem
    return shortened(stem, name_max(folder) - len(os.fsencode(ending))) + ending
