"""Areas under ROC curves and rates, each with its 95 % interval."""

from __future__ import annotations

import numpy as np
from scipy.stats import betabinom, binomtest, norm
from sklearn.metrics import roc_auc_score

Interval = list[float]  # low, high


def auroc(clean: np.ndarray, attacked: np.ndarray) -> tuple[float, Interval]:
    """Computes the area under the ROC curve and its 95 % interval.

    The interval is computed on the logit scale, so that it stays within [0, 1].

    Args:
        clean: (m,) anomaly scores of clean images, higher = more anomalous.
        attacked: (n,) anomaly scores of attacked images.

    Returns:
        The area, and the two ends of the interval.

    Reference:
        DeLong, DeLong & Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
        characteristic curves: a nonparametric approach", Biometrics 44.
    """
    truth = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    area = float(roc_auc_score(truth, np.r_[clean, attacked]))
    fewer = min(len(clean), len(attacked))
    if area in (0.0, 1.0) or fewer < 2:  # no spread to estimate an error from: take the interval of a rate
        return area, rate(round(area * fewer), fewer)[1]
    # the variance of both sets of placements: the rank of each score among the scores of the other kind
    error = np.sqrt(
        _placements(attacked, clean).var(ddof=1) / len(attacked) + _placements(clean, attacked).var(ddof=1) / len(clean)
    )
    logit, half = np.log(area / (1 - area)), norm.ppf(0.975) * error / (area * (1 - area))
    low, high = 1 / (1 + np.exp(-(logit - half))), 1 / (1 + np.exp(-(logit + half)))
    return area, [float(low), float(high)]


def _placements(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns, for each score, the share of the others below it; ties count half."""
    others = np.sort(others)
    below, not_above = (np.searchsorted(others, scores, side=side) for side in ("left", "right"))
    return (below + not_above) / (2 * len(others))


def rate(hits: int, total: int) -> tuple[float, Interval]:
    """Computes a rate and its 95 % interval.

    Args:
        hits: The number of hits, 0 to total.
        total: The number of trials, at least 1.

    Returns:
        hits / total, and the two ends of the interval.

    Reference:
        Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial",
        Biometrika 26.
    """
    interval = binomtest(hits, total).proportion_ci(0.95)
    return hits / total, [float(interval.low), float(interval.high)]


def promised_interval(rank: int, calibration: int, clean: int) -> Interval:
    """Computes the range in which the false-alarm rate on new clean images lies with probability 95 %.

    The number of false alarms has a beta-binomial distribution, which accounts for the random draw of both the
    calibration images and the new images.

    Args:
        rank: The threshold is the rank-th highest calibration score, 1 to calibration.
        calibration: The number of calibration scores.
        clean: The number of new clean images.

    Returns:
        The two ends of the range.
    """
    low, high = betabinom(clean, rank, calibration + 1 - rank).ppf([0.025, 0.975])
    return [float(low / clean), float(high / clean)]
