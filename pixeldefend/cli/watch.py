"""pixeldefend watch: every new file of a folder."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    DEFAULT_LOG,
    BatchSize,
    Convert,
    DetectorName,
    Device,
    Fpr,
    FramesOfAnimations,
    Log,
    MaxDays,
    MaxRows,
)
from .output import note
from .skipped import ListSkipped, report_skipped


def watch(
    folder: Annotated[Path, typer.Argument(help="The folder to watch, with its sub-folders.")],
    quarantine: Annotated[Path | None, typer.Option(help="The folder to which flagged files are moved.")] = None,
    detector: DetectorName = None,
    fpr: Fpr = None,
    log_: Log = DEFAULT_LOG,
    max_rows: MaxRows = None,
    max_days: MaxDays = None,
    settle: Annotated[
        float, typer.Option(min=0, help="The time without changes after which a file is screened, in seconds.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Screen the files that are there, and stop.")] = False,
    frames: FramesOfAnimations = None,
    convert: Convert = False,
    list_skipped: ListSkipped = False,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
) -> None:
    """Screen every new file of a folder once (needs the extra 'serve').

    It prints one line of JSON per file. The log records which files were screened, so the command can be stopped and
    started again at any time. If the folder is deleted or moved away, the command waits until it is back.

    Exit status: 2 if a flagged file could not be moved to quarantine, else 0, also after SIGTERM or SIGINT. With
    --once, the status is also 2 if a new file could not be screened, if a skipped file could not be looked at, or if
    the command was stopped. Flagged images do not change the status.
    """
    from ..screening import Statistics
    from ..screening.audit_log import AuditLog
    from ..screening.pipeline import skipped_text
    from ..screening.watch import watch_folder

    stop = threading.Event()

    def finish(number: int, frame: Any) -> None:
        stop.set()
        # a second signal stops it at once: rows of the log are never half written
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, finish)
    audit_log = AuditLog(log_, max_rows=max_rows, max_days=max_days)
    options: dict[str, Any] = dict(fpr=fpr, batch_size=batch_size, device=device, once=once, settle=settle, stop=stop)
    options |= dict(frames=None if frames is None else frames.value, convert=convert)
    statistics, skipped = Statistics(), Counter[str]()

    def skip(path: str, reason: str) -> None:
        skipped[reason] += 1
        if once:  # an endless watch must not keep all paths
            statistics.skip(path, reason)
        if list_skipped:
            report_skipped(path, reason)

    try:
        for record in watch_folder(
            folder, audit_log, detector=detector, quarantine=quarantine, on_skip=skip, **options
        ):
            statistics.count(record)
            typer.echo(json.dumps(dataclasses.asdict(record)))
            sys.stdout.flush()
    finally:
        audit_log.close()
    if once:
        note(statistics.summary())
    elif skipped:
        note(skipped_text(skipped))
    missed = once and (statistics.not_looked_at or stop.is_set())
    raise typer.Exit(2 if statistics.errors["quarantine"] or missed else 0)
