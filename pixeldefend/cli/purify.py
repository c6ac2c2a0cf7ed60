"""pixeldefend purify: moves images back towards more probable ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from .options import BatchSize, Convert, DetectorName, Device, FramesOfAnimations, Paths, sources_of
from .output import check_picture, opened, progress
from .skipped import ListSkipped, report_summary

if TYPE_CHECKING:
    from ..screening.purify import Purified


def purify(
    paths: Paths,
    out: Annotated[Path, typer.Option(help="The folder for the purified images. It is created if it does not exist.")],
    eps: Annotated[int, typer.Option(help="The largest change of a sub-pixel, in 8-bit steps from 0 to 255.")] = 16,
    detector: DetectorName = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="Purify only the images that the detector flags.")
    ] = False,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="The classifier that labels images before and after purification: the name of a shipped one "
            "({classifiers}) or the path of a saved one. The detector's statistic uses it, if it needs a classifier."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="A PNG file to write, which shows up to 100 images, their surprisals, the purified images and the "
            "differences."
        ),
    ] = None,
    frames: FramesOfAnimations = None,
    convert: Convert = False,
    list_skipped: ListSkipped = False,
    batch_size: BatchSize = 64,
    device: Device = "cpu",
) -> None:
    """Purify images (PixelDefend): replace pixels by more probable values.

    It writes one PNG per image, and prints one line of JSON per file.

    Exit status: 0 if every file was purified, 2 on any error. That includes skipped files that could not be looked at:
    files that cannot be read, and broken links.
    """
    from ..screening import Statistics, find_files
    from ..screening import screen as screen_files
    from ..screening.figures import SHEET, save_purified_sheet
    from ..screening.purify import purify_screened
    from ..zoo import load_classifier

    check_picture(picture)
    statistics = Statistics()
    files = list(find_files(sources_of(paths), statistics))
    if not files:
        raise ParameterError("nothing to purify: standard input lists no file")
    asked = None if classifier is None else load_classifier(classifier, device=device)
    options: dict[str, Any] = dict(batch_size=batch_size, device=device, classifier=asked)
    chosen: Any = dict(frames=None if frames is None else frames.value, convert=convert)
    screened = screen_files(files, detector, maps=picture is not None, statistics=statistics, **chosen, **options)
    results = purify_screened(progress(screened, "Purifying", len(files)), eps, detector, adaptive=adaptive, **options)
    out.mkdir(parents=True, exist_ok=True)
    shown: list[Purified] = []
    taken: set[str] = set()
    failed = False
    with opened(None) as lines:
        for item in results:
            lines.write(json.dumps(_saved(item, out, taken, labelled=asked is not None)) + "\n")
            failed |= item.screened.record.error is not None  # of the purification, too
            if picture is not None and item.image is not None and len(shown) < SHEET // 4:
                shown.append(item)
    if picture is not None:
        save_purified_sheet(shown, picture)
    report_summary(statistics, list_skipped=list_skipped)
    raise typer.Exit(2 if failed or statistics.not_looked_at else 0)


def _saved(item: Purified, out: Path, taken: set[str], *, labelled: bool) -> dict[str, Any]:
    """Writes the purified image, if there is one, and returns its row."""
    from PIL import Image

    from ..serialization import whole_file

    record, before = item.screened.record, item.screened.image
    shared = {name: getattr(record, name) for name in ("frame", "conversion", "error", "error_kind")}
    row: dict[str, Any] = {"path": record.path, "purified": None, "changed": None, **shared}
    if item.image is None or before is None:
        return row
    path = out / record.picture_name(out, taken)
    with record.noting("output", "the purified image cannot be written"):
        with whole_file(path, "wb") as file:
            Image.fromarray(item.image).save(file, "PNG")
        row["purified"] = str(path)
    row["error"], row["error_kind"] = record.error, record.error_kind
    grey_in_colour = before.ndim > item.image.ndim
    row["changed"] = float((before != (item.image[..., None] if grey_in_colour else item.image)).mean())
    row["p_value"] = [record.p_value, item.p_value]
    row["bits_per_dim"] = [record.bits_per_dim, item.bits_per_dim]
    if labelled:
        row["label"] = [item.label_before, item.label_after]
    return row
