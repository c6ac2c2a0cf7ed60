"""Screening on several processes or machines, by Ray Data: files or tables of images in, Parquet out."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..detectors.backends import PRECISION
from ..errors import ParameterError
from ..zoo import detector_sha256
from .screener import Record, Screener

ROWS_A_FILE = 4096  # of what is written: that much is lost at most when a run is cut off
SUFFIXES = ["png", "jpg", "jpeg", "webp", "bmp"]
NOTE = "_pixeldefend.json"  # beside what is written: by which detectors; readers of Parquet pass over such names
KINDS = {"p_value": "float64", "bits_per_dim": "float64", "score": "float64", "width": "int64", "height": "int64"}


def screen_on_ray(
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    detector: str | None = None,
    fpr: float | None = None,
    backend: str | None = None,
    device: str = "cpu",
    batch_size: int = 64,
    column: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> dict[str, int]:
    """sources: folders and files, all of images or all Parquet, local or by URL (s3://, gs:// ...), as
    `ray.data.read_binary_files` and `read_parquet` take them. They are Parquet if `column` is given, if their names end
    in .parquet, or if they are local folders with such files. Of Parquet, `column` (by default "image") holds the bytes
    of an image file (or a struct with `bytes`, as Hugging Face writes them), and a column `path` its name. output: a
    folder of Parquet, made if it is not there: one row a file, the columns of `screening.Record`, errors as rows. A run
    that was interrupted goes on: what output holds, by name and content, is not screened again. workers: processes that
    score, one thread each; by default as many as there are CPUs, or with device "cuda" GPUs. address: of a cluster;
    None runs one here.

    Bytes are decoded where they are scored, so that a broken file costs one record. Returns how many rows of each
    verdict this run wrote. Raises ParameterError or FileNotFoundError for sources or a detector that cannot be read, and if
    output holds other detectors' verdicts, or rows that cannot be told from those that are missing.
    """
    import ray

    listed = [source if "://" in source else str(Path(source).absolute()) for source in sources]
    if not listed:
        raise ParameterError("there is nothing to screen")
    for source in listed:
        if "://" not in source and not os.path.exists(source):
            raise FileNotFoundError(f"there is no file or folder {source}")
    # a wrong detector is refused here, and not by every worker
    made_by = _described(Screener(detector, fpr=fpr, backend=backend))
    if detector is not None and Path(detector).is_file():
        detector = str(Path(detector).absolute())
    folder = output if "://" in str(output) else str(Path(output).absolute())
    started = not ray.is_initialized()
    if started:
        ray.init(
            address=address,
            num_cpus=(os.cpu_count() or 1) + 1 if address is None else None,
            log_to_driver=False,
            logging_level=logging.WARNING,
            include_dashboard=False,
        )
    try:
        return _screen(ray, listed, str(folder), made_by, detector, fpr, backend, device, batch_size, column, workers)
    finally:
        if started:
            ray.shutdown()


def _screen(
    ray: Any,
    sources: list[str],
    folder: str,
    made_by: dict[str, Any],
    detector: str | None,
    fpr: float | None,
    backend: str | None,
    device: str,
    batch_size: int,
    column: str | None,
    workers: int | None,
) -> dict[str, int]:
    import pyarrow.fs
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    most = _processors(device)
    if not 1 <= (workers or most) <= most:
        raise ParameterError(
            f"there are processors for {most} workers, not for {workers or 'any'}, beside one that reads"
        )
    filesystem, inside = pyarrow.fs.FileSystem.from_uri(folder)
    filesystem.create_dir(inside, recursive=True)
    parts = _parts(filesystem, inside)
    _claim(filesystem, inside, made_by, parts)
    parquet = [column is not None or name.endswith(".parquet") or _holds_parquet(name) for name in sources]
    if any(parquet) and not all(parquet):
        raise ParameterError("sources must be all of image files or all Parquet")
    if all(parquet):
        column = column or "image"
        data = ray.data.read_parquet(sources)
        names = data.schema().names
        if column not in names:
            raise ParameterError(f"the tables have no column {column!r}; there are: {', '.join(names)}")
        if parts and "path" not in names:  # an image that comes twice may have been written once
            raise ParameterError(
                f"the tables have no column 'path', so what {inside} lacks cannot be told from what it holds: begin "
                "with another --output"
            )
    else:
        data = ray.data.read_binary_files(sources, include_paths=True, file_extensions=SUFFIXES)
        column = "bytes"
    done = _written(filesystem, parts)
    scored = data.map_batches(
        Worker,
        fn_constructor_args=(column, done, detector, fpr, backend, device),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers or most),
        num_cpus=0 if device.startswith("cuda") else 1,
        num_gpus=1 if device.startswith("cuda") else 0,
        zero_copy_batch=True,
    )
    counts: dict[str, int] = {}
    for batch in scored.iter_batches(batch_size=ROWS_A_FILE, batch_format="pyarrow"):
        if len(batch):
            _write(batch, filesystem, inside)
            for verdict in batch["verdict"].to_pylist():
                counts[verdict] = counts.get(verdict, 0) + 1
    return counts


class Worker:
    """One process that decodes and scores."""

    def __init__(
        self,
        column: str,
        done: set[str],
        detector: str | None,
        fpr: float | None,
        backend: str | None,
        device: str,
    ) -> None:
        import torch

        torch.set_num_threads(1)
        self.column, self.done = column, done
        self.screener = Screener(detector, fpr=fpr, backend=backend, device=device)

    def __call__(self, table: Any) -> Any:
        import pyarrow

        paths = table["path"].to_pylist() if "path" in table.column_names else [""] * len(table)
        results = []
        for path, value in zip(paths, table[self.column].to_pylist(), strict=True):
            data = value.get("bytes") if isinstance(value, dict) else value
            result = self.screener.read(path or "", data if isinstance(data, bytes) else b"")
            if _key(result.record) not in self.done:
                results.append(result)
        self.screener.judge(results)
        rows = [asdict(result.record) for result in results]
        return pyarrow.Table.from_pylist(rows, _schema())


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema(
        [(field.name, pyarrow.type_for_alias(KINDS.get(field.name, "string"))) for field in fields(Record)]
    )


def _key(record: Record) -> str:
    return f"{record.sha256}{record.path}"


def _described(screener: Screener) -> dict[str, Any]:
    """Returns what verdicts depend on."""
    return {
        Path(name).stem: {
            "sha256": detector_sha256(name),
            "fpr": made.fpr,
            "precision": PRECISION[made.backend],
        }
        for name, made in screener.detectors.items()
    }


def _parts(filesystem: Any, folder: str) -> list[str]:
    """What earlier runs have written. Parts that were being written when they were cut off count as absent."""
    from pyarrow.fs import FileSelector

    return [file.path for file in filesystem.get_file_info(FileSelector(folder)) if file.path.endswith(".parquet")]


def _claim(filesystem: Any, folder: str, made_by: dict[str, Any], parts: list[str]) -> None:
    """Notes whose verdicts the folder holds. Raises ParameterError if it holds others'."""
    from pyarrow.fs import FileType

    if not parts:
        with _whole(filesystem, folder, NOTE) as stream:
            stream.write(json.dumps(made_by, indent=1).encode())
        return
    note = f"{folder}/{NOTE}"
    if filesystem.get_file_info(note).type == FileType.NotFound:
        raise ParameterError(f"{folder} holds Parquet that is not of this command: give another --output")
    with filesystem.open_input_stream(note) as stream:
        found = json.loads(stream.read())
    if found != made_by:
        raise ParameterError(
            f"{folder} holds verdicts by {json.dumps(found)}, asked for is {json.dumps(made_by)}: give another --output"
        )


def _written(filesystem: Any, parts: list[str]) -> set[str]:
    """Returns the keys of their rows."""
    import pyarrow.dataset

    if not parts:
        return set()
    table = pyarrow.dataset.dataset(parts, filesystem=filesystem, format="parquet").to_table(columns=["sha256", "path"])
    return {f"{row['sha256']}{row['path']}" for row in table.to_pylist()}


def _write(table: Any, filesystem: Any, folder: str) -> None:
    import pyarrow.parquet

    with _whole(filesystem, folder, f"{uuid.uuid4().hex}.parquet") as stream:
        pyarrow.parquet.write_table(table, stream)


@contextmanager
def _whole(filesystem: Any, folder: str, name: str) -> Iterator[Any]:
    """Yields a stream to a file that comes under its name when it is complete."""
    partial = f"{folder}/.{name}.partial"  # readers of Parquet pass over names with a dot in front
    with filesystem.open_output_stream(partial) as stream:
        yield stream
    filesystem.move(partial, f"{folder}/{name}")


def _holds_parquet(source: str) -> bool:
    return os.path.isdir(source) and any(name.endswith(".parquet") for name in os.listdir(source))


def _processors(device: str) -> int:
    """How many can score: of the CPUs of a cluster one is left to read, or those that score would wait for ever."""
    import ray

    if device.startswith("cuda"):
        return int(ray.cluster_resources().get("GPU", 0))
    return int(ray.cluster_resources().get("CPU", 0)) - 1
