"""Makes a detector of a trained density by calibrating it on images that the density has not seen."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import DATASETS, DataSet, load_dataset
from ..densities import Density
from ..detectors import Detector, PhotoDetector
from ..devices import check_device
from ..errors import CalibrationError, ImageError, ParameterError, PixelDefendError
from ..images import decode_image, read_bytes
from ..images.files import find_files
from ..scores import ALTERNATIVE_SCORES
from ..serialization import check_writable
from ..zoo import load_classifier, load_density, load_detector, recipe_of, recipes


@dataclass(frozen=True)
class Calibrated:
    """The result of a calibration.

    Attributes:
        detector: The fitted detector.
        metrics: The figures on clean test images: "test_images", "test_bits_per_dim" (if the density has bits) and
            "test_false_alarms", a share.
        notes: The notes in the detector's file: data, calibration_images, metrics and recipe.
    """

    detector: Detector
    metrics: dict[str, Any]
    notes: dict[str, Any]


def calibrate(
    density: str | os.PathLike[str] | Density,
    data: str | DataSet,
    out: str | os.PathLike[str] | None = None,
    *,
    statistic: str = "excess_surprisal",
    classifier: str | nn.Module | None = None,
    alternative: str | os.PathLike[str] | Density | None = None,
    fpr: float = 0.01,
    confidence: float | None = None,
    corruptions: Sequence[str] = (),
    backends: Sequence[str] = (),
    fit_images: int | None = None,
    data_dir: str | os.PathLike[str] = "data",
    device: str = "cpu",
    recipe: dict[str, Any] | None = None,
) -> Calibrated:
    """Makes a detector of a trained density and evaluates it on clean test images.

    It calibrates on `data.calibration` and evaluates the detector on `data.test`. The density has not seen these parts
    only if it was trained on the same `data.train`, or on another data set. The recipe of the density tells which
    images it was trained on.

    Args:
        density: A density, the path of a density's or a detector's file, or the name of a shipped detector.
        data: A data set, or its name as `load_dataset` takes it.
        out: The .safetensors file to write, or None to write none.
        statistic: A key of `pixeldefend.scores.SCORES`; with a classifier, also of `CLASSIFIER_SCORES`; with an
            alternative, also of `ALTERNATIVE_SCORES`.
        classifier: The classifier for statistics that use one: a module, the name of a shipped one, or a file.
        alternative: The density of perturbed images for statistics that use one, given like `density`.
        fpr: The share of clean images that may be flagged, in (0, 1).
        confidence: The probability with which this calibration keeps `fpr`, in (0, 1); None to keep it on average.
        corruptions: Keys of `pixeldefend.images.corruptions.CORRUPTIONS` for which the rate must hold, too.
        backends: Keys of `pixeldefend.detectors.backends.PRECISION` to calibrate for, besides the default.
        fit_images: The number of images that a statistic learns from: those of `data.fit`, and if there are too few,
            training images of the density. None for all of `data.fit`.
        data_dir: Where named data sets are kept.
        device: The device, as torch names it.
        recipe: The recipe by which the density was trained, if it is given as a module.

    Returns:
        The detector and its figures.

    Raises:
        CalibrationError: If the density was trained on other images than `data.train`, so that it may have seen
            calibration images, or if there are too few images for `fpr`.
        DataError: If the data set cannot be read.
        ModelError: If a model file is damaged.
        ParameterError: If a name or a number is out of range, or if the statistic does not use the alternative.
        OSError: If a model file is missing or `out` cannot be written.
    """
    place = check_device(device)
    if out is not None:
        check_writable(Path(out))
    model, title, trained = _density(density, place, recipe)
    shape = model.event_shape or ()
    length = shape[0] if len(shape) == 1 and shape[0] is not None else 256
    if isinstance(data, str):
        name, images = data, load_dataset(data, str(data_dir), length=length)
    else:
        name, images = data.name, data
    _check_unseen(title, trained, name, images)
    other: Density | None = None
    recipe_of_other: dict[str, Any] = {}
    if alternative is not None:
        if statistic not in ALTERNATIVE_SCORES:
            those = ", ".join(ALTERNATIVE_SCORES)
            raise ParameterError(f"{statistic} uses no alternative: leave it out, or take the statistic {those}")
        other, other_title, recipe_of_other = _density(alternative, place, None)
        _check_unseen(other_title, recipe_of_other, name, images)
    asked = load_classifier(classifier, device=place) if isinstance(classifier, str) else classifier
    detector = Detector(model, statistic=statistic, fpr=fpr, confidence=confidence, classifier=asked, alternative=other)
    learn = images.fit.x if fit_images is None else torch.cat([images.fit.x, images.train.x])[:fit_images]
    detector.fit(images.calibration.x, X_fit=learn, corruptions=corruptions, backends=backends)
    metrics = _measured(detector, images)
    notes = {
        "data": name,
        "calibration_images": len(images.calibration),
        "metrics": metrics,
        "recipe": {"torch": torch.__version__, **trained},
    }
    if other is not None:
        notes["recipe_of_alternative"] = recipe_of_other
    if out is not None:
        detector.save(out, **notes)
    return Calibrated(detector, metrics, notes)


@dataclass(frozen=True)
class Adapted:
    """The result of an adaptation to a user's photographs.

    Attributes:
        detector: The adapted detector.
        histories: The number of photographs by history.
        flagged: The share of the photographs that the detector flagged before.
        skipped: The files that could not be used, with the reason.
    """

    detector: PhotoDetector
    histories: dict[str, int]
    flagged: float
    skipped: dict[str, str]


def adapt(
    detector: str | PhotoDetector,
    photographs: Sequence[str],
    out: str | os.PathLike[str] | None = None,
    *,
    fpr: float | None = None,
    device: str = "cpu",
) -> Adapted:
    """Calibrates a detector of photographs for the traffic of a user.

    Args:
        detector: A detector of photographs, the name of a shipped one, or the path of a saved one.
        photographs: Files and folders of clean photographs that nobody has attacked, a few hundred or more.
        out: The .safetensors file to write, or None to write none.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        device: The device, as torch names it.

    Returns:
        The adapted detector, and what the photographs were.

    Raises:
        CalibrationError: If there are too few photographs for the rate, or more than a tenth are copies of others.
        ParameterError: If the detector is not one of photographs.
        PixelDefendError: If the detector cannot be loaded.
        OSError: If `out` cannot be written.
    """
    if out is not None:
        check_writable(Path(out))
    before = load_detector(detector, device=device) if isinstance(detector, str) else detector
    if not isinstance(before, PhotoDetector):
        raise ParameterError(f"{detector} is no detector of photographs: calibrate its density on a data set (--data)")
    before = before if fpr is None else before.with_fpr(fpr)
    skipped: dict[str, str] = {}
    profiles, origins, hashes = [], [], set()
    copies = 0
    for found in find_files(photographs, lambda path, reason: None):
        path = found if isinstance(found, str) else found.path
        try:
            if not isinstance(found, str):
                raise ImageError(found.reason)
            decoded = decode_image(read_bytes(path))
            digest = hashlib.sha256(decoded.frames[0].tobytes()).digest()
            if digest in hashes:
                copies += 1
                raise ImageError("a copy of another one")
            profile = before.profiles([decoded.frames[0]])
        except (PixelDefendError, OSError) as error:
            skipped[path] = str(error)
            continue
        hashes.add(digest)
        profiles.append(profile)
        origins.append(decoded.origin)
    if copies > max(1, (len(profiles) + copies) // 10):
        raise CalibrationError(f"{copies} of {len(profiles) + copies} photographs are copies of others: give each once")
    if not profiles:
        raise CalibrationError(f"there are no photographs in {', '.join(photographs)}")
    every = np.concatenate(profiles)
    after = before.adapted(every, origins)
    verdicts = before.judge_profiles(every, origins)
    histories = Counter(verdicts.history)
    if out is not None:
        after.save(out, adapted={"photographs": len(profiles), "histories": dict(histories)})
    return Adapted(after, dict(histories.most_common()), float(verdicts.is_adversarial.mean()), skipped)


def _density(
    density: str | os.PathLike[str] | Density, place: torch.device, recipe: dict[str, Any] | None
) -> tuple[Density, str, dict[str, Any]]:
    """Returns a density on a device, its title in messages, and the recipe by which it was trained."""
    if isinstance(density, Density):
        return density.to(place), type(density).__name__, recipe or {}
    return load_density(density, device=place), str(density), recipe_of(density) if recipe is None else recipe


def _check_unseen(density: str, recipe: dict[str, Any], name: str, images: DataSet) -> None:
    """Raises CalibrationError if the density may have been trained on images that this data set holds out."""
    digest = images.train.digest()
    for step in recipes(recipe):
        trained_on = step.get("data")
        elsewhere = trained_on in DATASETS and trained_on != name  # it has seen nothing of this data set
        if not elsewhere and step.get("train_sha256", digest) != digest:
            raise CalibrationError(
                f"{density} was trained on other images than {name} holds for training now: its training images may "
                "include the calibration images"
            )


def _measured(detector: Detector, images: DataSet) -> dict[str, Any]:
    verdicts = detector.judge(images.test.x)
    metrics = {
        "test_images": len(images.test),
        "test_bits_per_dim": float(verdicts.bits_per_dim.mean()),
        "test_false_alarms": float(verdicts.is_adversarial.mean()),
    }
    if np.isnan(metrics["test_bits_per_dim"]):  # rows of real numbers have no bits
        del metrics["test_bits_per_dim"]
    return metrics
