"""pixeldefend recalibrate: calibrates a detector on confirmed images of the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Fpr
from .output import say


def recalibrate(
    detector: Annotated[
        str, typer.Option(help="The detector: the name of a shipped one ({detectors}) or the path of a saved one.")
    ],
    from_log: Annotated[Path, typer.Option(help="The audit log. Its feedback must confirm images as clean.")],
    out: Annotated[Path, typer.Option(help="The detector to write, a .safetensors file.")],
    fpr: Fpr = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="The backend that computed the scores of the log: {backends}. The default is the backend of the "
            "detector."
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Continue even if the confirmed images do not resemble the rest of the traffic."),
    ] = False,
) -> None:
    """Calibrate a detector on images of your traffic that were confirmed clean, and print the old and new threshold."""
    from ..screening.recalibrate import recalibrate as recalibrate_detector

    made = recalibrate_detector(detector, from_log, out, fpr=fpr, backend=backend, like_traffic=not anyway)
    say(f"{out}: calibrated on {made.confirmed} images of the log that were confirmed clean")
    say(f"threshold at {made.fpr:.2%} false alarms: {made.thresholds[0]:.4g} -> {made.thresholds[1]:.4g}")
    say(f"of {made.traffic} images of the log, flagged: {made.flagged[0]:.2%} -> {made.flagged[1]:.2%}")
