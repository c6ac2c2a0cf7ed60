"""Reads results files of earlier versions in the current format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..images.corruptions import CORRUPTIONS

FORMAT = 2

# format 1 -> format 2
KEYS = {
    "score": "statistic",
    "scores": "statistics",
    "asking_the_classifier": "classifier_statistics",
    "control": "is_control",
    "fooled": "misclassified",
    "gallery": "examples",
    "read": "predicted",
    "read_attacked": "predicted_attacked",
    "read_purified": "predicted_purified",
}
CHECKS = (
    (r"more budget does no worse", "a larger budget does no worse"),
    (r"within (\d+)/255 nearly every image gets by", r"nearly every image evades within \1/255"),
    (r"to know the detector helps", "knowing the detector helps"),
)
OPTIONS = (
    (r"--keep\b", "--cache"),
    (r"--controls\b", "--corruptions"),
    (r"--scores\b", "--statistics"),
    (r"--dear-", "--expensive-"),
)


def upgrade(results: dict[str, Any]) -> dict[str, Any]:
    """Converts results of any earlier format to the current format, without changing figures.

    Args:
        results: The content of a results.json, a comparison.json or an entry of the leaderboard.

    Returns:
        The results in format 2. Results of that format are returned unchanged.

    Raises:
        DataError: If the format is of a later version.
    """
    format_ = results.get("format", 1)
    if format_ == FORMAT:
        return results
    if format_ != 1:
        raise DataError(f"the results have format {format_}, but formats up to {FORMAT} are known: upgrade pixeldefend")
    upgraded: dict[str, Any] = {"format": FORMAT, **_renamed(results)}
    if "detectors" in upgraded:
        upgraded["detectors"] = {name: upgrade(found) for name, found in results["detectors"].items()}
    if "controls" in upgraded:
        benign = upgraded.pop("controls")
        upgraded["benign_corruptions"] = [row for row in benign if row["what"] in CORRUPTIONS]
        upgraded["other_data"] = [row for row in benign if row["what"] not in CORRUPTIONS]
    for check in (upgraded.get("adaptive") or {"checks": []})["checks"]:
        check["what"] = _replaced(check["what"], CHECKS)
    if "command" in upgraded:
        upgraded["command"] = _replaced(upgraded["command"], OPTIONS)
    return upgraded


def read_results(path: Path) -> dict[str, Any]:
    """Reads a results file of any format.

    Args:
        path: A JSON file.

    Returns:
        The content of the file, in the current format.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is no results file, or of a later format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise DataError(f"{path} is not JSON") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is not a results file: it holds a {type(found).__name__}")
    return upgrade(found)


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if isinstance(value, dict):
        return {_new_key(key): _renamed(item) for key, item in value.items()}
    return value


def _new_key(key: str) -> str:
    return KEYS.get(key) or key.replace("success_at_fpr_", "evasion_rate_at_fpr_")


def _replaced(text: str, patterns: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in patterns:
        text = re.sub(pattern, replacement, text)
    return text
