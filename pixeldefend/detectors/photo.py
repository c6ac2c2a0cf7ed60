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
from ..calibration import conformal
from ..calibration.conformal import Array
from ..densities import NeLLoC
from ..devices import check_device
from ..errors import ModelError, ParameterError
from ..images import Origin, decode_image, match_channels
from ..scores.likelihood_ratio import LikelihoodRatio
from ..scores.profile import examine
from .by_history import HistoryDetector, Origins
from .checkpoint import density_of, ratio_of
from .samples import PIXELS_AT_ONCE, Samples, check_distinct_keys, uint8_image
from .scoring import to_numbers
from .verdicts import Verdicts

MIN_SIDE = 64


class PhotoDetector(HistoryDetector):
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

    The attributes are those of `HistoryDetector` and of `ConformalDetector`.

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

    def _samples(self, X: Any, *, reset: bool = False) -> Samples:
        samples = Samples.of_images(X)
        samples.check_sizes(lambda size: min(size) >= MIN_SIDE, self.takes)
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

        Raises:
            ParameterError: If there are more or fewer origins than images.
        """
        check_is_fitted(self)
        if origins is not None and isinstance(X, list | tuple) and len(origins) != len(X):  # before all are scored
            raise ParameterError(f"there are {len(origins)} origins for {len(X)} images")
        (profiles, bits, *rest), found = self._examined(X, maps)
        verdicts = self.judge_profiles(profiles, found if origins is None else origins)
        return replace(verdicts, bits_per_dim=bits, surprisal_map=rest[0] if rest else None)

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

    # -- calibration ---------------------------------------------------------------------------------------------

    @torch_defaults()
    def fit(self, X: Any, y: Any = None, *, corruptions: Sequence[str] = (), origins: Origins = None) -> Self:
        """Calibrates on clean images that neither the density nor the ratio was trained on.

        Args:
            X: Clean images like those that will be screened.
            y: Ignored.
            corruptions: Must be empty: images calibrate the history that they have.
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
