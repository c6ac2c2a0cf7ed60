"""Compares several detectors on the same attacked images, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..attacks import ATTACKS
from ..data import DataSet
from ..errors import DataError, ParameterError
from ..markdown import table
from ..scores import ALTERNATIVE_SCORES, CLASSIFIER_SCORES, SCORES
from ..serialization import whole_file
from .adaptive import check_summary, failed_checks
from .attacked import attack_all
from .run import run_benchmark, validate_names
from .upgrade import FORMAT, read_results

PICTURES = ("roc", "histograms", "examples")  # parts of results that are shown for one detector at a time
COMPARED = ["bits_per_dim", "excess_surprisal"]  # what every density of images has
OWN = "own statistic"


def compare(
    detectors: dict[str, Any],
    classifier: nn.Module,
    data: DataSet,
    *,
    attacks: list[str] | None = None,
    statistics: list[str] | None = None,
    recipes: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measures several detectors on the same attacked images.

    Args:
        detectors: Fitted detectors by their names in the table.
        classifier: The classifier that is attacked.
        data: The data set.
        attacks: Keys of `ATTACKS`, None for all.
        statistics: Keys of `SCORES`, `CLASSIFIER_SCORES` or `ALTERNATIVE_SCORES` to measure for every density, besides
            the detector's own; None for `COMPARED`.
        recipes: The recipes by which the densities were trained, by the names of the detectors.
        options: Further arguments of `run_benchmark`.

    Returns:
        {"format", "data", "attacks": names, "statistics": names, "detectors": by name, the results of `run_benchmark`
        without curves and pictures}.

    Raises:
        ParameterError: As `run_benchmark` does.
    """
    attacks = validate_names(attacks, ATTACKS)
    statistics = validate_names(statistics, SCORES | CLASSIFIER_SCORES | ALTERNATIVE_SCORES) if statistics else COMPARED
    log = options.get("log", lambda line: None)
    chosen = {name: options[name] for name in ("limit", "seed", "cache") if name in options}
    attacked = attack_all(classifier, data, attacks, **chosen, log=log)
    found = {}
    for name, detector in detectors.items():
        log(f"-- {name}")
        options["recipe"] = (recipes or {}).get(name)
        results = run_benchmark(
            detector, classifier, data, attacks=attacks, statistics=statistics, attacked=attacked, **options
        )
        found[name] = {key: value for key, value in results.items() if key not in PICTURES}
    return {"format": FORMAT, "data": data.name, "attacks": attacks, "statistics": statistics, "detectors": found}


def write_comparison(results: dict[str, Any], out: Path) -> None:
    """Writes comparison.json and comparison.md.

    Args:
        results: The results of `compare`.
        out: The folder, which is made if it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "comparison.json") as file:
        json.dump(results, file, indent=1)
    with whole_file(out / "comparison.md") as file:
        file.write(comparison_table(results))


def comparison_table(results: dict[str, Any]) -> str:
    """Writes a comparison in Markdown: a table for each statistic, a row for each detector, a column for each attack.

    Args:
        results: The results of `compare`.

    Returns:
        Markdown.
    """
    detectors, attacks = results["detectors"], results["attacks"]
    any_rows = next(iter(detectors.values()))["rows"]
    counts = {row["attack"]: f"{row['succeeded']} / {row['attempted']}" for row in any_rows}
    # early results do not name the detectors' own
    statistics = [OWN] * any("statistic" in found for found in detectors.values()) + results["statistics"]
    header = ["detector", "bits/dim", "ms"]
    parts = [
        f"""# Detectors compared on {results["data"]}

All detectors see the same attacked images. Each cell holds the AUROC and the share detected at 5 % false alarms, over
the attacked images that are misclassified. ms: milliseconds an image takes, under all statistics of this page.
""",
        *_warnings(list(detectors), list(detectors.values())),
    ]
    means = [
        [*_about(name, found), *(_cell(_mean(_of(found, statistic))) for statistic in statistics)]
        for name, found in detectors.items()
    ]
    parts.append(f"## Means over the attacks\n\n{table([*header, *statistics], means)}")
    header += [f"{name} ({counts[name]})" for name in attacks]
    for statistic in statistics:
        rows = []
        for name, found in detectors.items():
            if cells := {row["attack"]: row for row in _of(found, statistic)}:
                rows.append([*_about(name, found), *(_cell(cells[attack]) for attack in attacks)])
        parts.append(f"## {statistic}\n\n{table(header, rows)}")
    parts += _evasion(list(detectors), [found.get("adaptive") for found in detectors.values()])
    return "\n".join(parts)


def side_by_side(paths: list[Path]) -> str:
    """Compares several runs of the benchmark, attack by attack.

    Args:
        paths: Two or more results.json, or the folders that hold them.

    Returns:
        Markdown with the detection rates of each run's own statistic, and the evasion rates of attackers who know the
        detector.

    Raises:
        ParameterError: If there are fewer than two paths.
        DataError: If a file is no results file.
        FileNotFoundError: If a file is missing.
    """
    runs = [_read(path) for path in paths]
    if len(runs) < 2:
        raise ParameterError(f"a comparison needs at least two runs, got {len(runs)}")
    letters = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(runs))]
    lines = []
    for letter, path, run in zip(letters, paths, runs, strict=True):
        lines.append(f"{letter}: {path} ({run['data']}, {run['statistic']}, {run['images']['attacked_test']} images)  ")
    for what in ("calibration_images", "test_images", "classifier"):
        if len({run["sha256"][what] for run in runs if "sha256" in run}) > 1:  # early runs do not say
            lines.append(f"The runs differ in their {what.replace('_', ' ')}.  ")
    own = [{row["attack"]: row for row in _of(run, OWN)} for run in runs]
    rows = []
    for attack in dict.fromkeys(name for by_attack in own for name in by_attack):
        cells = [by_attack.get(attack) for by_attack in own]
        rows.append([attack, *(_cell(c or {"auroc": None}, "tpr_at_fpr_0.01") for c in cells)])
    parts = ["\n".join([*lines, ""]), *_warnings(letters, runs)]
    parts.append(f"AUROC / detected at 1 % false alarms.\n\n{table(['attack', *letters], rows)}")
    return "\n".join([*parts, *_evasion(letters, [run.get("adaptive") for run in runs])])


def _warnings(titles: list[str], runs: list[dict[str, Any]]) -> list[str]:
    found = [(title, warning) for title, run in zip(titles, runs, strict=True) for warning in run.get("warnings", [])]
    return [f"**{title}: {warning}**\n" for title, warning in found]


def _evasion(titles: list[str], adaptive: list[dict[str, Any] | None]) -> list[str]:
    """Returns a table of evasion rates and the failed checks, from the results of `run_adaptive` for each run."""
    runs = [{(row["attack"], row["eps"]): row for row in (run or {"rows": []})["rows"]} for run in adaptive]
    if not any(runs):
        return []
    rows = []
    for name, eps in dict.fromkeys(key for by_budget in runs for key in by_budget):
        found = [by_budget.get((name, eps)) for by_budget in runs]
        cells = ["-" if row is None else f"{row['evasion_rate_at_fpr_0.05']:.0%} / {row['images']}" for row in found]
        rows.append([f"{name}, {eps}/255", *cells])
    rows.append(["checks of the attacks", *("-" if run is None else check_summary(run) for run in adaptive)])
    parts = [f"Evasion rate at 5 % false alarms / of so many images.\n\n{table(['attack', *titles], rows)}"]
    for title, run in zip(titles, adaptive, strict=True):
        for check in failed_checks(run):
            parts.append(f"{title} FAILS its own check: {check['what']} ({check['detail']}).\n")
    return parts


def _read(path: Path) -> dict[str, Any]:
    path = path / "results.json" if path.is_dir() else path
    found = read_results(path)
    if not {"rows", "statistic", "images", "data"} <= found.keys():
        raise DataError(f"{path} is not the results.json of a benchmark")
    return found


def _of(found: dict[str, Any], statistic: str) -> list[dict[str, Any]]:
    """Returns the rows of a statistic, or of the detector's own."""
    name = found.get("statistic") if statistic == OWN else statistic
    return [row for row in found["rows"] if row["statistic"] == name]


def _about(name: str, found: dict[str, Any]) -> list[str]:
    bits = found["bits_per_dim"]
    return [name, "-" if bits is None else f"{bits:.3f}", f"{found['milliseconds']:.1f}"]


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean over the attacks that succeeded on any image."""
    chosen = [row for row in rows if row["auroc"] is not None]
    if not chosen:
        return {"auroc": None}
    means: dict[str, Any] = {}
    for key in ("auroc", "tpr_at_fpr_0.05"):
        values = [row[key] for row in chosen if row[key] is not None]
        means[key] = sum(values) / len(values) if values else None
    return means


def _cell(row: dict[str, Any], detected: str = "tpr_at_fpr_0.05") -> str:
    if row["auroc"] is None:
        return "-"
    return f"{row['auroc']:.3f} / " + ("-" if row[detected] is None else f"{row[detected]:.0%}")
