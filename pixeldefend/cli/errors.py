"""Reports failures of commands: one line for bad input, a traceback for a bug."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from ..batching import is_out_of_memory
from ..errors import MissingExtraError, PixelDefendError
from .output import note
from .streams import STANDARD_OUTPUT

DEBUG_VARIABLE = "PIXELDEFEND_DEBUG"

# extra -> packages that only it brings
EXTRAS = {
    "train": ("lightning",),
    "attacks": ("foolbox", "eagerpy"),
    "eval": ("foolbox", "eagerpy", "matplotlib", "jinja2"),
    "serve": ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "python_multipart", "watchfiles"),
    "scale": ("ray", "pyarrow"),
    "heic": ("pillow_heif",),
    "fast": ("openvino",),
}


@contextmanager
def reported(debug: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Reports bad input in one line on standard error and exits with status 2.

    Bad input is a `PixelDefendError`, an `OSError`, a missing package that an extra brings, or more than fits into
    memory. Any other exception is a bug and goes on to the caller.

    Args:
        debug: A function that returns whether to show the traceback of bad input, too. It is called if there is an
            error.

    Raises:
        typer.Exit: With status 2 after a report, and with 130 after an interrupt.
    """
    try:
        yield
    except KeyboardInterrupt:  # some versions of typer would exit with 1, "some are flagged"
        raise typer.Exit(130) from None
    except (PixelDefendError, OSError) as error:
        report(error, debug=debug())
        raise typer.Exit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        report(error, f"out of memory: {message_of(error)}", debug=debug())
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        report(error, str(MissingExtraError(str(error.name), extra)), debug=debug())
        raise typer.Exit(2) from None
    except EOFError as error:  # a bug; typer would take it for the end of typed input, and exit with 1
        traceback.print_exception(error)
        raise typer.Exit(2) from None


def message_of(error: Exception) -> str:
    """Returns the text of the one-line report of an error."""
    if isinstance(error, FileExistsError):
        return f"{error.filename} is a file, but must be a folder"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def extra_of(module: str) -> str | None:
    """Returns the first extra that brings a package, or None."""
    package = module.partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def debug_by_environment() -> bool:
    """Returns whether the environment asks for tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def report(error: Exception, message: str | None = None, *, debug: bool = False) -> None:
    """Reports an error in one line on standard error.

    A reader of standard output that has gone, as `head` goes, wants no report.

    Args:
        error: The error.
        message: What is wrong; None for the text of the error.
        debug: Whether to show its traceback, too.
    """
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, BrokenPipeError) and error.filename == STANDARD_OUTPUT:
        return
    from ..screening.records import visible

    note(visible(f"pixeldefend: {message or message_of(error)}"))
