"""FVSBN, the fully visible sigmoid belief network (Frey, Hinton & Dayan 1996)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .base import Head, RowAutoregressive, number_of_sites
from .heads import make_head


class FVSBN(RowAutoregressive):
    """Logistic regression of every site on all sites before it: p(x_i = 1 | x_<i) = sigmoid(b_i + sum_j<i W_ij x_j).

    event_shape: of one event, (D,) or (C, H, W). head: a key of `heads.HEADS`, "bernoulli" in the paper; other heads
    get each of their parameters by the same linear map. levels, mixtures: as `heads.make_head` takes them.
    """

    def __init__(
        self, event_shape: tuple[int, ...], *, head: str = "bernoulli", levels: int = 256, mixtures: int = 5
    ) -> None:
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(model="fvsbn", event_shape=list(event_shape), head=head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, FVSBNNet(number_of_sites(event_shape), made), made, config)


class FVSBNNet(nn.Module):
    """(N, D) -> (N, D, P), linear in the sites before."""

    mask: Tensor

    def __init__(self, sites: int, head: Head) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(sites, head.outputs, sites))  # of site, parameter, site before
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))
        self.register_buffer("mask", torch.ones(sites, sites).tril(-1)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.mask
        return nn.functional.linear(x, weight.flatten(0, 1)).unflatten(1, self.bias.shape) + self.bias

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        for i in range(x.shape[1]):
            yield x[:, :i] @ self.weight[i, :, :i].T + self.bias[i]
