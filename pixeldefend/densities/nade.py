"""NADE, the neural autoregressive distribution estimator (Larochelle & Murray 2011)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Head, RowAutoregressive, number_of_sites
from .heads import make_head

BLOCK = 28  # sites whose hidden units are held at once: small enough for a cache


class NADE(RowAutoregressive):
    """p(x_i | x_<i) from hidden units h_i = sigmoid(c + sum_j<i W_j x_j), whose weights W all sites share.

    event_shape: of one event, (D,) or (C, H, W). hidden: number H of hidden units. head: a key of `heads.HEADS`,
    "bernoulli" in the paper. levels, mixtures: as `heads.make_head` takes them.
    """

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
        config = dict(
            model="nade", event_shape=list(event_shape), hidden=hidden, head=head, levels=levels, mixtures=mixtures
        )
        super().__init__(event_shape, NADENet(number_of_sites(event_shape), hidden, made), made, config)


class NADENet(nn.Module):
    """(N, D) -> (N, D, P). The likelihood takes the hidden sums of all sites at once, O(D H); a sample adds one site
    after another to them, O(H) a site."""

    def __init__(self, sites: int, hidden: int, head: Head) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(sites, hidden) / math.sqrt(sites))  # W
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))  # c
        self.out = nn.Parameter(torch.randn(sites, head.outputs, hidden) * 0.1 / math.sqrt(hidden))  # V
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))  # b

    def forward(self, x: Tensor) -> Tensor:
        outputs = [
            torch.einsum("nbh,bph->nbp", self.activation(sums, block), self.out[block])
            for block, sums in prefix_sums(x, self.weight, self.hidden_bias)
        ]
        return torch.cat(outputs, 1) + self.bias

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        sums = self.hidden_bias.expand(len(x), -1)
        for i in range(x.shape[1]):
            yield self.activation(sums[:, None], slice(i, i + 1))[:, 0] @ self.out[i].T + self.bias[i]
            sums = sums + x[:, i, None] * self.weight[i]

    def activation(self, sums: Tensor, block: slice) -> Tensor:
        """sums: (N, B, H) of the sites in `block`."""
        return torch.sigmoid(sums)


def prefix_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields (block, (N, B, H)): bias + sum_j<i x_j weight_j for every site i of block after block, in parallel.

    x: (N, D). weight: (D, H). bias: (H,). A block's first sum comes from the block before; within it the sums are
    matrix products with a strict lower triangle, which are faster than running sums and keep no (N, D, H) table.
    """
    n, d = x.shape
    before = torch.ones(BLOCK, BLOCK, device=x.device, dtype=x.dtype).tril(-1)
    start = bias.expand(n, -1)
    for first in range(0, d, BLOCK):
        block = slice(first, min(first + BLOCK, d))
        b = block.stop - first
        seen = x[:, None, block] * before[:b, :b]  # (N, B, B): row i holds the block's sites before i
        yield block, start[:, None] + (seen.reshape(n * b, b) @ weight[block]).unflatten(0, (n, b))
        start = start + x[:, block] @ weight[block]
