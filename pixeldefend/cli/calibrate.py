"""pixeldefend calibrate: makes a detector of a trained density, or adapts one to photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParameterError
from .options import DataDir, Device, OptionalData
from .output import note, say

WITH_PHOTOS = {"density", "photos", "out", "fpr", "device"}  # the options that --photos takes


def calibrate(
    context: typer.Context,
    density: Annotated[
        str,
        typer.Option(
            help="The density: the density.safetensors that `train density` wrote, the path of a saved detector, or "
            "the name of a shipped one ({detectors})."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The detector to write, a .safetensors file.")],
    data: OptionalData = None,
    photos: Annotated[
        list[str],
        typer.Option(
            help="A folder of your own clean photographs, a few hundred or more. The detector of photographs that "
            "--density names is then calibrated for them, history by history. Of the other options, only --out, --fpr "
            "and --device can be given with it. The option may be repeated."
        ),
    ] = [],  # noqa: B006
    statistic: Annotated[
        str,
        typer.Option(
            help="The statistic that gives an image its anomaly score: {statistics}. With --classifier, it may also be "
            "{classifier_statistics}; with --alternative, {alternative_statistics}."
        ),
    ] = "excess_surprisal",
    classifier: Annotated[
        str | None,
        typer.Option(
            help="The classifier for statistics that need one: the name of a shipped one ({classifiers}) or the path "
            "of a saved one."
        ),
    ] = None,
    alternative: Annotated[
        str | None,
        typer.Option(
            help="The density of perturbed images for statistics that need one: the density.safetensors that "
            "`train density --perturb` wrote."
        ),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(
            help="The false-alarm rate: the largest share of clean images that are flagged. By default 0.01, or the "
            "rate of the detector that --photos adapts."
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="The probability, over the draw of the calibration images, that the false-alarm rate is at most "
            "--fpr. By default, the rate is at most --fpr on average."
        ),
    ] = None,
    corruption: Annotated[
        list[str],
        typer.Option(
            help="A benign corruption in your own pipeline: {corruptions}. The false-alarm rate then also holds for "
            "corrupted images. The option may be repeated."
        ),
    ] = [],  # noqa: B006
    backend: Annotated[
        list[str],
        typer.Option(help="A further backend for which to calibrate: {backends}. The option may be repeated."),
    ] = [],  # noqa: B006
    data_dir: DataDir = Path("data"),
    device: Device = "cpu",
) -> None:
    """Calibrate a detector with a trained density, and measure its false alarms on clean test images.

    The data set must be the training data of the density, or entirely new to the density. The calibration images are
    held out from training.
    """
    if photos:
        sources = {name: context.get_parameter_source(name) for name in context.params.keys() - WITH_PHOTOS}
        if any(source is not None and source.name == "COMMANDLINE" for source in sources.values()):
            raise ParameterError(
                "--photos takes --density, --out, --fpr and --device only: leave the other options out"
            )
        _adapt(density, photos, out, fpr, device)
        return
    if data is None:
        raise ParameterError("give --data, a data set, or --photos, a folder of photographs")
    from ..training.calibrate import calibrate as calibrate_detector

    made = calibrate_detector(
        density,
        data,
        out,
        statistic=statistic,
        classifier=classifier,
        alternative=alternative,
        fpr=0.01 if fpr is None else fpr,
        confidence=confidence,
        corruptions=corruption,
        backends=backend,
        data_dir=data_dir,
        device=device,
    )
    metrics = made.metrics
    bits = f" {metrics['test_bits_per_dim']:.4f} bits/dim," if "test_bits_per_dim" in metrics else ""
    density_made = made.detector.density
    what = "images" if density_made is not None and len(density_made.event_shape or ()) == 3 else "events"
    say(f"{out}: on {metrics['test_images']} clean test {what}{bits} {metrics['test_false_alarms']:.2%} flagged")


def _adapt(detector: str, photos: list[str], out: Path, fpr: float | None, device: str) -> None:
    from ..training.calibrate import adapt

    made = adapt(detector, photos, out, fpr=fpr, device=device)
    for path, reason in made.skipped.items():
        note(f"{path}: {reason}")
    total = sum(made.histories.values())
    say(f"{out}: calibrated on {total} photographs, of which {detector} flagged {made.flagged:.2%} before")
    for history, number in made.histories.items():
        say(f"  {history}: {number}")
