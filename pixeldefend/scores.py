"""From p(x) to suspicion: numbers that are higher the less an image looks like the clean ones.

A score is a function of `Evidence`, which computes what it is asked for, once: `bits_per_dim(Evidence(density, x))`.
`SCORES` names them all. One that learns something from clean images first is a class with a `fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol, runtime_checkable

from torch import Tensor

from .densities import Autoregressive, Density, OrderEnsemble
from .densities.base import SiteDistribution


class Evidence:
    """What a density says about a batch of images, each part computed when first asked for.

    density: any Density; the parts by site need an Autoregressive one. x: (N, *event), as `density.observe` gives it.
    """

    def __init__(self, density: Density, x: Tensor) -> None:
        self.density = density
        self.x = x

    @cached_property
    def conditionals(self) -> SiteDistribution:
        """The distribution of every site given those before it. Raises ValueError if the density has none."""
        if not isinstance(self.density, Autoregressive):
            kind = type(self.density).__name__
            raise ValueError(
                f"this score needs a density with conditionals; {kind} has only bits_per_dim and typicality"
            )
        return self.density.conditionals(self.x)

    @cached_property
    def surprisal(self) -> Tensor:
        """(N, *sites) nats: s_i = -log p(x_i | x_<i)."""
        if isinstance(self.density, OrderEnsemble):
            return -self.density.log_prob_map(self.x)
        return -self.conditionals.log_prob(self.x)

    @cached_property
    def log_prob(self) -> Tensor:
        """(N,) nats."""
        if isinstance(self.density, Autoregressive):
            return -self.surprisal.flatten(1).sum(1)
        return self.density.log_prob(self.x)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.conditionals.surprisal_moments()

    @property
    def expected_surprisal(self) -> Tensor:
        """(N, *sites) nats: H_i, the entropy of p(. | x_<i), which is what the model expects s_i to be."""
        return self._moments[0]

    @property
    def surprisal_variance(self) -> Tensor:
        """(N, *sites) nats squared: V_i, the variance of s_i under p(. | x_<i)."""
        return self._moments[1]


def bits_per_dim(evidence: Evidence) -> Tensor:
    """-log2 p(x) a sub-pixel: thresholding it is thresholding log p(x), as PixelDefend does (Song et al. 2018).

    Returns (N,).
    """
    return evidence.density.in_bits_per_dim(evidence.log_prob, tuple(evidence.x.shape[1:]))


def excess_surprisal(evidence: Evidence) -> Tensor:
    """sum_i (s_i - H_i) / sqrt(sum_i V_i): how much more surprising the image is than the model expected it to be.

    Under the model the terms s_i - H_i are martingale differences, so the score has mean 0 and variance about 1
    whatever the image shows: its complexity, which is most of the spread of bits/dim over clean images, drops out.
    Returns (N,), in standard deviations.
    """
    excess = evidence.surprisal - evidence.expected_surprisal
    return _standardised(excess, evidence.surprisal_variance)


LOW_ENTROPY = 1.0


def low_entropy_excess_surprisal(evidence: Evidence) -> Tensor:
    """Excess surprisal over the sites whose predicted entropy is below 1 nat: where the model is sure, a small change
    shows. Returns (N,), in standard deviations; 0 for an image without such a site."""
    sure = evidence.expected_surprisal < LOW_ENTROPY
    excess = evidence.surprisal - evidence.expected_surprisal
    return _standardised(excess.where(sure, 0), evidence.surprisal_variance.where(sure, 0))


class Typicality:
    """| bits/dim - its mean over clean images |: an image can also be too probable (Nalisnick et al. 2019, for a batch
    of one)."""

    center_: float

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,): what `fit` learns from."""
        return bits_per_dim(evidence)

    def fit(self, features: Tensor) -> Typicality:
        """features: (N,) of clean images. Learns `center_`, their mean, in bits/dim."""
        self.center_ = features.double().mean().item()
        return self

    def __call__(self, evidence: Evidence) -> Tensor:
        return (self.features(evidence) - self.center_).abs()


Score = Callable[[Evidence], Tensor]


@runtime_checkable
class LearnedScore(Protocol):
    """A score that learns something from clean images, which must not be those that calibrate it. What it learns are
    plain JSON values in attributes that end in an underscore."""

    def features(self, evidence: Evidence) -> Tensor: ...

    def fit(self, features: Tensor) -> LearnedScore: ...

    def __call__(self, evidence: Evidence) -> Tensor: ...


SCORES: dict[str, Score | type[LearnedScore]] = {
    "bits_per_dim": bits_per_dim,
    "typicality": Typicality,
    "excess_surprisal": excess_surprisal,
    "low_entropy_excess_surprisal": low_entropy_excess_surprisal,
}


def make_score(name: str) -> Score:
    """name: a key of `SCORES`. Returns the score, yet to be fitted if it learns. Raises ValueError if unknown."""
    if name not in SCORES:
        raise ValueError(f"unknown score {name!r}; there are: {', '.join(SCORES)}")
    score = SCORES[name]
    return score() if isinstance(score, type) else score


def _standardised(excess: Tensor, variance: Tensor) -> Tensor:
    tiny = 1e-12  # a model that is certain of every site expects no variance at all
    return excess.flatten(1).sum(1) / variance.flatten(1).sum(1).clamp(min=tiny).sqrt()
