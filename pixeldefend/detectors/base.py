"""The base of all detectors: whatever the anomaly score, it keeps a promised rate of false alarms."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ..ambient import modes_kept, torch_defaults
from ..calibration import ConformalMartingale, conformal
from ..calibration.conformal import Array
from ..errors import CalibrationError, ModelError, ParameterError
from ..images import Origin
from ..images.corruptions import check_corruption
from ..serialization import load_tensors, save_tensors
from .checkpoint import check_replaceable, plain_values
from .samples import OfBatch, Samples, check_distinct, uint8_image
from .scoring import to_numbers
from .verdicts import Verdicts


class ConformalDetector(OutlierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A detector that flags images whose anomaly score is too high, at a known rate of false alarms.

    A subclass implements `anomaly_scores`. It calls this constructor, or stores the three parameters itself. Images, X,
    are given as `pixeldefend.images.to_batch` takes them, or as a list of such images of any sizes. Methods with
    scikit-learn's names keep its signs: higher is more normal, -1 is an outlier. The anomaly score has the opposite
    sign: higher is more anomalous.

    Args:
        fpr: The share of clean images that may be flagged, in (0, 1).
        confidence: None for a rate that holds on average over the draw of the calibration images. A number in (0, 1),
            such as 0.95, for a rate that this very calibration keeps with that probability.
        batch_size: The number of images that a thread scores at once, at least 1. The activations of 16 small images
            fit into the cache of a CPU. Larger batches are slower there, and faster on a GPU.

    Attributes:
        calibration_scores_: (n,) anomaly scores of the calibration images; with corruptions they are joined by
            `conformal.over_kinds`, and are not in the order of `calibration_index_`.
        calibrations_: Scores by precision, for detectors that run on several backends: (K, n), uncorrupted and after
            each of the corruptions.
        calibration_index_: (n,), the positions of the calibration images among the images given to `fit`.
        corruptions_: The names of the benign corruptions that the detector is calibrated for.
        rank_: An image is flagged if its score is above the rank_-th highest calibration score.
        offset_: Minus that score, which is the threshold of `score_samples`.
    """

    precision = "float32"  # the precision of the anomaly scores; each precision has its own calibration

    def __init__(self, *, fpr: float = 0.01, confidence: float | None = None, batch_size: int = 16) -> None:
        self.fpr = fpr
        self.confidence = confidence
        self.batch_size = batch_size

    # -- what a subclass writes ----------------------------------------------------------------------------------

    @abstractmethod
    def anomaly_scores(self, x: Tensor) -> Tensor:
        """Scores a batch of images.

        Args:
            x: (N, C, H, W) in [0, 1], images of one size.

        Returns:
            (N,), higher = more anomalous. Attacks that know the detector use its gradient, if it has one.
        """

    def excess(self, x: Tensor) -> Tensor:
        """Computes by how much the anomaly scores exceed the threshold, which an attacker who knows it minimises.

        Args:
            x: (N, C, H, W) in [0, 1], images of one size.

        Returns:
            (N,), positive for images that are flagged. It has the gradient of `anomaly_scores`.
        """
        return self.anomaly_scores(x) + float(self.offset_)

    @property
    def takes(self) -> str:
        """The images that the detector takes, as a phrase for messages: "28 x 28 grey images"."""
        return "images"

    def accepts(self, image: Any) -> bool:
        """Returns whether the detector takes an image of this size and number of channels.

        Args:
            image: One image, as `pixeldefend.images.to_batch` takes it.

        Raises:
            ImageError: If the image is malformed.
        """
        return uint8_image(image).ndim == 3

    def _samples(self, X: Any, *, reset: bool = False) -> Samples:
        """Checks images from a user; `reset` says whether the detector is being fitted on them."""
        return Samples.of_images(X)

    def _examine(self, x: Tensor, maps: bool) -> tuple[np.ndarray, ...]:
        """Returns the anomaly scores, bits/dim and, if asked for, surprisal maps of a batch, from one pass."""
        scores = to_numbers(self.anomaly_scores(x))
        return scores, np.full(len(scores), np.nan)

    def _tensors(self) -> dict[str, Tensor]:
        """Returns the tensors that a file holds besides the calibration."""
        return {}

    def _notes(self) -> dict[str, Any]:
        """Returns the plain JSON values that a file holds besides the parameters."""
        return {}

    @classmethod
    def _restore(cls, path: Any, tensors: dict[str, Tensor], meta: dict[str, Any], given: dict[str, Any]) -> Self:
        """Returns the uncalibrated detector of a file; `given` holds the parameters that are not plain values."""
        return cls(**meta["parameters"], **given)

    # -- calibration ---------------------------------------------------------------------------------------------

    @torch_defaults()
    def fit(self, X: Any, y: Any = None, *, corruptions: Sequence[str] = ()) -> Self:
        """Calibrates on clean images that nothing was fitted on.

        Args:
            X: Clean images like those that will be screened.
            y: Ignored.
            corruptions: Names in `pixeldefend.images.corruptions.CORRUPTIONS` of corruptions that future clean images
                may have undergone. An image is then compared with uncorrupted calibration images and with those after
                each corruption, and the highest p-value counts. So the rate holds for every mixture of these
                corruptions. With `confidence`, each calibration image counts with its highest score instead. Attacks
                are detected only if they stand out from all of them.

        Returns:
            The detector.

        Raises:
            CalibrationError: If X is too small for fpr, if many images are copies of others, or if all have the same
                score.
            ImageError: If an image is malformed.
            ParameterError: If a name is unknown.
        """
        check_corruptions(corruptions)
        samples = self._samples(X, reset=True)
        self._check_calibration(samples)
        scores = self._calibration_scores(samples, corruptions, self._anomaly_scores)
        return self._calibrated({self.precision: scores}, np.arange(len(samples)), corruptions)

    def with_fpr(self, fpr: float) -> Self:
        """Returns a detector with another rate of false alarms, which shares everything else.

        Raises:
            CalibrationError: If there are too few calibration images for this rate. The message says how many are
                needed.
        """
        return self._with(fpr=fpr)

    def with_calibration(self, scores: Any) -> Self:
        """Returns a detector with another calibration.

        Args:
            scores: (n,), this detector's `-score_samples` of n clean images, on which nothing may have been fitted.

        Raises:
            CalibrationError: If the scores are too few for the rate, not finite, or all the same.
        """
        scores = conformal.finite_scores(scores)
        if len(scores) > 1 and np.ptp(scores) == 0:
            raise CalibrationError(
                f"all {len(scores)} scores are {scores[0]:.4g}: a calibration needs different scores"
            )
        return self._with()._calibrated({self.precision: scores[None]}, np.arange(len(scores)), ())

    def drift_monitor(self, *, random_state: int = 0) -> ConformalMartingale:
        """Returns a test of whether a stream of images still looks like the calibration images.

        Call its `update` with the scores of the verdicts, and the histories if there are any, in the order in which the
        images come.

        Args:
            random_state: The seed of the random numbers that break ties.

        Raises:
            CalibrationError: If the detector is calibrated for corruptions: its joined scores match no single kind of
                images.
        """
        check_is_fitted(self)
        if self.corruptions_:
            names = ", ".join(self.corruptions_)
            raise CalibrationError(f"a detector calibrated for corruptions ({names}) cannot monitor a stream")
        return ConformalMartingale(self.calibration_scores_, random_state=random_state)

    # -- scikit-learn's view: higher is more normal ----------------------------------------------------------------

    def score_samples(self, X: Any) -> Array:
        """Returns (N,): minus the anomaly score, so that lower is more abnormal."""
        check_is_fitted(self)
        return -self._anomaly_scores(self._samples(X))

    def decision_function(self, X: Any) -> Array:
        """Returns (N,): `score_samples(X) - offset_`, negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns (N,): +1 for normal images, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    # -- the verdict: higher is more anomalous -----------------------------------------------------------------------

    def judge(self, X: Any, *, maps: bool = False, origins: Sequence[Origin | None] | None = None) -> Verdicts:
        """Returns all results for each image, from one pass.

        Args:
            X: Images.
            maps: Whether to return the surprisal of every pixel too.
            origins: What the file of each image says of itself, for detectors of photographs.
        """
        check_is_fitted(self)
        score, bits, *rest = self._each(lambda x: self._examine(x, maps), self._samples(X))
        return Verdicts(
            is_adversarial=score > -self.offset_,
            p_value=conformal.p_values(score, self.calibration_scores_),
            score=score,
            threshold=np.full(len(score), -self.offset_),
            bits_per_dim=bits,
            surprisal_map=rest[0] if rest else None,
        )

    def p_value(self, X: Any) -> Array:
        """Returns (N,) in [1 / (n + 1), 1]: the share of clean images that are at least as anomalous.

        With corruptions it is the highest of these shares. With `confidence` too, each calibration image counts with
        its highest score, so that it may be larger.
        """
        return conformal.p_values(-self.score_samples(X), self.calibration_scores_)

    def is_adversarial(self, X: Any) -> np.ndarray:
        """Returns (N,) bool: whether each image is flagged at the rate `fpr`."""
        return -self.score_samples(X) > -self.offset_

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes one safetensors file, without a pickle.

        The file does not hold parameters that are not plain values (a classifier, a function); give them to `load`.

        Args:
            path: The file.
            **notes: Plain JSON values to store in the file, such as a recipe.

        Raises:
            ParameterError: If a density has no config.
            OSError: If the file cannot be written.
        """
        check_is_fitted(self)
        tensors = self._tensors()
        for precision, scores in self.calibrations_.items():
            tensors[_calibration(precision)] = torch.from_numpy(scores)
        meta: dict[str, Any] = {"kind": "detector", "class": type(self).__name__}
        meta["parameters"] = plain_values(self.get_params(deep=False))
        if self.corruptions_:
            meta["corruptions"] = self.corruptions_
        save_tensors(path, tensors, {**meta, **self._notes(), **notes})

    @classmethod
    @torch_defaults()
    def load(cls, path: str | os.PathLike[str], **given: Any) -> Self:
        """Reads a detector that `save` wrote.

        Args:
            path: The file.
            **given: Parameters of the constructor that the file does not hold, or that replace those in the file,
                unless the calibration depends on them.

        Returns:
            The fitted detector.

        Raises:
            ModelError: If the file is damaged or holds something else.
            CalibrationError: If the file holds no calibration for the parameters.
            ParameterError: If a parameter that the calibration depends on is given.
            FileNotFoundError: If the file is missing.
        """
        tensors, meta = load_tensors(path)
        kind = meta.get("class", "Detector") if meta.get("kind") == "detector" else meta.get("kind")
        if kind != cls.__name__:
            raise ModelError(f"{path} holds a {kind}, not a {cls.__name__}")
        parameters = {name: value for name, value in meta["parameters"].items() if name not in given}
        if "score" in parameters:  # the name before 0.2
            parameters["statistic"] = parameters.pop("score")
        check_replaceable(given)
        detector = cls._restore(path, tensors, {**meta, "parameters": parameters}, given)
        # copies, not views of the file: whoever overwrites it would end the process
        calibrations = {
            name.removeprefix(CALIBRATION).lstrip(".") or "float32": np.atleast_2d(scores.numpy().copy())
            for name, scores in tensors.items()
            if name.startswith(CALIBRATION)
        }
        corruptions = meta.get("corruptions", meta.get("transformations", ()))
        # files before 0.2 hold the joined scores alone
        if any(scores.ndim != 2 or len(scores) not in (1, 1 + len(corruptions)) for scores in calibrations.values()):
            raise ModelError(f"the calibration in {path} is damaged or of another version")
        index = np.arange(max(scores.shape[1] for scores in calibrations.values()))
        return detector._calibrated(calibrations, index, corruptions)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _takes_threads(self) -> bool:
        """Returns whether several threads may score batches at once, which keeps the cores of a CPU busy."""
        return False

    def _each(self, function: OfBatch, samples: Samples, *, floating: bool = True) -> list[Any]:
        """Calls a function with batches, without gradients and with the detector's modules in evaluation mode."""
        if self.batch_size < 1:
            raise ParameterError(f"batch_size must be at least 1, got {self.batch_size}")
        modules = [value for value in self.get_params(deep=False).values() if isinstance(value, nn.Module)]
        # dropout would make scores random; what a module keeps from inference mode could not take part in gradients
        with torch_defaults(), torch.no_grad(), modes_kept(*modules):
            return samples.each(function, self.batch_size, floating=floating, threads=self._takes_threads())

    def _anomaly_scores(self, samples: Samples) -> Array:
        scores: Array = self._each(lambda x: (to_numbers(self.anomaly_scores(x)),), samples)[0]
        return scores

    def _check_calibration(self, samples: Samples) -> None:
        """Refuses images that cannot calibrate, before they are scored."""
        conformal.rank(self.fpr, len(samples), self.confidence)
        check_distinct(samples, "calibration images")

    def _calibration_scores(
        self, samples: Samples, corruptions: Sequence[str], scores_of: Callable[[Samples], Array]
    ) -> Array:
        """Returns the scores of the images, (K, n), uncorrupted and after each of the corruptions."""
        scores = np.stack([scores_of(samples), *(scores_of(samples.corrupted(name)) for name in corruptions)])
        joined = conformal.over_kinds(scores, self.confidence)
        if len(joined) > 1 and np.ptp(joined) == 0:
            raise CalibrationError(
                f"all {len(joined)} calibration images have the score {joined[0]:.4g}: the images are constant, or "
                "the statistic does not vary over them; calibrate on real images, or take another statistic"
            )
        return scores

    def _calibrated(self, calibrations: dict[str, Array], index: np.ndarray, corruptions: Sequence[str]) -> Self:
        if self.precision not in calibrations:
            raise CalibrationError(
                f"this detector has no calibration for the precision {self.precision}, whose scores differ; it has one "
                f"for {', '.join(calibrations)}. Calibrate it for that backend too: fit(..., backends=[...])"
            )
        scores = conformal.over_kinds(calibrations[self.precision], self.confidence)
        rank = conformal.rank(self.fpr, len(scores), self.confidence)
        offset = -conformal.threshold(scores, self.fpr, self.confidence)
        self.calibrations_, self.calibration_index_, self.corruptions_ = calibrations, index, list(corruptions)
        self.calibration_scores_, self.rank_, self.offset_ = scores, rank, offset
        return self

    def _with(self, **parameters: Any) -> Self:
        """Returns a detector with other parameters, which shares everything that was learned."""
        check_is_fitted(self)
        other = type(self)(**{**self.get_params(deep=False), **parameters})
        for name, value in vars(self).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(other, name, value)
        return other._calibrated(self.calibrations_, self.calibration_index_, self.corruptions_)


CALIBRATION = "calibration_scores"


def check_corruptions(names: Sequence[str]) -> None:
    """Checks a list of names of benign corruptions.

    Args:
        names: Keys of `pixeldefend.images.corruptions.CORRUPTIONS`.

    Raises:
        ParameterError: If it is a string, or if a name is unknown.
    """
    if isinstance(names, str):
        raise ParameterError(f"corruptions must be a list of names, got {names!r}")
    for name in names:
        check_corruption(name)


def _calibration(precision: str) -> str:
    """Returns the name of the calibration of a precision in a file."""
    return CALIBRATION if precision == "float32" else f"{CALIBRATION}.{precision}"
