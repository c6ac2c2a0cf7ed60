"""FVSBN, the fully visible sigmoid belief network.

The oldest model of the family (Frey, Hinton & Dayan 1996) has no hidden units: each pixel is predicted from all pixels
before it by logistic regression. Its weights are a triangle of D (D - 1) / 2 numbers for D binary pixels, and it learns
nothing but which pairs of pixels go together.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .autoregressive import RowAutoregressive
from .heads import Head, make_head
from .sites import number_of_sites


class FVSBN(RowAutoregressive):
    """Predicts every site from all sites before it by logistic regression.

    p(x_i = 1 | x_<i) = sigmoid(b_i + sum_j<i W_ij x_j). Every parameter of another head is such a linear map, too.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        head: A key of `heads.HEADS`, "bernoulli" in the paper.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Frey, Hinton & Dayan 1996, "Does the wake-sleep algorithm produce good density estimators?", NIPS 8.
    """

    name = "fvsbn"

    def __init__(
        self, event_shape: tuple[int, ...], *, head: str = "bernoulli", levels: int = 256, mixtures: int = 5
    ) -> None:
        made = make_head(head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, FVSBNNet(number_of_sites(event_shape), made), made)


class FVSBNNet(nn.Module):
    """Maps events, (N, D), to the parameters of every site, (N, D, P), each linear in the sites before.

    Args:
        sites: Number D of sites.
        head: The head, which needs P parameters for each site.
    """

    mask: Tensor

    def __init__(self, sites: int, head: Head) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(sites, head.outputs, sites))  # of site, parameter, site before
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))
        self.register_buffer("mask", torch.ones(sites, sites).tril(-1)[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all sites."""
        weight = self.weight * self.mask
        return nn.functional.linear(x, weight.flatten(0, 1)).unflatten(1, self.bias.shape) + self.bias

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another."""
        for i in range(x.shape[1]):
            yield x[:, :i] @ self.weight[i, :, :i].T + self.bias[i]
