"""Makes a detector of a trained density by calibrating it on images that the density has not seen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import DATASETS, DataSet, load_dataset
from ..densities import Density
from ..detectors import Detector
from ..devices import check_device
from ..errors import CalibrationError
from ..serialization import check_writable
from ..zoo import load_classifier, load_density, recipe_of


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
        statistic: A key of `pixeldefend.scores.SCORES` or, with a classifier, of `CLASSIFIER_SCORES`.
        classifier: The classifier for statistics that use one: a module, the name of a shipped one, or a file.
        fpr: The share of clean images that may be flagged, in (0, 1).
        confidence: The probability with which this calibration keeps `fpr`, in (0, 1); None to keep it on average.
        corruptions: Keys of `pixeldefend.images.corruptions.CORRUPTIONS` for which the rate must hold, too.
        backends: Keys of `pixeldefend.detectors.backends.PRECISION` to calibrate for, besides the default.
        fit_images: The number of images of `data.fit` that a statistic learns from; None for all.
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
        ParameterError: If a name or a number is out of range.
        OSError: If a model file is missing or `out` cannot be written.
    """
    place = check_device(device)
    if out is not None:
        check_writable(Path(out))
    if isinstance(density, Density):
        model, title, trained = density.to(place), type(density).__name__, recipe or {}
    else:
        model, title = load_density(density, device=place), str(density)
        trained = recipe_of(title) if recipe is None else recipe
    shape = model.event_shape or ()
    length = shape[0] if len(shape) == 1 and shape[0] is not None else 256
    if isinstance(data, str):
        name, images = data, load_dataset(data, str(data_dir), length=length)
    else:
        name, images = data.name, data
    _check_unseen(title, trained, name, images)
    asked = load_classifier(classifier, device=place) if isinstance(classifier, str) else classifier
    detector = Detector(model, statistic=statistic, fpr=fpr, confidence=confidence, classifier=asked)
    detector.fit(images.calibration.x, X_fit=images.fit.x[:fit_images], corruptions=corruptions, backends=backends)
    metrics = _measured(detector, images)
    notes = {
        "data": name,
        "calibration_images": len(images.calibration),
        "metrics": metrics,
        "recipe": {"torch": torch.__version__, **trained},
    }
    if out is not None:
        detector.save(out, **notes)
    return Calibrated(detector, metrics, notes)


def _check_unseen(density: str, recipe: dict[str, Any], name: str, images: DataSet) -> None:
    """Raises CalibrationError if the density may have been trained on images that this data set holds out."""
    if recipe.get("train_sha256", images.train.digest()) == images.train.digest():
        return
    trained_on = recipe.get("data")
    if trained_on in DATASETS and trained_on != name:  # it has seen nothing of this data set
        return
    raise CalibrationError(
        f"{density} was trained on other images than {name} holds for training now: its training images may include "
        "the calibration images"
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
