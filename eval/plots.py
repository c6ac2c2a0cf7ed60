"""Draws the plots of the report as SVGs, from the results of `run_benchmark`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from ..extras import extra
from .metrics import promised_interval

WIDTH, HEIGHT = 4.6, 3.4  # inches
LEAST = 1e-3  # the lowest rate that is drawn
# of middle lightness: readable on white, and on black where the page inverts lightness
COLOURS = (
    "#1f77b4", "#d95f02", "#1b8a3a", "#d62728", "#7b4fb5", "#8c564b", "#c51b7d", "#666666", "#8f7400", "#00798c",
)  # fmt: skip
GREY, RED = "#808080", COLOURS[3]


def plots(results: dict[str, Any]) -> list[dict[str, str]]:
    """Draws the plots of a report.

    Args:
        results: The results of `run_benchmark`.

    Returns:
        {"title", "alt": a description, "uri": the SVG as a data URI} for each plot.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    own = results["statistic"]
    curves = [curve for curve in results["roc"] if curve["statistic"] == own]
    made = []
    if curves:
        made += [
            _plot("ROC", f"Share of each attack detected by {own} against the false-alarm rate", _roc, curves),
            _plot("DET", f"Share of each attack missed by {own} against the false-alarm rate", _det, curves),
        ]
    for name, found in results["histograms"].items():
        title = "Histogram of bits/dim" if name == "bits_per_dim" else f"Histogram of {name}"
        made.append(_histograms(title, found, name))
    made.append(
        _plot(
            "P-values of clean images",
            "Histogram of the p-values of clean images; it should be flat",
            _p_values,
            results["p_values"],
        )
    )
    n, m = results["images"]["calibration"], results["images"]["clean_test"]
    alt = "Observed false alarms against the promised rate, with the range in which 95 % lie"
    made.append(_plot("False alarms", alt, _calibration, results["calibration"], n, m))
    if results["adaptive"]:
        alt = "Share of images that are misclassified and not flagged at 5 % false alarms, by budget"
        made.append(_plot("Attackers who know the detector", alt, _evasion, results["adaptive"]["rows"]))
    return made


def _plot(title: str, alt: str, draw: Callable[..., None], *arguments: Any) -> dict[str, str]:
    def whole(figure: Any) -> None:
        axes = figure.subplots()
        draw(axes, *arguments)
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        columns = 3 if len(labels) > 4 else 2
        figure.set_figheight(HEIGHT + 0.17 * -(-len(labels) // columns))
        # below, where it covers nothing
        figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=8, handlelength=3, frameon=False
        )

    return _drawn(title, alt, whole)


def _drawn(title: str, alt: str, draw: Callable[[Any], None]) -> dict[str, str]:
    with extra("eval"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pixeldefend", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return dict(title=title, alt=alt, uri="data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode())


def _style(i: int, n: int) -> dict[str, Any]:
    """Returns the style of the i-th of n curves: earlier ones are wider, later ones on top, so that all are visible."""
    width = 1.0 + 2.2 * (1 - i / max(1, n - 1)) if n > 1 else 1.4
    return dict(color=COLOURS[i % len(COLOURS)], linestyle=("-", "--", "-.", ":")[i % 4], linewidth=width)


def _roc(axes: Any, curves: list[dict[str, Any]]) -> None:
    from sklearn.metrics import RocCurveDisplay

    for i, curve in enumerate(curves):
        # a logarithmic axis has no 0: detection without any false alarm is drawn at its left end
        display = RocCurveDisplay(fpr=np.array(curve["fpr"]).clip(LEAST), tpr=np.array(curve["tpr"]))
        display.plot(ax=axes)
        axes.lines[-1].set(label=curve["attack"], **_style(i, len(curves)))
    axes.set(xscale="log", xlabel="false-alarm rate", ylabel="detected", xlim=(LEAST, 1.05), ylim=(-0.02, 1.02))
    axes.set_aspect("auto")


def _det(axes: Any, curves: list[dict[str, Any]]) -> None:
    from scipy.stats import norm
    from sklearn.metrics import DetCurveDisplay

    for i, curve in enumerate(curves):
        fpr, missed = np.array(curve["fpr"]), 1 - np.array(curve["tpr"])
        display = DetCurveDisplay(fpr=fpr.clip(LEAST, 1 - LEAST), fnr=missed.clip(LEAST, 1 - LEAST))
        display.plot(ax=axes)
        axes.lines[-1].set(label=curve["attack"], **_style(i, len(curves)))
    ticks = [LEAST, 0.01, 0.05, 0.2, 0.5, 0.8]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{tick:.1%}" if tick < 0.01 else f"{tick:.0%}" for tick in ticks])
    ends = norm.ppf([0.8 * LEAST, 0.9])
    axes.set(xlabel="false-alarm rate", ylabel="missed", xlim=ends, ylim=ends)
    axes.set_aspect("auto")


def _histograms(title: str, found: dict[str, Any], name: str) -> dict[str, str]:
    """Draws one panel for each attack, with the same clean images in all panels."""
    edges = np.array(found["edges"])
    shares = {kind: np.array(counts) / max(1, sum(counts)) for kind, counts in found["counts"].items()}
    clean = shares.pop("clean")

    def draw(figure: Any) -> None:
        columns = min(3, max(1, len(shares)))
        rows = max(1, -(-len(shares) // columns))
        figure.set_figheight(0.6 + max(1.0, 2.4 / rows) * rows)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for panel, (kind, share) in zip(panels, shares.items(), strict=False):
            panel.stairs(share, edges, color=RED, linewidth=1.0, fill=True, alpha=0.45)
            panel.set_title(kind, fontsize=8, pad=2)
        for panel in panels[: max(1, len(shares))]:
            panel.stairs(clean, edges, color="#444444", linewidth=1.0)
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.3)
        for panel in panels[max(1, len(shares)) :]:
            panel.set_visible(False)
        # the last bin holds all that is beyond it, and may be as high as 1
        highest = max(share[:-1].max() for share in (clean, *shares.values()))
        panels[0].set(ylim=(0, 1.1 * highest))
        figure.supxlabel("bits/dim" if name == "bits_per_dim" else name, fontsize=9)
        figure.supylabel("share of images", fontsize=9)

    alt = f"{title}: clean images, as a line, and each attack, filled"
    return _drawn(f"{title}: clean (line) and attacked (filled)", alt, draw)


def _p_values(axes: Any, counts: list[int]) -> None:
    total = max(1, sum(counts))
    axes.stairs(np.array(counts) / total, np.linspace(0, 1, len(counts) + 1), fill=True, color=GREY, alpha=0.6)
    axes.axhline(1 / len(counts), color=RED, linewidth=1.4, label="uniform")
    axes.set(xlabel="p-value", ylabel="share of clean images")


def _calibration(axes: Any, pairs: list[list[float]], n: int, m: int) -> None:
    rates, observed = np.array(pairs).T
    possible = rates >= 1 / (n + 1)
    ranks = np.maximum(1, np.floor(rates[possible] * (n + 1)).astype(int)).clip(max=n)
    low, high = np.array([promised_interval(int(rank), n, m) for rank in ranks]).T
    axes.fill_between(rates[possible], low.clip(1e-4), high, color=GREY, alpha=0.4, label="95 % range")
    some = observed > 0
    axes.plot(rates[some], observed[some], color=COLOURS[0], marker="o", markersize=3, linewidth=1.2, label="observed")
    axes.plot([rates[0], 1], [rates[0], 1], color=RED, linewidth=1, label="promised")
    axes.set(xscale="log", yscale="log", xlabel="promised false-alarm rate", ylabel="observed")


def _evasion(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["attack"] for row in rows))
    for i, name in enumerate(names):
        chosen = [row for row in rows if row["attack"] == name]
        # side by side, where they coincide
        eps = np.array([row["eps"] for row in chosen]) * 1.025 ** (i - (len(names) - 1) / 2)
        share = np.array([row["evasion_rate_at_fpr_0.05"] for row in chosen])
        low, high = np.array([row["evasion_rate_at_fpr_0.05_ci"] for row in chosen]).T
        style = {**_style(i, len(names)), "linewidth": 1.2}
        axes.errorbar(eps, share, [share - low, high - share], marker="o", markersize=3, capsize=2, label=name, **style)
    axes.set(xscale="log", xlabel="budget, 8-bit steps", ylabel="evasion rate", ylim=(-0.03, 1.03))
    budgets = sorted({row["eps"] for row in rows})
    axes.set_xticks(budgets, [str(b) for b in budgets])
    axes.minorticks_off()
