"""Measures how well each statistic distinguishes attacked images from clean ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks import Attacked
from ..data import DataSet
from ..errors import PixelDefendError
from ..images import from_uint8, to_uint8
from ..scores import EXPENSIVE, SCORES, Combined, Fused, LearnedScore, Score, make_score
from .cache import statistic_of
from .metrics import auroc, rate

BINS = 60
Values = dict[str, np.ndarray]  # anomaly scores by statistic


class Scorer:
    """Computes the anomaly scores of images under several statistics, from one pass of the detector's density.

    Args:
        detector: A fitted detector. Without a density it has only its own statistic.
    """

    def __init__(self, detector: Any) -> None:
        self.detector = detector
        self.own = statistic_of(detector)
        self.density = getattr(detector, "density", None)

    def __call__(self, statistics: Mapping[str, Score | None], x: Tensor) -> Values:
        """Scores images.

        Args:
            statistics: The statistics by name; None stands for the detector's own.
            x: (N, C, H, W) uint8.

        Returns:
            (N,) float64 for each name, higher = more anomalous.
        """
        if self.density is None:
            return dict.fromkeys(statistics, -self.detector.score_samples(x))
        functions = {name: self.detector.score_ if score is None else score for name, score in statistics.items()}
        found: Values = self.detector.evaluate(functions, x)
        return found


def usual_statistics(scorer: Scorer, data: DataSet, log: Callable[[str], None]) -> list[str]:
    """Returns the names of the statistics that are measured by default.

    Args:
        scorer: The scorer of the detector.
        data: The data set that learned statistics are fitted on.
        log: Called with a line for each statistic that this density does not have, or for which there are too few
            images.

    Returns:
        All names in `SCORES` but the expensive statistics and those that are not available.
    """
    names = []
    for name in [name for name in SCORES if name not in EXPENSIVE]:
        score = make_score(name)
        if isinstance(score, Combined | Fused) and len(data.fit) < Combined.LEAST_IMAGES:
            log(f"without {name}: it needs {Combined.LEAST_IMAGES} images to fit on, there are {len(data.fit)}")
            continue
        try:
            scorer({name: score.features if isinstance(score, LearnedScore) else score}, data.test.x[:1])
            names.append(name)
        except PixelDefendError as error:
            log(f"without {name}: {error}")
    return names


def calibrated(scorer: Scorer, names: list[str], data: DataSet) -> tuple[dict[str, Score | None], Values]:
    """Fits and calibrates statistics.

    Args:
        scorer: The scorer of the detector, whose own statistic keeps its calibration.
        names: The names of the statistics.
        data: The data set. Statistics learn from data.fit and are calibrated on data.calibration.

    Returns:
        The statistics by name, None for the detector's own; and the calibration scores of each, (n,).
    """
    functions: dict[str, Score | None] = {name: None if name == scorer.own else make_score(name) for name in names}
    learners = {name: score for name, score in functions.items() if isinstance(score, LearnedScore)}
    if learners:
        features = scorer({name: score.features for name, score in learners.items()}, data.fit.x)
        copies: dict[Callable[[Tensor], Tensor], Values] = {}
        for copy in dict.fromkeys(copy for score in learners.values() for copy in score.copies):
            users: dict[str, Score | None] = {name: s.features for name, s in learners.items() if copy in s.copies}
            copies[copy] = scorer(users, to_uint8(copy(from_uint8(data.fit.x))))
        for name, score in learners.items():
            score.fit(*(torch.from_numpy(part[name]) for part in (features, *(copies[copy] for copy in score.copies))))
    others = {name: function for name, function in functions.items() if name != scorer.own}
    calibration = scorer(others, data.calibration.x) if others else {}
    return functions, {**calibration, scorer.own: scorer.detector.calibration_scores_}


def detection_rates(
    clean: np.ndarray, attacked: np.ndarray, thresholds: Mapping[float, float], which: str = ""
) -> dict[str, Any]:
    """Compares the anomaly scores of attacked images with those of clean ones.

    Args:
        clean: (m,) anomaly scores.
        attacked: (n,) anomaly scores; n may be 0.
        thresholds: Thresholds by false-alarm rate.
        which: The end of the names: "_all" for all attacked images.

    Returns:
        auroc{which} and tpr{which}_at_fpr_{rate}, each with its 95 % interval under {name}_ci; None without attacked
        images.
    """
    row: dict[str, Any] = dict.fromkeys((f"auroc{which}", f"auroc{which}_ci"))
    if len(attacked):
        row[f"auroc{which}"], row[f"auroc{which}_ci"] = auroc(clean, attacked)
    for fpr, threshold in thresholds.items():
        key = f"tpr{which}_at_fpr_{fpr}"
        row |= dict.fromkeys((key, f"{key}_ci"))
        if len(attacked):
            row[key], row[f"{key}_ci"] = rate(int((attacked > threshold).sum()), len(attacked))
    return row


def attack_rows(
    name: str,
    is_control: bool,
    result: Attacked,
    clean: Values,
    attacked: Values,
    thresholds: Mapping[str, Mapping[float, float]],
) -> list[dict[str, Any]]:
    """Returns the rows of a benchmark for one attack, one for each statistic.

    Args:
        name: The name of the attack.
        is_control: Whether the attack is a control.
        result: The result of the attack.
        clean: Anomaly scores of the clean images.
        attacked: Anomaly scores of the images that were attempted.
        thresholds: Thresholds by statistic and false-alarm rate.
    """
    succeeded = result.succeeded[result.attempted].numpy()
    base = {
        "attack": name,
        "is_control": is_control,
        "attempted": int(result.attempted.sum()),
        "succeeded": int(succeeded.sum()),
        "linf_median": _median(result.linf[result.succeeded]),
        "l2_median": _median(result.l2[result.succeeded]),
        "model_calls": result.model_calls,
    }
    rows = []
    for statistic, normal in clean.items():
        everyone = attacked.get(statistic, np.empty(0))
        row = {**base, "statistic": statistic}
        row |= detection_rates(normal, everyone[succeeded], thresholds[statistic])
        rows.append(row | detection_rates(normal, everyone, thresholds[statistic], "_all"))
    return rows


def histograms(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts anomaly scores in bins.

    Args:
        values: (n,) anomaly scores by kind of image, one of which is "clean".

    Returns:
        {"edges": the limits of the bins, "counts": counts by kind}. The outermost bins also hold all scores beyond
        them. The edges are chosen for the clean images, since attacked images may score a thousand times as high.
    """
    low, high = np.quantile(np.concatenate(list(values.values())), [0.002, 0.998])
    least, most = np.quantile(values["clean"], [0.01, 0.99])
    low, high = max(low, least - 2 * (most - least)), min(high, most + 4 * (most - least))
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    counts = {kind: np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0].tolist() for kind, v in values.items()}
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts}


def roc_points(clean: np.ndarray, attacked: np.ndarray) -> dict[str, list[float]]:
    """Returns the ROC curve at false-alarm rates that are evenly spaced on a logarithmic axis.

    Args:
        clean: (m,) anomaly scores.
        attacked: (n,) anomaly scores.

    Returns:
        {"fpr": 100 rates, "tpr": the share of attacked images that is detected at each}.
    """
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(np.r_[np.zeros(len(clean)), np.ones(len(attacked))], np.r_[clean, attacked])
    grid = np.geomspace(1 / len(clean), 1, 100)
    # the curve is a staircase: take the best point that does not exceed the rate
    height = tpr[np.searchsorted(fpr, grid + 1e-12, side="right") - 1]
    return {"fpr": [round(v, 6) for v in grid.tolist()], "tpr": [round(v, 6) for v in height.tolist()]}


def _median(distances: Tensor) -> float | None:
    return distances.median().item() if len(distances) else None
