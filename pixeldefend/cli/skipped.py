"""What a search for images has skipped, and the exit status that follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .output import note

if TYPE_CHECKING:
    from ..screening import Statistics

ListSkipped = Annotated[
    bool,
    typer.Option("--list-skipped", help="Name each skipped file on standard error, one per line, with the reason."),
]


def report_skipped(path: str, reason: str) -> None:
    """Names a skipped file on standard error, in one line.

    Args:
        path: The file. Control characters and bytes that are not valid UTF-8 are escaped.
        reason: A key of `pixeldefend.images.files.SKIP_REASONS`.
    """
    from ..screening.records import visible

    note(f"skipped ({reason}): {visible(path)}")


def report_summary(statistics: Statistics, *, list_skipped: bool) -> None:
    """Prints the summary of a screening on standard error.

    Args:
        statistics: The counts.
        list_skipped: Whether to name the skipped files first.
    """
    if list_skipped:
        for reason, paths in statistics.skipped.items():
            for path in paths:
                report_skipped(path, reason)
    note(statistics.summary())


def exit_status(statistics: Statistics) -> int:
    """Returns 2 on any error or if something could not be looked at, else 1 if an image is flagged, else 0."""
    failed = statistics.not_looked_at or statistics.errors.total()
    return 2 if failed else 1 if statistics.verdicts["adversarial"] else 0
