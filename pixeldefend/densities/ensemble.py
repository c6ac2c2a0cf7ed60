"""Models with many orders of sites: one set of weights gives a density in each order, and their mixture.

EoNADE and MADE can compute p(x) in more than one order of sites. Each order gives a density of its own. The mean of
several is an ensemble that needs no more weights, and usually gives new data a higher probability than each density
alone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..ambient import torch_defaults
from ..errors import ParameterError
from .autoregressive import RowAutoregressive
from .base import Density
from .distributions import SiteDistribution, at_least_float32
from .heads import Head
from .sites import from_row, to_row


class Reorderable(RowAutoregressive):
    """A row model that is a density in any order of its sites, with the same weights.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        net: (N, D) and `arrangement()` -> (N, D, P).
        head: The head, which makes the distributions.
        ordering: 0 for raster order, k for the k-th random order, which is the same on every machine.
        trained_orderings: The number of orders that are trained; None for all orders.

    Raises:
        ParameterError: If `ordering` is below 0 or not trained.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        net: nn.Module,
        head: Head,
        ordering: int,
        trained_orderings: int | None = None,
    ) -> None:
        super().__init__(event_shape, net, head)
        self.trained_orderings = trained_orderings
        self.ordering = self._checked(ordering)

    def reordered(self, ordering: int) -> Self:
        """Returns the density in another order, which shares the weights of this one.

        Args:
            ordering: As for the class.

        Returns:
            The density.

        Raises:
            ParameterError: If `ordering` is below 0 or not trained.
        """
        other = copy.copy(self)
        other.ordering = self._checked(ordering)
        other.config = {**(self.config or {}), "ordering": ordering}
        return other

    def order(self) -> Tensor:
        """Returns (D,): the sites, as `sites.to_row` numbers them, in the order in which they are modelled."""
        d = math.prod(self.shape_of())
        return random_order(d, self.ordering).to(self.device)

    def arrangement(self) -> Any:
        """Returns the second input of the net, besides x: the order, unless a model needs more."""
        return self.order()

    def sites(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Lists the index of every site of an event of this shape, in the model's order."""
        raster = super().sites(shape)
        return [raster[i] for i in self.order().tolist()]

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        """Runs the net on the rows of x, (N, *event), and returns (N, *event, P)."""
        return from_row(self.net(to_row(x), self.arrangement()), tuple(x.shape[1:]))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        for parameters in self.net.steps(to_row(x), self.arrangement()):  # type: ignore[operator]
            yield self.head(at_least_float32(parameters), x)

    def _checked(self, ordering: int) -> int:
        if ordering < 0:
            raise ParameterError(f"ordering must be at least 0, got {ordering}")
        if self.trained_orderings is not None and ordering >= self.trained_orderings:
            raise ParameterError(
                f"ordering must be below {self.trained_orderings}, the number of trained orderings, got {ordering}"
            )
        return ordering


def random_order(sites: int, ordering: int) -> Tensor:
    """Draws an order of sites that depends only on the number of the order.

    Args:
        sites: D.
        ordering: At least 0.

    Returns:
        (D,) int64: 0 ... D - 1 if ordering is 0, else a permutation of it.
    """
    if ordering == 0:
        return torch.arange(sites, device="cpu")
    return torch.randperm(sites, generator=torch.Generator().manual_seed(ordering), device="cpu")


class OrderEnsemble(Density):
    """The mixture of one model's densities in several orders, p(x) = 1/K sum_k p_k(x).

    It has no conditionals, since they differ between orders.

    Args:
        density: An EoNADE or a MADE, trained over the orders.
        orderings: The number K of orders to mix, 0 ... K - 1; at least 1.

    Raises:
        ParameterError: If the density has only one order, or fewer than K trained orders.

    Reference:
        Uria, Murray & Larochelle 2014, arXiv:1310.1757; Germain et al. 2015, arXiv:1502.03509, section 6.1.
    """

    name = "order_ensemble"
    events = frozenset({"images", "rows"})

    def __init__(self, density: Reorderable, orderings: int) -> None:
        if not isinstance(density, Reorderable):
            raise ParameterError(f"{type(density).__name__} has one order only; an ensemble needs EoNADE or MADE")
        if orderings < 1:
            raise ParameterError(f"orderings must be at least 1, got {orderings}")
        if density.trained_orderings is not None and orderings > density.trained_orderings:
            raise ParameterError(f"this density has {density.trained_orderings} trained orderings, got {orderings}")
        super().__init__(density.event_shape)
        self.density = density
        self.levels = density.levels
        self.orderings = orderings

    def log_prob_by_order(self, x: Tensor) -> Tensor:
        """Evaluates log p_k(x) for x, (N, *event), and returns (N, K) nats."""
        return torch.stack([self.density.reordered(k).log_prob(x) for k in range(self.orderings)], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Evaluates log p(x); see `Density.log_prob`."""
        return self.log_prob_by_order(x).logsumexp(1) - math.log(self.orderings)

    def log_prob_map(self, x: Tensor) -> Tensor:
        """Splits log p(x) among the sites.

        The maps of all orders are weighted by how probable each order is given x, r_k = p_k(x) / sum_j p_j(x). The rest
        of log p(x), the entropy of r less log K, belongs to no site and is spread evenly over all sites.

        Args:
            x: (N, *event).

        Returns:
            (N, *event) nats, whose sum is `log_prob`.
        """
        maps = torch.stack([self.density.reordered(k).log_prob_map(x) for k in range(self.orderings)], 1)
        r = maps.flatten(2).sum(2).log_softmax(1)
        rest = -(r.exp() * r).sum(1) - math.log(self.orderings)
        weighted = (r.exp().reshape(*r.shape, *[1] * (x.ndim - 1)) * maps).sum(1)
        return weighted + rest.reshape(-1, *[1] * (x.ndim - 1)) / math.prod(x.shape[1:])

    @torch_defaults()
    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws exact samples, each in an order drawn at random; see `Density.sample`."""
        if n < 0:
            raise ParameterError(f"n must be at least 0, got {n}")
        drawn = torch.randint(self.orderings, (n,), generator=generator, device=self.device)
        x = torch.empty(n, *self.density.shape_of(), device=self.device, dtype=self.dtype)
        for k in drawn.unique().tolist():
            x[drawn == k] = self.density.reordered(k).sample(int((drawn == k).sum()), generator=generator)
        return x
