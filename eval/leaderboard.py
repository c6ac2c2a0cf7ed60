"""Detectors under one protocol, one small JSON file each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from .adaptive import check_summary, detector_aware_rows

SHIPPED = Path(__file__).parent / "results" / "leaderboard"
KEPT = ("attack", "attempted", "succeeded", "auroc", "auroc_ci", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05")


def entry(name: str, results: dict[str, Any], command: str) -> dict[str, Any]:
    """name: of the detector. results: what `run_benchmark` returns. Returns what the leaderboard keeps of it."""
    own = [row for row in results["rows"] if row["score"] == results["score"] and not row["control"]]
    return {
        "detector": name,
        "score": results["score"],
        "command": command,
        **{key: results[key] for key in ("data", "images", "classifier_accuracy", "sha256", "versions", "seed")},
        "rows": [{key: row[key] for key in KEPT} for row in own],
        "false_alarms": [alarm for alarm in results["false_alarms"] if alarm["score"] == results["score"]],
        "adaptive": results["adaptive"],
    }


def leaderboard_table(folder: Path | None = None) -> str:
    """folder: of entries, by default those that are shipped. Returns Markdown: a table a data set, detectors by their
    mean AUROC. Raises ParameterError if there are none, or one cannot be read."""
    folder = folder or SHIPPED
    entries = []
    for path in sorted(folder.glob("*.json")):
        try:
            entries.append(json.loads(path.read_text()))
            entries[-1]["rows"], entries[-1]["false_alarms"], entries[-1]["data"]
        except (ValueError, KeyError, TypeError):
            raise ParameterError(f"{path} is no entry of a leaderboard") from None
    if not entries:
        raise ParameterError(f"there are no entries in {folder}")
    lines = []
    for data in dict.fromkeys(found["data"] for found in entries):
        chosen = sorted((e for e in entries if e["data"] == data), key=lambda e: -_mean(e, "auroc"))
        budgets = sorted({row["eps"] for e in chosen for row in detector_aware_rows(e["adaptive"])})
        budgets = [eps for eps in budgets if eps <= 8]
        images = " or ".join(map(str, sorted({e["images"]["attacked_test"] for e in chosen})))
        lines += [
            f"## {data}: {images} test images, {len(chosen[0]['rows'])} attacks",
            "",
            "Means over attacks that know the classifier alone; *least*: of the hardest. *Get by*: within so many",
            "8-bit steps, the best of the attacks that know the detector, at 5 % false alarms. Where one of these",
            "attacks FAILS a check of its own, the figures are not to be relied on.",
            "",
        ]
        titles = ["detector", "AUROC", "least", "detected at 1 %", "least", "false alarms at 1 %"]
        if budgets:
            titles += [*(f"get by, {eps}/255" for eps in budgets), "of", "checks"]
        lines += ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
        for e in chosen:
            alarm = next(a["observed"] for a in e["false_alarms"] if a["fpr"] == 0.01)
            cells = [e["detector"], f"{_mean(e, 'auroc'):.3f}", f"{_least(e, 'auroc'):.3f}"]
            cells += [f"{_mean(e, 'tpr_at_fpr_0.01'):.0%}", f"{_least(e, 'tpr_at_fpr_0.01'):.0%}", f"{alarm:.1%}"]
            for eps in budgets:
                shares = [row["success_at_fpr_0.05"] for row in detector_aware_rows(e["adaptive"]) if row["eps"] == eps]
                cells.append(f"{max(shares):.0%}" if shares else "-")
            if budgets:
                cells += [str(e["adaptive"]["images"]), check_summary(e["adaptive"])] if e["adaptive"] else ["-", "-"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _values(found: dict[str, Any], key: str) -> list[float]:
    return [row[key] for row in found["rows"] if row[key] is not None] or [float("nan")]


def _mean(found: dict[str, Any], key: str) -> float:
    values = _values(found, key)
    return sum(values) / len(values)


def _least(found: dict[str, Any], key: str) -> float:
    return min(_values(found, key))
