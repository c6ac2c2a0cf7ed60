"""The command line: pixeldefend screen, purify, serve, watch, log, train, calibrate, recalibrate, sample, benchmark,
compare, leaderboard."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..errors import ParameterError

if TYPE_CHECKING:
    from ..screening import Screened, Statistics

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
train_app = typer.Typer(no_args_is_help=True, help="Train a density or a classifier (needs the extra 'train').")
app.add_typer(train_app, name="train")


# -- screen --------------------------------------------------------------------------------------------------------


class Format(StrEnum):
    table = "table"
    jsonl = "jsonl"
    csv = "csv"


class Engine(StrEnum):
    local = "local"
    ray = "ray"


@app.command()
def screen(
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders, glob patterns; - reads a list of files from standard input.")
    ],
    detector: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped detector or path of a saved one; by default the one that fits each image's size."
        ),
    ] = None,
    fpr: Annotated[
        float | None, typer.Option(help="Rate of false alarms; by default the detector's own, 0.01.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How records are written.")] = Format.table,
    output: Annotated[Path | None, typer.Option(help="Write records to this file, whole or not at all.")] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(help="Write a PNG for each image to this folder: the image and the surprisal of its pixels."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write one picture of all images, verdicts and surprisals.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="A shipped or saved classifier, for a detector whose score asks it.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="What runs the density: float32, bfloat16, openvino; by default the detector's own."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    timing: Annotated[bool, typer.Option("--timing", help="Say on standard error where the time went.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Say on standard error whether these images as a whole still look like clean traffic."
        ),
    ] = False,
    engine: Annotated[
        Engine,
        typer.Option(help="ray: several processes or machines, a folder of Parquet as --output (extra 'scale')."),
    ] = Engine.local,
    column: Annotated[
        str | None,
        typer.Option(
            help="Of Parquet sources, for ray: what holds the image files, by default 'image'. A folder at a URL is "
            "taken for Parquet if this is given or its name ends in .parquet."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="For ray; by default one a CPU (of a cluster all but one), or a GPU.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Of a cluster; by default this machine is one.")] = None,
) -> None:
    """Screen images: one record a file, in order. Exit status: 0 if none is flagged, 1 if some are, 2 on any error."""
    if engine is Engine.ray:
        if heatmaps or picture or classifier or timing or watch or format_ is not Format.table:
            _refuse("--engine ray writes Parquet to --output, and knows no other output option and no --classifier")
        options = dict(fpr=fpr, backend=backend, device=device, batch_size=batch_size, column=column, workers=workers)
        _screen_on_ray(paths, output, detector=detector, address=ray_address, **options)
    if column is not None or workers is not None or ray_address is not None:
        _refuse("--column, --workers and --ray-address are for --engine ray")
    from ..screening import Statistics, find_files
    from ..screening import screen as screen_files

    sources = [source for path in paths for source in (_standard_input() if path == "-" else [path]) if source]
    statistics = Statistics()
    files = list(find_files(sources, statistics))
    if not files:
        _refuse("nothing to screen: standard input holds no path")
    from ..screening.figures import SHEET

    pictured: list[Screened] = []
    with _refusals():
        _check_picture(picture)
        if heatmaps is not None:
            heatmaps.mkdir(parents=True, exist_ok=True)
        asked = None
        if classifier is not None:
            from ..zoo import load_classifier

            asked = load_classifier(classifier, device=device)
        results = screen_files(
            files,
            detector,
            fpr=fpr,
            batch_size=batch_size,
            device=device,
            maps=heatmaps is not None or picture is not None,
            drift=watch,
            classifier=asked,
            backend=backend,
            statistics=statistics,
        )
        with _writer(format_, output) as write:
            for result in _progress(results, len(files)):
                write(result)
                if heatmaps is not None and result.surprisal_map is not None:
                    from ..screening.figures import save_heat_map

                    save_heat_map(result, heatmaps)
                if picture is not None and len(pictured) <= SHEET:
                    pictured.append(result)
        if picture is not None:
            from ..screening.figures import save_contact_sheet

            if len(pictured) > SHEET:
                typer.echo(f"{picture} shows the first {SHEET} images", err=True)
            save_contact_sheet(pictured[:SHEET], picture)
    _summarise(statistics, timing)
    if watch:
        _say_what_changed(statistics)
    raise typer.Exit(2 if statistics.verdicts["error"] else 1 if statistics.verdicts["adversarial"] else 0)


def _screen_on_ray(sources: list[str], output: Path | None, **options: Any) -> NoReturn:
    if output is None:
        _refuse("--engine ray wants --output, a folder of Parquet")
    with _refusals():
        from ..screening.ray import screen_on_ray

        counts = screen_on_ray(sources, output, **options)
    listed = ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in ("clean", "adversarial", "error"))
    resumed = "" if sum(counts.values()) else f"; {output} held them all"
    typer.echo(f"{sum(counts.values())} files: {listed}{resumed}", err=True)
    raise typer.Exit(2 if counts.get("error") else 1 if counts.get("adversarial") else 0)


@contextmanager
def _writer(format_: Format, output: Path | None) -> Iterator[Any]:
    """Yields a function that takes one result; what it was given is complete in `output` when the block ends well."""
    from ..screening.records import row_writer
    from ..serialization import whole_file

    rows: list[dict[str, Any]] = []
    with whole_file(output) if output is not None else _standard_output() as file:
        if format_ is Format.table:
            yield lambda result: rows.append(vars(result.record))
            _print_table(rows, file)
        else:
            with row_writer(file, format_.value) as write:
                yield lambda result: write(result.record)


def _check_picture(picture: Path | None) -> None:
    if picture is None:
        return
    from ..serialization import check_writable

    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise ParameterError(f"--picture wants the name of a .png file in a folder that exists, got {picture}")
    check_writable(picture)


@contextmanager
def _standard_output() -> Iterator[IO[str]]:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be valid UTF-8
    yield sys.stdout


def _standard_input() -> list[str]:
    return os.fsdecode(sys.stdin.buffer.read()).replace("\r\n", "\n").split("\n")


def _print_table(rows: list[dict[str, Any]], file: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..screening.records import visible

    colours = {"clean": "green", "adversarial": "bold red", "error": "yellow"}
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("verdict")
    table.add_column("p-value", justify="right")
    table.add_column("bits/dim", justify="right")
    table.add_column("score", justify="right")
    table.add_column("error", overflow="fold")
    errors = any(row["error"] for row in rows)
    for row in rows:
        numbers = [("p_value", ".4f"), ("bits_per_dim", ".3f"), ("score", ".2f")]
        table.add_row(
            Text(visible(row["path"])),
            Text(row["verdict"], colours[row["verdict"]]),
            *("" if row[name] is None else format(row[name], spec) for name, spec in numbers),
            Text(visible(row["error"] or "")),
        )
    if not errors:
        table.columns.pop()
    console = Console(file=file, highlight=False)
    if not console.is_terminal:  # no folding in pipes and files
        console = Console(file=file, highlight=False, width=1000)
    console.print(table)


def _progress(results: Iterable[Screened], total: int, what: str = "Screening") -> Iterator[Screened]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, what, total, console=Console(stderr=True), transient=True)


def _summarise(statistics: Statistics, timing: bool) -> None:
    typer.echo(statistics.summary(), err=True)
    if timing:
        seconds = statistics.seconds
        total = sum(seconds.values()) or 1e-9
        shares = ", ".join(f"{name} {value:.2f} s ({value / total:.0%})" for name, value in seconds.items())
        typer.echo(f"{statistics.verdicts.total() / total:.0f} files a second: {shares}", err=True)


def _say_what_changed(statistics: Statistics) -> None:
    """One line a detector: the highest e-values of the stream, and which of them are beyond 1 in 100 by chance."""
    said = {"drift": "scores have drifted from the calibration images'", "attacks": "too many images are suspicious"}
    for name, martingale in statistics.martingales.items():
        alarms = martingale.alarms(0.01)
        numbers = ", ".join(f"{what} {value:.3g}" for what, value in martingale.highest_.items())
        words = "; ".join(said[what] for what, alarm in alarms.items() if alarm) or "like clean traffic"
        typer.echo(f"{name}: {words} (highest e-values: {numbers}; an alarm from 200)", err=True)


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"pixeldefend: {reason}", err=True)
    raise typer.Exit(2)


EXTRAS = {
    "serve": ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "python_multipart", "watchfiles"),
    "scale": ("ray", "pyarrow"),
}


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what is wrong with the input into one line on standard error and exit status 2."""
    try:
        yield
    except FileExistsError as error:  # of mkdir
        _refuse(f"{error.filename} is a file, where a folder is wanted")
    except (ValueError, OSError, RuntimeError) as error:
        _refuse(str(error))
    except ModuleNotFoundError as error:
        if error.name == "openvino":
            _refuse(str(error))
        for extra, names in EXTRAS.items():
            if error.name in names:
                _refuse(f"{error.name} is missing: pip install 'pixeldefend[{extra}]'")
        if error.name != "lightning":
            raise
        _refuse("training needs the extra 'train': pip install 'pixeldefend[train]'")


# -- purify --------------------------------------------------------------------------------------------------------


@app.command()
def purify(
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders, glob patterns; - reads a list of files from standard input.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the purified images, PNGs; made if it is not there.")],
    eps: Annotated[int, typer.Option(help="How far a sub-pixel may move, in 8-bit steps, 0 to 255.")] = 16,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped detector or path of a saved one; by default the one that fits each image's size."
        ),
    ] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Leave alone what the detector does not flag.")] = False,
    classifier: Annotated[
        str | None, typer.Option(help="A shipped classifier, or a saved one, to label images before and after.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write one picture: images, surprisals, purified images, what changed.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images purified at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
) -> None:
    """Move images back towards what is probable (PixelDefend): one line of JSON a file, one PNG each that has no error.
    Exit status: 0, or 2 on any error."""
    from PIL import Image

    from ..screening import find_files
    from ..screening import screen as screen_files
    from ..screening.figures import SHEET, save_purified_sheet
    from ..screening.purify import Purified, purify_screened
    from ..serialization import whole_file
    from ..zoo import load_classifier

    sources = [source for path in paths for source in (_standard_input() if path == "-" else [path]) if source]
    pictured: list[Purified] = []
    failed = False
    with _refusals(), _standard_output() as lines:
        _check_picture(picture)
        files = list(find_files(sources))
        if not files:
            raise ParameterError("nothing to purify: standard input holds no path")
        asked = None if classifier is None else load_classifier(classifier, device=device)
        screened = screen_files(
            files, detector, batch_size=batch_size, device=device, maps=picture is not None, classifier=asked
        )
        results = purify_screened(
            _progress(screened, len(files), "Purifying"),
            eps,
            detector,
            adaptive=adaptive,
            classifier=asked,
            batch_size=batch_size,
            device=device,
        )
        out.mkdir(parents=True, exist_ok=True)
        for item in results:
            record = item.screened.record
            row: dict[str, Any] = {"path": record.path, "purified": None, "changed": None, "error": record.error}
            if item.image is not None:
                assert item.screened.image is not None
                with whole_file(out / record.picture_name(), "wb") as file:
                    Image.fromarray(item.image).save(file, "PNG")
                row["purified"] = str(out / record.picture_name())
                before = item.screened.image if item.screened.image.shape == item.image.shape else None
                row["changed"] = None if before is None else float((before != item.image).mean())
                row |= {"p_value": [record.p_value, item.p_value]}
                row |= {"bits_per_dim": [record.bits_per_dim, item.bits_per_dim]}
                if asked is not None:
                    row["label"] = [item.label_before, item.label_after]
                if picture is not None and len(pictured) < SHEET // 4:
                    pictured.append(item)
            failed |= record.error is not None
            lines.write(json.dumps(row) + "\n")
        if picture is not None:
            save_purified_sheet(pictured, picture)
    raise typer.Exit(2 if failed else 0)


# -- serve, watch, log -------------------------------------------------------------------------------------------------

Log = Annotated[Path, typer.Option("--log", help="The audit log, an SQLite file; made if it is not there.")]
MaxRows = Annotated[int | None, typer.Option(min=1, help="Keep no more than so many rows of the log.")]
MaxDays = Annotated[float | None, typer.Option(help="Keep rows of the log no longer than so many days.")]
LOG = Path("pixeldefend-log.sqlite")


@app.command()
def serve(
    detector: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped detector or path of a saved one; by default the one that fits each image."
        ),
    ] = None,
    fpr: Annotated[float | None, typer.Option(help="Rate of false alarms; by default the detector's own.")] = None,
    classifier: Annotated[
        str | None,
        typer.Option(help="A shipped or saved classifier: the page shows its labels, where it fits the image."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="What runs the density: float32, bfloat16, openvino; by default the detector's own."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, and says which.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Who sends one of these keys is served: a key a line, or a client's name and key."),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Serve everybody who reaches an address beyond the loopback.")
    ] = False,
    log_: Log = LOG,
    max_rows: MaxRows = None,
    max_days: MaxDays = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Keep the bytes of flagged images in this folder; by default none are kept.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once, at most.")] = 64,
    wait: Annotated[float, typer.Option(min=0, help="Milliseconds that an image waits for others.")] = 5.0,
    capacity: Annotated[int, typer.Option(min=1, help="Images that may wait; beyond, the answer is 503.")] = 512,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds to an answer; beyond, it is 504.")] = 30.0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a body; beyond, the answer is 413.")] = 8 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image; beyond, the answer is 422.")] = 2**20,
) -> None:
    """Serve a web page and an API that screen images (needs the extra 'serve'). Every verdict is logged before it is
    given. Exit status: 0 when told to stop (SIGTERM, SIGINT)."""
    with _refusals():
        from ..serving.server import run

        run(
            detector,
            fpr=fpr,
            classifier=classifier,
            backend=backend,
            device=device,
            host=host,
            port=port,
            api_key_file=api_key_file,
            without_key=without_key,
            log=log_,
            max_rows=max_rows,
            max_days=max_days,
            quarantine=quarantine,
            batch_size=batch_size,
            wait=wait / 1000,
            capacity=capacity,
            deadline=deadline,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
        )


@app.command("watch")
def watch_files(
    folder: Annotated[Path, typer.Argument(help="The folder to watch, with those in it.")],
    quarantine: Annotated[Path | None, typer.Option(help="Move flagged files to this folder.")] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Name of a shipped detector or path of a saved one; by default the one that fits each image."
        ),
    ] = None,
    fpr: Annotated[float | None, typer.Option(help="Rate of false alarms; by default the detector's own.")] = None,
    log_: Log = LOG,
    max_rows: MaxRows = None,
    max_days: MaxDays = None,
    settle: Annotated[float, typer.Option(min=0, help="Seconds that a file must not have changed.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Screen what is there, and stop.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images scored at once.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
) -> None:
    """Screen every file that comes into a folder, once: a line of JSON each (needs the extra 'serve'). The log knows
    what was screened: it can be stopped and started again at any time. Exit status: 0 when told to stop."""
    import threading

    stop = threading.Event()

    def finish(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # told again, it stops at once: the log is written as a whole

    with _refusals():
        from ..screening.audit_log import AuditLog
        from ..screening.watch import watch_folder

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, finish)
        log_of = AuditLog(log_, max_rows=max_rows, max_days=max_days)
        try:
            for record in watch_folder(
                folder,
                log_of,
                detector=detector,
                fpr=fpr,
                quarantine=quarantine,
                settle=settle,
                once=once,
                stop=stop,
                batch_size=batch_size,
                device=device,
            ):
                typer.echo(json.dumps(dataclasses.asdict(record)))
                sys.stdout.flush()
        finally:
            log_of.close()


class Verdict(StrEnum):
    clean = "clean"
    adversarial = "adversarial"
    error = "error"


class Feedback(StrEnum):
    false_alarm = "false_alarm"
    attack = "attack"
    missed = "missed"
    clean = "clean"


class Listed(StrEnum):
    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


@app.command("log")
def list_log(
    path: Annotated[Path, typer.Argument(help="The audit log that `serve` or `watch` writes.")] = LOG,
    verdict: Annotated[Verdict | None, typer.Option(help="Only these.")] = None,
    client: Annotated[str | None, typer.Option(help="Only this client's.")] = None,
    feedback: Annotated[Feedback | None, typer.Option(help="Only those so marked.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Only those of the last so many days.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many; by default 20 in a table.")] = None,
    format_: Annotated[Listed, typer.Option("--format", help="How rows are written.")] = Listed.table,
    output: Annotated[Path | None, typer.Option(help="Write to this file, whole or not at all.")] = None,
) -> None:
    """List or export the audit log, the newest rows first."""
    import time

    with _refusals():
        from ..screening.audit_log import AuditLog
        from ..screening.records import LOG_COLUMNS, row_writer
        from ..serialization import whole_file

        log_of = AuditLog(path, read_only=True)
        rows = log_of.rows(
            verdict=verdict,
            client=client,
            feedback=feedback,
            since=None if days is None else time.time() - 86400 * days,
            limit=limit or (20 if format_ is Listed.table else None),
        )
        if format_ is Listed.parquet and output is None:
            raise ParameterError("--format parquet wants --output")
        mode = "wb" if format_ is Listed.parquet else "w"
        with whole_file(output, mode) if output is not None else _standard_output() as file:
            if format_ is Listed.table:
                _print_log(rows, file)
            else:
                with row_writer(file, format_.value, LOG_COLUMNS) as write:
                    for row in rows:
                        write(row)
        log_of.close()


def _print_log(rows: Iterable[dict[str, Any]], file: IO[str]) -> None:
    import time

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..screening.records import visible

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("time (UTC)", "client", "image", "verdict", "p-value", "bits/dim", "note", "id"):
        table.add_column(title, overflow="fold")
    for row in rows:
        notes = [row["error"], "query attack" if row["query_attack"] else None, row["feedback"]]
        numbers = [("p_value", ".4f"), ("bits_per_dim", ".3f")]
        cells = [
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["time"])),
            row["client"] or "",
            row["path"] or "",
            row["verdict"],
            *("" if row[name] is None else format(row[name], spec) for name, spec in numbers),
            "; ".join(note for note in notes if note),
            row["id"],
        ]
        table.add_row(*(Text(visible(cell)) for cell in cells))
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=1000)
    console.print(table)


@app.command()
def recalibrate(
    detector: Annotated[str, typer.Option(help="Name of a shipped detector or path of a saved one.")],
    from_log: Annotated[Path, typer.Option(help="The audit log, with images confirmed clean.")],
    out: Annotated[Path, typer.Option(help="The detector to write, a .safetensors file.")],
    fpr: Annotated[float | None, typer.Option(help="Rate of false alarms; by default the detector's own.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Of the scores in the log: float32, bfloat16; by default the detector's own.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even if the confirmed images are not like the traffic.")
    ] = False,
) -> None:
    """Calibrate a detector on images of your traffic that were confirmed clean, and tell how its threshold moves."""
    with _refusals():
        from ..detectors.backends import PRECISION
        from ..screening.audit_log import AuditLog
        from ..screening.feedback import confirmed_clean
        from ..zoo import detector_sha256, load_detector

        log_of = AuditLog(from_log, read_only=True)
        before = load_detector(detector, backend=backend)
        if fpr is not None:
            before = before.with_fpr(fpr)
        digest = detector_sha256(detector)
        assert digest is not None  # it was loaded from that file
        found = confirmed_clean(log_of, digest, PRECISION[before.backend], like_traffic=not anyway)
        after = before.with_calibration(found.scores)
        after.save(
            out, recalibrated=dict(confirmed=len(found.scores), traffic=len(found.traffic), detector_sha256=digest)
        )
        log_of.close()
        typer.echo(f"{out}: calibrated on {len(found.scores)} images of the log that were confirmed clean")
        typer.echo(f"threshold at {after.fpr:.2%} false alarms: {-before.offset_:.4g} -> {-after.offset_:.4g}")
        shares = [(found.traffic > -made.offset_).mean() for made in (before, after)]
        typer.echo(f"of {len(found.traffic)} images of the log, flagged: {shares[0]:.2%} -> {shares[1]:.2%}")


# -- calibrate -----------------------------------------------------------------------------------------------------


@app.command()
def calibrate(
    density: Annotated[
        str, typer.Option(help="The density.safetensors that `train density` wrote, or a shipped or saved detector's.")
    ],
    data: Annotated[
        str, typer.Option(help="The data set that it was trained on: clean images held out from training calibrate.")
    ],
    out: Annotated[Path, typer.Option(help="The detector to write, a .safetensors file.")],
    score: Annotated[
        str, typer.Option(help="A name in pixeldefend.scores.SCORES, or with --classifier in CLASSIFIER_SCORES.")
    ] = "excess_surprisal",
    classifier: Annotated[
        str | None, typer.Option(help="A shipped or saved classifier, for the scores that ask it.")
    ] = None,
    fpr: Annotated[float, typer.Option(help="The detector's rate of false alarms.")] = 0.01,
    confidence: Annotated[
        float | None,
        typer.Option(
            help="Keep fpr with this probability over the draw of the calibration images (0.95, say), not on average."
        ),
    ] = None,
    transformation: Annotated[
        list[str],
        typer.Option(
            help="Benign, of your own pipeline (jpeg-75 ...): keep the rate for images that went through it too. "
            "May be given several times."
        ),
    ] = [],  # noqa: B006
    backend: Annotated[
        list[str], typer.Option(help="Calibrate for this backend too (bfloat16); may be given several times.")
    ] = [],  # noqa: B006
    data_dir: Annotated[Path, typer.Option(help="Where named data sets are kept, and downloaded to if absent.")] = Path(
        "data"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
) -> None:
    """Make a detector of a trained density, and try it on the data set's clean test images."""
    import numpy as np
    import torch

    from ..data import DATASETS, load_dataset
    from ..detectors import Detector
    from ..eval.adapters import recipe_of
    from ..serialization import check_writable
    from ..zoo import load_classifier, load_density

    with _refusals():
        check_writable(out)
        model = load_density(density, device=device)
        shape = model.event_shape or ()
        images = load_dataset(data, data_dir, length=shape[0] if len(shape) == 1 else 256)
        recipe = {"torch": torch.__version__, **recipe_of(density)}
        other = recipe.get("train_sha256", images.train.digest()) != images.train.digest()
        named = {recipe.get("data"), data}
        if other and not (len(named) == 2 and recipe.get("data") in DATASETS):  # of other data it has seen nothing
            raise ParameterError(
                f"{density} was trained on other images than {data} holds now: some may be held out no more"
            )
        asked = None if classifier is None else load_classifier(classifier, device=device)
        detector = Detector(model, statistic=score, fpr=fpr, confidence=confidence, classifier=asked)
        detector.fit(images.calibration.x, X_fit=images.fit.x, corruptions=transformation, backends=backend)
        verdicts = detector.judge(images.test.x)
        metrics = {
            "test_images": len(images.test),
            "test_bits_per_dim": float(verdicts.bits_per_dim.mean()),
            "test_false_alarms": float(verdicts.is_adversarial.mean()),
        }
        if np.isnan(metrics["test_bits_per_dim"]):  # of rows of real numbers
            del metrics["test_bits_per_dim"]
        notes = {"data": data, "calibration_images": len(images.calibration), "metrics": metrics, "recipe": recipe}
        detector.save(out, **notes)
    bits = f" {metrics['test_bits_per_dim']:.4f} bits/dim," if "test_bits_per_dim" in metrics else ""
    what = "images" if len(shape) == 3 else "events"
    typer.echo(f"{out}: on {metrics['test_images']} clean test {what}{bits} {metrics['test_false_alarms']:.2%} flagged")


# -- sample --------------------------------------------------------------------------------------------------------


@app.command()
def sample(
    density: Annotated[str, typer.Argument(help="Name of a shipped detector, or a density's or a detector's file.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(help="A .png for images, one .wav for audio, an .npz or .txt; by default text is printed."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    temperature: Annotated[float, typer.Option(help="Below 1: more probable and less varied.")] = 1.0,
    length: Annotated[int | None, typer.Option(min=1, help="Characters or samples, of text and audio.")] = None,
    rate: Annotated[int, typer.Option(min=1, help="Of a .wav, in Hz.")] = 8000,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
) -> None:
    """Draw new images, texts or sounds from a density model."""
    import numpy as np
    import torch

    from ..data import write_wav
    from ..densities import Autoregressive, SequenceModel
    from ..densities.wavenet import mu_law_decode
    from ..screening.figures import save_grid
    from ..serialization import check_writable, whole_file
    from ..zoo import load_density

    with _refusals():
        model = load_density(density, device=device)
        if not isinstance(model, Autoregressive):
            raise ParameterError(f"{density} is a {type(model).__name__}; its samples are had in Python, by .sample(n)")
        text = model.vocabulary if isinstance(model, SequenceModel) else None
        suffix = "" if out is None else out.suffix.lower()
        kinds = {"text": ("", ".txt"), "images": (".png", ".npz"), "sequences": (".wav", ".npz"), "rows": (".npz",)}
        if len(model.event_shape) == 3:
            kind = "images"
        elif isinstance(model, SequenceModel):
            kind = "text" if text else "sequences" if model.levels == 256 else "rows"
        else:
            kind = "rows"
        if suffix not in kinds[kind]:
            wanted = " or ".join(suffix for suffix in kinds[kind] if suffix)
            raise ParameterError(f"{density} models {kind}: --out wants a file {wanted}, got {out or 'none'}")
        if prompt and kind != "text":
            raise ParameterError(f"{density} models {kind}, which have no prompt")
        if out is not None:
            check_writable(out)
        x = model.sample(
            n,
            generator=torch.Generator(device).manual_seed(seed),
            progress=_sites,
            given=model.encode(prompt) if prompt and isinstance(model, SequenceModel) else None,
            temperature=temperature,
            length=length,
        ).cpu()
        if kind == "text":
            assert isinstance(model, SequenceModel)
            written = "\n\n".join(model.decode(x)) + "\n"
            if out is None:
                typer.echo(written, nl=False)
                return
            with whole_file(out) as file:
                file.write(written)
        elif suffix == ".wav":
            assert out is not None
            write_wav(out, mu_law_decode(x).flatten().numpy(), rate)
        else:
            assert out is not None
            if kind == "images":
                x = (255 * x).round() if model.levels is not None else (256 * x).floor().clamp(0, 255)
                x = x.to(torch.uint8).movedim(1, -1).squeeze(-1)
            if suffix == ".png":
                save_grid(x.numpy(), out)
            else:
                with whole_file(out, "wb") as file:
                    np.savez_compressed(file, x=x.numpy())
    typer.echo(f"{out}: {n} samples of {density}", err=True)


def _sites(sites: list[Any]) -> Iterable[Any]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return sites
    from rich.console import Console
    from rich.progress import track

    return track(sites, "Sampling", console=Console(stderr=True), transient=True)


# -- benchmark -----------------------------------------------------------------------------------------------------


class Suite(StrEnum):
    quick = "quick"
    standard = "standard"
    adaptive = "adaptive"
    full = "full"


@app.command()
def benchmark(
    detector: Annotated[
        list[str],
        typer.Option(
            help="A shipped or saved detector, a baseline (random, feature-squeezing, autoencoder, mahalanobis, lid) "
            "or MODULE:OBJECT; several are compared in one table."
        ),
    ],
    classifier: Annotated[
        str, typer.Option(help="A shipped or saved classifier, a TorchScript or torch.export file, or MODULE:OBJECT.")
    ],
    data: Annotated[str, typer.Option(help="fashion-mnist, mnist, cifar10, a folder, or an .npz with x and y.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for results.json, .md, roc.png and report.html; for comparison.json and .md of several."
        ),
    ],
    suite: Annotated[
        Suite | None,
        typer.Option(
            help="quick: five attacks on 100 images; standard: all attacks, 1,000 images; adaptive: also attackers who "
            "know the detector; full: all test images. Options given beside it count; of several detectors, what is "
            "for one at a time is left out."
        ),
    ] = None,
    attacks: Annotated[str, typer.Option(help="Comma-separated names; by default all.")] = "",
    scores: Annotated[
        str,
        typer.Option(
            help="Comma-separated names; by default all but those that take several passes (of several detectors: "
            "bits_per_dim and excess_surprisal)."
        ),
    ] = "",
    controls: Annotated[
        bool, typer.Option("--controls", help="Also say how often benignly transformed clean images are flagged.")
    ] = False,
    other: Annotated[list[str], typer.Option(help="Other data of the same shape: say how often it is flagged.")] = [],  # noqa: B006
    by_class: Annotated[bool, typer.Option("--by-class", help="Also count the false alarms of each class.")] = False,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Also fit a classifier of all scores to each attack, for comparison.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Attack the first N test images only.")] = None,
    clean: Annotated[
        int | None,
        typer.Option(min=1, help="Use the first N test images as clean ones; by default as many as are attacked."),
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where named data sets are kept, and downloaded to if absent.")] = Path(
        "data"
    ),
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    adaptive: Annotated[
        str, typer.Option(help="Attacks that know the detector, comma-separated, or all: joint-pgd, bpda-pgd ...")
    ] = "",
    eps: Annotated[str, typer.Option(help="Their budgets in 8-bit steps, comma-separated.")] = "",
    steps: Annotated[int | None, typer.Option(min=1, help="Their steps; by default 100.")] = None,
    restarts: Annotated[int | None, typer.Option(min=1, help="Their starts; by default 1.")] = None,
    adaptive_limit: Annotated[int | None, typer.Option(min=1, help="Images that they attack; by default 100.")] = None,
    expensive_limit: Annotated[
        int | None, typer.Option(min=1, help="... without gradients, by transfer or purified; by default 20.")
    ] = None,
    expensive_eps: Annotated[str, typer.Option(help="... and within these budgets; by default the same.")] = "",
    surrogate_classifier: Annotated[
        str | None, typer.Option(help="Of one who attacks by transfer: as --classifier.")
    ] = None,
    surrogate_detector: Annotated[
        str | None, typer.Option(help="Of one who attacks by transfer: as --detector.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep attacked images in this folder; run again, it goes on from there.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the attacks' random starts.")] = 0,
) -> None:
    """Measure how well attacks are detected: thresholds are frozen on clean calibration images, then test images are
    attacked; for each attack and score, AUROC and the share detected at 1 % and 5 % false alarms. Writes results.json
    and .md, roc.png and report.html, a page that says it all."""
    from ..data import load_dataset
    from ..eval import (
        SUITES,
        Cache,
        compare,
        find_classifier,
        find_detector,
        recipe_of,
        run_benchmark,
        write_comparison,
        write_report,
    )

    with _refusals():
        titles = [Path(name).stem for name in detector]
        if len(set(titles)) < len(titles):
            raise ParameterError(f"detectors are told apart by their files' names, got {', '.join(titles)}")
        if len(titles) > 1 and (controls or other or oracle or by_class):
            raise ParameterError("--controls, --other, --oracle and --by-class are for one detector at a time")
        if (surrogate_classifier is None) != (surrogate_detector is None):
            raise ParameterError("--surrogate-classifier and --surrogate-detector go together")
        attacked, images = find_classifier(classifier, device=device), load_dataset(data, data_dir)
        detectors = {
            title: find_detector(name, attacked, images, device=device)
            for title, name in zip(titles, detector, strict=True)
        }
        options: dict[str, Any] = dict(
            seed=seed,
            others=[load_dataset(name, data_dir) for name in other],
            cache=Cache(keep),
            log=lambda line: typer.echo(line, err=True),
        )
        chosen = dict(SUITES[suite]) if suite is not None else {}
        if len(titles) > 1:
            for name in ("controls", "oracle", "by_class"):  # for one at a time; a suite may ask for them
                chosen.pop(name, None)
        named = dict(attacks=_names(attacks), scores=_names(scores), limit=limit, clean=clean)
        flags = dict(controls=controls, oracle=oracle, by_class=by_class)
        knowing: dict[str, Any] = dict(chosen.get("adaptive", {}))
        if adaptive or knowing:
            if _names(adaptive) not in (None, ["all"]):
                knowing["attacks"] = _names(adaptive)
            for name, listed in (("eps", eps), ("expensive_eps", expensive_eps)):
                if listed:
                    knowing[name] = [_whole(item) for item in _names(listed) or []]
            limits = dict(limit=adaptive_limit, expensive_limit=expensive_limit, steps=steps, restarts=restarts)
            knowing |= {name: value for name, value in limits.items() if value is not None}
            if surrogate_classifier is not None and surrogate_detector is not None:
                other_classifier = find_classifier(surrogate_classifier, device=device)
                other_detector = find_detector(surrogate_detector, other_classifier, images, device=device)
                knowing["surrogate"] = other_classifier, other_detector
            knowing["progress"] = _steps
            chosen["adaptive"] = knowing
        elif eps or expensive_eps or steps or restarts or adaptive_limit or expensive_limit or surrogate_detector:
            raise ParameterError("--eps, --steps and the like are for --adaptive, or a suite that has it")
        options |= chosen | {name: value for name, value in (named | flags).items() if value}
        command = shlex.join(["pixeldefend", *sys.argv[1:]])
        out.mkdir(parents=True, exist_ok=True)  # refused now, and not after hours of attacks
        if len(detectors) == 1:
            results = run_benchmark(detectors[titles[0]], attacked, images, recipe=recipe_of(detector[0]), **options)
            write_report({**results, "command": command}, out)
            report = out / "results.md"
        else:
            options["recipes"] = {title: recipe_of(name) for title, name in zip(titles, detector, strict=True)}
            write_comparison({**compare(detectors, attacked, images, **options), "command": command}, out)
            report = out / "comparison.md"
    typer.echo(report.read_text())


@app.command("compare")
def compare_runs(
    results: Annotated[list[Path], typer.Argument(help="Two or more results.json, or the folders that hold them.")],
) -> None:
    """Set the results of several benchmark runs side by side, attack by attack."""
    from ..eval import side_by_side

    with _refusals():
        typer.echo(side_by_side(results))


@app.command()
def leaderboard(
    folder: Annotated[Path | None, typer.Argument(help="Of entries; by default those that are shipped.")] = None,
) -> None:
    """Print how detectors do under the same protocol: those that are shipped, and baselines."""
    from ..eval import leaderboard_table

    with _refusals():
        typer.echo(leaderboard_table(folder))


def _steps(steps: Iterable[Any]) -> Iterable[Any]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return steps
    from rich.console import Console
    from rich.progress import track

    return track(steps, "Attacking", console=Console(stderr=True), transient=True)


def _whole(item: str) -> int:
    if not item.isdecimal():
        raise ParameterError(f"--eps and --expensive-eps want whole 8-bit steps, got {item!r}")
    return int(item)


def _names(listed: str) -> list[str] | None:
    """ "a, b" -> ["a", "b"]; nothing -> None."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip())) or None


# -- train ---------------------------------------------------------------------------------------------------------

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="fashion-mnist, mnist, cifar10, a folder of images, an .npz with x (and y), .csv, .txt, or .wav file(s).",
    ),
]
DataDir = Annotated[Path, typer.Option(help="Where named data sets are kept, and downloaded to if absent.")]
Out = Annotated[Path, typer.Option(help="Folder for the model, metrics.csv and checkpoints.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Train on the first N training images only.")]
Resume = Annotated[Path | None, typer.Option(help="Go on from this checkpoint (OUT/last.ckpt).")]
Precision = Annotated[str, typer.Option(help="32-true, bf16-mixed, ... as Lightning's Trainer takes it.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, gpu ...")]
Devices = Annotated[int, typer.Option(min=1, help="How many; more than one trains by DDP.")]
Nodes = Annotated[
    int,
    typer.Option(
        min=1, help="Machines on which this command runs at once: MASTER_ADDR, MASTER_PORT, NODE_RANK say which."
    ),
]


@train_app.command("density")
def train_density(
    data: Data,
    out: Out,
    model: Annotated[str, typer.Option(help="A name in pixeldefend.densities.DENSITIES.")] = "pixelcnnpp",
    set_: Annotated[
        list[str], typer.Option("--set", help="An argument of the model, NAME=VALUE: --set filters=32.")
    ] = [],  # noqa: B006
    data_dir: DataDir = Path("data"),
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: float = 1e-3,
    warmup: Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")] = 200,
    ema: Annotated[float, typer.Option(min=0, max=1, help="Decay of the weights' moving average; 0 for none.")] = 0.999,
    clip: Annotated[float, typer.Option(min=0, help="Largest gradient norm.")] = 5.0,
    weight_decay: Annotated[float, typer.Option(min=0, help="AdamW's.")] = 0.0,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="Stop after so many epochs without a better validation, and keep the best (0: train all)."
        ),
    ] = 0,
    length: Annotated[int, typer.Option(min=1, help="Characters or samples an event, of text and audio.")] = 256,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    seed: int = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a density on clean images by maximum likelihood; writes OUT/density.safetensors."""
    with _refusals():
        import torch

        from ..data import load_dataset
        from ..training import MaximumLikelihood, build_for, train

        images = load_dataset(data, data_dir, length=length)
        torch.manual_seed(seed)
        density = build_for(images, model, **dict(_assignment(item) for item in set_))
        options: dict[str, Any] = dict(
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            ema=ema,
            clip=clip,
            patience=patience,
            precision=precision,
        )
        metrics = train(
            MaximumLikelihood(density, learning_rate, warmup, weight_decay),
            images.train[:limit],
            images.validation,
            out=out,
            accelerator=accelerator,
            devices=devices,
            nodes=nodes,
            resume=resume,
            progress=sys.stderr.isatty(),
            **options,
        )
        recipe = dict(
            data=data,
            train_sha256=images.train.digest(),
            images=len(images.train[:limit]),
            length=length,
            learning_rate=learning_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            **options,
        )
        density.save(out / "density.safetensors", recipe=recipe, metrics=metrics)
        bits = metrics.get("bits_per_dim")
        figure = f"-log p(x) {metrics['nll']:.3f} nats" if bits is None else f"{bits:.3f} bits/dim"
        held = f"{len(images.validation)} held-out {'images' if len(images.train.shape) == 3 else 'events'}"
        typer.echo(f"{out / 'density.safetensors'}: {figure} on {held}")


@train_app.command("classifier")
def train_classifier(
    data: Data,
    out: Out,
    data_dir: DataDir = Path("data"),
    width: Annotated[int, typer.Option(help="Channels of the first stage.")] = 32,
    blocks: Annotated[int, typer.Option(help="Residual blocks in each of the three stages.")] = 1,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    learning_rate: float = 0.1,
    warmup: Annotated[int, typer.Option(min=0, help="Steps of linear warm-up.")] = 200,
    shift: Annotated[int, typer.Option(min=0, help="Move training images by up to so many pixels, at random.")] = 0,
    adversarial: Annotated[
        int, typer.Option(min=0, max=255, help="Train on the worst images within so many 8-bit steps (Linf).")
    ] = 0,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    seed: int = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a residual network on labelled images; writes OUT/classifier.safetensors."""
    with _refusals():
        import torch

        from ..classifier import ResNet
        from ..data import load_dataset
        from ..training import Classification, train

        images = load_dataset(data, data_dir)
        if images.train.y is None or len(images.train.shape) != 3:
            raise ParameterError(f"{data} holds no labelled images, which a classifier learns from")
        torch.manual_seed(seed)
        c, h, w = images.train.shape
        classifier = ResNet((c, h, w), classes=int(images.train.y.max()) + 1, width=width, blocks=blocks)
        options: dict[str, Any] = dict(epochs=epochs, batch_size=batch_size, seed=seed, precision=precision)
        metrics = train(
            Classification(classifier, learning_rate, warmup, shift, adversarial),
            images.train[:limit],
            images.validation,
            out=out,
            accelerator=accelerator,
            devices=devices,
            nodes=nodes,
            resume=resume,
            progress=sys.stderr.isatty(),
            **options,
        )
        recipe = dict(
            data=data,
            images=len(images.train[:limit]),
            learning_rate=learning_rate,
            warmup=warmup,
            shift=shift,
            adversarial=adversarial,
            **options,
        )
        classifier.save(out / "classifier.safetensors", recipe=recipe, metrics=metrics)
        accuracy, held = metrics["accuracy"], len(images.validation)
        typer.echo(f"{out / 'classifier.safetensors'}: accuracy {accuracy:.4f} on {held} held-out images")


def _assignment(item: str) -> tuple[str, Any]:
    """NAME=VALUE -> (name, value): JSON, or a plain word."""
    name, equals, value = item.partition("=")
    if not equals:
        raise ParameterError(f"--set wants NAME=VALUE, got {item!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    # a terminated run cleans up behind itself, as an interrupted one does
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except Exception:  # the shell must not take a failure (1 is Python's default) for "some are flagged"
        traceback.print_exc()
        sys.exit(2)


if __name__ == "__main__":
    main()
