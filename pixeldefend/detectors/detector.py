"""The detector: a density, a score and its calibration, as a scikit-learn outlier estimator."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ..calibration import ConformalMartingale, conformal
from ..calibration.conformal import Array
from ..densities import Density, restored
from ..errors import ModelError, ParameterError
from ..images import match_channels, to_batch
from ..images.corruptions import check_name, corrupt
from ..scores import Evidence, LearnedScore, bits_per_dim, make_score, teach
from ..serialization import load_tensors, save_tensors
from .backends import PRECISION, check_backend, on_backend

T = TypeVar("T")


@dataclass(frozen=True)
class Verdicts:
    """What the detector says of N images. is_adversarial: (N,) bool. p_value: (N,). score: (N,), higher = more
    suspicious. bits_per_dim: (N,), NaN for rows of real numbers. surprisal_map: (N, H, W) nats a pixel (of rows:
    (N, D)), if asked for."""

    is_adversarial: np.ndarray
    p_value: np.ndarray
    score: np.ndarray
    bits_per_dim: np.ndarray
    surprisal_map: np.ndarray | None = None


class Detector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Flags images that are too surprising under a density of clean ones, at a known rate of false alarms.

    density: a trained Density. score: a key of `pixeldefend.scores.SCORES`, or of `CLASSIFIER_SCORES` for those that ask
    the classifier. classifier: that one, a module, (N, C, H, W) in [0, 1] -> logits. fpr: the share of clean images
    that may be flagged, in (0, 1). confidence: None for a rate that holds on average over the draw of the calibration
    images; 0.95, say, for one that this calibration keeps with that probability. batch_size: images scored at once.
    backend: a key of `pixeldefend.detectors.backends.PRECISION`, which runs the density.

    Images, X, are what `pixeldefend.images.to_batch` takes, and arrays (N, D) of flattened events. Methods with names
    of scikit-learn's keep its signs (higher = more normal, -1 = outlier); `p_value` and `is_adversarial` say it the
    other way round. After `fit`: calibration_scores_ (n,), higher = more suspicious; calibrations_, these by the
    precision of backends; calibration_index_ (n,), the places in X of the images that they are of; corruptions_;
    offset_; n_features_in_.
    """

    def __init__(
        self,
        density: Density | None = None,
        *,
        statistic: str = "excess_surprisal",
        fpr: float = 0.01,
        confidence: float | None = None,
        batch_size: int = 64,
        classifier: nn.Module | None = None,
        backend: str = "float32",
    ) -> None:
        self.density = density
        self.backend = backend
        self.classifier = classifier
        self.statistic = statistic
        self.fpr = fpr
        self.confidence = confidence
        self.batch_size = batch_size

    # -- learning ------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_fit: Any = None,
        corruptions: Sequence[str] = (),
        backends: Sequence[str] = (),
    ) -> Detector:
        """Calibrates on clean images X that the density was not trained on. y is ignored.

        X_fit: further clean images for a score that learns (typicality, fused ...); without them, a fifth of X is taken
        for it, drawn with a fixed seed, and the rest calibrates, since no image may do both.
        corruptions: names in `pixeldefend.images.corruptions.CORRUPTIONS` that clean images to come may have gone
        through. A calibration image then counts with its highest score, as it is or under any one of them, so that the
        rate holds whichever they went through, in whatever proportions; attacks have to stand out from all of these.
        backends: further ones to calibrate for, so that `with_backend` and `load` can change to them.
        Raises ParameterError if X is malformed, or too small for fpr (see `conformal.rank`), if many images are copies of
        others, if X_fit holds too few images to learn from, copies, or mostly the same images, or if all scores are the
        same.
        """
        for what, names in (("corruptions", corruptions), ("backends", backends)):
            if isinstance(names, str):
                raise ParameterError(f"{what} must be a list of names, got {names!r}")
        for name in corruptions:
            check_name(name)
        score = make_score(self.statistic)
        x = self._events(X, reset=True)
        index = np.arange(len(x))
        learn = x[:0]
        if isinstance(score, LearnedScore):
            if X_fit is None:
                index = np.random.RandomState(0).permutation(len(x))
                held = max(1, len(x) // 5)
                learn, index = x[index[:held]], index[held:]
            else:
                learn = _without(self._events(X_fit), x)
            if len(learn) < 2:
                raise ParameterError(
                    f"{self.statistic} learns from at least 2 clean images, got {len(learn)}: give more (X_fit)"
                )
            _check_distinct(learn, "images to fit the score on")
        x = x[index]
        conformal.rank(self.fpr, len(x), self.confidence)  # too few are refused before they are scored
        _check_distinct(x)
        if isinstance(score, LearnedScore):
            teach(score, lambda images: torch.from_numpy(self._each(score.features, images)), learn)
        calibrations = {}
        # one calibration for all backends of the same precision, made by the one in use where that is among them
        makers = {PRECISION[check_backend(name)]: name for name in (*backends, self.backend)}
        for precision, backend in makers.items():
            scores = self._each(score, x, backend)
            for name in corruptions:
                scores = np.maximum(scores, self._each(score, corrupt(x, name), backend))
            calibrations[precision] = scores
        scores = calibrations[PRECISION[self.backend]]
        if len(x) > 1 and np.ptp(scores) == 0:
            raise ParameterError(
                f"all {len(x)} calibration images have the score {scores[0]:.4g}: they are constant, or "
                f"{self.statistic} says nothing of them; calibrate on images as they come, or take another score"
            )
        self.score_ = score
        self.calibrations_, self.calibration_index_ = calibrations, index
        self.corruptions_ = list(corruptions)
        return self._set_threshold()

    def watch(self, *, random_state: int = 0) -> ConformalMartingale:
        """Returns what tells, of a stream of images, whether it still looks like the calibration images: give its
        `update` the scores, `-score_samples(X)`, in the order in which they come. Raises ParameterError if this detector is
        calibrated for corruptions: no traffic looks like the worst of several variants of each image."""
        check_is_fitted(self)
        if self.corruptions_:
            names = ", ".join(self.corruptions_)
            raise ParameterError(
                f"a detector calibrated for corruptions ({names}) cannot watch a stream: use one without"
            )
        return ConformalMartingale(self.calibration_scores_, random_state=random_state)

    def with_fpr(self, fpr: float) -> Detector:
        """Returns a detector that differs in its rate of false alarms; density and calibration are shared."""
        return self._with(fpr=fpr)

    def with_backend(self, backend: str) -> Detector:
        """Returns a detector that differs in what runs its density. Raises ParameterError if it carries no calibration for
        the backend's precision (`fit(..., backends=...)` makes one), or if the backend cannot run the density."""
        return self._with(backend=check_backend(backend))

    def with_calibration(self, scores: Any) -> Detector:
        """scores: (n,), `-score_samples` of n clean images by this detector. Returns a detector that differs in its
        calibration. As for `fit`, its score must not have been fitted on these images. Raises ParameterError if they are
        too few for its rate, not finite, or all the same."""
        scores = np.asarray(scores, dtype=float)
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise ParameterError(f"scores must be (n,) finite numbers, got shape {scores.shape}")
        if len(scores) > 1 and np.ptp(scores) == 0:
            raise ParameterError(f"all {len(scores)} scores are {scores[0]:.4g}: they calibrate nothing")
        other = self._with()
        other.calibrations_ = {PRECISION[self.backend]: scores}
        other.calibration_index_, other.corruptions_ = np.arange(len(scores)), []
        return other._set_threshold()

    def _with(self, **parameters: Any) -> Detector:
        check_is_fitted(self)
        other = Detector(**{**self.get_params(), **parameters})
        for name in ("score_", "calibrations_", "calibration_index_", "corruptions_", "n_features_in_"):
            setattr(other, name, getattr(self, name))
        return other._set_threshold()

    def _set_threshold(self) -> Detector:
        precision = PRECISION[self.backend]
        if precision not in self.calibrations_:
            raise ParameterError(
                f"this detector carries no calibration for the backend {self.backend!r}, whose scores differ; there is "
                f"one for {', '.join(self.calibrations_)}. Calibrate it with backends=[{self.backend!r}]"
            )
        self.calibration_scores_ = self.calibrations_[precision]
        self.rank_ = conformal.rank(self.fpr, len(self.calibration_scores_), self.confidence)
        self.offset_ = -conformal.threshold(self.calibration_scores_, self.fpr, self.confidence)
        return self

    # -- scikit-learn's view: higher is more normal ----------------------------------------------------------------

    def score_samples(self, X: Any) -> Array:
        """Returns (N,): minus the anomaly_score, so that lower is more abnormal."""
        check_is_fitted(self)
        return -self._anomaly(self._events(X))

    def decision_function(self, X: Any) -> Array:
        """Returns (N,): `score_samples(X) - offset_`, negative for outliers."""
        check_is_fitted(self)
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns (N,): +1 for normal images, -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    # -- the verdict: higher is more suspicious --------------------------------------------------------------------

    def judge(self, X: Any, *, maps: bool = False) -> Verdicts:
        """Everything about each image, from one pass. maps: also the surprisal of every pixel."""
        check_is_fitted(self)

        def look(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
            score = _numbers(self.score_(evidence))
            has_bits = evidence.density.has_bits(tuple(evidence.x.shape[1:]))
            bits = _numbers(bits_per_dim(evidence)) if has_bits else np.full(len(score), np.nan)
            return score, bits, _numbers(_by_pixel(evidence)) if maps else None

        scores, bits, surprisals = zip(*self._batches(look, self._events(X)), strict=True)
        score = np.concatenate(scores)
        return Verdicts(
            is_adversarial=score > -self.offset_,
            p_value=conformal.p_values(score, self.calibration_scores_),
            score=score,
            bits_per_dim=np.concatenate(bits),
            surprisal_map=np.concatenate(surprisals) if maps else None,
        )

    def anomaly_scores(self, x: Tensor) -> Tensor:
        """x: (N, *event) in [0, 1], on the density's device and of its dtype. Returns (N,): the score, higher = more
        suspicious and flagged above -offset_, with its gradient: for attacks that know the detector."""
        check_is_fitted(self)
        assert self.density is not None
        return self.score_(Evidence(self.density, self.density.to_support(x), self.classifier))

    def p_value(self, X: Any) -> Array:
        """Returns (N,) in [1 / (n + 1), 1]: the share of clean images at least as suspicious (see `conformal`)."""
        check_is_fitted(self)
        return conformal.p_values(self._anomaly(self._events(X)), self.calibration_scores_)

    def is_adversarial(self, X: Any) -> np.ndarray:
        """Returns (N,) bool: flagged at the rate `fpr`."""
        check_is_fitted(self)
        return self._anomaly(self._events(X)) > -self.offset_

    def bits_per_dim(self, X: Any) -> Array:
        """Returns (N,): -log2 p(x) a sub-pixel."""
        check_is_fitted(self)
        return self._each(bits_per_dim, self._events(X))

    def surprisal_map(self, X: Any) -> Array:
        """Returns (N, H, W) nats: -log p(pixel | pixels before it), summed over channels; of rows (N, D)."""
        check_is_fitted(self)
        return self._each(_by_pixel, self._events(X))

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes one safetensors file with everything in it but the classifier (no pickle); notes (plain JSON values)
        are kept in it. Raises ParameterError if the density has no config."""
        check_is_fitted(self)
        if self.density is None or self.density.config is None:
            raise ParameterError("the density has no config, so it could not be made again from a file")
        tensors = {f"density.{name}": tensor for name, tensor in self.density.state_dict().items()}
        for precision, scores in self.calibrations_.items():
            tensors[_calibration(precision)] = torch.from_numpy(scores)
        parameters = {name: value for name, value in self.get_params().items() if name not in ("density", "classifier")}
        meta = {
            "kind": "detector",
            "density": self.density.config,
            "parameters": parameters,
            "learned": self.score_.learned() if isinstance(self.score_, LearnedScore) else {},
        }
        if self.corruptions_:
            meta["transformations"] = self.corruptions_
        save_tensors(path, tensors, {**meta, **notes})

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        classifier: nn.Module | None = None,
        backend: str | None = None,
    ) -> Detector:
        """Reads what `save` wrote. classifier: the one that its score asks, if it does. backend: what runs its density,
        by default what it was saved with. Raises ParameterError if the file is damaged or holds something else, or carries
        no calibration for the backend, FileNotFoundError if it is missing."""
        tensors, meta = load_tensors(path)
        if meta.get("kind") != "detector":
            raise ModelError(f"{path} holds a {meta.get('kind')}, not a detector")
        density = density_of(path, tensors, meta)
        parameters = dict(meta["parameters"])
        if "score" in parameters:  # of before 0.2
            parameters["statistic"] = parameters.pop("score")
        if backend is not None:
            parameters["backend"] = check_backend(backend)
        detector = cls(density.eval().to(device), **parameters, classifier=classifier)
        detector.score_ = make_score(detector.statistic)
        if isinstance(detector.score_, LearnedScore):
            try:
                detector.score_.recall(meta["learned"])
            except ValueError as error:
                raise ParameterError(f"{path}: {error}; calibrate its density again (pixeldefend calibrate)") from None
        detector.calibrations_ = {
            precision: tensors[_calibration(precision)].numpy()
            for precision in dict.fromkeys(PRECISION.values())
            if _calibration(precision) in tensors
        }
        detector.calibration_index_ = np.arange(max(map(len, detector.calibrations_.values())))
        detector.corruptions_ = meta.get("transformations", [])
        detector.n_features_in_ = math.prod(density.event_shape or (0,))
        return detector._set_threshold()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _events(self, X: Any, *, reset: bool = False) -> Tensor:
        """Whatever the user holds -> (N, *event), float32; images as they came, not yet as the density sees them."""
        if self.density is None:
            raise ParameterError("Detector needs a density: Detector(density, ...), or load_detector(name)")
        shape = self.density.event_shape
        if shape is not None and len(shape) == 3 and _is_images(X, shape):
            x = to_batch(X)[0]
            if tuple(x.shape[2:]) != shape[1:]:
                got = " x ".join(map(str, x.shape[2:]))
                raise ParameterError(
                    f"the image is {got}, the detector models {shape[1]} x {shape[2]} (height x width)"
                )
            x = match_channels(x, shape[0])
        else:
            X = validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1)
            # flattened images, or the codes of rows
            levels = 256 if shape is None or len(shape) == 3 else self.density.levels or 2
            scale = levels - 1 if X.dtype == np.uint8 else 1
            x = torch.from_numpy(np.asarray(X, dtype=np.float32)) / scale
            if shape is not None:
                if x.shape[1] != math.prod(shape):
                    raise ParameterError(
                        f"this density models events of shape {shape}, got rows of {x.shape[1]} values"
                    )
                x = x.reshape(-1, *shape)
        if reset:
            self.n_features_in_ = x[:1].numel()
        return x

    def _batches(self, function: Callable[[Evidence], T], x: Tensor, backend: str | None = None) -> list[T]:
        """function of every batch. backend: None for the detector's own. A batch too large for the memory is split,
        with a warning."""
        assert self.density is not None
        if self.batch_size < 1:
            raise ParameterError(f"batch_size must be at least 1, got {self.batch_size}")
        fast = self._on_backend(backend or self.backend)
        models = [model for model in (self.density, self.classifier) if model is not None]
        training = [model.training for model in models]
        try:
            for model in models:
                model.eval()  # dropout would make every score a matter of chance
            with torch.inference_mode():
                return list(self._tried(function, x, fast))
        finally:
            for model, mode in zip(models, training, strict=True):
                model.train(mode)

    def _tried(self, function: Callable[[Evidence], T], x: Tensor, fast: Density | None) -> Iterator[T]:
        assert self.density is not None
        size = self.batch_size
        while True:  # once, if there are none
            try:
                batch = self.density.to_support(x[:size].to(self.density.device, self.density.dtype))
                yield function(Evidence(self.density, batch, self.classifier, fast))
            except (RuntimeError, MemoryError) as error:
                found = len(x[:size])
                if found <= 1 or not is_out_of_memory(error):
                    raise
                size = found // 2
                warnings.warn(f"{found} images at once do not fit into memory: going on with {size}", stacklevel=2)
            else:
                x = x[size:]
                if not len(x):
                    return

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_made"}

    def _on_backend(self, backend: str) -> Density | None:
        """Returns the density on a backend, made once; None for the reference."""
        assert self.density is not None
        if backend == "float32":
            return None
        made = self.__dict__.get("_made")
        if made is None or made[:2] != (backend, id(self.density)):
            made = self._made = (backend, id(self.density), on_backend(self.density, backend))
        return made[2]

    def _each(self, function: Callable[[Evidence], Tensor], x: Tensor, backend: str | None = None) -> Array:
        """Returns (N, ...): function of every batch, joined."""
        return np.concatenate(self._batches(lambda evidence: _numbers(function(evidence)), x, backend))

    def _anomaly(self, x: Tensor) -> Array:
        return self._each(self.score_, x)


class ClassConditional(BaseEstimator):  # type: ignore[misc]
    """A detector whose rate of false alarms holds within every class of images, not only on average over them.

    Each class has a calibration and a threshold of its own (`conformal.class_p_values`). detector: a `Detector`, whose
    parameters are used; it is fitted here. classifier: None if labels are given with the images; otherwise a module,
    (N, C, H, W) in [0, 1] -> logits, whose predictions are the labels, of calibration images and of those to come.

    After `fit`: classes_ (K,), calibration_labels_ (n,), thresholds_ (K,).
    """

    def __init__(self, detector: Detector, classifier: nn.Module | None = None) -> None:
        self.detector = detector
        self.classifier = classifier

    def fit(self, X: Any, y: Any = None, **arguments: Any) -> ClassConditional:
        """X: clean images. y: (N,) their labels, None with a classifier. arguments: X_fit and corruptions, as
        `Detector.fit` takes them. Raises ParameterError as it does, if labels do not match the images, if there is one
        class only or one has too few images for the rate, and for corruptions with a classifier."""
        if self.classifier is not None and arguments.get("corruptions"):
            raise ParameterError(
                "a transformation may change what the classifier predicts, and an image would be judged in another "
                "class than it calibrates: give labels, or no corruptions"
            )
        labels = self._labels(X, y)
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ParameterError(f"all images are of class {classes[0]}: a Detector alone calibrates for one class")
        self.detector.fit(X, **arguments)
        self.__dict__.pop("thresholds_", None)  # they are another calibration's, and the new ones may be refused
        self.calibration_labels_ = labels[self.detector.calibration_index_]
        return self._set_thresholds()

    def _set_thresholds(self) -> ClassConditional:
        thresholds = []
        self.classes_ = np.unique(self.calibration_labels_)
        for label in self.classes_:
            scores = self.detector.calibration_scores_[self.calibration_labels_ == label]
            try:
                thresholds.append(conformal.threshold(scores, self.detector.fpr, self.detector.confidence))
            except ValueError as error:
                raise ParameterError(f"class {label}: {error}") from None
        self.thresholds_ = np.array(thresholds)
        return self

    def p_value(self, X: Any, y: Any = None) -> Array:
        """Returns (N,): the share of clean images of the same class at least as suspicious. Raises ParameterError for a
        label that calibration has not seen."""
        check_is_fitted(self, "thresholds_")
        scores, labels = -self.detector.score_samples(X), self._labels(X, y)
        return conformal.class_p_values(scores, labels, self.detector.calibration_scores_, self.calibration_labels_)

    def is_adversarial(self, X: Any, y: Any = None) -> np.ndarray:
        """Returns (N,) bool: flagged at the detector's rate, in each class. Raises ParameterError as `p_value` does."""
        check_is_fitted(self, "thresholds_")
        scores, labels = -self.detector.score_samples(X), self._labels(X, y)
        unknown = np.setdiff1d(labels, self.classes_)
        if len(unknown):
            raise ParameterError(f"label {unknown[0]} has no calibration image; there are {self.classes_}")
        return scores > self.thresholds_[np.searchsorted(self.classes_, labels)]

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes the detector with its labels, as one file; the classifier is not in it. `Detector.load` reads the file
        too, as a detector for all classes together."""
        check_is_fitted(self, "thresholds_")
        self.detector.save(path, calibration_labels=self.calibration_labels_.tolist(), **notes)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        classifier: nn.Module | None = None,
        *,
        device: str | torch.device = "cpu",
    ) -> ClassConditional:
        """Reads what `save` wrote. Raises ParameterError if the file is a detector without labels, or as
        `Detector.load`."""
        detector = Detector.load(path, device=device, classifier=classifier)
        labels = load_tensors(path)[1].get("calibration_labels")
        if labels is None:
            raise ParameterError(f"{path} holds a detector that was not calibrated by class")
        conditional = cls(detector, classifier)
        conditional.calibration_labels_ = np.array(labels)
        return conditional._set_thresholds()

    def _labels(self, X: Any, y: Any) -> np.ndarray:
        """Returns (N,) whole numbers."""
        x = self.detector._events(X)
        if self.classifier is None:
            if y is None:
                raise ParameterError("give the images' labels, y, or ClassConditional a classifier that predicts them")
            labels = np.atleast_1d(np.asarray(y))
        else:
            if y is not None:
                raise ParameterError("labels are the classifier's here: leave y out, in fit as afterwards")
            device = next((p.device for p in self.classifier.parameters()), torch.device("cpu"))
            training = self.classifier.training
            try:
                self.classifier.eval()
                with torch.inference_mode():
                    batches = x.split(self.detector.batch_size)
                    labels = np.concatenate(
                        [self.classifier(part.to(device)).argmax(1).cpu().numpy() for part in batches]
                    )
            finally:
                self.classifier.train(training)
        n = len(x)
        if labels.shape != (n,) or labels.dtype.kind not in "iub":
            raise ParameterError(f"labels must be {n} whole numbers, got {labels.dtype} of shape {labels.shape}")
        return labels.astype(np.int64)


def density_of(path: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> Density:
    """tensors, meta: of the detector's file at path. Returns the density that is in it. Raises ParameterError, naming the
    file, if its weights are another density's."""
    prefix = "density."
    weights = {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
    return restored(path, meta["density"], weights)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python says so."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _calibration(precision: str) -> str:
    """Returns the name of a calibration in a detector's file."""
    return "calibration_scores" if precision == "float32" else f"calibration_scores.{precision}"


def _rows(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in x.flatten(1).cpu().numpy()]


def _without(learn: Tensor, calibrate: Tensor) -> Tensor:
    """Returns the images to fit a score on that do not calibrate it too. Raises ParameterError if those are less than half
    of them: the two sets have been mixed up. (Rows of few values may well be the same.)"""
    if learn.ndim != 4:
        return learn
    calibrating = set(_rows(calibrate))
    kept = [i for i, row in enumerate(_rows(learn)) if row not in calibrating]
    if 2 * len(kept) < len(learn):
        raise ParameterError(
            f"{len(learn) - len(kept)} of the {len(learn)} images to fit the score on (X_fit) are calibration images "
            "too, and p-values would not hold: give other images"
        )
    return learn[kept]


def _check_distinct(x: Tensor, what: str = "calibration images") -> None:
    """Raises ParameterError if more than a tenth of the images are copies: n copies of one image are not n images, and
    the rate would not hold. (Natural data hold a few; rows of few values may hold many.)"""
    copies = len(x) - len(set(_rows(x)))
    if x.ndim == 4 and copies > max(1, len(x) // 10):
        raise ParameterError(f"{copies} of {len(x)} {what} are copies of others among them: give each once")


def _by_pixel(evidence: Evidence) -> Tensor:
    return evidence.surprisal.sum(1) if evidence.surprisal.ndim == 4 else evidence.surprisal


def _is_images(X: Any, shape: tuple[int, ...]) -> bool:
    """Whether X is images as they come, rather than a table of flattened ones (or something for it to refuse)."""
    ndim = getattr(X, "ndim", None)
    flat = ndim == 2 and tuple(X.shape) != shape[1:]
    return isinstance(X, str | os.PathLike | bytes | Image.Image) or (ndim is not None and not flat)


def _numbers(tensor: Tensor) -> np.ndarray:
    """Raises ParameterError for NaN, which no threshold would catch."""
    if torch.isnan(tensor).any():
        raise ModelError(
            "the density gives NaN for some images: it has diverged in training, or its weights are damaged"
        )
    return tensor.detach().double().cpu().numpy()
