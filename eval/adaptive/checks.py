"""Checks that the attacks that know the detector are sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .outcome import FPRS, TARGET_FPR, Outcomes, on_both
from .presets import ADAPTIVE, BLIND

SUFFICIENT_EPS = 32  # 8-bit steps: within this budget a sound attack evades with nearly every image
NEARLY_ALL = 0.95
LITTLE = 0.1  # an attack that finds more with twice the steps has not converged


def run_checks(
    budgets: list[int], outcomes: Outcomes, steps: int, evaded: Callable[[int], np.ndarray]
) -> list[dict[str, Any]]:
    """Checks the attacks themselves.

    Args:
        budgets: Budgets in 8-bit steps.
        outcomes: Outcomes by attack and budget.
        steps: The number of steps of the attacks.
        evaded: A function of steps that repeats joint-pgd for a few images and returns which of them evaded.

    Returns:
        {"what", "passed", "detail"} for each check.
    """
    checks: list[dict[str, Any]] = []

    def check(what: str, passed: bool, detail: str) -> None:
        checks.append(dict(what=what, passed=bool(passed), detail=detail))

    aware = [name for name in on_both(outcomes) if not ADAPTIVE[name].blind]
    if aware and budgets[-1] >= SUFFICIENT_EPS:
        share = np.any([outcomes[name][budgets[-1]].evaded[TARGET_FPR] for name in aware], axis=0).mean()
        check(f"nearly every image evades within {budgets[-1]}/255", share >= NEARLY_ALL, f"{share:.0%}")
    if aware and BLIND in outcomes:
        for budget in budgets:
            best = {fpr: max(outcomes[name][budget].evaded[fpr].mean() for name in aware) for fpr in FPRS}
            blind = {fpr: outcomes[BLIND][budget].evaded[fpr].mean() for fpr in FPRS}
            words = [f"{best[fpr]:.0%} against {blind[fpr]:.0%} at {fpr:.0%}" for fpr in FPRS]
            helps = all(best[fpr] >= blind[fpr] for fpr in FPRS)
            check(f"knowing the detector helps at {budget}/255", helps, f"{'; '.join(words)} false alarms")
    if "joint-pgd" in aware:
        once, twice = evaded(steps).mean(), evaded(2 * steps).mean()
        detail = f"{once:.0%} in {steps} steps, {twice:.0%} in {2 * steps}"
        check("joint-pgd: twice the steps add little", twice <= once + LITTLE, detail)
    return checks


def detector_aware_rows(adaptive: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the rows of attacks that know classifier and detector and were made for all images, within Linf budgets.

    Args:
        adaptive: The result of `run_adaptive`.
    """
    rows = [] if adaptive is None else adaptive["rows"]
    names = [name for name in on_both(row["attack"] for row in rows) if not ADAPTIVE[name].blind]
    return [row for row in rows if row["attack"] in names]


def failed_checks(adaptive: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the failed checks in the result of `run_adaptive`."""
    return [check for check in (adaptive or {"checks": []})["checks"] if not check["passed"]]


def check_summary(adaptive: dict[str, Any]) -> str:
    """Returns the outcome of the checks, in a word or two."""
    failed = len(failed_checks(adaptive))
    return f"**{failed} of {len(adaptive['checks'])} FAIL**" if failed else "pass"
