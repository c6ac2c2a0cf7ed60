"""Tables of what `pixeldefend benchmark` measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pixeldefend.markdown import table
from pixeldefend.scores import SCORES, Combined, Fused, RatioAndExcess, ResidualRatio

from .sources import ROOT, attack_title, load, percent, pick, query, results

COMBINED = (Combined, Fused, RatioAndExcess, ResidualRatio)
TITLES = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
# a few attacks from the easiest to the hardest
SUMMARY = ("fgsm-8", "pgd-2", "cw-l2", "deepfool-l2", "fmn-l0")
ADAPTIVE_TITLES = {
    "blind-pgd": "PGD that does not know the detector",
    "joint-pgd": "joint loss",
    "selective-pgd": "selective PGD",
    "orthogonal-pgd": "orthogonal PGD",
    "spsa": "SPSA: scores and logits, no gradients",
    "transfer-pgd": "transfer: joint loss on surrogate models",
    "bpda-pgd": "BPDA: the purified image is misclassified",
    "bpda-joint-pgd": "BPDA: the purified image is misclassified, and the image is not flagged",
}
GRADIENT = ("blind-pgd", "joint-pgd", "selective-pgd", "orthogonal-pgd")
EXPENSIVE = ("spsa", "transfer-pgd", "bpda-pgd", "bpda-joint-pgd")


def summary(data: str) -> str:
    """Five attacks on one data set: AUROC and share detected, of the shipped detector."""
    rows = results(data)["rows"]
    chosen = [pick(rows, attack=attack, statistic=results(data)["statistic"]) for attack in SUMMARY]
    cells = [(attack_title(row["attack"]), f"{row['auroc']:.3f}", percent(row["tpr_at_fpr_0.01"])) for row in chosen]
    return table(["attack", "AUROC", "detected at 1 % false alarms"], cells, "lrr")


def detection(run: str, *statistics: str) -> str:
    """Every attack of a run: AUROC and shares detected, a column a statistic, the best single one and the oracle."""
    found = results(run)
    named = {name: f"`{name}`" for name in statistics}
    of_a_file = re.search(r"--detector \S+\.safetensors", found["command"])
    if found["statistic"] in named and not of_a_file:
        named[found["statistic"]] += " (shipped)"
    oracle = found.get("oracle")
    rows = []
    for attack in dict.fromkeys(row["attack"] for row in found["rows"]):
        own = {row["statistic"]: row for row in found["rows"] if row["attack"] == attack}
        first = next(iter(own.values()))
        title = attack_title(attack) + (" (not an attack)" if first["is_control"] else "")
        cells = [title, f"{first['succeeded']} / {first['attempted']}", *(_cell(own[name]) for name in statistics)]
        if oracle:
            single = {name: row for name, row in own.items() if not isinstance(SCORES.get(name), COMBINED)}
            best = max(single, key=lambda name: single[name]["auroc"])
            seen = pick(oracle, attack=attack)
            cells += [f"{single[best]['auroc']:.3f} `{best}`"]
            cells += [_unbroken([f"{seen['auroc']:.3f}", percent(seen["tpr_at_fpr_0.01"])])]
        rows.append(cells)
    header = ["attack", "succeeded", *named.values(), *(["best single statistic", "oracle"] if oracle else [])]
    return table(header, rows)


def _cell(row: dict[str, Any]) -> str:
    shares = [percent(row[f"tpr_at_fpr_{fpr}"]) for fpr in ("0.01", "0.05")]
    return _unbroken([f"{row['auroc']:.3f}", *shares])


def _unbroken(parts: list[str]) -> str:
    return "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}".join(parts)


def false_alarms() -> str:
    """Observed rates of false alarms of the shipped detectors, beside the promised ones."""
    rows = []
    for data, title in TITLES.items():
        found = results(data)
        low, high = (pick(found["false_alarms"], statistic=found["statistic"], fpr=fpr) for fpr in (0.01, 0.05))
        images = found["images"]
        cells = [f"{title}: n = {images['calibration']:,}, {images['clean_test']:,} test images"]
        for alarm in (low, high):
            cells += [percent(alarm["observed"], 2), " to ".join(percent(end, 2) for end in alarm["promised"])]
        rows.append(cells)
    header = ["data set", "flagged at a promised 1 %", "95 % range", "flagged at 5 %", "95 % range"]
    return table(header, rows, "lrrrr")


def corruptions(data: str) -> str:
    """Share of clean images that are flagged after a benign corruption, and of other data sets."""
    found = results(data)
    rows = [row for row in found["benign_corruptions"] + found["other_data"] if row["statistic"] == found["statistic"]]
    cells = [
        (row["what"], f"{row['images']:,}", *(percent(row[f"flagged_at_{fpr}"], 1) for fpr in ("0.01", "0.05")))
        for row in rows
    ]
    return table(["corruption or data set", "images", "flagged at 1 %", "flagged at 5 %"], cells, "lrrr")


def classes() -> str:
    """The range of false-alarm rates over the classes, with one threshold and with a threshold for each."""
    rows = []
    for data in TITLES:
        found = results(data)["by_class"]
        cells = [TITLES[data]]
        for key in ("flagged_at_0.05", "flagged_at_0.05_by_class"):
            rates = [row[key] for row in found]
            cells.append(f"{percent(min(rates), 1)} to {percent(max(rates), 1)}")
        rows.append(cells)
    return table(["at a promised 5 %", "one threshold", "a threshold for each class"], rows)


def _adaptive(data: str) -> dict[str, Any]:
    """The results of attacks that know the shipped detector."""
    if data == "photographs":
        return load("eval/results/leaderboard/photographs-shipped.json")
    return results(f"{data}-adaptive")


def _rate(found: dict[str, Any], attack: str, eps: int) -> str:
    row = pick(found["adaptive"]["rows"], attack=attack, eps=eps)
    low, high = row["evasion_rate_at_fpr_0.05_ci"]
    return f"{percent(row['evasion_rate_at_fpr_0.05'])} ({100 * low:.0f} to {100 * high:.0f})"


def evasion() -> str:
    """Evasion rates at 5 % false alarms of attacks that know the detector, by budget."""
    runs = {TITLES[data]: results(f"{data}-adaptive") for data in TITLES}
    columns = [(title, eps) for title in runs for eps in (2, 4, 8)]
    rows = [[ADAPTIVE_TITLES[name], *(_rate(runs[title], name, eps) for title, eps in columns)] for name in GRADIENT]
    return table(["attack", *(f"{title}, {eps}/255" for title, eps in columns)], rows)


def evasion_of(data: str) -> str:
    """Evasion rates of one detector at 5 % false alarms of attacks that know it, by budget."""
    found = _adaptive(data)
    budgets = sorted({row["eps"] for row in found["adaptive"]["rows"]})
    names = list(dict.fromkeys(row["attack"] for row in found["adaptive"]["rows"]))
    rows = [[ADAPTIVE_TITLES[name], *(_rate(found, name, eps) for eps in budgets)] for name in names]
    return table(["attack", *(f"{eps}/255" for eps in budgets)], rows)


def evasion_expensive() -> str:
    """Evasion rates within 8/255 at 5 % false alarms of the attacks that take long."""
    runs = [results(f"{data}-adaptive") for data in TITLES]
    rows = [[ADAPTIVE_TITLES[name], *(_rate(run, name, 8) for run in runs)] for name in EXPENSIVE]
    return table(["attack", *(TITLES[data] for data in TITLES)], rows)


def evasion_adversarial() -> str:
    """Evasion rates of the joint loss, with the shipped and with an adversarially trained classifier."""
    budgets = (4, 8, 16, 32)
    named = {
        "the shipped classifier": results("fashion-mnist-adaptive"),
        "adversarially trained within 25/255": results("fashion-mnist-adversarial-25"),
    }
    rows = [
        [f"{title}, {found['adaptive']['images']} images", *(_rate(found, "joint-pgd", eps) for eps in budgets)]
        for title, found in named.items()
    ]
    return table(["Fashion-MNIST", *(f"{eps}/255" for eps in budgets)], rows)


def evasion_rate(data: str, attack: str, eps: str) -> str:
    """One evasion rate at 5 % false alarms, for a sentence."""
    row = pick(_adaptive(data)["adaptive"]["rows"], attack=attack, eps=int(eps))
    return percent(row["evasion_rate_at_fpr_0.05"])


def flagged(data: str, corruption: str, statistic: str = "") -> str:
    """The share of clean images that is flagged after a benign corruption at 1 %, by the detector's own statistic."""
    rows = results(data)["benign_corruptions"]
    own = statistic or results(data)["statistic"]
    return percent(pick(rows, what=corruption, statistic=own)["flagged_at_0.01"])


def other(run: str, what: str, statistic: str = "") -> str:
    """The share of images of another data set that is flagged at a promised 1 %, by the detector's own statistic."""
    rows = results(run)["other_data"]
    return percent(pick(rows, what=what, statistic=statistic or results(run)["statistic"])["flagged_at_0.01"])


def success(run: str, attack: str) -> str:
    """The share of correctly classified images with which an attack on the classifier succeeds."""
    row = next(row for row in results(run)["rows"] if row["attack"] == attack)
    return percent(row["succeeded"] / row["attempted"])


def gap(run: str, attack: str, statistic: str, better: str) -> str:
    """By how much the AUROC of one statistic is below that of another."""
    first, second = (pick(results(run)["rows"], attack=attack, statistic=name) for name in (statistic, better))
    return f"{second['auroc'] - first['auroc']:.3f}".removeprefix("0")


def leaderboard() -> str:
    """The leaderboard, as `pixeldefend leaderboard` prints it."""
    from pixeldefend.eval import leaderboard_table

    return leaderboard_table(ROOT / "eval" / "results" / "leaderboard").strip() + "\n"


def figure(path: str, steps: str, form: str = "") -> str:
    """One number of a result file, for a sentence."""
    return format(query(load(path), steps), form)


BLOCKS: tuple[Callable[..., str], ...] = (
    summary,
    detection,
    false_alarms,
    corruptions,
    classes,
    evasion,
    evasion_of,
    evasion_expensive,
    evasion_adversarial,
    evasion_rate,
    flagged,
    other,
    success,
    gap,
    leaderboard,
    figure,
)
