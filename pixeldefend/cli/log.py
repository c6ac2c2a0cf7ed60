"""pixeldefend log: lists the audit log."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParameterError
from .options import DEFAULT_LOG
from .output import Column, Row, column_of, opened, print_table


class Verdict(StrEnum):
    """A verdict of a screening."""

    clean = "clean"
    adversarial = "adversarial"
    error = "error"


class Feedback(StrEnum):
    """The feedback of a person on a verdict."""

    false_alarm = "false_alarm"
    attack = "attack"
    missed = "missed"
    clean = "clean"


class Listing(StrEnum):
    """The formats of rows of the log."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


def _time(row: Row) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["time"]))
    except (OverflowError, OSError, ValueError):  # no year that a calendar has
        return str(row["time"])


def _note(row: Row) -> str:
    from ..screening.records import visible

    notes = [visible(row["error"] or ""), "query attack" if row["query_attack"] else None, row["feedback"]]
    return "; ".join(note for note in notes if note)


LISTED = ("client", "path", "verdict", "p_value", "bits_per_dim")


def log(
    path: Annotated[Path, typer.Argument(help="The audit log that `serve` or `watch` writes.")] = DEFAULT_LOG,
    verdict: Annotated[Verdict | None, typer.Option(help="List only rows with this verdict.")] = None,
    client: Annotated[str | None, typer.Option(help="List only rows of this client.")] = None,
    feedback: Annotated[Feedback | None, typer.Option(help="List only rows with this feedback.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="List only rows of this number of last days.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="The largest number of rows. The default is 20 for a table, and all rows for other formats."
        ),
    ] = None,
    format_: Annotated[Listing, typer.Option("--format", help="The format of the rows.")] = Listing.table,
    output: Annotated[
        Path | None, typer.Option(help="The file for the rows. It is complete, or it is not written.")
    ] = None,
) -> None:
    """List or export the audit log, the newest rows first."""
    from ..screening.audit_log import AuditLog
    from ..screening.records import LOG_COLUMNS, row_writer

    if format_ is Listing.parquet and output is None:
        raise ParameterError("--format parquet needs --output")
    audit_log = AuditLog(path, read_only=True)
    try:
        rows = audit_log.rows(
            verdict=verdict,
            client=client,
            feedback=feedback,
            since=None if days is None else time.time() - 86400 * days,
            limit=limit or (20 if format_ is Listing.table else None),
        )
        with opened(output, "wb" if format_ is Listing.parquet else "w") as file:
            if format_ is Listing.table:
                declared = {column.name: column for column in LOG_COLUMNS}
                listed = [column_of(declared[name]) for name in LISTED]
                whole = [Column("time (UTC)", _time), *listed, Column("note", _note), column_of(declared["id"])]
                print_table(list(rows), whole, file)
            else:
                with row_writer(file, format_.value, LOG_COLUMNS) as write:
                    for row in rows:
                        write(row)
    finally:
        audit_log.close()
