"""pixeldefend serve: the web page and the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DEFAULT_LOG,
    Backend,
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


def serve(
    detector: DetectorName = None,
    fpr: Fpr = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="The classifier whose labels the page shows, for images of its size: the name of a shipped one "
            "({classifiers}) or the path of a saved one."
        ),
    ] = None,
    backend: Backend = None,
    device: Device = "cpu",
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="The port to listen at. With 0, the service takes a free port and prints it."
        ),
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="The file of API keys. Each line holds a key, or the name of a client and its key. The service "
            "refuses requests without one of these keys."
        ),
    ] = None,
    without_key: Annotated[
        bool,
        typer.Option(
            "--without-key", help="Serve requests without a key, even if other machines can reach the service."
        ),
    ] = False,
    log_: Log = DEFAULT_LOG,
    max_rows: MaxRows = None,
    max_days: MaxDays = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="The folder that stores the bytes of flagged images. By default, none are stored."),
    ] = None,
    frames: FramesOfAnimations = None,
    convert: Convert = False,
    batch_size: BatchSize = 64,
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="The longest time that an image waits for other images of its batch, in milliseconds."
        ),
    ] = 5.0,
    capacity: Annotated[
        int, typer.Option(min=1, help="The largest number of waiting images. The answer to further images is 503.")
    ] = 512,
    deadline: Annotated[
        float,
        typer.Option(min=0.001, help="The time limit of an answer, in seconds. After this time, the answer is 504."),
    ] = 30.0,
    max_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            help="The largest request body, in bytes, also after decompression. The answer to a larger one is 413.",
        ),
    ] = 16 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="The largest number of pixels of an image. A larger image is not screened.")
    ] = 2**24,
) -> None:
    """Serve a web page and an API that screen images (needs the extra 'serve').

    Every verdict is logged before the client receives it. Exit status: 0 after SIGTERM or SIGINT, 2 if it cannot
    start.
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
        frames=None if frames is None else frames.value,
        convert=convert,
    )
