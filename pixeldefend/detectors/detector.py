"""The detector: a density, a statistic and its calibration."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ..ambient import ordinary, torch_defaults
from ..calibration.conformal import Array
from ..densities import Density
from ..devices import check_device
from ..errors import ModelError, ParameterError
from ..images import match_channels
from ..preprocessing import Identity, Preprocessor, TileBatch, aggregated, build
from ..scores import LearnedScore, bits_per_dim, make_score
from .backends import PRECISION, check_backend, chosen_backend, made_once
from .base import ConformalDetector, check_corruptions
from .checkpoint import density_of, learned, part_of
from .samples import Samples, is_images, learning_images, uint8_image
from .scoring import Statistic, checked, joined, of_each, over_tiles, stitched, surprisal_of_pixels, to_numbers

ROLES = ("density", "alternative")  # of the densities of a detector


class Detector(ConformalDetector):
    """A detector that flags images which are too surprising under a density, at a known rate of false alarms.

    A preprocessor cuts an image into tiles of the size that the density models. A statistic gives each tile an anomaly
    score, and an aggregate combines these into one score per image. Calibration is per image. X may also be (N, D):
    flattened images, or the rows that the density models. On a CPU several threads score batches at once.

    Args:
        density: A trained density.
        preprocessor: The preprocessor that turns images into tiles; None for `Identity`, one tile per image.
        statistic: A key of `pixeldefend.scores.SCORES`, of `CLASSIFIER_SCORES` for a statistic that uses the
            classifier, or of `ALTERNATIVE_SCORES` for one that uses the alternative.
        aggregate: A key of `pixeldefend.preprocessing.AGGREGATES`.
        fpr: The share of clean images that may be flagged, in (0, 1).
        confidence: None for a rate that holds on average over the draw of the calibration images. A number in (0, 1),
            such as 0.95, for a rate that this very calibration keeps with that probability.
        batch_size: The number of images, and of tiles, that a thread scores at once: as for `ConformalDetector`.
        classifier: A module, (N, C, H, W) in [0, 1] -> logits, for statistics that use it.
        backend: A key of `pixeldefend.detectors.backends.PRECISION`, which runs the density.
        alternative: A density of perturbed images, for statistics that compare the density with it.

    Attributes:
        score_: The statistic, fitted.
        n_features_in_: The number of sub-pixels of an image, or of columns.

    The other attributes are those of `ConformalDetector`.
    """

    def __init__(
        self,
        density: Density | None = None,
        *,
        preprocessor: Preprocessor | None = None,
        statistic: str = "excess_surprisal",
        aggregate: str = "max",
        fpr: float = 0.01,
        confidence: float | None = None,
        batch_size: int = 16,
        classifier: nn.Module | None = None,
        backend: str = "float32",
        alternative: Density | None = None,
    ) -> None:
        super().__init__(fpr=fpr, confidence=confidence, batch_size=batch_size)
        self.density = density
        self.preprocessor = preprocessor
        self.statistic = statistic
        self.aggregate = aggregate
        self.classifier = classifier
        self.backend = backend
        self.alternative = alternative

    @property
    def precision(self) -> str:  # type: ignore[override]
        """The precision of the detector's backend."""
        return PRECISION[check_backend(self.backend)]

    # -- which images --------------------------------------------------------------------------------------------

    @property
    def takes(self) -> str:
        """The images that the detector takes, as a phrase for messages: "28 x 28 grey images"."""
        channels = self._channels()
        if channels is None:
            return f"events of shape {self._density().event_shape}"
        return self._preprocessor().takes(self._tile(), "grey images" if channels == 1 else "images")

    def accepts(self, image: Any) -> bool:
        """Returns whether the detector takes an image of this size and number of channels.

        Args:
            image: One image, as `pixeldefend.images.to_batch` takes it.

        Raises:
            ImageError: If the image is malformed.
        """
        channels = self._channels()
        x = uint8_image(image)
        if channels is None or not self._preprocessor().accepts((x.shape[1], x.shape[2]), self._tile()):
            return False
        return channels == 3 or len(x) == 1 or bool((x[:1] == x).all())

    def _density(self) -> Density:
        if self.density is None:
            raise ParameterError("Detector needs a density: Detector(density, ...), or load_detector(name)")
        return self.density

    def _preprocessor(self) -> Preprocessor:
        return self.preprocessor or Identity()

    def _channels(self) -> int | None:
        """Returns the number of channels of a tile; None if the density models no images."""
        shape = self._density().event_shape
        return shape[0] if shape is not None and len(shape) == 3 else None

    def _tile(self) -> tuple[int, int] | None:
        """Returns the height and the width of a tile; None if it may have any size."""
        _, height, width = self._density().event_shape or (None, None, None)
        return None if height is None or width is None else (height, width)

    def _samples(self, X: Any, *, reset: bool = False) -> Samples:
        density, channels = self._density(), self._channels()
        tile = None if channels is None else self._tile()
        table = channels is None or not (tile is None or is_images(X, tile if self.preprocessor is None else None))
        if channels is not None and not table:
            samples = Samples.of_images(X, tile or (1, 1))
            samples.check_sizes(lambda size: self._preprocessor().accepts(size, tile), self.takes)
            samples = Samples([(places, match_channels(x, channels)) for places, x in samples.groups])
        else:
            X = validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1)
            # the codes of rows have as many values as the sites of the density; flattened images are 8-bit images
            levels = 256 if density.event_shape is None or channels is not None else density.levels or 2
            samples = Samples.of_table(X, density.event_shape, levels)
        if reset:
            self.n_features_in_ = math.prod(samples.groups[0][1].shape[1:])
        return samples

    # -- scores --------------------------------------------------------------------------------------------------

    @torch_defaults()
    def anomaly_scores(self, x: Tensor) -> Tensor:
        """Scores a batch of images.

        Args:
            x: (N, C, H, W) in [0, 1], images of one size. If a gradient is needed, torch runs the density in float32
                whatever the backend, since the other backends have no gradient.

        Returns:
            (N,), higher = more anomalous; flagged above -offset_.
        """
        check_is_fitted(self)
        return self._per_image(ordinary(x), self.score_)[0]

    def evaluate(self, statistics: Mapping[str, Statistic], X: Any) -> dict[str, Array]:
        """Computes any statistics of images, all from one pass of the density.

        Args:
            statistics: Functions of `Evidence` by name, which return (T, ...) for T tiles.
            X: Images.

        Returns:
            (N, ...) for each name: the aggregate over an image's tiles.
        """

        def batch(x: Tensor) -> tuple[np.ndarray, ...]:
            return tuple(to_numbers(values) for values in self._per_image(x, *statistics.values()))

        return dict(zip(statistics, self._each(batch, self._samples(X)), strict=True))

    def bits_per_dim(self, X: Any) -> Array:
        """Returns (N,): -log2 p(x) per sub-pixel, the mean over tiles.

        Raises:
            ParameterError: If the density models rows of real numbers, which have no bits/dim.
        """
        bits: Array = self._joined(X, bits_per_dim, lambda bits, tiles, x: aggregated(bits, tiles.owner, "mean"))
        return bits

    def surprisal_map(self, X: Any) -> Any:
        """Returns the surprisal of every pixel, -log p(pixel | pixels before it), summed over channels.

        Returns:
            (N, H, W) nats, or a list of (H, W) if the images differ in size; (N, D) for rows. Where tiles overlap, it
            is the mean over these tiles.
        """
        return self._joined(X, surprisal_of_pixels, self._stitched)

    def _joined(self, X: Any, statistic: Statistic, join: Callable[[Tensor, TileBatch, Tensor], Tensor]) -> Any:
        """Returns what a function makes of the statistic, the tiles and the images of each batch."""
        check_is_fitted(self)

        def batch(x: Tensor) -> tuple[np.ndarray, ...]:
            tiles, (values,) = self._of_tiles(x, statistic)
            return (to_numbers(join(values, tiles, x)),)

        return self._each(batch, self._samples(X))[0]

    def _examine(self, x: Tensor, maps: bool) -> tuple[np.ndarray, ...]:
        has_bits = self._density().has_bits(tuple(x.shape[1:]))
        statistics = [self.score_, *([bits_per_dim] if has_bits else []), *([surprisal_of_pixels] if maps else [])]
        tiles, (scores, *rest) = self._of_tiles(x, *statistics)
        anomaly = to_numbers(aggregated(scores, tiles.owner, self.aggregate))
        bits = to_numbers(aggregated(rest[0], tiles.owner, "mean")) if has_bits else np.full(len(anomaly), np.nan)
        return (anomaly, bits, to_numbers(self._stitched(rest[-1], tiles, x))) if maps else (anomaly, bits)

    def _takes_threads(self) -> bool:
        for role in ROLES:
            self._on_backend(self.backend, role)  # which is made before there are threads
        # OpenVINO has threads of its own, and a user's classifier may not be made for several
        return self._density().device.type == "cpu" and self.backend != "openvino" and self.classifier is None

    def _of_tiles(self, x: Tensor, *statistics: Statistic) -> tuple[TileBatch, list[Tensor]]:
        """Returns the tiles of images, and statistics of them, (T, ...) each."""
        density = self._density()
        tiles = self._preprocessor()(x.to(density.device, density.dtype))
        backend = "float32" if torch.is_grad_enabled() else self.backend  # the others have no gradient
        fast, alternative = (self._on_backend(backend, role) for role in ROLES)
        # as many tiles at once as there are images; the caller passes fewer if memory is short
        size = max(self.batch_size, len(x))
        found = over_tiles(statistics, tiles.x, density, size, self.classifier, fast, alternative or self.alternative)
        return tiles, found

    def _per_image(self, x: Tensor, *statistics: Statistic) -> list[Tensor]:
        tiles, found = self._of_tiles(x, *statistics)
        return [aggregated(values, tiles.owner, self.aggregate) for values in found]

    def _stitched(self, maps: Tensor, tiles: TileBatch, x: Tensor) -> Tensor:
        return maps if x.ndim != 4 or self.preprocessor is None else stitched(maps, tiles, len(x), *x.shape[2:])

    # -- calibration ---------------------------------------------------------------------------------------------

    @torch_defaults()
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_fit: Any = None,
        corruptions: Sequence[str] = (),
        backends: Sequence[str] = (),
    ) -> Self:
        """Calibrates on clean images that the density was not trained on.

        Args:
            X: Clean images like those that will be screened.
            y: Ignored.
            X_fit: Further clean images, for a statistic that learns. Without them the statistic learns from a fifth of
                X, drawn with a fixed seed, and the rest calibrates, since no image may do both.
            corruptions: Names in `pixeldefend.images.corruptions.CORRUPTIONS` of corruptions that future clean images
                may have undergone. `residual_ratio` and `ratio_and_excess` also learn from them. An image is then
                compared with uncorrupted calibration images and with those after each corruption, as in the base class:
                the rate holds for every mixture of these. Attacks are detected only if they stand out from all.
            backends: Further backends to calibrate for, so that `with_backend` and `load` can change to them.

        Returns:
            The detector.

        Raises:
            CalibrationError: If X is too small for fpr, if many images are copies of others, if X_fit holds too few
                images or mostly images of X, or if all scores are the same.
            ImageError: If an image is malformed.
            ParameterError: If a name is unknown, or a backend cannot run the density.
        """
        check_corruptions(corruptions)
        if isinstance(backends, str):
            raise ParameterError(f"backends must be a list of names, got {backends!r}")
        score = make_score(self.statistic)
        samples = self._samples(X, reset=True)
        index = np.arange(len(samples))
        learn = None
        if isinstance(score, LearnedScore):
            learn, index = learning_images(samples, None if X_fit is None else self._samples(X_fit), self.statistic)
        samples = samples.take(index)
        self._check_calibration(samples)
        if isinstance(score, LearnedScore) and learn is not None:
            score.corruptions = len(corruptions)
            clean = learn.with_corrupted(corruptions) if score.learns_corruptions else learn
            score.fit(self._features(score, clean), *(self._features(score, learn.changed(c)) for c in score.copies))
        # one calibration for each precision, made by the detector's own backend if it has that precision
        makers = {PRECISION[check_backend(name)]: name for name in (*backends, self.backend)}
        calibrations = {}
        for precision, backend in makers.items():
            runner = type(self)(**{**self.get_params(deep=False), "backend": backend})
            calibrations[precision] = self._calibration_scores(samples, corruptions, partial(runner._scores, score))
        self.score_ = score
        return self._calibrated(calibrations, index, corruptions)

    def with_backend(self, backend: str) -> Self:
        """Returns a detector whose density is run by another backend.

        Args:
            backend: A key of `pixeldefend.detectors.backends.PRECISION`, or "auto" for the fastest on this machine.

        Raises:
            CalibrationError: If there is no calibration for the backend's precision; `fit(..., backends=...)` makes it.
            ParameterError: If the backend is unknown or cannot run the density.
            MissingExtraError: If the backend is not installed.
        """
        check_is_fitted(self)
        backend = chosen_backend(backend, self._density(), self.calibrations_)
        other = self._with(backend=backend)
        for role in ROLES:
            other._on_backend(backend, role)  # what cannot run it is refused now
        return other

    def _scores(self, score: Statistic, samples: Samples) -> Array:
        return np.asarray(self._each(lambda x: (to_numbers(self._per_image(x, score)[0]),), samples)[0])

    def _features(self, score: LearnedScore, samples: Samples) -> Tensor:
        """Returns the features, (T, ...), of all tiles of images."""

        def batch(x: Tensor) -> tuple[np.ndarray, ...]:
            tiles, (features,) = self._of_tiles(x, score.features)
            return (of_each(checked(features).cpu(), tiles, len(x)),)

        return joined(self._each(batch, samples)[0], self.statistic)

    def _on_backend(self, backend: str, role: str) -> Density | None:
        """Returns the density of a role on a backend, which is made once; None for the reference, or no density."""
        density: Density | None = getattr(self, role)
        if backend == "float32" or density is None:
            return None
        return made_once(self.__dict__.setdefault("_made", {}), role, density, backend)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_made"}

    # -- files -----------------------------------------------------------------------------------------------------

    @classmethod
    @torch_defaults()
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu", **given: Any) -> Self:
        """Reads a detector that `save` wrote.

        Args:
            path: The file.
            device: Where the density runs.
            **given: `classifier`, if the statistic uses one; other `backend`, `fpr`, `confidence` or `batch_size`.

        Returns:
            The fitted detector.

        Raises:
            ModelError: If the file is damaged or holds something else.
            CalibrationError: If the file holds no calibration for the backend.
            ParameterError: If the backend is unknown, the device cannot be used, or another parameter is given.
            FileNotFoundError: If the file is missing.
        """
        given = {name: value for name, value in given.items() if value is not None}
        check_backend(given.get("backend", "float32"))
        detector = super().load(path, **given)
        for _, density in detector._roles():
            density.to(check_device(device))
        return detector

    def _tensors(self) -> dict[str, Tensor]:
        parts = {**{role: density.state_dict() for role, density in self._roles()}, "learned": learned(self.score_)[0]}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _roles(self) -> list[tuple[str, Density]]:
        """Returns the densities that there are, with their roles."""
        return [(role, density) for role in ROLES if (density := getattr(self, role)) is not None]

    def _notes(self) -> dict[str, Any]:
        self._density()
        notes: dict[str, Any] = {role: density.config for role, density in self._roles()}
        if None in notes.values():
            raise ParameterError("the density has no config, so a saved file could not be loaded")
        if self.preprocessor is not None:
            notes["preprocessor"] = self.preprocessor.config()
        return {**notes, "learned": learned(self.score_)[1]}

    @classmethod
    def _restore(cls, path: Any, tensors: dict[str, Tensor], meta: dict[str, Any], given: dict[str, Any]) -> Self:
        parameters = {**meta["parameters"], **given}
        if "preprocessor" in meta:
            parameters["preprocessor"] = build(meta["preprocessor"])
        for role in ROLES:
            if role in meta:
                parameters[role] = density_of(path, tensors, meta, role).eval()
        detector = cls(**parameters)
        detector.score_ = make_score(detector.statistic)
        if isinstance(detector.score_, LearnedScore):
            try:
                detector.score_.restore({**meta["learned"], **part_of(tensors, "learned")})
            except ModelError as error:
                raise ModelError(f"{path}: {error}; calibrate its density again (pixeldefend calibrate)") from None
        detector.n_features_in_ = math.prod(side or 0 for side in detector._density().event_shape or (0,))
        return detector
