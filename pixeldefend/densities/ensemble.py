"""Models of many orders: one set of weights, a density in each order, and their mixture."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Density, Head, RowAutoregressive, SiteDistribution, at_least_float32, from_row, to_row


class Reorderable(RowAutoregressive):
    """A row model that is a density in any order of its sites, with the same weights.

    ordering: 0 for raster order, k for the k-th random one (the same on every machine). trained_orderings: how many of
    them training goes through; None for all that there are.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        net: nn.Module,
        head: Head,
        config: dict[str, Any],
        ordering: int,
        trained_orderings: int | None = None,
    ) -> None:
        super().__init__(event_shape, net, head, config)
        self.trained_orderings = trained_orderings
        self.ordering = self._checked(ordering)

    def reordered(self, ordering: int) -> Self:
        """Returns the density in another order; it shares the weights of this one. Raises ParameterError if ordering is
        below 0 or not trained."""
        other = copy.copy(self)
        other.ordering = self._checked(ordering)
        other.config = {**(self.config or {}), "ordering": ordering}
        return other

    def order(self) -> Tensor:
        """Returns (D,): the sites, as `to_row` numbers them, in the order in which they are modelled."""
        d = math.prod(self.event_shape)
        return random_order(d, self.ordering).to(self.device)

    def arrangement(self) -> Any:
        """Returns what the net needs beside x."""
        return self.order()

    def sites(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        raster = super().sites(shape)
        return [raster[i] for i in self.order().tolist()]

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        return from_row(self.net(to_row(x), self.arrangement()), tuple(x.shape[1:]))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        for parameters in self.net.steps(to_row(x), self.arrangement()):  # type: ignore[operator]
            yield self.head(at_least_float32(parameters), x)

    def _checked(self, ordering: int) -> int:
        if ordering < 0:
            raise ParameterError(f"ordering must be at least 0, got {ordering}")
        if self.trained_orderings is not None and ordering >= self.trained_orderings:
            raise ParameterError(
                f"ordering must be below {self.trained_orderings}, as many as are trained, got {ordering}"
            )
        return ordering


def random_order(sites: int, ordering: int) -> Tensor:
    """Returns (D,) int64: 0 ... D - 1 if ordering is 0, else a permutation that depends on it alone."""
    if ordering == 0:
        return torch.arange(sites)
    return torch.randperm(sites, generator=torch.Generator().manual_seed(ordering))


class OrderEnsemble(Density):
    """The mixture of one model's densities in several orders: p(x) = 1/K sum_k p_k(x) (EoNADE; MADE, section 6.1).

    It has no conditionals of its own: each order has others.
    density: a model of any order, trained over them. orderings: K, how many orders to mix: 0 ... K - 1.
    """

    def __init__(self, density: Reorderable, orderings: int) -> None:
        if not isinstance(density, Reorderable):
            raise ParameterError(f"{type(density).__name__} has one order only; an ensemble needs EoNADE or MADE")
        if orderings < 1:
            raise ParameterError(f"orderings must be at least 1, got {orderings}")
        if density.trained_orderings is not None and orderings > density.trained_orderings:
            raise ParameterError(
                f"this density was made for {density.trained_orderings} orderings, not for {orderings}"
            )
        config = {"model": "order_ensemble", "density": density.config, "orderings": orderings}
        super().__init__(density.event_shape, config)
        self.density = density
        self.levels = density.levels
        self.orderings = orderings

    def log_prob_by_order(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N, K) nats: log p_k(x)."""
        return torch.stack([self.density.reordered(k).log_prob(x) for k in range(self.orderings)], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.log_prob_by_order(x).logsumexp(1) - math.log(self.orderings)

    def log_prob_map(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N, *event) nats, whose sum is `log_prob`: the maps of all orders, weighted by how
        likely each order is given x, r_k = p_k(x) / sum_j p_j(x). What is left of log p(x), the entropy of r less
        log K, belongs to no site and is spread over all."""
        maps = torch.stack([self.density.reordered(k).log_prob_map(x) for k in range(self.orderings)], 1)
        r = maps.flatten(2).sum(2).log_softmax(1)
        rest = -(r.exp() * r).sum(1) - math.log(self.orderings)
        weighted = (r.exp().reshape(*r.shape, *[1] * (x.ndim - 1)) * maps).sum(1)
        return weighted + rest.reshape(-1, *[1] * (x.ndim - 1)) / math.prod(x.shape[1:])

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns (n, *event) exact samples, each in an order drawn at random. Raises ParameterError if n is below 0."""
        if n < 0:
            raise ParameterError(f"n must be at least 0, got {n}")
        drawn = torch.randint(self.orderings, (n,), generator=generator, device=self.device)
        x = torch.empty(n, *self.density.event_shape, device=self.device, dtype=self.dtype)
        for k in drawn.unique().tolist():
            x[drawn == k] = self.density.reordered(k).sample(int((drawn == k).sum()), generator=generator)
        return x
