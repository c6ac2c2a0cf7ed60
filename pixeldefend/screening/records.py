"""The record of one image, from which every format of records takes its columns.

To add a column, add a field to `Record`, or to `LogRow` if only the audit log has the column.
"""

from __future__ import annotations

import csv
import json
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import IO, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import IMAGE_ERROR_KINDS, ParameterError
from ..paths import derived_name

FORMATS = ("jsonl", "csv", "parquet")
ROWS_AT_ONCE = 4096  # rows that are written to a Parquet file together
# control characters, invisible ones, and those that change the direction of text: a terminal obeys them or hides them;
# and bytes that are not text, because it may find control characters among them
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\xad\u200b-\u200d\ufeff]"
)
# where a spreadsheet may find a formula: also after spaces and quotes, in full-width characters, and after a semicolon,
# which separates cells in some countries
FORMULA = re.compile(r"""(?:^|(?<=;))(?=[\s"']*[=+\-@\uff1d\uff0b\uff0d\uff20])""")
# kind of a record's error -> what it means; a `PixelDefendError` of another kind brings its own
ERROR_KINDS = {
    **IMAGE_ERROR_KINDS,
    "nothing found": "the folder holds no image, or no file matches the pattern",
    "unreadable": "the file or the folder cannot be read",
    "memory": "there is not enough memory for the image",
    "quarantine": "the image was flagged, but could not be moved to quarantine",
    "output": "the image has a verdict, but its heat map or its purified image could not be written",
    "internal": "a bug of pixeldefend; the traceback is on standard error",
}


def _titled(title: str, spec: str = "", **options: Any) -> Any:
    """Returns a field that tables for people show under a title, a number in the format of spec."""
    return field(**options, metadata={"title": title, "spec": spec})


@dataclass
class Record:
    """The verdict on one image, in which unknown values are None.

    Attributes:
        path: The name of the image, as it was given.
        verdict: "clean", "adversarial", or "error" if there is no verdict.
        p_value: The share of clean images at least as anomalous, in (0, 1].
        bits_per_dim: The bits that the density needs for a sub-pixel.
        score: The anomaly score, higher = more anomalous.
        detector: The name of the detector.
        backend: The backend that ran its density; None if there is no verdict, or if the detector has no backends.
        sha256: The hash of the file's bytes, in hexadecimal.
        width: The width in pixels.
        height: The height in pixels.
        frame: The number of the frame that the verdict is on, from 0, if all frames of an animation were judged.
        conversion: How the image was converted before it was judged, in words, if information was lost.
        history: What a detector of photographs thinks that the image has been through, or "unknown": its p-value is
            then the greatest one of all histories.
        error: What is wrong, in words.
        error_kind: A key of `ERROR_KINDS`.
    """

    path: str = _titled("image")
    verdict: Literal["clean", "adversarial", "error"] = _titled("verdict", default="error")
    p_value: float | None = _titled("p-value", ".4f", default=None)
    bits_per_dim: float | None = _titled("bits/dim", ".3f", default=None)
    score: float | None = _titled("score", ".2f", default=None)
    detector: str | None = None
    backend: str | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    frame: int | None = None
    conversion: str | None = _titled("conversion", default=None)
    history: str | None = _titled("history", default=None)
    error: str | None = _titled("error", default=None)
    error_kind: str | None = None

    def picture_name(self, folder: str | os.PathLike[str] = os.curdir, taken: set[str] | None = None) -> str:
        """Returns a name for a PNG of the image: the name of its file and the start of its sha256.

        Args:
            folder: The folder of the PNG, which limits the length of the name.
            taken: The names of the PNGs of other images, to which this one is added. It makes equal names different.
        """
        mark = f"-{(self.sha256 or '')[:8]}"
        name = derived_name(self.path, mark, ".png", folder)
        if taken is not None:
            if name in taken:
                name = derived_name(self.path, f"{mark}-{len(taken) + 1}", ".png", folder)
            taken.add(name)
        return name

    @contextmanager
    def noting(self, kind: str, what: str) -> Iterator[None]:
        """Writes an `OSError` of the block into the record, beside the verdict.

        Args:
            kind: The kind of the error, a key of `ERROR_KINDS`.
            what: What cannot be done, in words.
        """
        try:
            yield
        except OSError as error:
            self.error, self.error_kind = f"{what}: {error.strerror or error}", kind


@dataclass(kw_only=True)
class _Request:
    id: str = _titled("id")
    time: float = _titled("time (UTC)")
    source: str
    client: str | None = _titled("client", default=None)
    request: str | None = None


@dataclass(kw_only=True)
class LogRow(Record, _Request):
    """A row of the audit log: a record, the request that it answers, and feedback on the verdict.

    Attributes:
        id: The name of the row.
        time: Seconds since 1970, UTC.
        source: What asked: serve or watch.
        client: Who asked.
        request: The name of the request.
        detector_sha256: The hash of the detector's file.
        precision: What the detector computed in: scores of one precision are not comparable with another's.
        query_attack: Whether the image looks like a query of a black-box attack.
        feedback: What somebody said about the verdict.
    """

    detector_sha256: str | None = None
    precision: str | None = None
    query_attack: bool = False
    feedback: str | None = _titled("feedback", default=None)


@dataclass(frozen=True)
class Column:
    """One column of records.

    Attributes:
        name: The key, which is also the attribute of the dataclass.
        type: str, float, int or bool.
        nullable: Whether None is allowed.
        choices: All possible values; empty if any value of the type is possible.
        title: The heading in a table for people; None if the table leaves the column out.
        spec: The format of a number in such a table.
    """

    name: str
    type: type
    nullable: bool
    choices: tuple[str, ...]
    title: str | None
    spec: str

    def to_text(self, value: Any) -> str:
        """Returns the text of a value in a table for people."""
        return "" if value is None else visible(format(value, self.spec))


def columns_of(declaration: type) -> tuple[Column, ...]:
    """Returns the columns that a dataclass such as `Record` declares."""
    hints = get_type_hints(declaration)
    return tuple(_described(item.name, hints[item.name], item.metadata) for item in fields(declaration))


def _described(name: str, hint: Any, metadata: Mapping[str, Any]) -> Column:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    (kind,) = (option for option in options if option is not type(None))
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    return Column(
        name,
        str if choices else kind,
        type(None) in options,
        choices,
        metadata.get("title"),
        metadata.get("spec", ""),
    )


RECORD_COLUMNS = columns_of(Record)
Write = Callable[[Record | Mapping[str, Any]], None]
LOG_COLUMNS = columns_of(LogRow)


def to_row(record: Record | Mapping[str, Any], columns: Iterable[Column] = RECORD_COLUMNS) -> dict[str, Any]:
    """Returns the values of a record by column.

    Args:
        record: A record, or a row as a dictionary.
        columns: The columns, in the order of the result.

    Returns:
        The value of each column, None if the record does not have it.
    """
    held = record if isinstance(record, Mapping) else vars(record)
    return {column.name: held.get(column.name) for column in columns}


# -- writing -----------------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """Returns a text with its control characters spelled out.

    Names of files come from outside, and a terminal would obey control characters in them.
    """
    return INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


def to_csv_cell(value: Any) -> Any:
    """Returns a value for a CSV file, without control characters and without a formula that a spreadsheet would run."""
    return FORMULA.sub("'", visible(value)) if isinstance(value, str) else value


def to_storable(value: Any) -> Any:
    """Returns a value as valid UTF-8, with invalid bytes (which names of files may hold) spelled out."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def row_writer(file: IO[Any], format: str, columns: tuple[Column, ...] = RECORD_COLUMNS) -> Iterator[Write]:
    """Writes records, or rows of the audit log, one after the other.

    Args:
        file: A text file; a binary file for Parquet.
        format: One of `FORMATS`. Parquet needs pyarrow.
        columns: The columns to write, in this order.

    Yields:
        A function that writes one record, or one row as a dictionary. The file is complete when the block ends.

    Raises:
        ParameterError: If there is no such format.
    """
    if format not in FORMATS:
        raise ParameterError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    writer = _jsonl_writer if format == "jsonl" else _csv_writer if format == "csv" else _parquet_writer
    with writer(file, columns) as write:
        yield write


@contextmanager
def _jsonl_writer(file: IO[str], columns: tuple[Column, ...]) -> Iterator[Write]:
    def write(record: Record | Mapping[str, Any]) -> None:
        file.write(json.dumps(to_row(record, columns)) + "\n")

    yield write


@contextmanager
def _csv_writer(file: IO[str], columns: tuple[Column, ...]) -> Iterator[Write]:
    table = csv.writer(file, lineterminator="\n")
    table.writerow([column.name for column in columns])

    def write(record: Record | Mapping[str, Any]) -> None:
        table.writerow([to_csv_cell(value) for value in to_row(record, columns).values()])

    yield write


@contextmanager
def _parquet_writer(file: IO[bytes], columns: tuple[Column, ...]) -> Iterator[Write]:
    from pyarrow import parquet

    rows: list[Record | Mapping[str, Any]] = []
    with parquet.ParquetWriter(file, arrow_schema(columns)) as writer:

        def write(record: Record | Mapping[str, Any]) -> None:
            rows.append(record)
            if len(rows) >= ROWS_AT_ONCE:
                flush()

        def flush() -> None:
            writer.write_table(to_arrow(rows, columns))
            rows.clear()

        yield write
        flush()


def arrow_schema(columns: Iterable[Column] = RECORD_COLUMNS) -> Any:
    """Returns the schema of a Parquet file of records (needs pyarrow)."""
    import pyarrow

    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64(), bool: pyarrow.bool_()}
    return pyarrow.schema([(column.name, kinds[column.type]) for column in columns])


def to_arrow(records: Iterable[Record | Mapping[str, Any]], columns: tuple[Column, ...] = RECORD_COLUMNS) -> Any:
    """Returns a pyarrow table of records.

    Args:
        records: Records, or rows as dictionaries.
        columns: The columns of the table, in this order.
    """
    import pyarrow

    rows = [{name: to_storable(value) for name, value in to_row(record, columns).items()} for record in records]
    return pyarrow.Table.from_pylist(rows, arrow_schema(columns))
