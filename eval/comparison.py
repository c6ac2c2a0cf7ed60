"""Several detectors on the same attacked images, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..attacks import ATTACKS
from ..datasets import DataSet
from ..detector import Detector
from ..scores import SCORES
from ..storage import whole_file
from .benchmark import attack_all, known, run_benchmark

COMPARED = ["bits_per_dim", "excess_surprisal"]  # what every density has that models images


def compare(
    detectors: dict[str, Detector],
    classifier: nn.Module,
    data: DataSet,
    *,
    attacks: list[str] | None = None,
    scores: list[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """detectors: by the names that the table gives them. The rest is as `run_benchmark` takes it.

    Every detector sees the very same attacked images. Returns {"data", "attacks": names, "scores": names, "detectors":
    name -> what `run_benchmark` returns, less the curves}.
    """
    attacks = known(attacks, ATTACKS)
    scores = known(scores, SCORES) if scores is not None else COMPARED
    log = options.get("log", lambda line: None)
    chosen = {name: options[name] for name in ("limit", "seed") if name in options}
    attacked = attack_all(classifier, data, attacks, **chosen, log=log)
    found = {}
    for name, detector in detectors.items():
        log(f"-- {name}")
        results = run_benchmark(
            detector, classifier, data, attacks=attacks, scores=scores, attacked=attacked, **options
        )
        found[name] = {key: value for key, value in results.items() if key != "roc"}
    return {"data": data.name, "attacks": attacks, "scores": scores, "detectors": found}


def write_comparison(results: dict[str, Any], out: Path) -> None:
    """Writes comparison.json and comparison.md to the folder out."""
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "comparison.json") as file:
        json.dump(results, file, indent=1)
    with whole_file(out / "comparison.md") as file:
        file.write(comparison_table(results))


def comparison_table(results: dict[str, Any]) -> str:
    """Returns Markdown: a table a score, a row a detector and a column an attack."""
    any_rows = next(iter(results["detectors"].values()))["rows"]
    counts = {row["attack"]: f"{row['succeeded']} / {row['attempted']}" for row in any_rows}
    lines = [
        f"# Detectors compared on {results['data']}",
        "",
        "The same attacked images for all. A cell: AUROC / share detected at 5 % false alarms, over the attacked",
        "images that fool the classifier. ms: time an image, under all scores of this page.",
    ]
    header = ["detector", "bits/dim", "ms"]
    lines += ["", "## Means over the attacks", "", _row([*header, *results["scores"]])]
    lines.append(_row(["---"] * (3 + len(results["scores"]))))
    for name, found in results["detectors"].items():
        lines.append(_row([*_about(name, found), *(_cell(_mean(found["rows"], score)) for score in results["scores"])]))
    header += [f"{name} ({counts[name]})" for name in results["attacks"]]
    for score in results["scores"]:
        lines += ["", f"## {score}", "", _row(header), _row(["---"] * len(header))]
        for name, found in results["detectors"].items():
            cells = {row["attack"]: row for row in found["rows"] if row["score"] == score}
            lines.append(_row([*_about(name, found), *(_cell(cells[attack]) for attack in results["attacks"])]))
    return "\n".join([*lines, ""])


def _about(name: str, found: dict[str, Any]) -> list[str]:
    return [name, f"{found['bits_per_dim']:.3f}", f"{found['milliseconds']:.1f}"]


def _mean(rows: list[dict[str, Any]], score: str) -> dict[str, Any]:
    """Of the attacks that succeeded on any image."""
    chosen = [row for row in rows if row["score"] == score and row["auroc"] is not None]
    if not chosen:
        return {"auroc": None}
    return {key: sum(row[key] for row in chosen) / len(chosen) for key in ("auroc", "tpr_at_fpr_0.05")}


def _cell(row: dict[str, Any]) -> str:
    return "-" if row["auroc"] is None else f"{row['auroc']:.3f} / {row['tpr_at_fpr_0.05']:.0%}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
