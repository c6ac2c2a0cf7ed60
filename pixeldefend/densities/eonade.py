"""EoNADE, a deep and orderless NADE.

An autoregressive model has one order of sites; EoNADE (Uria, Murray & Larochelle 2014) has all of them. Its net gets
the values of some sites and the mask of these sites, and predicts the others. Training shows the net a random set of
sites and asks for the rest. The same weights then give a density in every order, and the average over several orders
(`OrderEnsemble`, the "E" of the name) is better than any one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .distributions import at_least_float32
from .ensemble import Reorderable
from .heads import Head, make_head
from .nade import prefix_sums
from .sites import number_of_sites, to_row


class EoNADE(Reorderable):
    """One net that predicts every site from any set of other sites, and so is a NADE in every order of the sites.

    `reordered(k)` is the density in another order, with the same weights. `OrderEnsemble(density, orderings)` mixes
    many of them.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        hidden: Number H of units in each hidden layer, at least 1.
        layers: Number of hidden layers, at least 1. With one a likelihood costs O(D H), as NADE's does; with more it
            costs O(D H^2).
        head: A key of `heads.HEADS`, "bernoulli" in the paper.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.
        ordering: 0 for raster order, k for the k-th random order. A random one is the default, since training sees
            random sets of sites, among which the beginnings of raster order are rare.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Uria, Murray & Larochelle 2014, "A deep and tractable density estimator", arXiv:1310.1757.
    """

    name = "eonade"
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
        net = EoNADENet(number_of_sites(event_shape), hidden, layers, made)
        super().__init__(event_shape, net, made, ordering)

    def objective(self, x: Tensor) -> Tensor:
        """Estimates the mean of -log p(x) over all orders, without bias, from one random set of d sites an event.

        It is D / (D - d) times the sum over the other sites (equation 10).

        Args:
            x: (N, *event).

        Returns:
            (N,) nats.

        Raises:
            ParameterError: As `check` does.
        """
        self.check(x)
        row = to_row(x)
        n, d = row.shape
        seen = torch.randint(d, (n, 1), device=x.device)
        mask = (torch.rand(n, d, device=x.device, dtype=torch.float32).argsort(1).argsort(1) < seen).to(row.dtype)
        parameters = self.net.given(row, mask)
        with torch.autocast(x.device.type, enabled=False):
            terms = self.head(at_least_float32(parameters), row).log_prob(at_least_float32(row))
        return -(d / (d - seen[:, 0]).to(terms)) * (terms * (1 - mask)).sum(1)


class EoNADENet(nn.Module):
    """Maps events, (N, D), and an order of their sites to the parameters of every site, (N, D, P).

    Args:
        sites: Number D of sites.
        hidden: Number H of units in each hidden layer.
        layers: Number of hidden layers.
        head: The head, which needs P parameters for each site.
    """

    def __init__(self, sites: int, hidden: int, layers: int, head: Head) -> None:
        super().__init__()
        self.first = nn.Linear(2 * sites, hidden)  # of the values that are seen, and of the mask
        self.deeper = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Parameter(torch.randn(sites, head.outputs, hidden) * 0.1 / math.sqrt(hidden))
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))
        for layer in (self.first, *self.deeper):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def given(self, x: Tensor, mask: Tensor) -> Tensor:
        """Computes the parameters, (N, D, P), of every site given those of x, (N, D), where mask, (N, D), is 1."""
        hidden = self.hidden(self.first(torch.cat([x * mask, mask], 1)))
        return F.linear(hidden, self.out.flatten(0, 1)).unflatten(1, self.bias.shape) + self.bias

    def hidden(self, sums: Tensor) -> Tensor:
        """Applies the hidden layers to the sums, (..., H), that enter the first non-linearity."""
        hidden = torch.relu(sums)
        for layer in self.deeper:
            hidden = torch.relu(layer(hidden))
        return hidden

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """Computes the parameters of all sites, each given those before it in the order, (D,)."""
        values, seen, out = self._in(order)
        offsets = seen.cumsum(0) - seen + self.first.bias  # (D, H): which sites are seen is the same for all events
        outputs = [
            torch.einsum("nbh,bph->nbp", self.hidden(sums + offsets[block]), out[block])
            for block, sums in prefix_sums(x[:, order], values, torch.zeros_like(self.first.bias))
        ]
        return torch.cat(outputs, 1)[:, order.argsort()] + self.bias

    def steps(self, x: Tensor, order: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another in the order, (D,)."""
        values, seen, out = self._in(order)
        sums = self.first.bias.expand(len(x), -1)
        for i, site in enumerate(order):
            yield self.hidden(sums) @ out[i].T + self.bias[site]
            sums = sums + x[:, site, None] * values[i] + seen[i]

    def _in(self, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the weights of the values, (D, H), the mask, (D, H), and the outputs, (D, P, H), in this order."""
        values, seen = self.first.weight.T.chunk(2)
        return values[order], seen[order], self.out[order]
