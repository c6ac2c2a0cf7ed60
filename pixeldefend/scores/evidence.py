"""What a density says about a batch of images, each part computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..densities import Autoregressive, Density, OrderEnsemble, SiteDistribution
from ..errors import ParameterError

TINY = 1e-12  # a model that is certain of every site expects no variance at all


class Evidence:
    """What a density says about a batch of images, each part computed when first asked for.

    density: any Density; the parts by site need an Autoregressive one. x: (N, *event), as `density.to_support` gives it.
    classifier: for the scores in `CLASSIFIER_SCORES`, (N, C, H, W) in [0, 1] -> logits. fast: the density on another
    backend (`backends.on_backend`), which is asked for conditionals in its place.
    """

    def __init__(
        self, density: Density, x: Tensor, classifier: nn.Module | None = None, fast: Density | None = None
    ) -> None:
        self.density = density
        self.x = x
        self.classifier = classifier
        self.fast = fast
        self._computed: dict[Any, Tensor] = {}

    def once(self, function: Callable[[Evidence], Tensor]) -> Tensor:
        """Returns function(self), computed when first asked for: scores that are fused need not be computed again."""
        if function not in self._computed:
            self._computed[function] = function(self)
        return self._computed[function]

    @cached_property
    def conditionals(self) -> SiteDistribution:
        """The distribution of every site given those before it. Raises ParameterError if the density has none."""
        if not isinstance(self.density, Autoregressive):
            kind = type(self.density).__name__
            raise ParameterError(
                f"this score needs a density with conditionals; {kind} has only bits_per_dim and typicality"
            )
        return (self.fast or self.density).conditionals(self.x)  # type: ignore[operator]

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

    @cached_property
    def expected_surprisal(self) -> Tensor:
        """(N, *sites) nats: H_i, the entropy of p(. | x_<i), which is what the model expects s_i to be."""
        return self._moments[0]

    @cached_property
    def surprisal_variance(self) -> Tensor:
        """(N, *sites) nats squared: V_i, the variance of s_i under p(. | x_<i)."""
        return self._moments[1]

    @cached_property
    def excess(self) -> Tensor:
        """(N, *sites) nats: s_i - H_i, how much more surprising each site is than the model expected."""
        return self.surprisal - self.expected_surprisal

    @cached_property
    def standardised(self) -> Tensor:
        """(N, *sites): (s_i - H_i) / sqrt(V_i), of mean 0 and variance 1 under the model."""
        return self.excess / self.surprisal_variance.clamp(min=TINY).sqrt()

    @cached_property
    def pit(self) -> Tensor:
        """(N, *sites) in (0, 1): the randomised probability integral transform P(v < x_i) + u_i p(x_i), independent and
        uniform under the model (Rosenblatt 1952; for discrete values Brockwell 2007).

        u, uniform noise, is one fixed pattern for all images: a score must not depend on chance or on the batch.
        """
        generator = torch.Generator().manual_seed(0)
        u = torch.rand(self.x.shape[1:], generator=generator).to(self.x)
        if self.density.levels is None:
            return self.conditionals.below(self.x)
        return self.conditionals.below(self.x) + u * torch.exp(-self.surprisal)

    @cached_property
    def residuals(self) -> Tensor:
        """(N, *sites): the randomised PIT as standard normal numbers."""
        return torch.special.ndtri(self.pit.clamp(1e-6, 1 - 1e-6))


Score = Callable[[Evidence], Tensor]
