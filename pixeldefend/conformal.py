"""From suspicion to a p-value and to a threshold with a guarantee.

All of it rests on one assumption: the clean images to come and the n calibration images are exchangeable, and neither
the density nor the score was fitted on either. Then the rank of a new clean score among the calibration scores is
uniform (split-conformal prediction: Vovk, Gammerman & Shafer 2005; the permutation test of PixelDefend, Song et al.
2018, section 4.1).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta

Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]


def p_values(scores: Array, calibration_scores: Array) -> Array:
    """scores: (N,), calibration_scores: (n,), higher = more suspicious.

    Returns (N,): (1 + #{calibration scores at least as high}) / (n + 1), in [1 / (n + 1), 1]; for a clean image,
    P(p <= a) <= a.
    """
    ordered = np.sort(calibration_scores)
    at_least_as_high = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least_as_high) / (len(ordered) + 1)


def images_needed(fpr: float, confidence: float | None = None) -> int:
    """Returns the least number of calibration images for which `rank` does not refuse fpr."""
    check_rate(fpr)
    if confidence is None:
        return math.ceil(1 / fpr - 1e-9) - 1
    # one calibration score is above the threshold; P(rate <= fpr) = 1 - (1 - fpr)^n
    return math.ceil(math.log(1 - confidence) / math.log1p(-fpr) - 1e-9)


def rank(fpr: float, n: int, confidence: float | None = None) -> int:
    """Returns k: an image is flagged if its score is above the k-th highest of n calibration scores, equivalently if
    its p-value is at most k / (n + 1).

    Without confidence: the probability that a clean image is flagged, over the draw of the calibration images too, is
    k / (n + 1) <= fpr. With it (say 0.95): the rate of false alarms at this very threshold is at most fpr with that
    probability over the draw of the calibration images; the rate is Beta(k, n + 1 - k) distributed (the order
    statistics of a sample; the interval of Clopper & Pearson 1934).

    fpr: in (0, 1). confidence: in (0, 1), or None. Raises ValueError if n images are too few, with the number needed.
    """
    check_rate(fpr)
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if confidence is None:
        k = math.floor(fpr * (n + 1) + 1e-9)
    else:
        ranks = np.arange(1, n + 1)
        k = int((beta.cdf(fpr, ranks, n + 1 - ranks) >= confidence).sum())
    if k < 1:
        promise = f"fpr {fpr:g}" if confidence is None else f"fpr {fpr:g} with confidence {confidence:g}"
        raise ValueError(
            f"{promise} needs at least {images_needed(fpr, confidence)} calibration images, there are {n}: "
            "give more, or allow a higher fpr"
        )
    return min(k, n)


def threshold(calibration_scores: Array, fpr: float, confidence: float | None = None) -> float:
    """calibration_scores: (n,). Returns the score above which an image is flagged; see `rank`."""
    k = rank(fpr, len(calibration_scores), confidence)
    return float(np.sort(calibration_scores)[-k])


def check_rate(fpr: float) -> None:
    """Raises ValueError unless 0 < fpr < 1."""
    if not 0 < fpr < 1:
        raise ValueError(f"fpr must lie strictly between 0 and 1, got {fpr}")
