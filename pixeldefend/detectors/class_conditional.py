"""A detector whose rate of false alarms holds within every class of images."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..ambient import torch_defaults
from ..calibration import conformal
from ..calibration.conformal import Array
from ..classifier import predict_labels, whole_numbers
from ..errors import CalibrationError, ModelError, ParameterError
from ..scores import CLASSIFIER_SCORES
from ..serialization import load_tensors
from .detector import Detector
from .samples import Samples


class ClassConditional(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """A detector whose rate of false alarms holds within every class of images, not only on average over classes.

    Each class has a calibration and a threshold of its own. Methods with scikit-learn's names keep its signs.

    Args:
        detector: A detector with the parameters to use. A clone of it is fitted.
        classifier: A module, (N, C, H, W) in [0, 1] -> logits, whose predictions are the labels of all images. None if
            labels are given with the images.

    Attributes:
        detector_: The fitted detector.
        classes_: (K,) the labels.
        calibration_scores_: (n,) the anomaly scores of the calibration images, joined over corruptions in each class.
        calibration_labels_: (n,) the labels of the calibration images.
        thresholds_: (K,) the anomaly score above which an image of each class is flagged.

    Reference:
        Vovk, Lindsay, Nouretdinov & Gammerman 2003, Mondrian confidence machine.
    """

    def __init__(self, detector: Detector, classifier: nn.Module | None = None) -> None:
        self.detector = detector
        self.classifier = classifier

    def fit(self, X: Any, y: Any = None, **arguments: Any) -> Self:
        """Calibrates on clean images, class by class.

        Args:
            X: Clean images.
            y: (N,) their labels, whole numbers; None with a classifier.
            **arguments: As `Detector.fit` takes them.

        Raises:
            CalibrationError: As `Detector.fit` does; also if there is only one class, or a class has too few images for
                the rate.
            ParameterError: If the labels do not match the images, or if corruptions are given with a classifier.
        """
        if self.classifier is not None and arguments.get("corruptions"):
            raise ParameterError(
                "a corruption may change the predicted class, and an image would calibrate a class other than its own: "
                "give labels, or no corruptions"
            )
        detector = clone(self.detector)
        labels = self._labels(detector, X, y)
        classes = np.unique(labels)
        if len(classes) < 2:
            raise CalibrationError(
                f"all images are of class {classes[0]}: use a Detector without ClassConditional for one class"
            )
        detector.fit(X, **arguments)
        return self._calibrated(detector, labels[detector.calibration_index_])

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """Returns (N,): minus the anomaly score, whatever the class."""
        check_is_fitted(self)
        scores: Array = self.detector_.score_samples(X)
        return scores

    def decision_function(self, X: Any, y: Any = None) -> Array:
        """Returns (N,): the threshold of each image's class minus its anomaly score, negative for outliers.

        Args:
            X: Images.
            y: (N,) their labels; None with a classifier.

        Raises:
            ParameterError: For a label without a calibration image.
        """
        check_is_fitted(self)
        scores, labels = self.score_samples(X), self._known_labels(X, y)
        return scores + self.thresholds_[np.searchsorted(self.classes_, labels)]

    def predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Returns (N,): +1 for normal images, -1 for outliers; arguments as for `decision_function`."""
        return np.where(self.decision_function(X, y) < 0, -1, 1)

    def p_value(self, X: Any, y: Any = None) -> Array:
        """Returns (N,): the share of clean images of the same class that are at least as anomalous.

        With corruptions it is the highest of these shares.

        Args:
            X: Images.
            y: (N,) their labels; None with a classifier.

        Raises:
            ParameterError: For a label without a calibration image.
        """
        check_is_fitted(self)
        scores, labels = -self.score_samples(X), self._known_labels(X, y)
        return conformal.class_p_values(scores, labels, self.calibration_scores_, self.calibration_labels_)

    def is_adversarial(self, X: Any, y: Any = None) -> np.ndarray:
        """Returns (N,) bool: whether each image is flagged within its class; arguments as for `decision_function`."""
        return self.decision_function(X, y) < 0

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes the detector with its labels as one file, without the classifier.

        `Detector.load` reads the file too, as a detector for all classes together.
        """
        check_is_fitted(self)
        self.detector_.save(path, calibration_labels=self.calibration_labels_.tolist(), **notes)

    @classmethod
    @torch_defaults()
    def load(
        cls,
        path: str | os.PathLike[str],
        classifier: nn.Module | None = None,
        *,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Reads a detector that `save` wrote.

        Args:
            path: The file.
            classifier: As for the constructor.
            device: Where the density runs.

        Raises:
            ModelError: If the file holds no detector that was calibrated by class.
            FileNotFoundError: If the file is missing.
        """
        meta = load_tensors(path)[1]
        labels = meta.get("calibration_labels")
        if labels is None:
            raise ModelError(f"{path} holds a detector that was not calibrated by class")
        parameters = meta["parameters"]
        uses_one = parameters.get("statistic", parameters.get("score")) in CLASSIFIER_SCORES  # the name before 0.2
        detector = Detector.load(path, device=device, classifier=classifier if uses_one else None)
        return cls(detector, classifier)._calibrated(detector, np.array(labels))

    def _calibrated(self, detector: Detector, labels: np.ndarray) -> Self:
        thresholds, scores = [], np.empty(len(labels))
        for label in np.unique(labels):
            same = labels == label
            scores[same] = conformal.over_kinds(
                detector.calibrations_[detector.precision][:, same], detector.confidence
            )
            try:
                thresholds.append(conformal.threshold(scores[same], detector.fpr, detector.confidence))
            except CalibrationError as error:
                raise CalibrationError(f"class {label}: {error}") from None
        self.detector_, self.calibration_scores_, self.calibration_labels_ = detector, scores, labels
        self.classes_, self.thresholds_ = np.unique(labels), np.array(thresholds)
        return self

    def _known_labels(self, X: Any, y: Any) -> np.ndarray:
        labels = self._labels(self.detector_, X, y)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ParameterError(f"label {unknown[0]} has no calibration image; there are {self.classes_}")
        return labels

    def _labels(self, detector: Detector, X: Any, y: Any) -> np.ndarray:
        """Returns (N,) int64."""
        samples = detector._samples(X)
        if self.classifier is None:
            if y is None:
                raise ParameterError("give the labels y of the images, or give ClassConditional a classifier")
            labels = whole_numbers(y, len(samples)).numpy()
        else:
            if y is not None:
                raise ParameterError("the classifier predicts the labels: leave y out, in fit and afterwards")
            labels = _predicted(self.classifier, samples, detector.batch_size)
        return labels


def _predicted(classifier: nn.Module, samples: Samples, batch_size: int) -> np.ndarray:
    labels: np.ndarray = samples.each(lambda x: (predict_labels(classifier, x, batch_size).numpy(),), batch_size)[0]
    return labels
