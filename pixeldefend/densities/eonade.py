"""EoNADE, a deep and orderless NADE (Uria, Murray & Larochelle 2014, arXiv:1310.1757)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .base import Head, at_least_float32, number_of_sites, to_row
from .ensemble import Reorderable
from .heads import make_head
from .nade import prefix_sums


class EoNADE(Reorderable):
    """One net that learns p(x_i | any set of other sites), and so is a NADE in every order of sites.

    `reordered(k)` is the density in another order, with the same weights, and `OrderEnsemble(density, orderings)`, the
    "E" of the name, mixes many. Training shows a random set of sites and asks for all others.

    event_shape: of one event, (D,) or (C, H, W). hidden: number H of units in each hidden layer. layers: number of
    hidden layers; with one, a likelihood costs O(D H) as NADE's does, with more O(D H^2). head: a key of `heads.HEADS`,
    "bernoulli" in the paper. levels, mixtures: as `heads.make_head` takes them. ordering: 0 for raster order, k for the
    k-th random one: training sees random sets of sites, among which the beginnings of raster order are rare.
    """

    net: EoNADENet

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        hidden: int = 500,
        layers: int = 1,
        head: str = "bernoulli",
        levels: int = 256,
        mixtures: int = 5,
        ordering: int = 1,
    ) -> None:
        if hidden < 1 or layers < 1:
            raise ParameterError(f"hidden and layers must be at least 1, got {hidden} and {layers}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(
            model="eonade",
            event_shape=list(event_shape),
            hidden=hidden,
            layers=layers,
            head=head,
            levels=levels,
            mixtures=mixtures,
            ordering=ordering,
        )
        net = EoNADENet(number_of_sites(event_shape), hidden, layers, made)
        super().__init__(event_shape, net, made, config, ordering)

    def objective(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,) nats: an unbiased estimate of the mean over all orders of -log p(x), from one
        random set of sites an event, the d that come first in some order. (Eq. 10: D / (D - d) times the sum over the
        other sites, the next of which each is as often as any.)"""
        self.check(x)
        row = to_row(x)
        n, d = row.shape
        seen = torch.randint(d, (n, 1), device=x.device)
        mask = (torch.rand(n, d, device=x.device).argsort(1).argsort(1) < seen).to(row.dtype)
        parameters = self.net.given(row, mask)
        with torch.autocast(x.device.type, enabled=False):
            terms = self.head(at_least_float32(parameters), row).log_prob(at_least_float32(row))
        return -(d / (d - seen[:, 0])) * (terms * (1 - mask)).sum(1)


class EoNADENet(nn.Module):
    """(N, D), an order -> (N, D, P)."""

    def __init__(self, sites: int, hidden: int, layers: int, head: Head) -> None:
        super().__init__()
        self.first = nn.Linear(2 * sites, hidden)  # of the seen values, and of which are seen
        self.deeper = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Parameter(torch.randn(sites, head.outputs, hidden) * 0.1 / math.sqrt(hidden))
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))
        for layer in (self.first, *self.deeper):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def given(self, x: Tensor, mask: Tensor) -> Tensor:
        """x, mask: (N, D). Returns (N, D, P): the parameters of every site given those where mask is 1."""
        hidden = self.hidden(self.first(torch.cat([x * mask, mask], 1)))
        return F.linear(hidden, self.out.flatten(0, 1)).unflatten(1, self.bias.shape) + self.bias

    def hidden(self, sums: Tensor) -> Tensor:
        """(..., H): the first layer before its non-linearity -> the last layer after it."""
        hidden = torch.relu(sums)
        for layer in self.deeper:
            hidden = torch.relu(layer(hidden))
        return hidden

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        values, seen, out = self._in(order)
        offsets = seen.cumsum(0) - seen + self.first.bias  # (D, H): which sites are seen is the same for all events
        outputs = [
            torch.einsum("nbh,bph->nbp", self.hidden(sums + offsets[block]), out[block])
            for block, sums in prefix_sums(x[:, order], values, torch.zeros_like(self.first.bias))
        ]
        return torch.cat(outputs, 1)[:, order.argsort()] + self.bias

    def steps(self, x: Tensor, order: Tensor) -> Iterator[Tensor]:
        values, seen, out = self._in(order)
        sums = self.first.bias.expand(len(x), -1)
        for i, site in enumerate(order):
            yield self.hidden(sums) @ out[i].T + self.bias[site]
            sums = sums + x[:, site, None] * values[i] + seen[i]

    def _in(self, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the weights of values (D, H), of being seen (D, H) and out (D, P, H), sites in this order."""
        values, seen = self.first.weight.T.chunk(2)
        return values[order], seen[order], self.out[order]
