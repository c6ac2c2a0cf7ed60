"""Writes every generated table and number of the README and the docs: `python docs/generate.py [--check]`.

What stands between `<!-- generated: NAME ARGUMENTS -->` and `<!-- end -->` is replaced by what the function NAME of
`docs/_generators` returns. The numbers come from result files, the lists from the registries of the package. With
`--check` nothing is written, and the exit status is 1 if a page would change.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from _generators import BLOCKS

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- generated: (.+?) -->).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Returns the files that may hold generated parts."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generated(text: str) -> str:
    """Returns a page with its generated parts made again."""
    return MARKED.sub(_replacement, text)


def check_markers(text: str, name: str) -> None:
    """Refuses markers in a sentence that begin a line: Markdown would take them for a block."""
    for match in MARKED.finditer(text):
        begins = text[: match.start()].rpartition("\n")[2].strip() == ""
        if begins and "\n" not in match[0]:
            raise SystemExit(f"{name}: the marker {match[1]} begins a line; move a word before it")


def _replacement(match: re.Match[str]) -> str:
    start, instruction, end = match.groups()
    name, *arguments = shlex.split(instruction)
    if name not in BLOCKS:
        raise SystemExit(f"unknown generator {name!r}; there are: {', '.join(BLOCKS)}")
    made = BLOCKS[name](*arguments)
    return f"{start}\n\n{made}\n{end}" if made.endswith("\n") else f"{start}{made}{end}"


def differences() -> Iterator[tuple[Path, str, str]]:
    """Yields the pages that would change: the path, the text as it is, and the text as it would be."""
    for path in pages():
        old = path.read_text(encoding="utf-8")
        check_markers(old, str(path.relative_to(ROOT)))
        new = generated(old)
        if new != old:
            yield path, old, new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page would change")
    check = parser.parse_args().check
    changed = list(differences())
    for path, old, new in changed:
        name = str(path.relative_to(ROOT))
        if check:
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), name, "generated"))
        else:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    if check and changed:
        raise SystemExit("the pages differ from the result files; run `python docs/generate.py`")


if __name__ == "__main__":
    main()
