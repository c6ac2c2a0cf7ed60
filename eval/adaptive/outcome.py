"""Counts of the attacked images that are misclassified, and that evade."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics import rate
from .presets import ADAPTIVE

FPRS = (0.01, 0.05, 0.5)  # evasion is counted at the thresholds of these false-alarm rates
TARGET_FPR = 0.05  # the rate whose threshold is attacked first


@dataclass
class Outcome:
    """The outcome of an attack on N images within a budget.

    Attributes:
        misclassified: (N,) bool, whether the attack found a misclassified 8-bit image.
        evaded: By false-alarm rate, (N,) bool: whether it found one that is not flagged either.
        queries: (N,) integers, the number of queries of the detector and the classifier.
    """

    misclassified: np.ndarray
    evaded: dict[float, np.ndarray]
    queries: np.ndarray

    @classmethod
    def none(cls, n: int) -> Outcome:
        """Returns the outcome of n images that are yet to be attacked."""
        return cls(np.zeros(n, bool), {fpr: np.zeros(n, bool) for fpr in FPRS}, np.zeros(n, int))


Outcomes = dict[str, dict[int, Outcome]]  # by attack and budget


def outcome_row(name: str, eps: int, found: Outcome) -> dict[str, Any]:
    """Returns the published row of an attack within a budget.

    Args:
        name: A key of `ADAPTIVE`.
        eps: The budget, in 8-bit steps.
        found: The outcome.

    Returns:
        Plain JSON values: rates with their 95 % intervals, and the median number of queries.
    """
    attack, n = ADAPTIVE[name], len(found.misclassified)
    row: dict[str, Any] = dict(attack=name, against=attack.against, norm=attack.norm, eps=eps, images=n)
    row["misclassified"] = float(found.misclassified.mean())
    for fpr in FPRS:
        key = f"evasion_rate_at_fpr_{fpr}"
        row[key], row[f"{key}_ci"] = rate(int(found.evaded[fpr].sum()), n)
    row["queries"] = float(np.median(found.queries))
    return row


def on_both(names: Iterable[str]) -> list[str]:
    """Returns the names of the attacks on classifier and detector that attack all images, within Linf budgets."""
    chosen = {name: ADAPTIVE[name] for name in names if name in ADAPTIVE}
    return [
        n for n, a in chosen.items() if a.against == "classifier + detector" and not a.expensive and a.norm == "linf"
    ]


def robustness_rows(accepted: np.ndarray, among: int, budgets: list[int], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Returns the accuracy of classifier and detector together within each budget.

    Args:
        accepted: (N,) bool for the correctly classified images: whether the clean image is not flagged.
        among: The number of images that were searched for these N. The others count as errors.
        budgets: Budgets in 8-bit steps.
        outcomes: The outcomes for the same N images, by attack and budget.

    Returns:
        A row for each budget: the accuracy on clean images, and the accuracy under attack, where an image is an error
        if any attack on both evades.
    """
    names = on_both(outcomes)
    rows = []
    for budget in budgets if names else ():
        broken = np.any([outcomes[name][budget].evaded[TARGET_FPR] for name in names], axis=0)
        row: dict[str, Any] = dict(eps=budget, images=among)
        for what, held in (("clean_accuracy", accepted), ("accuracy", accepted & ~broken)):
            row[what], row[f"{what}_ci"] = rate(int(held.sum()), among)
        rows.append(row)
    return rows
