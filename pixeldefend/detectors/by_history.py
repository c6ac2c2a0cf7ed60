"""Detectors that judge an image among the calibration images of its own history, given the profiles of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..ambient import torch_defaults
from ..calibration import ConformalMartingale, conformal
from ..calibration.conformal import Array
from ..calibration.mondrian import Mondrian
from ..densities import NeLLoC
from ..errors import ParameterError
from ..images import Origin
from ..scores.likelihood_ratio import LikelihoodRatio, file_kind
from .base import ConformalDetector
from .scoring import to_numbers
from .verdicts import Verdicts

UNKNOWN = "unknown"
Origins = Sequence[Origin | None] | None


class HistoryDetector(ConformalDetector):
    """A detector whose rate of false alarms holds within every history, given the profiles of images.

    A subclass computes profiles, and has the parameters `density` and `ratio`.

    Attributes:
        calibration_histories_: (n, 2) the histories of the calibration images, as `LikelihoodRatio.estimated` returns
            them: estimated from the file and the pixels, and from the pixels alone.
        calibration_own_: (n,) bool, whether a calibration image came from a user (`adapted`).
        mondrian_: The calibration scores by history: for images from files, and for others.
    """

    density: NeLLoC | None
    ratio: LikelihoodRatio | None

    def _models(self) -> tuple[NeLLoC, LikelihoodRatio]:
        if self.density is None or self.ratio is None:
            name = type(self).__name__
            raise ParameterError(f"{name} needs a density and a ratio: {name}(density, ratio)")
        return self.density, self.ratio

    def _names(self) -> list[str]:
        """Returns the names of the histories, by the numbers that `LikelihoodRatio.estimated` gives them."""
        return [*self._models()[1].histories, UNKNOWN]

    # -- verdicts ------------------------------------------------------------------------------------------------

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
        names = self._names()
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
        names = self._names()
        other = set(histories) - set(names)
        if other:
            raise ParameterError(f"there is no history {other.pop()!r}; there are: {', '.join(names)}")
        return np.array([names.index(history) for history in histories], dtype=int)

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
        self.__dict__.update(vars(other._calibrated({self.precision: scores[None]}, np.arange(len(scores)), ())))
        return self

    def adapted(self, profiles: Array, origins: Origins = None) -> Self:
        """Returns a detector that is calibrated for the traffic of a user.

        A history of which the user has at least `mondrian.OWN_IMAGES_OF_A_CATEGORY` images is judged by these alone.
        With fewer, an image is compared with all such images of the user too, if these are enough for fpr, and the
        greater p-value counts. Other histories keep their calibration images. Images of an earlier adaptation are kept
        for histories that none of the new ones has.

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
        scores = conformal.finite_scores(scores)
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
        return other._calibrated({self.precision: scores[None]}, np.arange(len(scores)), ())

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
        names = self._names()
        labels, own = self.calibration_histories_[:, 0], self.calibration_own_
        kept = own | ~np.isin(labels, labels[own])  # a user's traffic is compared with the user's images
        groups = [names[history] for history in labels[kept]]
        return ConformalMartingale(self.calibration_scores_[kept], groups=groups, random_state=random_state)
