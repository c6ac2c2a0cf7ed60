"""What became of attacked images, counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics import rate
from .presets import ADAPTIVE

FPRS = (0.01, 0.05, 0.5)  # false-alarm rates whose thresholds judge
TARGET_FPR = 0.05  # the rate whose threshold is attacked first


@dataclass
class Outcome:
    """What became of N images within a budget.

    Attributes:
        misclassified: (N,) bool, whether a misclassified 8-bit image was found.
        evaded: (N,) bool by false-alarm rate: whether it was not flagged either.
        queries: (N,) integers, how often detector and classifier were asked.
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
    """Returns what is published of an attack within a budget of eps 8-bit steps."""
    attack, n = ADAPTIVE[name], len(found.misclassified)
    row: dict[str, Any] = dict(attack=name, against=attack.against, norm=attack.norm, eps=eps, images=n)
    row["misclassified"] = float(found.misclassified.mean())
    for fpr in FPRS:
        key = f"evasion_rate_at_fpr_{fpr}"
        row[key], row[f"{key}_ci"] = rate(int(found.evaded[fpr].sum()), n)
    row["queries"] = float(np.median(found.queries))
    return row


def on_both(names: Iterable[str]) -> list[str]:
    """Returns the attacks on classifier and detector that are made for all images, within Linf budgets."""
    chosen = {name: ADAPTIVE[name] for name in names if name in ADAPTIVE}
    return [
        n for n, a in chosen.items() if a.against == "classifier + detector" and not a.expensive and a.norm == "linf"
    ]


def robustness_rows(accepted: np.ndarray, among: int, budgets: list[int], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Returns the accuracy of classifier and detector together, by budget.

    Args:
        accepted: (N,) bool, which of the correctly classified images are not flagged unattacked.
        among: How many images these N were found among; the others count as errors.
        budgets: In 8-bit steps.
        outcomes: By attack and budget, of the same N images.

    Returns:
        A row for each budget: the accuracy on clean images, and if any attack on both that evades counts as an error.
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
