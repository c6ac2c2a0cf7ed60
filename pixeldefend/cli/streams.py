"""The standard streams of the program, which may be closed, broken, full, or of an encoding that lacks characters."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

STANDARD_OUTPUT = "standard output"


def named(error: OSError, stream: str) -> OSError:
    """Returns an error that names a standard stream.

    Args:
        error: What using the stream has raised.
        stream: The name, such as "standard output".
    """
    return OSError(error.errno, "it is closed" if error.errno == errno.EBADF else error.strerror, stream)


class Stream(io.FileIO):
    """The bytes of a standard stream, which fails once at most: afterwards they are dropped.

    Python itself flushes the streams at its end, and would report the failure again, with a status of its own.

    Args:
        number: The number of the file: 1 or 2.
        name: The name for messages; None if the first failure is no error either.
    """

    def __init__(self, number: int, name: str | None) -> None:
        super().__init__(number, "w", closefd=False)
        self.called = name
        self.failed = False

    def write(self, data: Any, /) -> int:
        """Writes bytes as `io.FileIO` does, or drops them after a failure."""
        if not self.failed:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = True
                if self.called is not None:
                    raise named(error, self.called) from None
        return len(data)


def prepare_streams() -> None:
    """Makes the standard streams of this process safe to use.

    What cannot be encoded is spelled out. A failure of standard output is an `OSError` that names it. What standard
    error does not take is lost: it says nothing that the exit status and the records do not say.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed: a file that is opened next must not take its place
            os.open(os.devnull, os.O_RDONLY if number else os.O_WRONLY)  # to use it stays an error
    sys.stdout = _prepared(sys.stdout, Stream(1, STANDARD_OUTPUT))
    sys.stderr = _prepared(sys.stderr, Stream(2, None))


def output_has_failed() -> bool:
    """Writes what is left to standard output, and returns whether any of its output was lost.

    Raises:
        OSError: If it fails now.
    """
    sys.stdout.flush()
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(stream, Stream) and stream.failed


def _prepared(old: TextIO | None, stream: Stream) -> TextIO:
    """Returns a text stream like the old one, which is None if its file was closed."""
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(stream), "utf-8", "backslashreplace")
    buffer = getattr(old, "buffer", None)
    if not isinstance(old, io.TextIOWrapper) or type(getattr(buffer, "raw", buffer)) is not io.FileIO:
        return old  # a console of Windows, or whatever the caller of `main` has put there
    old.flush()
    at_once = old.line_buffering or old.write_through
    return io.TextIOWrapper(io.BufferedWriter(stream), old.encoding, "backslashreplace", line_buffering=at_once)
