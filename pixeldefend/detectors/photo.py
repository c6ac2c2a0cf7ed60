"""The detector of photographs: images of any size and of any history, each judged among those of its own history."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..ambient import ordinary, torch_defaults
from ..calibration import ConformalMartingale, conformal
from ..calibration.conformal import Array
from ..calibration.mondrian import Mondrian
from ..densities import NeLLoC
from ..devices import check_device
from ..errors import CalibrationError, ImageError, ModelError, ParameterError
from ..images import Origin, decode_image, match_channels
from ..scores.likelihood_ratio import LikelihoodRatio, file_kind
from ..scores.profile import examine
from .base import ConformalDetector, Verdicts
from .checkpoint import density_of, ratio_of
from .samples import PIXELS_AT_ONCE, Samples, check_distinct_keys, uint8_image
from .scoring import to_numbers

MIN_SIDE = 64
UNKNOWN = "unknown"
Origins = Sequence[Origin | None] | None


class PhotoDetector(ConformalDetector):
    """A detector of photographs of any size, whose rate of false alarms holds within every history.

    A history is what an image has been through: a camera's JPEG, resizing, screenshots and so on. The network estimates
    it from the pixels and, if the image comes from a file, from what the file says of itself. A p-value compares an
    image with the calibration images whose history was estimated to be the same, so it is valid within each estimated
    history. The network takes some histories for one another. So an image is compared with other histories too if they
    are likely, and the greatest p-value counts. An image unlike all training images has the history "unknown", and the
    greatest p-value among all histories. Its rate holds only if the scores of such images are no higher than those of
    some known history.

    Scores of different histories are not comparable. `decision_function` therefore compares an image with the threshold
    of its histories, and not with `offset_`, the threshold of all calibration images together.

    Args:
        density: The local density of clean photographs.
        ratio: The likelihood ratio of profiles under this density.
        fpr: The share of clean images that may be flagged within each history, in (0, 1).
        confidence: As for `ConformalDetector`.
        batch_size: The number of images that are scored at once, at least 1.

    Attributes:
        calibration_histories_: (n, 2) the histories of the calibration images, as `LikelihoodRatio.estimated` returns
            them: estimated from the file and the pixels, and from the pixels alone.
        calibration_own_: (n,) bool, whether a calibration image came from a user (`adapted`).
        mondrian_: The calibration scores by history: for images from files, and for others.

    The other attributes are those of `ConformalDetector`.

    Reference:
        Vovk, Lindsay, Nouretdinov & Gammerman 2003, "Mondrian confidence machine".
    """

    def __init__(
        self,
        density: NeLLoC | None = None,
        ratio: LikelihoodRatio | None = None,
        *,
        fpr: float = 0.01,
        confidence: float | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(fpr=fpr, confidence=confidence, batch_size=batch_size)
        self.density = density
        self.ratio = ratio

    # -- which images --------------------------------------------------------------------------------------------

    @property
    def takes(self) -> str:
        """The images that the detector takes, as a phrase for messages."""
        return f"images with sides of at least {MIN_SIDE}"

    def accepts(self, image: Any) -> bool:
        """Returns whether the detector takes an image: one with both sides of at least 64.

        Args:
            image: One image, as `pixeldefend.images.to_batch` takes it.

        Raises:
            ImageError: If the image is malformed.
        """
        return min(uint8_image(image).shape[1:]) >= MIN_SIDE

    def _models(self) -> tuple[NeLLoC, LikelihoodRatio]:
        if self.density is None or self.ratio is None:
            raise ParameterError("PhotoDetector needs a density and a ratio: PhotoDetector(density, ratio)")
        return self.density, self.ratio

    def _samples(self, X: Any, *, reset: bool = False) -> Samples:
        samples = Samples.of_images(X)
        for _, x in samples.groups:
            if len(x) and min(x.shape[2:]) < MIN_SIDE:
                size = f"{x.shape[2]} x {x.shape[3]} (height x width)"
                raise ImageError(f"the image is {size}, the detector takes {self.takes}", "size")
        return Samples([(places, match_channels(x, 3)) for places, x in samples.groups])

    # -- scores --------------------------------------------------------------------------------------------------

    @torch_defaults()
    def anomaly_scores(self, x: Tensor) -> Tensor:
        """Scores a batch of images.

        Args:
            x: (N, C, H, W) in [0, 1], images of one size.

        Returns:
            (N,), the log likelihood ratio of the images' profiles, perturbed against clean. It has a gradient.
        """
        density, ratio = self._models()
        x = match_channels(ordinary(x), 3).to(density.device, density.dtype)
        scores: Tensor = ratio(examine(density, x).profiles)[0]
        return scores

    @torch_defaults()
    def excess(self, x: Tensor) -> Tensor:
        """Computes by how much anomaly scores exceed the thresholds of the images' histories; see the base class."""
        density, ratio = self._models()
        x = match_channels(ordinary(x), 3).to(density.device, density.dtype)
        profiles = examine(density, x).profiles
        scores: Tensor = ratio(profiles)[0]
        estimated = ratio.estimated(profiles.detach())
        _, thresholds = self.mondrian_[1].judge(to_numbers(scores.detach()), *estimated)
        return scores - scores.new_tensor(thresholds)

    def judge(self, X: Any, *, maps: bool = False, origins: Origins = None) -> Verdicts:
        """Returns all results for each image, from one pass.

        Args:
            X: Images.
            maps: Whether to return maps too: how much more surprising each pixel is than the density expects.
            origins: What the file of each image says of itself, None for images without a file.

        Returns:
            The verdicts, with histories.
        """
        check_is_fitted(self)
        (profiles, bits, *rest), found = self._examined(X, maps)
        verdicts = self.judge_profiles(profiles, found if origins is None else origins)
        return replace(verdicts, bits_per_dim=bits, surprisal_map=rest[0] if rest else None)

    def judge_profiles(self, profiles: Array, origins: Origins = None) -> Verdicts:
        """Returns the results for images whose profiles were computed before.

        Args:
            profiles: (N, F), as `profiles` returns them.
            origins: As for `judge`; None if no image comes from a file.

        Returns:
            The verdicts, with bits/dim of NaN.
        """
        check_is_fitted(self)
        scores, histories, probabilities = self._scored(profiles, origins)
        without_file = np.array([file_kind(origin) is None for origin in origins or [None] * len(scores)], dtype=int)
        p_values, thresholds = np.empty(len(scores)), np.empty(len(scores))
        for kind, mondrian in enumerate(self.mondrian_):
            here = without_file == kind
            p_values[here], thresholds[here] = mondrian.judge(scores[here], histories[here], probabilities[here])
        names = [*self._models()[1].histories, UNKNOWN]
        return Verdicts(
            is_adversarial=scores > thresholds,
            p_value=p_values,
            score=scores,
            threshold=thresholds,
            bits_per_dim=np.full(len(scores), np.nan),
            history=[names[history] for history in histories],
        )

    def thresholds(self, histories: Sequence[str]) -> Array:
        """Returns (N,): the anomaly scores above which images from files are flagged if no other history is likely.

        If others are, an image's threshold may be higher.

        Args:
            histories: (N,) the names of their histories, or "unknown".

        Raises:
            ParameterError: If the ratio has no such history.
        """
        check_is_fitted(self)
        return np.array([self.mondrian_[0].threshold(history) for history in self._labels(histories)])

    def _labels(self, histories: Sequence[str]) -> np.ndarray:
        """Returns (N,) what `LikelihoodRatio.estimated` calls these histories."""
        names = [*self._models()[1].histories, UNKNOWN]
        other = set(histories) - set(names)
        if other:
            raise ParameterError(f"there is no history {other.pop()!r}; there are: {', '.join(names)}")
        return np.array([names.index(history) for history in histories], dtype=int)

    def score_samples(self, X: Any) -> Array:
        """Returns (N,): minus the anomaly score, so that lower is more abnormal."""
        check_is_fitted(self)
        return -self._scored(self.profiles(X), None)[0]

    def decision_function(self, X: Any) -> Array:
        """Returns (N,): the threshold of each image's histories minus its anomaly score, negative for outliers."""
        verdicts = self.judge(X)
        return verdicts.threshold - verdicts.score

    def p_value(self, X: Any) -> Array:
        """Returns (N,): the share of clean images with such a history that are at least as anomalous."""
        return self.judge(X).p_value

    def is_adversarial(self, X: Any) -> np.ndarray:
        """Returns (N,) bool: whether each image is flagged at the rate `fpr`."""
        return self.judge(X).is_adversarial

    def profiles(self, X: Any) -> Array:
        """Computes the profiles of images, from which everything else follows.

        Args:
            X: Images.

        Returns:
            (N, F).
        """
        profiles: Array = self._examined(X)[0][0]
        return profiles

    def _examined(self, X: Any, maps: bool = False) -> tuple[list[Any], list[Origin | None]]:
        """Returns the profiles, bits/dim and, if asked for, maps of images, and what their files say of themselves."""
        density, _ = self._models()

        def batch(x: Tensor) -> tuple[np.ndarray, ...]:
            examined = examine(density, x.to(density.device), maps=maps)
            found = to_numbers(examined.profiles), to_numbers(examined.bits_per_dim)
            return found if examined.excess_map is None else (*found, examined.excess_map.cpu().numpy())

        parts: list[list[Any]] = []
        origins: list[Origin | None] = []
        for samples, said in self._parts(X):
            parts.append(self._each(batch, samples, floating=False))
            origins += said
        return [_joined(results) for results in zip(*parts, strict=True)], origins

    def _parts(self, X: Any) -> Iterator[tuple[Samples, list[Origin | None]]]:
        """Yields images with what their files say of themselves, a few at a time, since decoded files are large."""
        if isinstance(X, str | os.PathLike | bytes):
            X = [X]
        if not isinstance(X, list | tuple) or not X:
            samples = self._samples(X)
            yield samples, [None] * len(samples)
            return
        images: list[Tensor] = []
        origins: list[Origin | None] = []
        for place, image in enumerate(X):
            decoded = decode_image(image) if isinstance(image, str | os.PathLike | bytes) else None
            images.append(uint8_image(image if decoded is None else decoded.frames[0]))
            origins.append(None if decoded is None else decoded.origin)
            pixels = sum(one.shape[1] * one.shape[2] for one in images)
            if len(images) >= self.batch_size or pixels >= PIXELS_AT_ONCE or place == len(X) - 1:
                yield self._samples(images), origins
                images, origins = [], []

    @torch_defaults()
    @torch.no_grad()
    def _scored(self, profiles: Array, origins: Origins) -> tuple[Array, np.ndarray, np.ndarray]:
        """Returns the anomaly scores of images, (N,), and what `LikelihoodRatio.estimated` returns."""
        _, ratio = self._models()
        if origins is not None and len(origins) != len(profiles):
            raise ParameterError(f"there are {len(origins)} origins for {len(profiles)} images")
        x = torch.from_numpy(profiles).to(ratio.mean)
        return to_numbers(ratio(x)[0]), *ratio.estimated(x, origins)

    def _scored_both_ways(self, profiles: Array, origins: Origins) -> tuple[Array, np.ndarray]:
        """Returns the anomaly scores, (N,), and the histories, (N, 2): with the file, and from the pixels alone."""
        scores, by_pixels, _ = self._scored(profiles, None)
        by_file = by_pixels if origins is None else self._scored(profiles, origins)[1]
        return scores, np.stack([by_file, by_pixels], 1)

    # -- calibration ---------------------------------------------------------------------------------------------

    @torch_defaults()
    def fit(self, X: Any, y: Any = None, *, corruptions: Sequence[str] = (), origins: Origins = None) -> Self:
        """Calibrates on clean images that neither the density nor the ratio was trained on.

        Args:
            X: Clean images like those that will be screened.
            y: Ignored.
            corruptions: None: images calibrate the history that they have.
            origins: As for `judge`. Images that come from files should have them.

        Returns:
            The detector.

        Raises:
            CalibrationError: If X is too small for fpr, or if many images are copies of others.
            ImageError: If an image is malformed.
            ParameterError: If there are corruptions.
        """
        if corruptions:
            raise ParameterError(
                f"corruptions must be empty, got {corruptions!r}: a detector of photographs is calibrated by history; "
                "give images that have been through them"
            )
        # checks all before any is scored
        keys = list(chain.from_iterable(samples.keys() for samples, _ in self._parts(X)))
        conformal.rank(self.fpr, len(keys), self.confidence)
        check_distinct_keys(keys, "calibration images")
        (profiles, *_), found = self._examined(X)
        return self.fit_profiles(profiles, found if origins is None else origins)

    def fit_profiles(self, profiles: Array, origins: Origins = None) -> Self:
        """Calibrates as `fit` does, on profiles that were computed before.

        Args:
            profiles: (N, F), as `profiles` returns them.
            origins: As for `judge`.

        Returns:
            The detector.

        Raises:
            CalibrationError: If there are too few for fpr.
        """
        other = type(self)(**self.get_params(deep=False))  # so that too few images leave this detector as it was
        scores, other.calibration_histories_ = self._scored_both_ways(profiles, origins)
        other.calibration_own_ = np.zeros(len(scores), dtype=bool)
        self.__dict__.update(vars(other._calibrated({self.precision: scores}, np.arange(len(scores)), ())))
        return self

    def adapted(self, profiles: Array, origins: Origins = None) -> Self:
        """Returns a detector that is calibrated for the traffic of a user.

        A history of which the user has at least `mondrian.OWN_IMAGES_OF_A_CATEGORY` images is judged by these alone.
        With fewer, an image is compared with all such images of the user too, and the greater p-value counts. Histories
        of which the user has no image keep their calibration images.

        Args:
            profiles: (N, F), the profiles of clean images of the user, as `profiles` returns them.
            origins: As for `judge`.

        Raises:
            CalibrationError: If there are too few for fpr.
        """
        return self._adapted(*self._scored_both_ways(profiles, origins))

    def with_calibration(self, scores: Any, histories: Sequence[str] | None = None) -> Self:
        """Returns a detector that is calibrated for the traffic of a user, as `adapted` does, from records.

        Args:
            scores: (n,), the scores of clean images, on which nothing may have been fitted.
            histories: (n,) their histories.

        Raises:
            CalibrationError: If the scores are too few for the rate, or not finite.
            ParameterError: If the histories are missing, or the ratio has no such history.
        """
        scores = np.asarray(scores, dtype=float)
        if scores.ndim != 1 or not np.isfinite(scores).all():
            raise CalibrationError(f"scores must be (n,) finite numbers, got shape {scores.shape}")
        if histories is None or len(histories) != len(scores):
            raise ParameterError(f"a detector of photographs needs the history of each of the {len(scores)} scores")
        labels = self._labels(histories)
        return self._adapted(scores, np.stack([labels, labels], 1))

    def _adapted(self, scores: Array, histories: np.ndarray) -> Self:
        check_is_fitted(self)
        conformal.rank(self.fpr, len(scores), self.confidence)  # refuses too few
        other = self._with()
        kept = ~self.calibration_own_ | ~np.isin(self.calibration_histories_[:, 0], histories[:, 0])
        other.calibration_histories_ = np.concatenate([self.calibration_histories_[kept], histories])
        other.calibration_own_ = np.concatenate([self.calibration_own_[kept], np.ones(len(scores), dtype=bool)])
        scores = np.concatenate([self.calibration_scores_[kept], scores])
        return other._calibrated({self.precision: scores}, np.arange(len(scores)), ())

    def _calibrated(self, calibrations: dict[str, Array], index: np.ndarray, corruptions: Sequence[str]) -> Self:
        super()._calibrated(calibrations, index, corruptions)
        count = len(self._models()[1].histories)
        self.mondrian_ = [
            Mondrian(
                self.calibration_scores_,
                labels,
                self.calibration_own_,
                count,
                fpr=self.fpr,
                confidence=self.confidence,
            )
            for labels in self.calibration_histories_.T
        ]
        return self

    def drift_monitor(self, *, random_state: int = 0) -> ConformalMartingale:
        """Returns a test of whether the images of each history look like calibration images; see the base class."""
        check_is_fitted(self)
        names = [*self._models()[1].histories, UNKNOWN]
        labels, own = self.calibration_histories_[:, 0], self.calibration_own_
        kept = own | ~np.isin(labels, labels[own])  # a user's traffic is compared with the user's images
        groups = [names[history] for history in labels[kept]]
        return ConformalMartingale(self.calibration_scores_[kept], groups=groups, random_state=random_state)

    # -- files -----------------------------------------------------------------------------------------------------

    @classmethod
    @torch_defaults()
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu", **given: Any) -> Self:
        """Reads a detector that `save` wrote.

        Args:
            path: The file.
            device: Where the density runs.
            **given: Parameters of the constructor that replace those in the file.

        Returns:
            The fitted detector.

        Raises:
            ModelError: If the file is damaged or holds something else.
            CalibrationError: If the file holds too few calibration images for the parameters.
            ParameterError: If the device cannot be used.
            FileNotFoundError: If the file is missing.
        """
        detector = super().load(path, **given)
        for model in detector._models():
            model.to(check_device(device))
        return detector

    def _tensors(self) -> dict[str, Tensor]:
        density, ratio = self._models()
        return {
            **{f"density.{name}": tensor for name, tensor in density.state_dict().items()},
            **{f"ratio.{name}": tensor for name, tensor in ratio.state_dict().items()},
            "histories": torch.from_numpy(self.calibration_histories_.astype(np.int16)),
            "own": torch.from_numpy(self.calibration_own_),
        }

    def _notes(self) -> dict[str, Any]:
        density, ratio = self._models()
        return {"density": density.config, "ratio": ratio.config}

    @classmethod
    def _restore(cls, path: Any, tensors: dict[str, Tensor], meta: dict[str, Any], given: dict[str, Any]) -> Self:
        density = density_of(path, tensors, meta).eval()
        if not isinstance(density, NeLLoC):
            raise ModelError(f"{path} holds a {type(density).__name__}, but photographs need a NeLLoC")
        ratio = ratio_of(path, tensors, meta)
        detector = cls(density, ratio, **{**meta["parameters"], **given})
        detector.calibration_histories_ = tensors["histories"].numpy().astype(int)
        detector.calibration_own_ = tensors["own"].numpy().copy()
        return detector


def _joined(parts: Sequence[Any]) -> Any:
    """Returns the results for all images, as one array if they have one shape."""
    if len(parts) == 1:
        return parts[0]
    values = [value for part in parts for value in part]
    return np.stack(values) if len({value.shape for value in values}) == 1 else values
