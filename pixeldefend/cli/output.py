"""What the commands write to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Passes items on, under a progress bar if standard error is a terminal.

    Args:
        items: What is worked through.
        title: What is done, such as "Screening".
        total: The number of items, if they do not tell it themselves.

    Yields:
        The items.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, title, total, console=Console(stderr=True), transient=True)
