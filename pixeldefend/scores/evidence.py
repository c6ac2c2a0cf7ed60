"""The values that a density gives to a batch of images, computed when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..densities import Autoregressive, Density, OrderEnsemble, SiteDistribution
from ..errors import ParameterError

MIN_DIVISOR = 1e-12  # a model that is certain of every site predicts a variance of 0
T = TypeVar("T")


class computed_once(Generic[T]):
    """A property that is computed when it is first needed, and then kept.

    Before Python 3.12, `functools.cached_property` holds a lock for all objects while it computes: threads wait for one
    another, and a forked process may wait for ever.

    Args:
        function: Computes the property.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, owner: Any, kind: Any = None) -> T:
        if owner is None:
            return self  # type: ignore[return-value]
        value = vars(owner)[self.function.__name__] = self.function(owner)
        return value


class Evidence:
    """The values that a density gives to a batch of images, from which statistics are computed.

    Each part is computed when it is first needed, and then kept.

    Args:
        density: Any density. Values of single sites need an autoregressive one.
        x: (N, *event), as `density.to_support` returns it.
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits, for the statistics in `CLASSIFIER_SCORES`.
        fast: The same density on a faster backend, which then computes the conditionals.
        alternative: A density of perturbed images, for the statistics in `ALTERNATIVE_SCORES`.
    """

    def __init__(
        self,
        density: Density,
        x: Tensor,
        classifier: nn.Module | None = None,
        fast: Density | None = None,
        alternative: Density | None = None,
    ) -> None:
        self.density = density
        self.x = x
        self.classifier = classifier
        self.fast = fast
        self.alternative = alternative
        self._computed: dict[Any, Tensor] = {}

    def once(self, function: Callable[[Evidence], Tensor]) -> Tensor:
        """Calls a function of this evidence once, and returns the same result in later calls.

        Args:
            function: A statistic, or another function of an `Evidence`.

        Returns:
            The result of the function.
        """
        if function not in self._computed:
            self._computed[function] = function(self)
        return self._computed[function]

    @computed_once
    def conditionals(self) -> SiteDistribution:
        """The distribution of every site given those before it.

        Raises:
            ParameterError: If the density is not autoregressive.
        """
        if not isinstance(self.density, Autoregressive):
            kind = type(self.density).__name__
            raise ParameterError(
                f"this statistic needs a density with conditionals; {kind} has only bits_per_dim and typicality"
            )
        return (self.fast or self.density).conditionals(self.x)  # type: ignore[operator]

    @computed_once
    def surprisal(self) -> Tensor:
        """The surprisal of every site, s_i = -log p(x_i | x_<i): (N, *sites), in nats."""
        if isinstance(self.density, OrderEnsemble):
            return -self.density.log_prob_map(self.x)
        return -self.conditionals.log_prob(self.x)

    @computed_once
    def log_prob(self) -> Tensor:
        """The logarithm of the density, log p(x): (N,), in nats."""
        if isinstance(self.density, Autoregressive):
            return -self.surprisal.flatten(1).sum(1)
        return self.density.log_prob(self.x)

    @computed_once
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.conditionals.surprisal_moments()

    @computed_once
    def expected_surprisal(self) -> Tensor:
        """The surprisal that the model expects, H_i, which is the entropy of p(. | x_<i): (N, *sites), in nats."""
        return self._moments[0]

    @computed_once
    def surprisal_variance(self) -> Tensor:
        """The variance of s_i under p(. | x_<i), V_i: (N, *sites), in nats squared."""
        return self._moments[1]

    @computed_once
    def excess(self) -> Tensor:
        """How much more surprising every site is than the model expects, s_i - H_i: (N, *sites), in nats."""
        return self.surprisal - self.expected_surprisal

    @computed_once
    def standardised(self) -> Tensor:
        """The standardised excess, (s_i - H_i) / sqrt(V_i): (N, *sites), of mean 0 and variance 1 under the model."""
        return self.excess / self.surprisal_variance.clamp(min=MIN_DIVISOR).sqrt()

    @computed_once
    def pit(self) -> Tensor:
        """The randomised probability integral transform, P(v < x_i) + u_i p(x_i): (N, *sites) in (0, 1).

        Under the model the values are independent and uniform. The uniform noise u is one fixed pattern for all images,
        because a statistic must depend neither on chance nor on the rest of the batch.

        Reference:
            Rosenblatt, Remarks on a multivariate transformation, 1952; for discrete values Brockwell, Universal
            residuals, 2007.
        """
        generator = torch.Generator().manual_seed(0)
        u = torch.rand(self.x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(self.x)
        if self.density.levels is None:
            return self.conditionals.below(self.x)
        return self.conditionals.below(self.x) + u * torch.exp(-self.surprisal)

    @computed_once
    def residuals(self) -> Tensor:
        """The randomised PIT as standard normal numbers: (N, *sites)."""
        return torch.special.ndtri(self.pit.clamp(1e-6, 1 - 1e-6))


# A statistic: the evidence about N images -> (N,) numbers, higher = more anomalous
Score = Callable[[Evidence], Tensor]
