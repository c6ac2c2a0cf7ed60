"""Distributions of one site.

An autoregressive model gives the distribution of every site, given the sites before it. The classes here are such
distributions: a free probability for each value of a grid, and mixtures over real numbers. The mixture of logistics
that most image models use is in `logistic_mixture`. Each class computes the log-probability of a value, the probability
of all values below it, quantiles (for samples), and the mean and the variance of the surprisal (for anomaly scores).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..errors import ParameterError

BYTE_LEVELS = 256  # values of 8 bits


def at_least_float32(x: Tensor) -> Tensor:
    """Casts half precision to float32, since a likelihood is the sum of many small logarithms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class SiteDistribution(Distribution, ABC):
    """The distributions of a batch of sites, each given the sites before it.

    `batch_shape` is the shape of the batch: (N, *event) if it is for whole events.
    """

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Evaluates log p at a value of each site.

        Args:
            value: Broadcastable to batch_shape.

        Returns:
            (*batch_shape) nats.
        """

    @abstractmethod
    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Computes the mean and the variance of the surprisal -log p(v) of a draw v from p.

        Returns:
            The mean, which is the entropy, in nats, and the variance, in squared nats; both (*batch_shape).
        """

    @abstractmethod
    def below(self, value: Tensor) -> Tensor:
        """Computes the probability that a draw lies below a value.

        Args:
            value: Broadcastable to batch_shape.

        Returns:
            (*batch_shape): P(v < value), in [0, 1].
        """

    @abstractmethod
    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Inverts the distribution function, so that a uniform u gives a draw.

        Args:
            u: (*batch_shape), or with more axes in front, in [0, 1).
            temperature: Above 0. The draws follow p^(1/temperature), normalised.

        Returns:
            Values, of the shape of u.
        """

    @abstractmethod
    def part(self, index: tuple[Any, ...]) -> Self:
        """Selects some of the sites.

        Args:
            index: An index of a (*batch_shape) tensor.

        Returns:
            The distribution of these sites.
        """

    def entropy(self) -> Tensor:
        """Computes the entropy.

        Returns:
            (*batch_shape) nats.
        """
        return self.surprisal_moments()[0]

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        """Draws values with torch's default generator.

        Args:
            sample_shape: The shape of the draws of each site.

        Returns:
            (*sample_shape, *batch_shape).
        """
        shape = torch.Size(sample_shape)
        like = self.entropy()
        u = torch.rand(math.prod(shape), *self.batch_shape, dtype=like.dtype, device="cpu").to(like)
        return self.part((None, ...)).quantile(u).reshape(*shape, *self.batch_shape)


class GridDistribution(SiteDistribution):
    """A distribution over the grid {0, 1, ..., L - 1} / (L - 1).

    L is `levels`: 256 for 8-bit images, 2 for binary ones. `log_prob` is exact on the grid and continuous off it.
    """

    support = constraints.unit_interval
    levels: int

    @abstractmethod
    def pmf(self) -> Tensor:
        """Tabulates the probability of every value.

        Returns:
            (*batch_shape, L), which sum to 1.
        """

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Sums over the table of `pmf`; see `SiteDistribution.surprisal_moments`."""
        pmf = self.pmf()
        surprisal = -torch.log(pmf.clamp(min=torch.finfo(pmf.dtype).tiny))
        mean = (pmf * surprisal).sum(-1)
        return mean, (pmf * surprisal.square()).sum(-1).sub(mean.square()).clamp(min=0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Searches the table of `pmf`; see `SiteDistribution.quantile`."""
        pmf = self.pmf()
        if temperature != 1:
            logits = pmf.log()
            pmf = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
        # by rounding the sum may differ from 1, and u must not exceed it
        cdf = pmf.cumsum(-1)
        index = (cdf <= u.unsqueeze(-1) * cdf[..., -1:]).sum(-1).clamp(max=self.levels - 1)
        return index.to(pmf) / (self.levels - 1)

    def most_probable(self, low: Tensor, high: Tensor) -> Tensor:
        """Finds the most probable value of each site within an interval.

        Args:
            low: (*batch_shape), the least value allowed, on the grid.
            high: (*batch_shape), the greatest value allowed, on the grid.

        Returns:
            (*batch_shape) values. Among equally probable values it is the lowest.
        """
        pmf = self.pmf()
        value = torch.arange(self.levels, device=pmf.device, dtype=pmf.dtype) / (self.levels - 1)
        half = 0.5 / (self.levels - 1)
        inside = (value > low.unsqueeze(-1) - half) & (value < high.unsqueeze(-1) + half)
        return value[pmf.where(inside, -1).argmax(-1)]


class GridCategorical(GridDistribution):
    """A free probability for each of L values.

    With L = 2 it is a Bernoulli distribution. Off the grid the log-probability is interpolated linearly.

    Args:
        logits: (*batch_shape, L) unnormalised log-probabilities.
        validate_args: As for `torch.distributions.Distribution`.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    def part(self, index: tuple[Any, ...]) -> Self:
        """Selects some of the sites; see `SiteDistribution.part`."""
        return type(self)(self.logits[index], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Looks the value up; see `SiteDistribution.log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        position = (value * (self.levels - 1)).unsqueeze(-1)
        below = position.detach().floor().clamp(0, self.levels - 2)
        index = below.long()
        logits = self.logits.expand(*value.shape, -1)
        left, right = logits.gather(-1, index), logits.gather(-1, index + 1)
        return torch.lerp(left, right, position - below).squeeze(-1)

    def below(self, value: Tensor) -> Tensor:
        """Sums the probabilities of lower values; see `SiteDistribution.below`."""
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        pmf = self.pmf().expand(*value.shape, -1)
        return (pmf.cumsum(-1) - pmf).gather(-1, index).squeeze(-1).clamp(0, 1)

    def pmf(self) -> Tensor:
        """Tabulates the probability of every value; see `GridDistribution.pmf`."""
        return self.logits.exp()


class RealMixture(SiteDistribution):
    """A mixture of K distributions of a real number, which has a probability density.

    Args:
        logits: (*batch_shape, K) unnormalised log-weights of the components.
        locations: (*batch_shape, K).
        log_scales: (*batch_shape, K), clamped to [-7, 7].
        validate_args: As for `torch.distributions.Distribution`.
    """

    LOG_SCALES = (-7.0, 7.0)
    arg_constraints = {
        "logits": constraints.independent(constraints.real, 1),
        "locations": constraints.independent(constraints.real, 1),
        "log_scales": constraints.independent(constraints.real, 1),
    }
    support = constraints.real
    quadrature: tuple[np.ndarray, np.ndarray]  # nodes and weights of E f(z) for a standard z

    def __init__(
        self, logits: Tensor, locations: Tensor, log_scales: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits = logits.log_softmax(-1)
        self.locations = locations
        self.log_scales = log_scales.clamp(*self.LOG_SCALES)
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    def part(self, index: tuple[Any, ...]) -> Self:
        """Selects some of the sites; see `SiteDistribution.part`."""
        return type(self)(self.logits[index], self.locations[index], self.log_scales[index], validate_args=False)

    @abstractmethod
    def _log_standard(self, z: Tensor) -> Tensor:
        """Log of the standard density at z."""

    @abstractmethod
    def _standard_below(self, z: Tensor) -> Tensor:
        """The standard distribution function at z."""

    @abstractmethod
    def _standard_quantile(self, u: Tensor) -> Tensor:
        """The inverse of the standard distribution function at u, in (0, 1)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Evaluates the log-density; see `SiteDistribution.log_prob`."""
        z = (value.unsqueeze(-1) - self.locations) * torch.exp(-self.log_scales)
        return torch.logsumexp(self.logits + self._log_standard(z) - self.log_scales, -1)

    def below(self, value: Tensor) -> Tensor:
        """Evaluates the distribution function; see `SiteDistribution.below`."""
        z = (value.unsqueeze(-1) - self.locations) * torch.exp(-self.log_scales)
        return (self.logits.exp() * self._standard_below(z)).sum(-1)

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Integrates by Gauss quadrature within each component, exactly for one component and closely for several."""
        nodes, weights = (torch.from_numpy(array).to(self.logits) for array in self.quadrature)
        scales, mixture = self.log_scales.exp(), self.logits.exp()
        mean, square = torch.zeros_like(mixture[..., 0]), torch.zeros_like(mixture[..., 0])
        for node, weight in zip(nodes, weights, strict=True):
            for k in range(mixture.shape[-1]):
                surprisal = -self.log_prob(self.locations[..., k] + node * scales[..., k])
                mean = mean + weight * mixture[..., k] * surprisal
                square = square + weight * mixture[..., k] * surprisal.square()
        return mean, (square - mean.square()).clamp(min=0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Chooses a component by u, and a value within it by the rest of u; see `SiteDistribution.quantile`.

        Raises:
            ParameterError: If the temperature is not 1.
        """
        if temperature != 1:
            raise ParameterError(f"a mixture over real numbers can only be sampled at temperature 1, got {temperature}")
        weights, locations, log_scales = (
            t.expand(*u.shape, -1) for t in (self.logits.exp(), self.locations, self.log_scales)
        )
        cdf = weights.cumsum(-1)
        u = u.unsqueeze(-1) * cdf[..., -1:]
        chosen = (cdf <= u).sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
        weight, before = weights.gather(-1, chosen), (cdf - weights).gather(-1, chosen)
        tiny = torch.finfo(u.dtype).eps
        within = ((u - before) / weight).clamp(tiny, 1 - tiny).squeeze(-1)
        location, log_scale = (t.gather(-1, chosen).squeeze(-1) for t in (locations, log_scales))
        return location + self._standard_quantile(within) * log_scale.exp()


class NormalMixture(RealMixture):
    """A mixture of normal distributions, with the arguments of `RealMixture`."""

    quadrature = (
        np.polynomial.hermite_e.hermegauss(24)[0],
        np.polynomial.hermite_e.hermegauss(24)[1] / math.sqrt(2 * math.pi),
    )

    def _log_standard(self, z: Tensor) -> Tensor:
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def _standard_below(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z)

    def _standard_quantile(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


class LaplaceMixture(RealMixture):
    """A mixture of Laplace distributions, with the arguments of `RealMixture`."""

    quadrature = (
        np.concatenate([-np.polynomial.laguerre.laggauss(16)[0], np.polynomial.laguerre.laggauss(16)[0]]),
        np.tile(np.polynomial.laguerre.laggauss(16)[1] / 2, 2),
    )

    def _log_standard(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2)

    def _standard_below(self, z: Tensor) -> Tensor:
        return 0.5 - 0.5 * z.sign() * torch.expm1(-z.abs())

    def _standard_quantile(self, u: Tensor) -> Tensor:
        return -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs())
