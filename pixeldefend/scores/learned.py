"""Statistics that learn something from clean images, or from these with synthetic noise; never from an attack."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

from ..errors import ModelError
from .evidence import Evidence
from .surprisal import bits_per_dim


class LearnedScore(ABC):
    """A score that learns something from clean images, which must not be those that calibrate it. What it learns are
    plain JSON values, in attributes that end in an underscore.

    contrasted: it also learns from the same images `with_noise`.
    """

    contrasted = False

    @abstractmethod
    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,) or (N, K): what `fit` learns from."""

    @abstractmethod
    def fit(self, features: Tensor, noisy: Tensor | None = None) -> LearnedScore:
        """features: of clean images. noisy: of the same with noise, if it is contrasted."""

    @abstractmethod
    def of(self, features: Tensor) -> Tensor:
        """Returns (N,): the score of images with these features."""

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,)."""
        return self.of(self.features(evidence))

    def learned(self) -> dict[str, Any]:
        """Returns what it has learned: plain JSON values by the names of their attributes."""
        return {name: value for name, value in vars(self).items() if name.endswith("_")}

    def recall(self, learned: dict[str, Any]) -> LearnedScore:
        """Takes over what `learned` returned. Raises ModelError if that was a score that learned something else."""
        wanted = {
            name for kind in type(self).__mro__ for name in vars(kind).get("__annotations__", {}) if name[-1] == "_"
        }
        if learned.keys() != wanted:
            raise ModelError(f"what its score learned is of another version: {sorted(learned)}, not {sorted(wanted)}")
        vars(self).update(learned)
        return self


def teach(score: LearnedScore, features: Callable[[Tensor], Tensor], x: Tensor) -> LearnedScore:
    """Fits a score on clean images. features: x -> those of the score. x: (N, *event), as they came."""
    return score.fit(*map(features, [x, with_noise(x)] if score.contrasted else [x]))


def with_noise(x: Tensor) -> Tensor:
    """x: (N, C, H, W) in [0, 1]. Returns the same with a random half of all sub-pixels moved by -1, 0 or 1 step of 8
    bits; the same noise for the same x. Rows, which may be of any unit, are returned as they are."""
    if x.ndim != 4:
        return x
    generator = torch.Generator().manual_seed(0)
    step = torch.randint(-1, 2, x.shape, generator=generator) * torch.randint(2, x.shape, generator=generator)
    return (x + step.to(x) / 255).clamp(0, 1)


class Typicality(LearnedScore):
    """| bits/dim - its mean over clean images |: an image can also be too probable (Nalisnick et al. 2019, for a batch
    of one)."""

    center_: float

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,): bits/dim."""
        return bits_per_dim(evidence)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Typicality:
        """features: (N,). Learns `center_`, their mean."""
        self.center_ = features.double().mean().item()
        return self

    def of(self, features: Tensor) -> Tensor:
        return (features - self.center_).abs()


class SurprisalGiven(LearnedScore):
    """What is left of an image's mean surprisal after regression on a predictor of its complexity, over clean images,
    by least squares; positive if it surprises more than others as complex.

    With slope 1 and intercept 0, and the length of a lossless code as predictor, it would be the score S of Serra et
    al. (2020, arXiv:1909.11480).
    """

    slope_: float
    intercept_: float

    def __init__(self, predictor: Callable[[Evidence], Tensor]) -> None:
        self.predictor = predictor

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, 2): nats a site, and the predictor."""
        return torch.stack([evidence.surprisal.flatten(1).mean(1), self.predictor(evidence)], 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> SurprisalGiven:
        """features: (N, 2). Learns `slope_` and `intercept_`."""
        y, x = features.double().numpy().T
        line = LinearRegression().fit(x[:, None], y)
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def of(self, features: Tensor) -> Tensor:
        y, x = features.unbind(1)
        return y - self.slope_ * x - self.intercept_
