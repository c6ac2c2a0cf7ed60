"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]], align: str | None = None) -> str:
    """Writes a table in Markdown.

    Args:
        header: The titles of the C columns.
        rows: Rows of C cells each. Line breaks in a cell become spaces, and bars are escaped.
        align: C letters, "l", "r" or "c"; by default all columns are left-aligned.

    Returns:
        Lines, each ending in a line break.
    """
    marks = {"l": "---", "r": "---:", "c": ":---:"}
    lines = [list(header), [marks[letter] for letter in align or "l" * len(header)], *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("\n", " ").replace("|", "\\|")
