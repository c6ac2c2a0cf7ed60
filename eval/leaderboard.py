"""The leaderboard: detectors under one protocol, with one small JSON file for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..markdown import table
from .adaptive import check_summary, detector_aware_rows
from .upgrade import FORMAT, read_results

SHIPPED = Path(__file__).parent / "results" / "leaderboard"
ROW_KEYS = (
    "attack",
    "attempted",
    "succeeded",
    "auroc",
    "auroc_ci",
    *(f"tpr_at_fpr_{fpr}" for fpr in (0.001, 0.01, 0.05)),
)
ABOUT = ("data", "images", "classifier_accuracy", "sha256", "versions", "seed")
OF_PHOTOGRAPHS = ("view", "labels", "benign_corruptions")
LARGEST_EPS = 8  # 8-bit steps: larger budgets are not in the table


def entry(name: str, results: dict[str, Any], command: str) -> dict[str, Any]:
    """Returns the entry of the leaderboard for a benchmark.

    Args:
        name: The name of the detector.
        results: The results of `run_benchmark`.
        command: The command that was run.

    Returns:
        Plain JSON values.
    """
    own = [row for row in results["rows"] if row["statistic"] == results["statistic"] and not row["is_control"]]
    return {
        "format": FORMAT,
        "detector": name,
        "statistic": results["statistic"],
        "command": command,
        **{key: results[key] for key in (*ABOUT, *(OF_PHOTOGRAPHS if "view" in results else ()))},
        "rows": [{key: row[key] for key in ROW_KEYS if key in row} for row in own],
        "false_alarms": [alarm for alarm in results["false_alarms"] if alarm["statistic"] == results["statistic"]],
        "adaptive": results["adaptive"],
    }


def read_entries(folder: Path | None = None) -> list[dict[str, Any]]:
    """Reads the entries of a leaderboard.

    Args:
        folder: The folder of the JSON files; None for the shipped entries.

    Returns:
        The entries, in the order of the names of their files.

    Raises:
        DataError: If there are none, or one cannot be read.
    """
    folder = folder or SHIPPED
    entries = []
    for path in sorted(folder.glob("*.json")):
        entries.append(found := read_results(path))
        if missing := {"detector", "data", "images", "rows", "false_alarms", "adaptive"} - found.keys():
            raise DataError(f"{path} is not an entry of a leaderboard: it has no {', '.join(sorted(missing))}")
    if not entries:
        raise DataError(f"there are no entries in {folder}")
    return entries


def leaderboard_table(folder: Path | None = None) -> str:
    """Writes a leaderboard in Markdown, with a table for each data set and detectors ordered by their mean AUROC.

    Args:
        folder: The folder of the entries; None for the shipped entries.

    Returns:
        Markdown.

    Raises:
        DataError: If there are no entries, or one cannot be read.
    """
    entries = read_entries(folder)
    parts = []
    for data in dict.fromkeys(map(_data, entries)):
        chosen = sorted((e for e in entries if _data(e) == data), key=lambda e: -_mean(e, "auroc"))
        budgets = sorted({row["eps"] for e in chosen for row in detector_aware_rows(e["adaptive"])})
        budgets = [eps for eps in budgets if eps <= LARGEST_EPS]
        images = " or ".join(map(str, sorted({e["images"]["attacked_test"] for e in chosen})))
        titles = ["detector", "AUROC", "lowest", "detected at 1 %", "lowest", "false alarms at 1 %"]
        if budgets:
            titles += [*(f"evasion rate, {eps}/255" for eps in budgets), "of", "checks"]
        parts.append(f"""## {data}: {images} test images, {len(chosen[0]["rows"])} attacks

AUROC and detection are means over the attacks that know the classifier only; *lowest* is the hardest of these. The
*evasion rate* is that of the best attack that knows the detector, within a budget in 8-bit steps, at 5 % false alarms.
The attacks are checked themselves. Where a check FAILS, do not rely on the evasion rates.

{table(titles, [_cells(e, budgets) for e in chosen])}""")
    return "\n".join(parts)


def _data(found: dict[str, Any]) -> str:
    """Returns the data set and, of photographs, the view."""
    return found["data"] + (f", view {found['view']}" if "view" in found else "")


def _cells(found: dict[str, Any], budgets: list[int]) -> list[str]:
    alarm = next((f"{a['observed']:.1%}" for a in found["false_alarms"] if a["fpr"] == 0.01), "-")
    cells = [found["detector"], f"{_mean(found, 'auroc'):.3f}", f"{_lowest(found, 'auroc'):.3f}"]
    cells += [f"{_mean(found, 'tpr_at_fpr_0.01'):.0%}", f"{_lowest(found, 'tpr_at_fpr_0.01'):.0%}", alarm]
    adaptive = found["adaptive"]
    for eps in budgets:
        rates = [row["evasion_rate_at_fpr_0.05"] for row in detector_aware_rows(adaptive) if row["eps"] == eps]
        cells.append(f"{max(rates):.0%}" if rates else "-")
    if budgets:
        cells += [str(adaptive["images"]), check_summary(adaptive)] if adaptive else ["-", "-"]
    return cells


def _values(found: dict[str, Any], key: str) -> list[float]:
    return [row[key] for row in found["rows"] if row[key] is not None] or [float("nan")]


def _mean(found: dict[str, Any], key: str) -> float:
    values = _values(found, key)
    return sum(values) / len(values)


def _lowest(found: dict[str, Any], key: str) -> float:
    return min(_values(found, key))
