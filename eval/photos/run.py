"""Measures how well attacks on photographs are detected."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ...ambient import modes_kept
from ...attacks import ATTACKS
from ...data import Images
from ...errors import DataError, ParameterError
from ..adaptive import checked_arguments, run_adaptive
from ..cache import Cache, digest, scores_digest
from ..detection import histograms, roc_points
from ..examples import examples
from ..false_alarms import calibration_curve, p_value_counts
from ..run import installed_versions, validate_names
from ..upgrade import FORMAT
from .attacked import AttackedPhotographs, attack_photographs
from .data import NATIVE, Photographs, png_files, predicted
from .judged import Judge, ranks
from .learning import Learning
from .rows import attack_rows, false_alarm_rows, flagged_rows, histories, resaved_rows

EXAMPLES = 6  # attacks of which an example is shown


def run_photographs(
    detector: Any,
    classifier: nn.Module,
    photographs: Photographs,
    *,
    learning: Learning | None = None,
    attacks: list[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    attacked: dict[str, AttackedPhotographs] | None = None,
    corruptions: bool = False,
    adaptive: dict[str, Any] | None = None,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures how well a detector finds attacked photographs.

    The detector judges files, so that it can use what a file tells besides its pixels. Clean and attacked images are
    PNG files alike. An image counts as detected at a rate of false alarms if its p-value is at most that rate. Images
    are ranked by p-value and, where p-values are equal, by score; AUROC compares these ranks. Only attacked 8-bit
    images that are misclassified count, except in columns whose name contains `_all`.

    Args:
        detector: A fitted detector of images of these sizes.
        classifier: The classifier that is attacked: (N, 3, H, W) in [0, 1] -> (N, classes) logits. In the native view
            it takes images of any size.
        photographs: Clean photographs, of which nothing has been learned.
        learning: Other clean photographs, which calibrate the statistic bits/dim of a detector with a density.
        attacks: Keys of `ATTACKS`, None for all.
        limit: How many photographs are attacked, at least 1; None for all.
        seed: Seed of all random numbers.
        attacked: The result of `attack_photographs`, to use it again; None to attack now.
        corruptions: Whether to count how often clean photographs are flagged after each history.
        adaptive: Arguments of `run_adaptive`, to attack the detector too; None not to.
        cache: Where attacked images are kept.
        log: Called with lines that report progress.

    Returns:
        Plain JSON values, described by results.schema.json.

    Raises:
        ParameterError: If a name is unknown, limit is below 1, or an attack cannot be made.
        DataError: If the detector does not take the photographs, or some of them are also in `learning`.
        MissingExtraError: If foolbox is not installed.
    """
    attacks = validate_names(attacks, ATTACKS)
    victims = _victims(photographs, limit)
    for image in photographs.x:
        if not detector.accepts(image):
            raise DataError(f"{photographs.name} holds an image of shape {tuple(image.shape)}: give others")
    if learning is not None:
        learning.check_others(photographs)
    if adaptive is not None:
        adaptive = _adaptive_options(detector, victims, {"seed": seed, "cache": cache, "log": log, **adaptive})
    density = getattr(detector, "density", None)

    with modes_kept(classifier, density):
        judge = Judge(detector, None if learning is None else learning.calibration.files())
        own = judge.own
        log(f"judging {len(photographs)} clean photographs")
        start = time.perf_counter()
        said = judge(photographs.files())
        milliseconds = 1000 * (time.perf_counter() - start) / len(photographs)
        if said.refused:
            raise DataError(f"the detector refuses {said.refused} of {len(photographs)} clean photographs")
        normal = {name: found[: len(victims)] for name, found in said.by.items()}
        if attacked is None:
            attacked = attack_photographs(classifier, victims, attacks, seed=seed, cache=cache, log=log)
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        shown = {name: {"clean": found.score} for name, found in normal.items()}
        for attack in attacks:
            log(f"judging {attack}")
            result = attacked[attack]
            found = judge(png_files(result.images[i] for i in result.attempted.nonzero()[:, 0].tolist())).by
            rows += attack_rows(attack, result, judge, normal, found)
            succeeded = result.succeeded[result.attempted].numpy()
            for name in found if succeeded.any() else ():
                those = found[name][succeeded]
                shown[name][attack] = those.score
                points = roc_points(*ranks(normal[name], those))
                curves.append({"attack": attack, "statistic": name, **points})
        log("judging images that are saved again")
        resaved, flagged = resaved_rows(classifier, victims, {name: attacked[name] for name in attacks}, judge)
        for what, files in histories(photographs, seed) if corruptions else ():
            log(f"judging clean photographs, {what}")
            flagged += flagged_rows(what, judge(files), judge)
        aware = None
        if adaptive is not None:
            log("attacks that know the detector")
            images = Images(torch.stack(victims.x), victims.y, victims.index)
            aware = run_adaptive(detector, classifier, images, **adaptive)
        pictures = examples(detector, classifier, victims, attacked, most=EXAMPLES, by_site=False)
        correct = predicted(classifier, victims.x) == victims.y

    n, m = len(judge.calibration[own]), len(photographs)
    p = said.by[own].p
    return {
        "format": FORMAT,
        "data": photographs.name,
        "view": photographs.view,
        "labels": photographs.labels,
        "warnings": [],
        "density": getattr(density, "config", None),
        "images": {
            "train": 0,
            "validation": 0,
            "fit": 0 if learning is None else len(learning.fit),
            "calibration": n,
            "clean_test": m,
            "attacked_test": len(victims),
            "left_out": photographs.left_out,
        },
        "milliseconds": milliseconds,
        "bits_per_dim": float(said.bits_per_dim.mean()) if np.isfinite(said.bits_per_dim).all() else None,
        "classifier_accuracy": correct.double().mean().item(),
        "seed": seed,
        "sha256": {
            "detector": scores_digest(detector) if density is None else digest(density),
            "classifier": digest(classifier),
            "calibration_images": scores_digest(detector),  # the images are those of whoever calibrated it
            "test_images": photographs.digest(),
        },
        "versions": installed_versions(),
        "thresholds": {},  # each image is judged by its p-value
        "false_alarms": false_alarm_rows(said, judge),
        "statistic": own,
        "classifier_statistics": [],
        "rows": rows,
        "resaved": resaved,
        "benign_corruptions": flagged,
        "other_data": [],
        "by_class": [],
        "oracle": [],
        "roc": curves,
        "histograms": {name: histograms(values) for name, values in shown.items()},
        "p_values": p_value_counts(p),
        "calibration": calibration_curve(p),
        "adaptive": aware,
        "examples": pictures,
        "class_names": _names_in(pictures, classifier),
    }


def compare_photographs(
    detectors: dict[str, Any],
    classifier: nn.Module,
    photographs: Photographs,
    *,
    attacks: list[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Measures several detectors on the same attacked photographs.

    Args:
        detectors: Fitted detectors by their names in the table.
        classifier: As for `run_photographs`.
        photographs: As for `run_photographs`.
        attacks: As for `run_photographs`.
        limit: As for `run_photographs`.
        seed: As for `run_photographs`.
        cache: As for `run_photographs`.
        log: As for `run_photographs`.
        options: Further arguments of `run_photographs`.

    Returns:
        What `compare` returns, for `write_comparison`.

    Raises:
        ParameterError, DataError: As `run_photographs` does.
    """
    from ..comparison import PICTURES

    attacks = validate_names(attacks, ATTACKS)
    victims = _victims(photographs, limit)
    attacked = attack_photographs(classifier, victims, attacks, seed=seed, cache=cache, log=log)
    found = {}
    for name, detector in detectors.items():
        log(f"-- {name}")
        shared: dict[str, Any] = dict(attacks=attacks, limit=limit, seed=seed, attacked=attacked, cache=cache, log=log)
        results = run_photographs(detector, classifier, photographs, **shared, **options)
        found[name] = {key: value for key, value in results.items() if key not in PICTURES}
    return {"format": FORMAT, "data": photographs.name, "attacks": attacks, "statistics": [], "detectors": found}


def _victims(photographs: Photographs, limit: int | None) -> Photographs:
    """Returns the photographs that are attacked."""
    if limit is not None and limit < 1:
        raise ParameterError(f"limit must be at least 1, or None for all photographs, got {limit}")
    return photographs.take(range(len(photographs))[:limit])


def _adaptive_options(detector: Any, victims: Photographs, given: dict[str, Any]) -> dict[str, Any]:
    """Checks the arguments of `run_adaptive`, before hours of other attacks."""
    if victims.view == NATIVE:
        raise ParameterError("attacks that know the detector need images of one size: take another --view")
    return checked_arguments(detector, victims.x[0][None], given)


def _names_in(pictures: list[dict[str, Any]], classifier: nn.Module) -> dict[str, str]:
    """Returns the names of the classes in examples, by their numbers, as far as the classifier knows them."""
    names = getattr(classifier, "class_names", None) or []
    labels = {item[key] for item in pictures for key in ("label", "predicted", "predicted_attacked")}
    return {str(label): str(names[label]) for label in sorted(labels) if label < len(names)}
