"""NADE, the neural autoregressive distribution estimator.

NADE (Larochelle & Murray 2011) gives every site hidden units of its own, all of which share one matrix of weights: the
hidden units of site i are a weighted sum of the sites before i, through a sigmoid. From one site to the next the sum
only grows by one term, so all D conditionals cost no more than one hidden layer of D inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .autoregressive import RowAutoregressive
from .heads import Head, make_head
from .sites import number_of_sites

SITES_PER_BLOCK = 28  # whose hidden units are held at once: few enough for a cache


class NADE(RowAutoregressive):
    """Predicts every site from hidden units h_i = sigmoid(c + sum_j<i W_j x_j) with weights W that all sites share.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        hidden: Number H of hidden units, at least 1.
        head: A key of `heads.HEADS`, "bernoulli" in the paper.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Larochelle & Murray 2011, "The neural autoregressive distribution estimator", AISTATS.
    """

    name = "nade"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        hidden: int = 500,
        head: str = "bernoulli",
        levels: int = 256,
        mixtures: int = 5,
    ) -> None:
        if hidden < 1:
            raise ParameterError(f"hidden must be at least 1, got {hidden}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, NADENet(number_of_sites(event_shape), hidden, made), made)


class NADENet(nn.Module):
    """(N, D) -> (N, D, P).

    The likelihood takes the hidden sums of all sites at once, O(D H). A sample adds one site after another to them,
    O(H) for each.
    """

    def __init__(self, sites: int, hidden: int, head: Head) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(sites, hidden) / math.sqrt(sites))  # W
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))  # c
        self.out = nn.Parameter(torch.randn(sites, head.outputs, hidden) * 0.1 / math.sqrt(hidden))  # V
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))  # b

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all sites."""
        outputs = [
            torch.einsum("nbh,bph->nbp", self.activation(sums, block), self.out[block])
            for block, sums in prefix_sums(x, self.weight, self.hidden_bias)
        ]
        return torch.cat(outputs, 1) + self.bias

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another."""
        sums = self.hidden_bias.expand(len(x), -1)
        for i in range(x.shape[1]):
            yield self.activation(sums[:, None], slice(i, i + 1))[:, 0] @ self.out[i].T + self.bias[i]
            sums = sums + x[:, i, None] * self.weight[i]

    def activation(self, sums: Tensor, block: slice) -> Tensor:
        """Applies the non-linearity to sums, (N, B, H), of the B sites in `block`."""
        return torch.sigmoid(sums)


def prefix_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Computes bias + sum_j<i x_j weight_j for every site i, one block of sites after another.

    The first sum of a block comes from the block before. Within a block the sums are matrix products with a strict
    lower triangle, which are faster than running sums and keep no (N, D, H) table.

    Args:
        x: (N, D).
        weight: (D, H).
        bias: (H,).

    Yields:
        A block of B sites, and their sums, (N, B, H).
    """
    n, d = x.shape
    before = torch.ones(SITES_PER_BLOCK, SITES_PER_BLOCK, device=x.device, dtype=x.dtype).tril(-1)
    start = bias.expand(n, -1)
    for first in range(0, d, SITES_PER_BLOCK):
        block = slice(first, min(first + SITES_PER_BLOCK, d))
        b = block.stop - first
        seen = x[:, None, block] * before[:b, :b]  # (N, B, B): row i holds the block's sites before i
        yield block, start[:, None] + (seen.reshape(n * b, b) @ weight[block]).unflatten(0, (n, b))
        start = start + x[:, block] @ weight[block]
