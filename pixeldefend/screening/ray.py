"""Screens files or tables of images on several processes or machines with Ray Data, and writes Parquet."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..detectors.backends import AUTO
from ..errors import MissingExtraError, ParameterError
from ..images import SUFFIXES, Frames
from .parquet import ParquetFolder, key_of
from .pipeline import Statistics, batches, find_files
from .records import Record, to_arrow
from .screener import Screened, Screener

ROWS_A_FILE = 4096  # rows in a file of output, which are lost if a run is interrupted
PATHS_A_BLOCK = 1024  # the largest number of paths that a process gets at a time


@dataclass(frozen=True)
class Settings:
    """The arguments of the `Screener` that every process makes.

    Args:
        detector: The name of a shipped detector, the path of a saved one, or None for the shipped one that takes each
            image.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`; None for the detector's own.
        device: Where the detector runs, as torch names it.
        frames: Which frames of an animation are judged, "first" or "all"; None refuses animations.
        convert: Whether images that need a conversion are converted, or refused.
    """

    detector: str | None
    fpr: float | None
    backend: str | None
    device: str
    frames: Frames | None = None
    convert: bool = False


def screen_on_ray(
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    detector: str | None = None,
    fpr: float | None = None,
    backend: str | None = None,
    device: str = "cpu",
    frames: Frames | None = None,
    convert: bool = False,
    batch_size: int = 64,
    column: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    statistics: Statistics | None = None,
) -> dict[str, int]:
    """Screens images with Ray, on this machine or a cluster.

    Images are decoded by the process that scores them, so that a broken file costs one record. An interrupted run can
    be continued: images that are already in output, by name and content, are not screened again.

    Args:
        sources: Either images or tables. Images are files, folders and patterns, searched as without Ray, and URLs
            (s3://, gs:// ...) as `ray.data.read_binary_files` takes them. Tables are Parquet files and folders, as
            paths or URLs. Sources are tables if `column` is given, if their names end in .parquet, or if they are local
            folders with such files.
        output: A folder of Parquet, or its URL, which is made if it is missing. It gets one row per image, errors
            included, with the columns of `screening.Record`. Paths of local files are absolute.
        detector: The name of a shipped detector, the path of a saved one, or None for the shipped one that takes each
            image.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`; None for the detector's own.
        device: Where the detector runs, as torch names it.
        frames: Which frames of an animation are judged, "first" or "all"; None refuses animations.
        convert: Whether images that need a conversion are converted, or refused.
        batch_size: The number of images at once.
        column: The column of tables that holds the bytes of image files (or structs with `bytes`, as Hugging Face
            writes them); None for "image". A column `path` holds their names.
        workers: The number of processes that score, with one thread each. None for the number of CPUs, or of GPUs with
            device "cuda".
        address: The address of a cluster; None runs one here.
        statistics: The object that counts records, with those that output held already, and skipped files.

    Returns:
        The number of rows that this run wrote, by verdict.

    Raises:
        ParameterError: If there is nothing to screen, if sources are of both kinds, if the tables lack the column, if
            output holds verdicts of other detectors or rows that cannot be matched to images, or if there are more
            workers than processors.
        PixelDefendError: If the detector cannot be loaded, or has too few calibration images for fpr.
        FileNotFoundError: If there is no such table or detector.
        MissingExtraError: If Ray is missing.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("ray", "scale") from None

    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    listed = list(sources)
    if not listed:
        raise ParameterError("there is nothing to screen")
    if detector is not None and Path(detector).is_file():
        detector = os.path.abspath(detector)
    if backend == AUTO:  # and two backends may give different verdicts
        raise ParameterError("the machines of a cluster may differ in their fastest backend: name one, not 'auto'")
    settings = Settings(detector, fpr, backend, device, frames, convert)
    # a wrong detector is refused here, not by workers
    made_by = _described(Screener(detector, fpr=fpr, backend=backend, frames=frames, convert=convert))
    folder = str(output) if _is_url(str(output)) else os.path.abspath(output)
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
        run = _Run(folder, made_by, settings, batch_size, _check_workers(workers, device), statistics or Statistics())
        tables = [column is not None or _is_table(source) for source in listed]
        if any(tables):
            if not all(tables):
                raise ParameterError("sources must be all image files or all Parquet")
            return run.screen_tables(listed, column or "image")
        return run.screen_images(listed)
    finally:
        if started:
            ray.shutdown()


class _Run:
    """A run that adds to a folder of Parquet."""

    def __init__(
        self,
        output: str,
        made_by: dict[str, Any],
        settings: Settings,
        batch_size: int,
        workers: int,
        statistics: Statistics,
    ) -> None:
        from ray.data import DataContext

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        DataContext.get_current().enable_progress_bars = False
        self.settings, self.batch_size, self.workers, self.statistics = settings, batch_size, workers, statistics
        self.output = ParquetFolder(output, made_by)
        self.done = self.output.held
        self.counts: dict[str, int] = {}

    def screen_images(self, sources: list[str]) -> dict[str, int]:
        import pyarrow
        import ray

        local = [source for source in sources if not _is_url(source)]
        found = list(find_absolute(local, self.statistics))
        if records := [record for record in found if isinstance(record, Record)]:
            self._write(to_arrow(records))
        # names need not be valid UTF-8
        paths = [os.fsencode(path) for path in found if isinstance(path, str)]
        if paths:
            size = min(PATHS_A_BLOCK, max(self.batch_size, -(-len(paths) // (4 * self.workers))))
            blocks = [pyarrow.table({"file": paths[i : i + size]}) for i in range(0, len(paths), size)]
            self._screen(ray.data.from_arrow(blocks), None)
        remote = [source for source in sources if _is_url(source)]
        if remote:
            suffixes = [suffix.removeprefix(".") for suffix in sorted(SUFFIXES)]
            self._screen(ray.data.read_binary_files(remote, include_paths=True, file_extensions=suffixes), "bytes")
        return self.counts

    def screen_tables(self, sources: list[str], column: str) -> dict[str, int]:
        import ray

        for source in sources:
            if not _is_url(source) and not os.path.exists(source):
                raise FileNotFoundError(f"there is no file or folder {source}")
        data = ray.data.read_parquet([source if _is_url(source) else _absolute(source) for source in sources])
        names = data.schema().names
        if column not in names:
            raise ParameterError(f"the tables have no column {column!r}; there are: {', '.join(names)}")
        if self.output.parts and "path" not in names:  # of two equal images only one may have been written
            raise ParameterError(
                f"the tables have no column 'path', so the run cannot tell which images {self.output} already holds: "
                "give another --output"
            )
        self._screen(data, column)
        return self.counts

    def _screen(self, data: Any, column: str | None) -> None:
        import ray

        on_gpu = self.settings.device.startswith("cuda")
        scored = data.map_batches(
            Worker,
            fn_constructor_args=(column, set(self.done), self.settings),
            batch_size=self.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
            zero_copy_batch=True,
        )
        for batch in scored.iter_batches(batch_size=ROWS_A_FILE, batch_format="pyarrow"):
            if len(batch):
                self._write(batch)

    def _write(self, table: Any) -> None:
        """Writes the records that the output does not hold, and counts all."""
        records = [Record(**row) for row in table.to_pylist()]
        new = [key_of(record) not in self.done for record in records]
        if any(new):
            self.output.add(table.filter(new))
        for record, is_new in zip(records, new, strict=True):
            if is_new:
                self.counts[record.verdict] = self.counts.get(record.verdict, 0) + 1
            else:  # it was not judged again
                record = replace(record, **self.done[key_of(record)])
            self.statistics.count(record)


class Worker:
    """A process that decodes and scores.

    Args:
        column: The column with the bytes of images; None if the column "file" holds paths of local files.
        done: The keys of existing records, whose images are not judged.
        settings: The arguments of its `Screener`.
    """

    def __init__(self, column: str | None, done: set[str], settings: Settings) -> None:
        import torch

        torch.set_num_threads(1)
        self.column, self.done = column, done
        self.screener = Screener(**asdict(settings))

    def __call__(self, table: Any) -> Any:
        """Screens a pyarrow table of images, and returns a table of records; what exists already is not judged."""
        records = []
        for batch in batches(self._read(table), len(table)):
            self.screener.judge(result for result in batch if key_of(result.record) not in self.done)
            records += [result.record for result in batch]
        return to_arrow(records)

    def _read(self, table: Any) -> Iterator[Screened]:
        if self.column is None:
            for path in table["file"].to_pylist():
                yield self.screener.read_file(os.fsdecode(path))
            return
        paths = table["path"].to_pylist() if "path" in table.column_names else [""] * len(table)
        for path, value in zip(paths, table[self.column].to_pylist(), strict=True):
            data = value.get("bytes") if isinstance(value, dict) else value
            yield self.screener.read(path or "", data if isinstance(data, bytes) else b"")


def find_absolute(sources: Iterable[str], statistics: Statistics | None = None) -> Iterator[str | Record]:
    """Finds what `find_files` finds, under absolute paths.

    Args:
        sources: Files, folders and patterns.
        statistics: The object that counts skipped files.

    Yields:
        Paths and error records.
    """
    for found in find_files(sources, statistics):
        yield _absolute(found) if isinstance(found, str) else replace(found, path=_absolute(found.path))


def _absolute(path: str) -> str:
    """Returns a path for workers in other folders. `..` is kept, since what is before it may be a link."""
    return str(Path(path).absolute())


def _is_url(source: str) -> bool:
    """Returns whether a source begins like s3://, and there is no folder `s3:`."""
    scheme, found, _ = source.partition("://")
    return (
        bool(found)
        and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]*", scheme) is not None
        and not os.path.lexists(f"{scheme}:")
    )


def _is_table(source: str) -> bool:
    """Returns whether a source is Parquet: by its name and, if it is here, by its bytes.

    A folder that holds both Parquet files and images is searched for images, as it is without Ray.
    """
    if os.path.isdir(source):
        parquet = (path for path in glob.iglob(f"{glob.escape(source)}/*.parquet") if _holds_parquet(path))
        return any(parquet) and not any(isinstance(found, str) for found in find_files([source]))
    return source.endswith(".parquet") and (not os.path.lexists(source) or _holds_parquet(source))


def _holds_parquet(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def _described(screener: Screener) -> dict[str, Any]:
    """Returns everything that verdicts depend on."""
    found = {}
    for name, made in screener.detectors.items():
        provenance = screener.detector_set.provenance(name)
        found[Path(name).stem] = {
            "sha256": provenance["detector_sha256"],
            "fpr": made.fpr,
            "precision": provenance["precision"],
        }
        if screener.frames is not None:
            found[Path(name).stem]["frames"] = screener.frames
        if screener.convert:
            found[Path(name).stem]["convert"] = True
    return found


def _check_workers(workers: int | None, device: str) -> int:
    """Returns the number of processes that score, which leaves one CPU of a cluster for reading."""
    import ray

    on_gpu = device.startswith("cuda")
    most = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0)) - (0 if on_gpu else 1)
    count = max(most, 1) if workers is None else workers
    if not 1 <= count <= most:
        raise ParameterError(f"there are processors for {most} workers beside one that reads, not for {count}")
    return count
