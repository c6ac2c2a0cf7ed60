"""The plots of the report, each an SVG, from what `run_benchmark` returns."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from .metrics import promised_interval

SIZE = (4.6, 3.4)
LEAST = 1e-3  # the lowest rate that is drawn


def plots(results: dict[str, Any]) -> list[dict[str, str]]:
    """Returns for each plot {"title", "alt", "uri"}: what it shows in words, and the SVG as a data URI."""
    own = results["score"]
    curves = [curve for curve in results["roc"] if curve["score"] == own]
    made = []
    if curves:
        made += [
            _plot("ROC", f"Share of each attack detected by {own} against the false-alarm rate", _roc, curves),
            _plot("DET", f"Share of each attack missed by {own} against the false-alarm rate", _det, curves),
        ]
    for name, found in results["histograms"].items():
        title = "Histogram of bits/dim" if name == "bits_per_dim" else f"Histogram of {name}"
        made.append(_plot(title, f"{title}: clean images and each attack", _histogram, found, name))
    made.append(_plot("P-values of clean images", "Their histogram; flat is right", _p_values, results["p_values"]))
    n, m = results["images"]["calibration"], results["images"]["clean_test"]
    alt = "Observed false alarms against the promised rate, with the range in which 95 % lie"
    made.append(_plot("False alarms", alt, _calibration, results["calibration"], n, m))
    if results["adaptive"]:
        alt = "Share of images that fool the classifier and are not flagged at 5 % false alarms, by budget"
        made.append(_plot("Attackers who know", alt, _success, results["adaptive"]["rows"]))
    return made


def _plot(title: str, alt: str, draw: Callable[..., None], *arguments: Any) -> dict[str, str]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "pixeldefend", "font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        draw(axes, *arguments)
        axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return dict(title=title, alt=alt, uri="data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode())


def _style(i: int) -> dict[str, Any]:
    return dict(color=f"C{i % 10}", linestyle=("-", "--", ":")[i // 10 % 3], linewidth=1.4)


def _roc(axes: Any, curves: list[dict[str, Any]]) -> None:
    from sklearn.metrics import RocCurveDisplay

    for i, curve in enumerate(curves):
        # a logarithmic axis has no 0: what is detected without any false alarm is drawn at its left end
        display = RocCurveDisplay(fpr=np.array(curve["fpr"]).clip(LEAST), tpr=np.array(curve["tpr"]))
        display.plot(ax=axes)
        axes.lines[-1].set(label=curve["attack"], **_style(i))
    axes.set(xscale="log", xlabel="false-alarm rate", ylabel="detected", xlim=(LEAST, 1.05), ylim=(-0.02, 1.02))
    axes.set_aspect("auto")
    axes.legend(fontsize=7, loc="lower right")


def _det(axes: Any, curves: list[dict[str, Any]]) -> None:
    from scipy.stats import norm
    from sklearn.metrics import DetCurveDisplay

    for i, curve in enumerate(curves):
        fpr, missed = np.array(curve["fpr"]), 1 - np.array(curve["tpr"])
        display = DetCurveDisplay(fpr=fpr.clip(LEAST, 1 - LEAST), fnr=missed.clip(LEAST, 1 - LEAST))
        display.plot(ax=axes)
        axes.lines[-1].set(label=curve["attack"], **_style(i))
    ticks = [LEAST, 0.01, 0.05, 0.2, 0.5, 0.8]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{tick:.1%}" if tick < 0.01 else f"{tick:.0%}" for tick in ticks])
    ends = norm.ppf([0.8 * LEAST, 0.9])
    axes.set(xlabel="false-alarm rate", ylabel="missed", xlim=ends, ylim=ends)
    axes.set_aspect("auto")
    axes.legend(fontsize=7, loc="upper right")


def _histogram(axes: Any, found: dict[str, Any], name: str) -> None:
    edges, highest = np.array(found["edges"]), 0.0
    for i, (kind, counts) in enumerate(found["counts"].items()):
        share = np.array(counts) / max(1, sum(counts))
        highest = max(highest, share[:-1].max())
        if kind == "clean":
            axes.stairs(share, edges, fill=True, color="#999999", alpha=0.6, label="clean")
        else:
            axes.stairs(share, edges, label=kind, **_style(i - 1))
    # the last bin holds all that is beyond it, and may be as high as 1
    axes.set(xlabel="bits/dim" if name == "bits_per_dim" else name, ylabel="share of images", ylim=(0, 1.1 * highest))
    axes.legend(fontsize=7)


def _p_values(axes: Any, counts: list[int]) -> None:
    total = max(1, sum(counts))
    axes.stairs(np.array(counts) / total, np.linspace(0, 1, len(counts) + 1), fill=True, color="#999999", alpha=0.6)
    axes.axhline(1 / len(counts), color="C3", linewidth=1.4, label="uniform")
    axes.set(xlabel="p-value", ylabel="share of clean images")
    axes.legend(fontsize=7)


def _calibration(axes: Any, pairs: list[list[float]], n: int, m: int) -> None:
    rates, observed = np.array(pairs).T
    possible = rates >= 1 / (n + 1)
    ranks = np.maximum(1, np.floor(rates[possible] * (n + 1)).astype(int)).clip(max=n)
    low, high = np.array([promised_interval(int(rank), n, m) for rank in ranks]).T
    axes.fill_between(rates[possible], low.clip(1e-4), high, color="#999999", alpha=0.4, label="95 % of the time")
    some = observed > 0
    axes.plot(rates[some], observed[some], color="C0", marker="o", markersize=3, linewidth=1.2, label="observed")
    axes.plot([rates[0], 1], [rates[0], 1], color="C3", linewidth=1, label="promised")
    axes.set(xscale="log", yscale="log", xlabel="promised false-alarm rate", ylabel="observed")
    axes.legend(fontsize=7)


def _success(axes: Any, rows: list[dict[str, Any]]) -> None:
    for i, name in enumerate(dict.fromkeys(row["attack"] for row in rows)):
        chosen = [row for row in rows if row["attack"] == name]
        eps, share = [row["eps"] for row in chosen], [row["success_at_fpr_0.05"] for row in chosen]
        low, high = np.array([row["success_at_fpr_0.05_ci"] for row in chosen]).T
        errors = [np.array(share) - low, high - np.array(share)]
        axes.errorbar(eps, share, errors, marker="o", markersize=3, capsize=2, label=name, **_style(i))
    axes.set(xscale="log", xlabel="budget, 8-bit steps (Linf)", ylabel="get by", ylim=(-0.03, 1.03))
    budgets = sorted({row["eps"] for row in rows})
    axes.set_xticks(budgets, [str(b) for b in budgets])
    axes.minorticks_off()
    axes.legend(fontsize=7)
