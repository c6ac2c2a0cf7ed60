"""Writes the files of results folders again, from their JSON: `python -m pixeldefend.eval FOLDER ...`

A folder holds the results.json of a benchmark, the comparison.json of several detectors, or entries of a leaderboard.
Results of earlier formats are upgraded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..errors import PixelDefendError
from ..serialization import whole_file
from .comparison import write_comparison
from .leaderboard import read_entries
from .report import write_report
from .upgrade import read_results


def rewrite(folder: Path) -> list[Path]:
    """Writes the files of a folder again that are made from its JSON files.

    Args:
        folder: A results folder.

    Returns:
        The JSON files.

    Raises:
        DataError: If the folder holds no results.
    """
    if (path := folder / "results.json").is_file():
        write_report(read_results(path), folder)
        return [path]
    if (path := folder / "comparison.json").is_file():
        write_comparison(read_results(path), folder)
        return [path]
    paths = sorted(folder.glob("*.json"))
    for path, found in zip(paths, read_entries(folder), strict=True):
        with whole_file(path) as file:
            file.write(json.dumps(found, indent=1) + "\n")
    return paths


def main(folders: list[str]) -> int:
    """Rewrites the files of results folders.

    Args:
        folders: The arguments of the command line.

    Returns:
        The exit code, 2 if there is no folder or if one holds no results.
    """
    if not folders or folders[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if folders else 2
    try:
        for folder in folders:
            for path in rewrite(Path(folder)):
                print(path)
    except (PixelDefendError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
