"""Statistics that learn from clean images, some also from copies with synthetic changes, never from attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ModelError
from .evidence import Evidence
from .surprisal import bits_per_dim


class LearnedScore(ABC):
    """A statistic that learns from clean images, which must not be its calibration images.

    The learned values are plain JSON values or tensors, in attributes whose names end in an underscore. Model files
    store them by these names.

    Attributes:
        copies: Functions that change images, (n, C, H, W) in [0, 1], or rows, such as `with_noise`. The statistic also
            learns from these copies of the clean images.
        learns_corruptions: Whether some of the clean images have gone through the corruptions that the detector is
            calibrated for. `copies` are of untouched images.
        corruptions: The number of these corruptions.
    """

    copies: ClassVar[tuple[Callable[[Tensor], Tensor], ...]] = ()
    learns_corruptions: ClassVar[bool] = False
    corruptions = 0

    @abstractmethod
    def features(self, evidence: Evidence) -> Tensor:
        """Computes the features that the statistic learns from.

        Args:
            evidence: The evidence about N images.

        Returns:
            (N, ...).
        """

    @abstractmethod
    def fit(self, features: Tensor, *copies: Tensor) -> LearnedScore:
        """Learns from the features of clean images.

        Args:
            features: (N, ...), as `features` returns them.
            *copies: The features of `copies` of the same images, one tensor for each.

        Returns:
            Itself.
        """

    @abstractmethod
    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from the features of images.

        Args:
            features: (N, ...), as `features` returns them.

        Returns:
            (N,), higher = more anomalous.
        """

    def __call__(self, evidence: Evidence) -> Tensor:
        """Computes the statistic of N images: (N,), higher = more anomalous."""
        return self.evaluate(self.features(evidence))

    def state(self) -> dict[str, Any]:
        """Returns the learned values, plain JSON values or tensors, by the names of their attributes."""
        return {name: value for name, value in vars(self).items() if name.endswith("_")}

    def restore(self, state: dict[str, Any]) -> LearnedScore:
        """Takes over the learned values of another statistic of the same type.

        Args:
            state: The learned values, as `state` returns them.

        Returns:
            Itself.

        Raises:
            ModelError: If it is the state of another type or version.
        """
        wanted = {
            name for kind in type(self).__mro__ for name in vars(kind).get("__annotations__", {}) if name[-1] == "_"
        }
        check_state(state, wanted)
        vars(self).update(state)
        return self


def check_state(state: dict[str, Any], wanted: set[str]) -> None:
    """Checks the names of the learned values of a statistic.

    Args:
        state: Values by name, as `LearnedScore.state` returns them.
        wanted: The names that are expected.

    Raises:
        ModelError: If the names differ.
    """
    if state.keys() != wanted:
        raise ModelError(
            f"the state of the statistic is of another version: it has {sorted(state)}, not {sorted(wanted)}"
        )


def with_noise(x: Tensor) -> Tensor:
    """Moves a random half of all sub-pixels by -1, 0 or 1 step of 8 bits.

    Args:
        x: (N, C, H, W) in [0, 1], or rows (N, D), which may have any unit and are not changed.

    Returns:
        The images with noise, in the same shape, clipped to [0, 1]. The noise depends only on the shape of x.
    """
    if x.ndim != 4:
        return x
    random: dict[str, Any] = dict(generator=torch.Generator().manual_seed(0), device="cpu")
    step = torch.randint(-1, 2, x.shape, **random) * torch.randint(2, x.shape, **random)
    return (x + step.to(x) / 255).clamp(0, 1)


class Typicality(LearnedScore):
    """The distance of an image's bits/dim from their mean over clean images.

    It also detects images that are too probable.

    Reference:
        Nalisnick et al., Detecting out-of-distribution inputs to deep generative models using typicality, 2019,
        arXiv:1906.02994, for a batch of one image.
    """

    center_: float

    def features(self, evidence: Evidence) -> Tensor:
        """Computes bits/dim: (N,)."""
        return bits_per_dim(evidence)

    def fit(self, features: Tensor, *copies: Tensor) -> Typicality:
        """Learns `center_`, the mean of bits/dim.

        Args:
            features: (N,), bits/dim of clean images.
            *copies: None.

        Returns:
            Itself.
        """
        self.center_ = features.double().mean().item()
        return self

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes |bits/dim - `center_`| from bits/dim: (N,)."""
        return (features - self.center_).abs()


class SurprisalGiven(LearnedScore):
    """The surprisal of an image in excess of that of clean images of the same complexity.

    A linear regression, fitted by least squares to clean images, predicts the mean surprisal from a measure of
    complexity. The statistic is the residual. With slope 1, intercept 0 and the length of a lossless code as the
    predictor it would be the score S of the reference.

    Args:
        predictor: A function of the evidence about N images that returns (N,) complexities.

    Reference:
        Serrà et al., Input complexity and out-of-distribution detection with likelihood-based generative models, 2020,
        arXiv:1909.11480.
    """

    slope_: float
    intercept_: float

    def __init__(self, predictor: Callable[[Evidence], Tensor]) -> None:
        self.predictor = predictor

    def features(self, evidence: Evidence) -> Tensor:
        """Computes the mean surprisal in nats a site, and the predictor: (N, 2)."""
        return torch.stack([evidence.surprisal.flatten(1).mean(1), self.predictor(evidence)], 1)

    def fit(self, features: Tensor, *copies: Tensor) -> SurprisalGiven:
        """Learns `slope_` and `intercept_` of the regression.

        Args:
            features: (N, 2), the mean surprisal and the predictor of clean images.
            *copies: None.

        Returns:
            Itself.
        """
        y, x = features.double().numpy().T
        from sklearn.linear_model import LinearRegression  # slow to import

        line = LinearRegression().fit(x[:, None], y)
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the residual of the regression from (N, 2) features: (N,), in nats a site."""
        y, x = features.unbind(1)
        return y - self.slope_ * x - self.intercept_
