"""The service's own log: one line of JSON per event, on standard error."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from typing import Any, TextIO


def log_line(event: str, **fields: Any) -> None:
    """Writes {"time": seconds since 1970, "event": ..., ...} to standard error.

    A log that nobody can read any more does not stop the service.

    Args:
        event: The name of the event.
        **fields: Details, as plain JSON values.
    """
    line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n"
    stream = sys.stderr.stream if isinstance(sys.stderr, _AsLines) else sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # the disk is full, or the stream is closed or None
        stream.write(line)


class TracebackLines(logging.Handler):
    """A handler that writes errors which the library logs to the service's log, with their traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the traceback without the message, which may hold the name of a client's file."""
        if record.exc_info is not None:
            log_line("internal error", traceback=_traceback(record))

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator[None]:
        """Installs the handler for the time of the block."""
        logger, handler = logging.getLogger("pixeldefend"), cls(logging.ERROR)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _OtherLines(logging.Handler):
    """A handler that writes what other packages log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "pixeldefend":  # `TracebackLines` writes it
            return
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not fit the message
            message = str(record.msg)
        details = {} if record.exc_info is None else {"traceback": _traceback(record)}
        log_line(record.levelname.lower(), logger=record.name, message=message.rstrip(), **details)


def _traceback(record: logging.LogRecord) -> str:
    return "" if record.exc_info is None else logging.Formatter().formatException(record.exc_info)


@contextmanager
def json_only() -> Iterator[None]:
    """Turns all that Python code writes to standard error within the block into lines of JSON.

    This covers warnings, the logs of all packages, tracebacks and what is printed. It changes the whole process: only a
    process that does nothing but serve may use it.
    """
    root, lines = logging.getLogger(), _AsLines(sys.stderr)
    handlers, root.handlers = root.handlers, [_OtherLines(logging.WARNING)]
    logging.captureWarnings(True)
    try:
        with redirect_stderr(lines):
            yield
    finally:
        logging.captureWarnings(False)
        root.handlers = handlers
        lines.write("\n")  # what does not end with a line


class _AsLines(io.TextIOBase):
    """A stream that writes each line of a text as a line of JSON to another stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line.strip():
                log_line("output", text=line)
        return len(text)

    def fileno(self) -> int:
        return self.stream.fileno()
