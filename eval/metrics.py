"""Areas and rates, each with a 95 % interval."""

from __future__ import annotations

import numpy as np
from scipy.stats import betabinom, binomtest, norm
from sklearn.metrics import roc_auc_score

Interval = list[float]  # low, high


def auroc(clean: np.ndarray, attacked: np.ndarray) -> tuple[float, Interval]:
    """clean: (m,), attacked: (n,) scores, higher = more anomalous. Returns the area under the ROC curve and its 95 %
    interval (DeLong et al. 1988, on the logit scale, so that it stays within [0, 1])."""
    truth = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    area = float(roc_auc_score(truth, np.r_[clean, attacked]))
    fewer = min(len(clean), len(attacked))
    if area in (0.0, 1.0) or fewer < 2:  # no spread to estimate an error from: as for so many hits, or misses, in a row
        return area, rate(round(area * fewer), fewer)[1]
    # the variance of the two sets of placements: how each score ranks among those of the other kind
    error = np.sqrt(
        _placements(attacked, clean).var(ddof=1) / len(attacked) + _placements(clean, attacked).var(ddof=1) / len(clean)
    )
    logit, half = np.log(area / (1 - area)), norm.ppf(0.975) * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    return area, [float(low), float(high)]


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns for each score the share of others below it, ties counted half."""
    others = np.sort(others)
    below, not_above = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
    return (below + not_above) / (2 * len(others))


def rate(hits: int, total: int) -> tuple[float, Interval]:
    """Returns hits / total and its 95 % interval (Clopper & Pearson 1934)."""
    interval = binomtest(hits, total).proportion_ci(0.95)
    return hits / total, [float(interval.low), float(interval.high)]


def promised_interval(rank: int, calibration: int, clean: int) -> Interval:
    """Returns the range in which the share of `clean` new images that is flagged lies with probability 95 %, if the
    threshold is the rank-th highest of `calibration` scores: the count is beta-binomial, which has the chance of both
    draws in it."""
    low, high = betabinom(clean, rank, calibration + 1 - rank).ppf([0.025, 0.975])
    return [float(low / clean), float(high / clean)]
