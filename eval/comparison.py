"""Several detectors on the same attacked images, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..attacks import ATTACKS
from ..data import DataSet
from ..detectors import Detector
from ..errors import ParameterError
from ..scores import SCORES
from ..serialization import whole_file
from .adaptive import check_summary, failed_checks
from .benchmark import attack_all, known, run_benchmark

PICTURES = ("roc", "histograms", "gallery")  # of one detector at a time
COMPARED = ["bits_per_dim", "excess_surprisal"]  # what every density has that models images


def compare(
    detectors: dict[str, Detector],
    classifier: nn.Module,
    data: DataSet,
    *,
    attacks: list[str] | None = None,
    scores: list[str] | None = None,
    recipes: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """detectors: by the names that the table gives them. recipes: of their training, by the same names. The rest is as
    `run_benchmark` takes it.

    Every detector sees the very same attacked images, under its own score and, if it has a density, under these.
    Returns {"data", "attacks": names, "scores": names, "detectors": name -> what `run_benchmark` returns, less the
    curves}.
    """
    attacks = known(attacks, ATTACKS)
    scores = known(scores, SCORES) if scores else COMPARED
    log = options.get("log", lambda line: None)
    chosen = {name: options[name] for name in ("limit", "seed", "cache") if name in options}
    attacked = attack_all(classifier, data, attacks, **chosen, log=log)
    found = {}
    for name, detector in detectors.items():
        log(f"-- {name}")
        options["recipe"] = (recipes or {}).get(name)
        results = run_benchmark(
            detector, classifier, data, attacks=attacks, scores=scores, attacked=attacked, **options
        )
        found[name] = {key: value for key, value in results.items() if key not in PICTURES}
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
    detectors = results["detectors"]
    any_rows = next(iter(detectors.values()))["rows"]
    counts = {row["attack"]: f"{row['succeeded']} / {row['attempted']}" for row in any_rows}
    lines = [
        f"# Detectors compared on {results['data']}",
        "",
        "The same attacked images for all. A cell: AUROC / share detected at 5 % false alarms, over the attacked",
        "images that fool the classifier. ms: time an image, under all scores of this page.",
        *_warnings(list(detectors), list(detectors.values())),
    ]
    scores = ["own score", *results["scores"]]
    header = ["detector", "bits/dim", "ms"]
    lines += ["", "## Means over the attacks", "", _row([*header, *scores]), _row(["---"] * (3 + len(scores)))]
    for name, found in detectors.items():
        means = [_cell(_mean(_of(found, score))) for score in scores]
        lines.append(_row([*_about(name, found), *means]))
    header += [f"{name} ({counts[name]})" for name in results["attacks"]]
    for score in scores:
        lines += ["", f"## {score}", "", _row(header), _row(["---"] * len(header))]
        for name, found in detectors.items():
            cells = {row["attack"]: row for row in _of(found, score)}
            if cells:
                lines.append(_row([*_about(name, found), *(_cell(cells[attack]) for attack in results["attacks"])]))
    names = list(detectors)
    lines += _getting_by(names, [found["adaptive"] for found in detectors.values()])
    return "\n".join([*lines, ""])


def side_by_side(paths: list[Path]) -> str:
    """paths: results.json of `run_benchmark`, or folders that hold one. Returns Markdown: each run's own score by
    attack, and how often those who know the detector get by. Raises ParameterError for what is no such file."""
    runs = [_read(path) for path in paths]
    if len(runs) < 2:
        raise ParameterError(f"there must be two runs or more to compare, got {len(runs)}")
    letters = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(runs))]
    lines = []
    for letter, path, run in zip(letters, paths, runs, strict=True):
        lines.append(f"{letter}: {path} ({run['data']}, {run['score']}, {run['images']['attacked_test']} images)  ")
    for what in ("calibration_images", "test_images", "classifier"):
        if len({run["sha256"][what] for run in runs if "sha256" in run}) > 1:  # runs of old do not say
            lines.append(f"The runs differ in their {what.replace('_', ' ')}.  ")
    lines += _warnings(letters, runs)
    lines += ["", "AUROC / detected at 1 % false alarms.", ""]
    lines += [_row(["attack", *letters]), _row(["---"] * (1 + len(runs)))]
    own = [{row["attack"]: row for row in _of(run, "own score")} for run in runs]
    for attack in dict.fromkeys(name for rows in own for name in rows):
        cells = [rows.get(attack) for rows in own]
        lines.append(_row([attack, *(_cell(c or {"auroc": None}, "tpr_at_fpr_0.01") for c in cells)]))
    lines += _getting_by(letters, [run.get("adaptive") for run in runs])
    return "\n".join([*lines, ""])


def _warnings(titles: list[str], runs: list[dict[str, Any]]) -> list[str]:
    found = [(title, warning) for title, run in zip(titles, runs, strict=True) for warning in run.get("warnings", [])]
    return [line for title, warning in found for line in ("", f"**{title}: {warning}**")]


def _getting_by(titles: list[str], adaptive: list[dict[str, Any] | None]) -> list[str]:
    """adaptive: of each run, what `run_adaptive` returned. Returns the lines of a table, none if there is nothing."""
    runs = [{(row["attack"], row["eps"]): row for row in (run or {"rows": []})["rows"]} for run in adaptive]
    if not any(runs):
        return []
    lines = ["", "Get by, at 5 % false alarms / of so many images.", ""]
    lines += [_row(["attack", *titles]), _row(["---"] * (1 + len(runs)))]
    for name, eps in dict.fromkeys(key for rows in runs for key in rows):
        found = [rows.get((name, eps)) for rows in runs]
        cells = ["-" if row is None else f"{row['success_at_fpr_0.05']:.0%} / {row['images']}" for row in found]
        lines.append(_row([f"{name}, {eps}/255", *cells]))
    lines.append(_row(["checks of the attacks", *("-" if run is None else check_summary(run) for run in adaptive)]))
    for title, run in zip(titles, adaptive, strict=True):
        for check in failed_checks(run):
            lines += ["", f"{title} FAILS its own check: {check['what']} ({check['detail']})."]
    return lines


def _read(path: Path) -> dict[str, Any]:
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = json.loads(path.read_text())
        assert {"rows", "score", "images", "data"} <= found.keys()
    except (ValueError, AssertionError, AttributeError):
        raise ParameterError(f"{path} is not the results.json of a benchmark") from None
    return dict(found)


def _of(found: dict[str, Any], score: str) -> list[dict[str, Any]]:
    """Returns the rows of a score, or of the detector's own."""
    name = found["score"] if score == "own score" else score
    return [row for row in found["rows"] if row["score"] == name]


def _about(name: str, found: dict[str, Any]) -> list[str]:
    return [name, f"{found['bits_per_dim']:.3f}", f"{found['milliseconds']:.1f}"]


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the attacks that succeeded on any image."""
    chosen = [row for row in rows if row["auroc"] is not None]
    if not chosen:
        return {"auroc": None}
    return {key: sum(row[key] for row in chosen) / len(chosen) for key in ("auroc", "tpr_at_fpr_0.05")}


def _cell(row: dict[str, Any], detected: str = "tpr_at_fpr_0.05") -> str:
    return "-" if row["auroc"] is None else f"{row['auroc']:.3f} / {row[detected]:.0%}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
