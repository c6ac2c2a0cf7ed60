"""pixeldefend screen: gives a verdict on every image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..errors import ParameterError
from .options import (
    Backend,
    BatchSize,
    Convert,
    DetectorName,
    Device,
    Fpr,
    FramesOfAnimations,
    Paths,
    sources_of,
)
from .output import Format, Row, check_picture, column_of, note, opened, print_table, progress
from .skipped import ListSkipped, exit_status, report_summary

if TYPE_CHECKING:
    from ..screening import Screened, Statistics

COLOURS = {"clean": "green", "adversarial": "bold red", "error": "yellow"}
ALARMS = {
    "drift": "the scores no longer look like those of the calibration images",
    "attacks": "too many images are anomalous",
}


class Engine(StrEnum):
    """The engines that run a screening."""

    local = "local"
    ray = "ray"


def screen(
    paths: Paths,
    detector: DetectorName = None,
    fpr: Fpr = None,
    format_: Annotated[Format, typer.Option("--format", help="The format of the records.")] = Format.table,
    output: Annotated[
        Path | None, typer.Option(help="The file for the records. It is complete, or it is not written.")
    ] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(
            help="The folder for one PNG per image, which shows the image and the surprisal of its pixels. It is "
            "created if it does not exist."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="A PNG file to write, which shows up to 400 images, their verdicts and their surprisals."),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="The classifier, if the detector's statistic needs one: the name of a shipped one ({classifiers}) or "
            "the path of a saved one."
        ),
    ] = None,
    frames: FramesOfAnimations = None,
    convert: Convert = False,
    backend: Backend = None,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
    timing: Annotated[bool, typer.Option("--timing", help="Report the time of each stage on standard error.")] = False,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="Report on standard error whether the images as a whole still look like clean traffic."
        ),
    ] = False,
    list_skipped: ListSkipped = False,
    engine: Annotated[
        Engine,
        typer.Option(
            help="What runs the screening. With ray, several processes or machines write a folder of Parquet files to "
            "--output. This needs the extra 'scale'."
        ),
    ] = Engine.local,
    column: Annotated[
        str | None,
        typer.Option(
            help="For ray: the column of Parquet sources that holds the image files. The default is 'image'. A folder "
            "at a URL is read as Parquet if this option is given or the name of the folder ends in .parquet."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For ray: the number of workers. The default is one per GPU or CPU; on a cluster, it is one fewer.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="For ray: the address of a cluster. By default, Ray runs on this machine.")
    ] = None,
) -> None:
    """Screen images, and write one record per file, in the order of the files.

    Exit status: 0 if no image is flagged, 1 if an image is flagged, 2 on any error. That includes skipped files that
    could not be looked at: files that cannot be read, and broken links.
    """
    if engine is Engine.ray:
        if heatmaps or picture or classifier or timing or drift or format_ is not Format.table:
            raise ParameterError(
                "--engine ray writes Parquet to --output; it takes no other output option, no --drift and no "
                "--classifier"
            )
        options = dict(fpr=fpr, backend=backend, device=device, batch_size=batch_size, column=column, workers=workers)
        options |= dict(frames=None if frames is None else frames.value, convert=convert)
        _screen_on_ray(paths, output, list_skipped, detector=detector, address=ray_address, **options)
    if column is not None or workers is not None or ray_address is not None:
        raise ParameterError("--column, --workers and --ray-address need --engine ray")
    from ..screening import Statistics, find_files
    from ..screening import screen as screen_files
    from ..screening.figures import SHEET, save_contact_sheet, save_heat_map
    from ..zoo import load_classifier

    check_picture(picture)
    statistics = Statistics()
    files = list(find_files(sources_of(paths), statistics))
    if not files:
        raise ParameterError("nothing to screen: standard input lists no file")
    if heatmaps is not None:
        heatmaps.mkdir(parents=True, exist_ok=True)
    results = screen_files(
        files,
        detector,
        fpr=fpr,
        batch_size=batch_size,
        device=device,
        maps=heatmaps is not None or picture is not None,
        drift=drift,
        classifier=None if classifier is None else load_classifier(classifier, device=device),
        backend=backend,
        frames=None if frames is None else frames.value,
        convert=convert,
        statistics=statistics,
    )
    shown: list[Screened] = []
    taken: set[str] = set()
    with _writer(format_, output) as write:
        for result in progress(results, "Screening", len(files)):
            if heatmaps is not None and result.surprisal_map is not None:
                with result.record.noting("output", "the heat map cannot be written"):
                    save_heat_map(result, heatmaps, taken)
                statistics.errors["output"] += result.record.error_kind == "output"
            write(vars(result.record))
            if picture is not None and len(shown) < SHEET:
                shown.append(result)
    if picture is not None:
        if len(files) > SHEET:
            note(f"{picture} shows the first {SHEET} images")
        save_contact_sheet(shown, picture)
    report_summary(statistics, list_skipped=list_skipped)
    if timing:
        _report_times(statistics)
    if drift:
        _report_drift(statistics)
    raise typer.Exit(exit_status(statistics))


def _screen_on_ray(paths: list[str], output: Path | None, list_skipped: bool, **options: Any) -> NoReturn:
    if output is None:
        raise ParameterError("--engine ray needs --output, a folder for Parquet files")
    from ..screening import Statistics
    from ..screening.ray import screen_on_ray

    sources, statistics = sources_of(paths), Statistics()
    if not sources:
        raise ParameterError("nothing to screen: standard input lists no file")
    written = sum(screen_on_ray(sources, output, statistics=statistics, **options).values())
    report_summary(statistics, list_skipped=list_skipped)
    if held := statistics.verdicts.total() - written:
        note(f"{output} held {held} of them already")
    raise typer.Exit(exit_status(statistics))


@contextmanager
def _writer(format_: Format, output: Path | None) -> Iterator[Callable[[Row], None]]:
    """Yields a function that writes one record. JSON lines and CSV are written at once, a table at the end."""
    from ..screening.records import RECORD_COLUMNS, row_writer

    with opened(output) as file:
        if format_ is not Format.table:
            with row_writer(file, format_.value) as write:
                yield write
            return
        rows: list[Row] = []
        yield rows.append
        how: dict[str, Any] = {"verdict": {"style": lambda row: COLOURS[row["verdict"]]}, "error": {"optional": True}}
        how["conversion"] = how["history"] = {"optional": True}
        shown = [column for column in RECORD_COLUMNS if column.title is not None]
        print_table(rows, [column_of(column, **how.get(column.name, {})) for column in shown], file)


def _report_times(statistics: Statistics) -> None:
    seconds = statistics.seconds
    total = sum(seconds.values()) or 1e-9
    shares = ", ".join(f"{name} {value:.2f} s ({value / total:.0%})" for name, value in seconds.items())
    note(f"{statistics.verdicts.total() / total:.0f} files a second: {shares}")


def _report_drift(statistics: Statistics) -> None:
    """Prints one line per detector: the highest e-values, and which are less likely than 1 in 100 by chance."""
    for name, martingale in statistics.martingales.items():
        alarms = martingale.alarms(0.01)
        numbers = ", ".join(f"{what} {value:.3g}" for what, value in martingale.highest_.items())
        words = "; ".join(ALARMS[what] for what, alarm in alarms.items() if alarm) or "no drift from clean traffic"
        note(f"{name}: {words} (highest e-values: {numbers}; an alarm from 200)")
    for name in sorted(statistics.not_tested):
        note(f"{name}: not tested for drift, since it is calibrated for corruptions")
