"""P-values and thresholds with a guarantee, from anomaly scores.

All guarantees rest on one assumption: future clean images and the n calibration images are exchangeable, and neither
the density nor the statistic was fitted on either. Then the rank of a new clean score among the calibration scores is
uniform.

Reference:
    Vovk, Gammerman & Shafer, Algorithmic learning in a random world, 2005 (split-conformal prediction); Song et al.,
    PixelDefend, 2018, arXiv:1710.10766, section 4.1 (the same as a permutation test).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import beta, false_discovery_control

from ..errors import CalibrationError, ParameterError, PixelDefendError

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]


def p_values(scores: Array, calibration_scores: Array) -> Array:
    """Computes conformal p-values, (1 + #{calibration scores at least as high}) / (n + 1).

    For a clean image, P(p <= a) <= a.

    Args:
        scores: (N,), higher = more anomalous.
        calibration_scores: (n,), of clean images.

    Returns:
        (N,), in [1 / (n + 1), 1].

    Raises:
        ParameterError: If a score is NaN, which has no rank.
    """
    _check_numbers(scores)
    _check_numbers(calibration_scores)
    ordered = np.sort(calibration_scores)
    at_least_as_high = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least_as_high) / (len(ordered) + 1)


def over_kinds(scores: Array, confidence: float | None = None) -> Array:
    """Joins the calibration scores of several kinds of clean images into one calibration, which holds for each kind.

    Without confidence, the k-th highest joint score is the highest of the k-th highest scores of all kinds, so the
    p-value of a score is the highest of its p-values among the kinds. It is valid for every kind, and so for every
    mixture of them. With confidence the threshold must be high enough for all kinds at once, so each image counts with
    its highest score.

    Args:
        scores: (K, n), of n images of each of K kinds.
        confidence: In (0, 1), or None, as `rank` takes it.

    Returns:
        (n,), in the order of the images if there is one kind.
    """
    joint: Array = scores.max(0) if len(scores) == 1 or confidence is not None else np.sort(scores, axis=1).max(0)
    return joint


def images_needed(fpr: float, confidence: float | None = None) -> int:
    """Computes the smallest number of calibration images that allows a rate of false alarms.

    Args:
        fpr: The rate, in (0, 1).
        confidence: In (0, 1), or None, as `rank` takes it.

    Returns:
        The number, at least 1.

    Raises:
        ParameterError: If fpr or confidence is not in (0, 1).
    """
    check_rate(fpr)
    if confidence is None:
        return math.ceil(1 / fpr - 1e-9) - 1
    check_rate(confidence, "confidence")
    # the threshold is the highest of n scores; P(rate <= fpr) = 1 - (1 - fpr)^n
    n = max(1, math.ceil(math.log(1 - confidence) / math.log1p(-fpr)))
    while beta.cdf(fpr, 1, n) < confidence:  # rounding may have left n one off: `rank` must agree
        n += 1
    while n > 1 and beta.cdf(fpr, 1, n - 1) >= confidence:
        n -= 1
    return n


def rank(fpr: float, n: int, confidence: float | None = None) -> int:
    """Computes the rank k of the threshold: images are flagged above the k-th highest calibration score.

    Equivalently, an image is flagged if its p-value is at most k / (n + 1).

    Without confidence the promise holds on average: over the draw of the calibration images and of a clean image, the
    probability that the image is flagged is k / (n + 1) <= fpr. With confidence the promise holds for this threshold:
    the rate of false alarms, which has the distribution Beta(k, n + 1 - k) of an order statistic, is at most fpr with
    that probability over the draw of the calibration images.

    Args:
        fpr: The rate of false alarms, in (0, 1).
        n: The number of calibration images.
        confidence: In (0, 1), for example 0.95, or None.

    Returns:
        k, in [1, n].

    Raises:
        ParameterError: If fpr or confidence is not in (0, 1).
        CalibrationError: If n is too small. The message says how many images are needed.

    Reference:
        Clopper & Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, 1934.
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
            f"{promise} needs at least {images_needed(fpr, confidence)} calibration images, got {n}: "
            "give more images, or a higher fpr"
        )
    return min(k, n)


def threshold(calibration_scores: Array, fpr: float, confidence: float | None = None) -> float:
    """Computes the anomaly score above which an image is flagged.

    Args:
        calibration_scores: (n,), of clean images.
        fpr: The rate of false alarms, in (0, 1).
        confidence: In (0, 1), or None, as `rank` takes it.

    Returns:
        The threshold, which is one of the calibration scores.

    Raises:
        ParameterError: If fpr or confidence is not in (0, 1), or a score is NaN.
        CalibrationError: If there are too few scores for the rate.
    """
    _check_numbers(calibration_scores)
    k = rank(fpr, len(calibration_scores), confidence)
    return float(np.sort(calibration_scores)[-k])


def class_p_values(
    scores: Array, labels: np.ndarray, calibration_scores: Array, calibration_labels: np.ndarray
) -> Array:
    """Computes each image's p-value among the calibration images of its own label.

    P(p <= a) <= a then holds for the clean images of every label, and not only on average over labels.

    Args:
        scores: (N,), higher = more anomalous.
        labels: (N,), integers.
        calibration_scores: (n,), of clean images.
        calibration_labels: (n,), integers.

    Returns:
        (N,), in (0, 1].

    Raises:
        CalibrationError: If a label has no calibration image.
        ParameterError: If a score is NaN.

    Reference:
        Vovk et al., Mondrian confidence machine, 2003.
    """
    p = np.empty(len(scores))
    for label in np.unique(labels):
        same = calibration_labels == label
        if not same.any():
            raise CalibrationError(f"label {label} has no calibration image; there are {np.unique(calibration_labels)}")
        p[labels == label] = p_values(scores[labels == label], calibration_scores[same])
    return p


def discoveries(p: Array, fdr: float) -> np.ndarray:
    """Selects the images to flag in a batch at a false-discovery rate.

    On average, at most a share fdr of the flagged images are clean. Conformal p-values share their calibration images
    and so depend on each other; the second reference proves in theorem 2 that the procedure holds for them.
    It does not cover a calibration for corruptions.

    Args:
        p: (N,) in (0, 1], the p-values of one batch from one calibration.
        fdr: The rate, in (0, 1).

    Returns:
        (N,) bool.

    Raises:
        ParameterError: If fdr is not in (0, 1), or a p-value is not in (0, 1].

    Reference:
        Benjamini & Hochberg, Controlling the false discovery rate, 1995; Bates et al., Testing for outliers with
        conformal p-values, 2023, arXiv:2104.08279.
    """
    check_rate(fdr, "fdr")
    p = np.asarray(p, dtype=float)
    if not ((p > 0) & (p <= 1)).all():
        raise ParameterError(f"p-values must lie in (0, 1], got {p.min():.3g} to {p.max():.3g}")
    return np.asarray(false_discovery_control(p) <= fdr + 1e-12) if len(p) else np.zeros(0, dtype=bool)


def check_rate(rate: float, name: str = "fpr") -> None:
    """Checks that a rate lies strictly between 0 and 1.

    Args:
        rate: Any number.
        name: The name of the rate in the error message.

    Raises:
        ParameterError: If the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ParameterError(f"{name} must lie strictly between 0 and 1, got {rate}")


def finite_scores(scores: Any, error: type[PixelDefendError] = CalibrationError) -> Array:
    """Checks scores from a user.

    Args:
        scores: (n,), numbers.
        error: The type of the error.

    Returns:
        (n,) float64.

    Raises:
        PixelDefendError: Of the given type, if they are of another shape, or not finite.
    """
    found = np.asarray(scores, dtype=float)
    if found.ndim != 1:
        raise error(f"scores must be (n,), got shape {found.shape}")
    if wrong := int((~np.isfinite(found)).sum()):
        raise error(f"scores must be finite, got {wrong} NaN or infinite of {len(found)}")
    return found


def _check_numbers(scores: Array) -> None:
    if np.isnan(scores).any():
        raise ParameterError(f"scores must be numbers, got {int(np.isnan(scores).sum())} NaN of {scores.size}")
