"""The program: its commands, in the order of its help."""

from __future__ import annotations

import atexit
import gc
import signal
import sys
import traceback

import typer

from ..process import prepare_process
from .benchmark import benchmark, compare, leaderboard
from .calibrate import calibrate
from .errors import report
from .log import log
from .options import Command, Program, program
from .purify import purify
from .recalibrate import recalibrate
from .sample import sample
from .screen import screen
from .serve import serve
from .streams import output_has_failed, prepare_streams
from .train import train_classifier, train_density
from .watch import watch

app = typer.Typer(
    name="pixeldefend", cls=Program, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)
app.callback()(program)
for function in (screen, purify, serve, watch, log, recalibrate, calibrate, sample, benchmark, compare, leaderboard):
    app.command(function.__name__, cls=Command)(function)
train_app = typer.Typer(no_args_is_help=True, help="Train a density or a classifier (needs the extra 'train').")
train_app.command("density", cls=Command)(train_density)
train_app.command("classifier", cls=Command)(train_classifier)
app.add_typer(train_app, name="train")


def main() -> None:
    """Runs the program.

    A command that fails exits with 2, and not with Python's 1, which means "some are flagged". So does a command whose
    output was lost.
    """
    prepare_process()
    _collect_garbage_rarely()
    prepare_streams()
    # a terminated run cleans up as an interrupted one does
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except SystemExit as end:
        if end.code not in (0, 1, None) or not _output_is_lost():
            raise
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(2)


def _collect_garbage_rarely() -> None:
    """Has Python look for garbage less often, and not when it ends.

    Importing torch makes hundreds of thousands of objects that stay. To look at all of them several times would take
    more than a second.
    """
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)


def _output_is_lost() -> bool:
    """Returns whether standard output has failed, which it may do only now."""
    try:
        return output_has_failed()
    except OSError as error:
        report(error)
        return True


if __name__ == "__main__":
    main()
