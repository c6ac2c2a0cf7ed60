"""Writes results.json, results.md, roc.png and report.html from the results of `run_benchmark`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..extras import extra
from ..serialization import whole_file
from .adaptive import detector_aware_rows, failed_checks
from .examples import CLASSES
from .plots import plots

SMALL_EPS = 8  # 8-bit steps: the verdict names the best attack within this budget


def write_report(results: dict[str, Any], out: Path) -> None:
    """Writes results.json, results.md, roc.png and report.html.

    Args:
        results: The results of `run_benchmark`, with the "command" that was run if there is one.
        out: The folder, which is made if it is missing.

    Raises:
        MissingExtraError: If matplotlib or jinja2 is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "results.json") as file:
        json.dump(results, file, indent=1)
    with whole_file(out / "results.md") as file:
        file.write(markdown(results))
    with whole_file(out / "roc.png", "wb") as file:
        plot_roc(results, file)
    with whole_file(out / "report.html") as file:
        file.write(html(results))


def html(results: dict[str, Any]) -> str:
    """Writes a self-contained HTML page, without scripts and without links to the network.

    Args:
        results: As for `write_report`.

    Returns:
        HTML.
    """
    with extra("eval"):
        from jinja2 import Environment, PackageLoader
        from markupsafe import Markup

    def cell(row: dict[str, Any], key: str, form: str) -> str:
        if row[key] is None:
            return Markup("<td>-</td>")
        low, high = (form.format(bound) for bound in row[f"{key}_ci"])
        value, low = form.format(row[key]), low.rstrip("%")
        return Markup('<td>{} <span class="range">{} to {}</span></td>').format(value, low, high)

    def class_name(label: int) -> str | int:
        names = results.get("class_names") or dict(enumerate(CLASSES.get(results["data"], ())))
        return names.get(str(label), names.get(label, label))

    environment = Environment(loader=PackageLoader("pixeldefend.eval"), autoescape=True)
    return environment.get_template("report.html.j2").render(
        {"command": None, **results},
        about=about(results),
        verdict=verdict(results),
        failed=failed_checks(results["adaptive"]),
        plots=plots(results),
        cell=cell,
        class_name=class_name,
    )


def about(results: dict[str, Any]) -> str:
    """Returns what must be known of a benchmark on photographs, in sentences that end with a space; "" for others.

    Args:
        results: The results of `run_photographs` or `run_benchmark`.
    """
    if "view" not in results:
        return ""
    view, given = results["view"], results["labels"] == "given"
    size = "at their own size" if view == "native" else f"as crops of {view} x {view} pixels"
    labels = "given" if given else "what the classifier makes of the clean images"
    return (
        f"The images are photographs {size}. Their labels are {labels}. Images are judged as files, by their p-values; "
        "AUROC is of p-values and, where these are equal, of scores. "
    )


def verdict(results: dict[str, Any]) -> str:
    """Returns the outcome of a benchmark in a sentence or two.

    Args:
        results: The results of `run_benchmark`.
    """
    own = [row for row in results["rows"] if row["statistic"] == results["statistic"] and row["auroc"] is not None]
    own = [row for row in own if not row["is_control"]]
    judged = [row for row in own if row["tpr_at_fpr_0.01"] is not None]
    if own and not judged:
        text = f"There are {results['images']['calibration']} calibration images, too few for 1 % false alarms."
    elif not own:
        text = "No attack succeeded: there is nothing to detect."
    else:
        key = "tpr_at_fpr_0.01"
        mean, worst = sum(row[key] for row in judged) / len(judged), min(judged, key=lambda row: row[key])
        low, high = worst[f"{key}_ci"]
        of = f"{worst['succeeded']} images attacked by {worst['attack']}"
        hardest = f"{worst[key]:.0%} ({low:.0%} to {high:.0%}) of {of}"
        text = f"At 1 % false alarms {results['statistic']} detects "
        text += (
            f"{mean:.0%} on average over {len(judged)} attacks, and {hardest}." if len(judged) > 1 else f"{hardest}."
        )
    both = detector_aware_rows(results["adaptive"])
    if both:
        small = [row for row in both if row["eps"] <= SMALL_EPS] or both
        best = max(small, key=lambda row: (row["evasion_rate_at_fpr_0.05"], -row["eps"]))
        low, high = best["evasion_rate_at_fpr_0.05_ci"]
        text += (
            f" An attacker who knows the detector evades it with {best['evasion_rate_at_fpr_0.05']:.0%} ({low:.0%} to "
            f"{high:.0%}) of {best['images']} images within {best['eps']}/255 ({best['attack']}, 5 % false alarms)."
        )
    if failed := failed_checks(results["adaptive"]):
        text += f" But {len(failed)} checks of these attacks FAIL: do not rely on this figure."
    return text


def markdown(results: dict[str, Any]) -> str:
    """Writes the tables of detection by attack, of statistics, of false alarms, and of other images that are flagged.

    Args:
        results: The results of `run_benchmark`.

    Returns:
        Markdown.
    """
    with extra("eval"):
        from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("pixeldefend.eval"), keep_trailing_newline=True, autoescape=False)
    attacks, statistics = (list(dict.fromkeys(row[key] for row in results["rows"])) for key in ("attack", "statistic"))
    found = {(row["attack"], row["statistic"]): row for row in results["rows"]}
    found |= {(row["attack"], "oracle"): row for row in results["oracle"]}
    if results["oracle"]:  # means over the same attacks for all
        attacks = [row["attack"] for row in results["oracle"]]

    def mean(statistic: str, key: str, form: str) -> str:
        there = [value for attack in attacks if (value := found[attack, statistic][key]) is not None]
        return form.format(sum(there) / len(there)) if there else "-"

    template = environment.get_template("results.md.j2")
    shared = dict(about=about(results), number=_number, share=_share, mean=mean)
    return template.render(results, attacks=attacks, statistics=statistics, found=found, **shared)


def plot_roc(results: dict[str, Any], file: Any) -> None:
    """Draws ROC curves: one panel for each attack, one curve for each statistic, false alarms on a logarithmic axis.

    Args:
        results: The results of `run_benchmark`.
        file: A file opened for writing bytes, which gets a PNG.
    """
    with extra("eval"):
        from matplotlib.figure import Figure

    attacks = list(dict.fromkeys(curve["attack"] for curve in results["roc"]))
    statistics = list(dict.fromkeys(curve["statistic"] for curve in results["roc"]))
    columns = min(4, max(1, len(attacks)))
    rows = max(1, -(-len(attacks) // columns))
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, attack in zip(panels, attacks, strict=False):
        for i, statistic in enumerate(statistics):
            for curve in results["roc"]:
                if (curve["attack"], curve["statistic"]) == (attack, statistic):
                    style = ("-", "--", "-.", ":")[i % 4]
                    panel.plot(curve["fpr"], curve["tpr"], style, color=f"C{i}", label=statistic, linewidth=1.6)
        panel.set_title(attack, fontsize=10)
        panel.set_xscale("log")
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
    for panel in panels[len(attacks) :]:
        panel.set_visible(False)
    if attacks:
        figure.supxlabel("false-alarm rate on clean test images", fontsize=10)
        figure.supylabel("attacked images detected", fontsize=10)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(statistics), fontsize=9, frameon=False)
    figure.savefig(file, format="png", dpi=90)


def _share(value: float | None) -> str:
    """Returns a share in per cent, or "-" if there is none."""
    return "-" if value is None else f"{value:.1%}"


def _number(value: float | None, interval: list[float] | None, form: str) -> str:
    """Returns "value [low, high]", or "-" if there is no value."""
    if value is None or interval is None:
        return "-"
    return f"{form.format(value)} [{form.format(interval[0])}, {form.format(interval[1])}]"
