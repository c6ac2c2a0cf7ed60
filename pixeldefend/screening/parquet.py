"""A folder of Parquet files that hold records, on this machine or at a URL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import ParameterError
from .audit_log import RENAMED
from .records import Record, to_storable

NOTE = "_pixeldefend.json"  # names the detectors of the records; readers of Parquet skip such names


class ParquetFolder:
    """A folder of Parquet files, to which records by the same detectors can be added.

    Args:
        output: The path or the URL of the folder, which is made if it is missing.
        made_by: Everything that the verdicts depend on.

    Attributes:
        parts: The files that earlier runs have written, without those that were interrupted.
        held: The verdict and the error of each record in them, by `key_of` the record.

    Raises:
        ParameterError: If the folder holds verdicts of other detectors, or files of something else.
    """

    def __init__(self, output: str, made_by: dict[str, Any]) -> None:
        from pyarrow.fs import FileSelector, FileSystem

        self._filesystem, self._folder = FileSystem.from_uri(output)
        self._filesystem.create_dir(self._folder, recursive=True)
        there = self._filesystem.get_file_info(FileSelector(self._folder))
        self.parts: list[str] = [file.path for file in there if file.path.endswith(".parquet")]
        self._claim(made_by)
        self.held = self._read()

    def __str__(self) -> str:
        return str(self._folder)

    def add(self, table: Any) -> None:
        """Writes a file.

        Args:
            table: A pyarrow table of records, as `records.to_arrow` returns it.
        """
        from pyarrow import parquet

        with self._whole(f"{uuid.uuid4().hex}.parquet") as stream:
            parquet.write_table(table, stream)

    def _claim(self, made_by: dict[str, Any]) -> None:
        """Notes the detectors whose verdicts the folder holds, or checks the note."""
        from pyarrow.fs import FileType

        if not self.parts:
            with self._whole(NOTE) as stream:
                stream.write(json.dumps(made_by, indent=1).encode())
            return
        note = f"{self}/{NOTE}"
        if self._filesystem.get_file_info(note).type == FileType.NotFound:
            raise ParameterError(f"{self} holds Parquet files that this command did not write: give another --output")
        with self._filesystem.open_input_stream(note) as stream:
            try:
                found = json.loads(stream.read())
            except ValueError:
                raise ParameterError(f"{note} is damaged: give another --output") from None
        found = {name: {RENAMED.get(key, key): value for key, value in made.items()} for name, made in found.items()}
        if found != made_by:
            raise ParameterError(
                f"{self} holds verdicts by {json.dumps(found)}, not by {json.dumps(made_by)}: give another --output"
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        import pyarrow.dataset

        if not self.parts:
            return {}
        held = ["verdict", "error", "error_kind"]
        data = pyarrow.dataset.dataset(self.parts, filesystem=self._filesystem, format="parquet")
        rows = data.to_table(columns=["sha256", "path", *held]).to_pylist()
        return {f"{row['sha256']}{row['path']}": {name: row[name] for name in held} for row in rows}

    @contextmanager
    def _whole(self, name: str) -> Iterator[Any]:
        """Yields a stream to a file that gets its name when it is complete."""
        partial = f"{self}/.{name}.partial"  # readers of Parquet skip names that begin with a dot
        try:
            with self._filesystem.open_output_stream(partial) as stream:
                yield stream
        except BaseException:
            with suppress(OSError):
                self._filesystem.delete_file(partial)
            raise
        self._filesystem.move(partial, f"{self}/{name}")


def key_of(record: Record) -> str:
    """Returns what tells the image of a record from others: its content and its name."""
    return f"{record.sha256}{to_storable(record.path)}"
