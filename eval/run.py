"""Measures how well attacks are detected: first freezes thresholds, then attacks."""

from __future__ import annotations

import copy
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from ..ambient import modes_kept
from ..attacks import ATTACKS, Attacked
from ..calibration import conformal
from ..classifier import predict_labels
from ..data import DataSet
from ..errors import DataError, ParameterError
from ..scores import ALTERNATIVE_SCORES, CLASSIFIER_SCORES, SCORES, bits_per_dim
from ..zoo import recipes
from .adaptive import checked_arguments, run_adaptive
from .attacked import attack_all, labelled_test
from .cache import Cache, digest, scores_digest
from .detection import Scorer, attack_rows, calibrated, histograms, roc_points, usual_statistics
from .examples import examples
from .false_alarms import (
    calibration_curve,
    class_rows,
    corrupted,
    false_alarm_rows,
    flagged_rows,
    other_images,
    p_value_counts,
)
from .oracle import FOLDS, oracle_rates
from .upgrade import FORMAT

RATES = (0.01, 0.05)

# the suites of `pixeldefend benchmark --suite`: arguments of `run_benchmark`
SUITES: dict[str, dict[str, Any]] = {
    # two minutes on two cores
    "quick": dict(
        attacks=["noise-8", "fgsm-8", "pgd-2", "pgd-8", "deepfool-l2"],
        statistics=["bits_per_dim", "excess_surprisal"],
        limit=100,
        clean=500,
    ),
    # attackers who know the classifier only
    "standard": dict(limit=1000, corruptions=True),
    # and attackers who know the detector
    "adaptive": dict(limit=1000, corruptions=True, adaptive=dict(eps=[2, 4, 8, 16, 32], limit=100, steps=100)),
    "full": dict(
        corruptions=True,
        oracle=True,
        by_class=True,
        adaptive=dict(eps=[2, 4, 8, 16, 32], limit=200, expensive_limit=100, steps=1000, restarts=2),
    ),
}


def run_benchmark(
    detector: Any,
    classifier: nn.Module,
    data: DataSet,
    *,
    attacks: list[str] | None = None,
    statistics: list[str] | None = None,
    limit: int | None = None,
    clean: int | None = None,
    seed: int = 0,
    attacked: dict[str, Attacked] | None = None,
    corruptions: bool = False,
    other_data: Sequence[DataSet] = (),
    oracle: bool = False,
    by_class: bool = False,
    adaptive: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures how well a detector finds attacked images.

    Thresholds are frozen before any attack, for false-alarm rates of 1 % and 5 % on average. The detector's own
    statistic keeps its calibration; other statistics are fitted on data.fit and calibrated on data.calibration. AUROC
    compares the attacked 8-bit images that are misclassified with the clean test images. Columns whose name contains
    `_all` count all attacked images, misclassified or not.

    Args:
        detector: A fitted detector. Its density, if it has one, is measured under every statistic.
        classifier: The classifier that is attacked: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        data: The data set; its test images are attacked.
        attacks: Keys of `ATTACKS`, None for all.
        statistics: Keys of `SCORES`, `CLASSIFIER_SCORES` and, if the detector has an alternative,
            `ALTERNATIVE_SCORES`. None for all but the expensive statistics and those that
            use the classifier; [] for none. The detector's own statistic is always measured; it is the only one if
            there is no density.
        limit: How many test images are attacked; None for all.
        clean: How many clean test images count false alarms; None for the images that are attacked.
        seed: Seed of all random numbers.
        attacked: The result of `attack_all`, to use it again; None to attack now.
        corruptions: Whether to count how often clean images are flagged after each benign corruption.
        other_data: Other data sets of the same shape, to count how often their test images are flagged.
        oracle: Whether to fit, for comparison, a detector that is trained on the attack.
        by_class: Whether to count the false alarms of each class.
        adaptive: Arguments of `run_adaptive`, to attack the detector too; None not to.
        recipe: How the density was trained (`pixeldefend.zoo.recipe_of`). If its train_sha256 is not that of
            data.train, the results carry a warning.
        cache: Where attacked images are kept.
        log: Called with lines that report progress.

    Returns:
        Plain JSON values, described by results.schema.json. Two runs with the same arguments differ in `milliseconds`
        only.

    Raises:
        ParameterError: If a name is unknown, a number is out of range, or an attack cannot be made.
        DataError: If the data have no labels, if the detector does not take their images, or if other data have
            another shape.
        MissingExtraError: If foolbox is not installed.
    """
    attacks = validate_names(attacks, ATTACKS)
    for name, value in (("limit", limit), ("clean", clean)):
        if value is not None and value < 1:
            raise ParameterError(f"{name} must be at least 1, or None, got {value}")
    victims = labelled_test(data, limit)
    assert victims.y is not None
    _check_shapes(detector, data, other_data)
    if getattr(detector, "classifier", classifier) is None:  # for the statistics that use it
        detector = copy.copy(detector)
        detector.classifier = classifier
    if adaptive is not None:  # refused now, not after hours of other attacks
        adaptive = {"seed": seed, "cache": cache, "log": log, **checked_arguments(detector, data.test.x[:1], adaptive)}
    warnings = _warnings(data, recipe)
    for warning in warnings:
        log(f"warning: {warning}")

    with modes_kept(classifier, getattr(detector, "density", None)):
        scorer = Scorer(detector)
        own = scorer.own
        statistics = _statistics(scorer, statistics, data, log)
        log("freezing thresholds on clean calibration images")
        functions, calibration = calibrated(scorer, statistics, data)
        thresholds = {name: {fpr: conformal.threshold(calibration[name], fpr) for fpr in RATES} for name in statistics}

        clean_images = data.test[: clean or len(victims)]
        most = max(len(clean_images), len(victims))
        log(f"scoring {most} clean test images")
        start = time.perf_counter()
        with_bits = {"bits/dim": bits_per_dim} if scorer.density is not None else {}
        scores = scorer({**functions, **with_bits}, data.test.x[:most])
        milliseconds = 1000 * (time.perf_counter() - start) / most
        counted = {name: values[: len(clean_images)] for name, values in scores.items()}
        normal = {name: scores[name][: len(victims)] for name in statistics}

        classes = []
        if by_class:
            log("scoring calibration images by class")
            classes = class_rows(scorer, counted[own], clean_images, data.calibration, thresholds[own])

        if attacked is None:
            attacked = attack_all(classifier, data, attacks, limit=limit, seed=seed, cache=cache, log=log)
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        by_oracle: list[dict[str, Any]] = []
        shown = {name: {"clean": normal[name]} for name in statistics if name in (own, "bits_per_dim")}
        for attack in attacks:
            result = attacked[attack]
            found = scorer(functions, result.images[result.attempted]) if result.attempted.any() else {}
            rows += attack_rows(attack, ATTACKS[attack].is_control, result, normal, found, thresholds)
            succeeded = result.succeeded[result.attempted].numpy()
            those = {name: values[succeeded] for name, values in found.items()}
            if oracle and succeeded.sum() >= FOLDS:
                originals = result.succeeded.nonzero()[:, 0].numpy()
                by_oracle.append({"attack": attack, **oracle_rates(normal, those, originals)})
            for name in shown if succeeded.any() else ():
                shown[name][attack] = those[name]
                curves.append({"attack": attack, "statistic": name, **roc_points(normal[name], those[name])})

        benign, others = [], []
        for what, x in corrupted(victims.x, seed) if corruptions else ():
            log(f"scoring {what}")
            benign += flagged_rows(scorer, functions, what, x, thresholds)
        for what, x in other_images(other_data, len(victims)):
            log(f"scoring {what}")
            others += flagged_rows(scorer, functions, what, x, thresholds)

        p = conformal.p_values(counted[own], detector.calibration_scores_)
        aware = None
        if adaptive is not None:
            log("attacks that know the detector")
            aware = run_adaptive(detector, classifier, data.test, **adaptive)
        pictures = examples(detector, classifier, victims, attacked)

    return {
        "format": FORMAT,
        "data": data.name,
        "warnings": warnings,
        "density": getattr(scorer.density, "config", None),
        "images": {
            "train": len(data.train),
            "validation": len(data.validation),
            "fit": len(data.fit),
            "calibration": len(detector.calibration_scores_),
            "clean_test": len(clean_images),
            "attacked_test": len(victims),
        },
        "milliseconds": milliseconds,
        "bits_per_dim": float(counted["bits/dim"].mean()) if with_bits else None,
        "classifier_accuracy": (predict_labels(classifier, victims.x).numpy() == victims.y.numpy()).mean().item(),
        "seed": seed,
        "sha256": {
            "detector": scores_digest(detector) if scorer.density is None else digest(scorer.density),
            "calibration_scores": scores_digest(detector),  # they also depend on the statistic, and what it learned
            "classifier": digest(classifier),
            "calibration_images": data.calibration.digest(),
            "test_images": data.test.digest(),
        },
        "versions": installed_versions(),
        "thresholds": {name: {str(fpr): value for fpr, value in by.items()} for name, by in thresholds.items()},
        "false_alarms": false_alarm_rows(detector, counted, calibration, thresholds),
        "statistic": own,
        "classifier_statistics": [name for name in statistics if name in CLASSIFIER_SCORES],
        "rows": rows,
        "benign_corruptions": benign,
        "other_data": others,
        "by_class": classes,
        "oracle": by_oracle,
        "roc": curves,
        "histograms": {name: histograms(values) for name, values in shown.items()},
        "p_values": p_value_counts(p),
        "calibration": calibration_curve(p),
        "adaptive": aware,
        "examples": pictures,
    }


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that the figures of a benchmark depend on."""
    packages = ("pixeldefend", "torch", "foolbox", "scikit-learn")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def validate_names(names: list[str] | None, there: dict[str, Any]) -> list[str]:
    """Returns the given names, or all names if none is given.

    Args:
        names: The names to check; None or empty for all.
        there: The known names, as keys.

    Raises:
        ParameterError: If a name is unknown.
    """
    for name in names or ():
        if name not in there:
            raise ParameterError(f"unknown name {name!r}; there are: {', '.join(there)}")
    return names or list(there)


def _check_shapes(detector: Any, data: DataSet, other_data: Sequence[DataSet]) -> None:
    if not detector.accepts(data.test.x[0]):
        raise DataError(f"{data.name} holds images of shape {data.test.shape}, the detector takes {detector.takes}")
    titles = [other.name for other in other_data]
    if len(set(titles)) < len(titles):
        raise ParameterError(f"other data sets must have different names, got {', '.join(titles)}")
    for other in other_data:
        if other.test.shape != data.test.shape:
            raise DataError(
                f"{other.name} holds images of shape {other.test.shape}, but {data.name} of shape {data.test.shape}"
            )


def _warnings(data: DataSet, recipe: dict[str, Any] | None) -> list[str]:
    current = data.train.digest()
    if all(step.get("train_sha256", current) == current for step in recipes(recipe or {})):
        return []
    return [
        f"The density was not trained on the images that {data.name} holds for training now: it may have seen some of "
        "the images that calibrate and test it."
    ]


def _statistics(scorer: Scorer, names: list[str] | None, data: DataSet, log: Callable[[str], None]) -> list[str]:
    """Returns the names of the statistics to measure, including the detector's own."""
    if scorer.density is None:
        names = []
    elif names is None:
        names = usual_statistics(scorer, data, log)
    elif names:
        names = validate_names(names, SCORES | CLASSIFIER_SCORES | ALTERNATIVE_SCORES)
    return names if scorer.own in names else [*names, scorer.own]
