"""pixeldefend serve: the web page and the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_LOG, Backend, BatchSize, DetectorName, Device, Fpr, Log, MaxDays, MaxRows


def serve(
    detector: DetectorName = None,
    fpr: Fpr = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="The classifier whose labels the page shows, where it fits the image: the name of a shipped one "
            "({classifiers}) or the path of a saved one."
        ),
    ] = None,
    backend: Backend = None,
    device: Device = "cpu",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen at. With 0, a free one is taken and printed.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="The file of API keys, one a line: a key, or the name of a client and its key. Requests without one "
            "of these keys are refused."
        ),
    ] = None,
    without_key: Annotated[
        bool,
        typer.Option("--without-key", help="Serve everybody, at an address that other machines can reach."),
    ] = False,
    log_: Log = DEFAULT_LOG,
    max_rows: MaxRows = None,
    max_days: MaxDays = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="The folder that keeps the bytes of flagged images. By default none are kept.")
    ] = None,
    batch_size: BatchSize = 64,
    wait: Annotated[
        float, typer.Option(min=0, help="The time that an image waits for others to share a batch, in milliseconds.")
    ] = 5.0,
    capacity: Annotated[
        int, typer.Option(min=1, help="The number of images that may wait. The answer to more is 503.")
    ] = 512,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="The time limit of an answer, in seconds. After it the answer is 504.")
    ] = 30.0,
    max_bytes: Annotated[
        int, typer.Option(min=1, help="The largest request body, in bytes. The answer to a larger one is 413.")
    ] = 8 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="The largest number of pixels of an image. The answer to more is 422.")
    ] = 2**20,
) -> None:
    """Serve a web page and an API that screen images (needs the extra 'serve').

    Every verdict is logged before it is given. Exit status: 0 when told to stop (SIGTERM, SIGINT).
    """
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
