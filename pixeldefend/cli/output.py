"""The output of commands: rows to standard output or to a file, progress to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..screening import records

T = TypeVar("T")
Row = Mapping[str, Any]


class Format(StrEnum):
    """The formats of rows."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


@dataclass(frozen=True)
class Column:
    """A column of a table for people.

    Attributes:
        title: Its title.
        text: A function that returns the cell of a row.
        style: A function that returns the style of a cell on a terminal, as rich names it; None for plain text.
        right: Whether it is aligned to the right, as numbers are.
        optional: Whether the column is left out if it is empty in all rows.
    """

    title: str
    text: Callable[[Row], str]
    style: Callable[[Row], str] | None = None
    right: bool = False
    optional: bool = False


def column_of(declared: records.Column, **how: Any) -> Column:
    """Returns the column of a table that shows a column of records.

    Args:
        declared: The column of records, which has a title.
        **how: Attributes of `Column` other than the default.
    """
    right = declared.type in (int, float)
    return Column(declared.title or declared.name, lambda row: declared.to_text(row[declared.name]), right=right, **how)


def opened(output: Path | None, mode: str = "w") -> AbstractContextManager[IO[Any]]:
    """Opens a file that is written completely or not at all.

    Args:
        output: The file, or None for standard output.
        mode: "w" or "wb".

    Returns:
        A context manager, which gives the open file.

    Raises:
        OSError: If the file cannot be written.
    """
    if output is None:
        return _standard_output()
    from ..serialization import whole_file

    return whole_file(output, mode)


@contextmanager
def _standard_output() -> Iterator[IO[str]]:
    yield sys.stdout
    sys.stdout.flush()  # notices here, and not at the end of the program, that the output is lost


def say(text: str) -> None:
    """Prints lines on standard output, at once."""
    _print(text, sys.stdout)


def note(text: str) -> None:
    """Prints lines on standard error."""
    _print(text, sys.stderr)


def _print(text: str, file: IO[str]) -> None:
    """Prints lines that may hold names from outside, whose control characters are spelled out."""
    from ..screening.records import visible

    print(*map(visible, text.split("\n")), sep="\n", file=file, flush=True)


def print_table(rows: Sequence[Row], columns: Sequence[Column], file: IO[str]) -> None:
    """Prints a table for people.

    Args:
        rows: The rows of the table.
        columns: The columns of the table.
        file: The file to print to. Lines are folded only on a terminal.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    shown = [column for column in columns if not column.optional or any(column.text(row) for row in rows)]
    for column in shown:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(c.text(row), c.style(row) if c.style else "") for c in shown))
    console = Console(file=file, highlight=False)
    if not console.is_terminal:  # no folding in pipes and files
        console = Console(file=file, highlight=False, width=1000)
    with console.capture() as text:  # rich itself would end the program with status 1 if nobody reads its output
        console.print(table)
    file.write(text.get())


def check_picture(picture: Path | None) -> None:
    """Checks, before the work begins, that a picture can be written.

    Args:
        picture: The file, or None for no picture.

    Raises:
        ParameterError: If it is no .png file in a folder that exists.
        OSError: If it is a folder.
    """
    if picture is None:
        return
    from ..errors import ParameterError
    from ..serialization import check_writable

    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise ParameterError(f"--picture must be a .png file in an existing folder, got {picture}")
    check_writable(picture)


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Passes items on, under a progress bar if standard error is a terminal.

    Args:
        items: The items.
        title: The name of the work, such as "Screening".
        total: The number of items; None for their length.

    Yields:
        The items.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, title, total, console=Console(stderr=True), transient=True)
