"""Counts how often clean images are flagged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..calibration import conformal
from ..data import DataSet, Images
from ..errors import DataError
from ..images import from_uint8, to_uint8
from ..images.corruptions import CORRUPTIONS, corrupt
from ..scores import Score
from .cache import statistic_of
from .detection import Scorer, Values
from .metrics import promised_interval, rate

Thresholds = Mapping[str, Mapping[float, float]]  # by statistic and false-alarm rate

P_VALUE_BINS = 20
CURVE_RATES = np.r_[np.geomspace(0.001, 0.1, 13), np.linspace(0.15, 1, 18)]


def false_alarm_rows(detector: Any, clean: Values, calibration: Values, thresholds: Thresholds) -> list[dict[str, Any]]:
    """Counts the false alarms of each statistic.

    Args:
        detector: The detector. Its calibration may include benign corruptions.
        clean: (m,) anomaly scores of clean test images, by statistic.
        calibration: (n,) calibration scores, by statistic.
        thresholds: The thresholds, by statistic and false-alarm rate.

    Returns:
        A row for each statistic and rate: the observed rate, and the interval that the calibration promises.
    """
    rows = []
    for name, by_rate in thresholds.items():
        n, m = len(calibration[name]), len(clean[name])
        for fpr, threshold in by_rate.items():
            observed, interval = rate(int((clean[name] > threshold).sum()), m)
            promised = promised_interval(conformal.rank(fpr, n), n, m)
            if name == statistic_of(detector) and detector.corruptions_:
                promised[0] = 0.0  # a threshold for corrupted images flags fewer clean ones
            row = {"statistic": name, "fpr": fpr, "calibration_images": n}
            rows.append(row | {"observed": observed, "observed_ci": interval, "promised": promised})
    return rows


def class_rows(
    scorer: Scorer, scores: np.ndarray, clean: Images, calibration: Images, thresholds: Mapping[float, float]
) -> list[dict[str, Any]]:
    """Counts the false alarms of each class.

    Args:
        scorer: The scorer of the detector.
        scores: (m,) anomaly scores of the clean images.
        clean: m labelled clean images.
        calibration: Labelled images that calibrate each class.
        thresholds: The thresholds of all classes, by false-alarm rate.

    Returns:
        A row for each class: the share of its images that is flagged at these thresholds, and at thresholds of its own.

    Raises:
        DataError: If there are no labels.
    """
    if clean.y is None or calibration.y is None:
        raise DataError("the images have no labels, so false alarms cannot be counted by class")
    labels, own = clean.y.numpy(), calibration.y.numpy()
    p = conformal.class_p_values(scores, labels, scorer({"own": None}, calibration.x)["own"], own)
    rows = []
    for label in np.unique(labels):
        same = labels == label
        row: dict[str, Any] = {"class": int(label), "images": int(same.sum())}
        for fpr, threshold in thresholds.items():
            row[f"flagged_at_{fpr}"] = float((scores[same] > threshold).mean())
            row[f"flagged_at_{fpr}_by_class"] = float((p[same] <= fpr).mean())
        rows.append(row)
    return rows


def corrupted(x: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Applies each benign corruption to clean images.

    Args:
        x: (N, C, H, W) uint8.
        seed: Seed of the corruptions.

    Yields:
        The name of a corruption and the corrupted images, (N, C, H, W) uint8.
    """
    for name in CORRUPTIONS:
        yield name, to_uint8(corrupt(from_uint8(x), name, seed=seed))


def other_images(others: Iterable[DataSet], count: int) -> Iterator[tuple[str, Tensor]]:
    """Selects the first test images of other data sets.

    Args:
        others: The data sets.
        count: The largest number of images of each.

    Yields:
        The name of a data set and its images, (N, C, H, W) uint8.
    """
    for other in others:
        yield other.name, other.test.x[:count]


def flagged_rows(
    scorer: Scorer, statistics: Mapping[str, Score | None], what: str, x: Tensor, thresholds: Thresholds
) -> list[dict[str, Any]]:
    """Returns the share of images that each statistic flags, in a row for each.

    Args:
        scorer: The scorer of the detector.
        statistics: The fitted statistics, by name.
        what: The name of the images.
        x: (N, C, H, W) uint8.
        thresholds: The thresholds, by statistic and false-alarm rate.
    """
    rows = []
    for name, values in scorer(statistics, x).items():
        shares = {f"flagged_at_{fpr}": float((values > t).mean()) for fpr, t in thresholds[name].items()}
        rows.append({"what": what, "images": len(x), "statistic": name, **shares})
    return rows


def p_value_counts(p: np.ndarray) -> list[int]:
    """Returns how many of the p-values (m,) lie in each of 20 equal bins of [0, 1]."""
    counts: list[int] = np.histogram(p, P_VALUE_BINS, (0, 1))[0].tolist()
    return counts


def calibration_curve(p: np.ndarray) -> list[list[float]]:
    """Returns pairs of a promised false-alarm rate and the observed one, from p-values (m,) of clean images."""
    return [[round(float(fpr), 6), float((p <= fpr).mean())] for fpr in CURVE_RATES]
