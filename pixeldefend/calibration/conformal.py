"""From anomaly_score to a p-value and to a threshold with a guarantee.

All of it rests on one assumption: the clean images to come and the n calibration images are exchangeable, and neither
the density nor the score was fitted on either. Then the rank of a new clean score among the calibration scores is
uniform (split-conformal prediction: Vovk, Gammerman & Shafer 2005; the permutation test of PixelDefend, Song et al.
2018, section 4.1).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta, false_discovery_control

from ..errors import CalibrationError

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]


def p_values(scores: Array, calibration_scores: Array) -> Array:
    """scores: (N,), calibration_scores: (n,), higher = more suspicious.

    Returns (N,): (1 + #{calibration scores at least as high}) / (n + 1), in [1 / (n + 1), 1]; for a clean image,
    P(p <= a) <= a. Raises CalibrationError for NaN, which has no rank.
    """
    if np.isnan(scores).any() or np.isnan(calibration_scores).any():
        raise CalibrationError("scores must be numbers, got NaN")
    ordered = np.sort(calibration_scores)
    at_least_as_high = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least_as_high) / (len(ordered) + 1)


def images_needed(fpr: float, confidence: float | None = None) -> int:
    """Returns the least number of calibration images for which `rank` does not refuse fpr. Raises CalibrationError if fpr or
    confidence is not in (0, 1)."""
    check_rate(fpr)
    if confidence is None:
        return math.ceil(1 / fpr - 1e-9) - 1
    check_rate(confidence, "confidence")
    # one calibration score is above the threshold; P(rate <= fpr) = 1 - (1 - fpr)^n
    n = max(1, math.ceil(math.log(1 - confidence) / math.log1p(-fpr)))
    while beta.cdf(fpr, 1, n) < confidence:  # where rounding leaves it in the balance, `rank` decides
        n += 1
    while n > 1 and beta.cdf(fpr, 1, n - 1) >= confidence:
        n -= 1
    return n


def rank(fpr: float, n: int, confidence: float | None = None) -> int:
    """Returns k: an image is flagged if its score is above the k-th highest of n calibration scores, equivalently if
    its p-value is at most k / (n + 1).

    Without confidence: the probability that a clean image is flagged, over the draw of the calibration images too, is
    k / (n + 1) <= fpr. With it (say 0.95): the rate of false alarms at this very threshold is at most fpr with that
    probability over the draw of the calibration images; the rate is Beta(k, n + 1 - k) distributed (the order
    statistics of a sample; the interval of Clopper & Pearson 1934).

    fpr: in (0, 1). confidence: in (0, 1), or None. Raises CalibrationError if n images are too few, with the number needed.
    """
    check_rate(fpr)
    if confidence is not None:
        check_rate(confidence, "confidence")
    if confidence is None:
        k = math.floor(fpr * (n + 1) + 1e-9)
    else:
        ranks = np.arange(1, n + 1)
        k = int((beta.cdf(fpr, ranks, n + 1 - ranks) >= confidence).sum())
    if k < 1:
        promise = f"fpr {fpr:g}" if confidence is None else f"fpr {fpr:g} with confidence {confidence:g}"
        raise CalibrationError(
            f"{promise} needs at least {images_needed(fpr, confidence)} calibration images, there are {n}: "
            "give more, or allow a higher fpr"
        )
    return min(k, n)


def threshold(calibration_scores: Array, fpr: float, confidence: float | None = None) -> float:
    """calibration_scores: (n,). Returns the score above which an image is flagged; see `rank`. Raises CalibrationError for
    NaN, above which nothing is."""
    if np.isnan(calibration_scores).any():
        raise CalibrationError("scores must be numbers, got NaN")
    k = rank(fpr, len(calibration_scores), confidence)
    return float(np.sort(calibration_scores)[-k])


def class_p_values(
    scores: Array, labels: np.ndarray, calibration_scores: Array, calibration_labels: np.ndarray
) -> Array:
    """scores, labels: (N,). calibration_scores, calibration_labels: (n,).

    Returns (N,): each image's p-value among the calibration images of its own label, so that P(p <= a) <= a for clean
    images of every label and not only on average over them (Mondrian conformal prediction: Vovk et al. 2003). Raises
    ValueError for a label without a calibration image.
    """
    p = np.empty(len(scores))
    for label in np.unique(labels):
        same = calibration_labels == label
        if not same.any():
            raise CalibrationError(f"label {label} has no calibration image; there are {np.unique(calibration_labels)}")
        p[labels == label] = p_values(scores[labels == label], calibration_scores[same])
    return p


def discoveries(p: Array, fdr: float) -> np.ndarray:
    """p: (N,) p-values of the images of one batch, from one calibration. fdr: in (0, 1).

    Returns (N,) bool: the images to flag so that, on average, at most a share fdr of those flagged are clean (the
    procedure of Benjamini & Hochberg 1995; that it holds for conformal p-values, which share their calibration images
    and so depend on each other, is theorem 2 of Bates et al. 2023). Raises CalibrationError if p is not in (0, 1].
    """
    check_rate(fdr, "fdr")
    p = np.asarray(p, dtype=float)
    if not ((p > 0) & (p <= 1)).all():
        raise CalibrationError(f"p-values must lie in (0, 1], got {p.min():.3g} to {p.max():.3g}")
    return np.asarray(false_discovery_control(p) <= fdr + 1e-12) if len(p) else np.zeros(0, dtype=bool)


def check_rate(rate: float, name: str = "fpr") -> None:
    """Raises CalibrationError unless 0 < rate < 1."""
    if not 0 < rate < 1:
        raise CalibrationError(f"{name} must lie strictly between 0 and 1, got {rate}")
