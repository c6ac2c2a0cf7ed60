"""RNADE, the real-valued NADE (Uria, Murray & Larochelle 2013, arXiv:1306.0186)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Head, RowAutoregressive, number_of_sites
from .heads import make_head
from .nade import NADENet


class RNADE(RowAutoregressive):
    """NADE for real numbers: conditionals are mixtures of normal or of Laplace distributions, densities and no masses.

    event_shape: of one event, (D,) or (C, H, W). hidden: number H of hidden units. head: "normals" or "laplacians"
    (or any other key of `heads.HEADS`). mixtures: components of every conditional. levels: as for `heads.make_head`.
    """

    default_head = "normals"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        hidden: int = 50,
        head: str = "normals",
        levels: int = 256,
        mixtures: int = 10,
    ) -> None:
        if hidden < 1:
            raise ParameterError(f"hidden must be at least 1, got {hidden}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(
            model="rnade", event_shape=list(event_shape), hidden=hidden, head=head, levels=levels, mixtures=mixtures
        )
        super().__init__(event_shape, RNADENet(number_of_sites(event_shape), hidden, made), made, config)


class RNADENet(NADENet):
    """NADE's net with hidden units relu(rho_i a_i): the learnt rho_i keeps them from growing with the number of sites
    that a_i sums over (section 3 of the paper)."""

    def __init__(self, sites: int, hidden: int, head: Head) -> None:
        super().__init__(sites, hidden, head)
        self.rho = nn.Parameter(1 / torch.arange(1, sites + 1).sqrt())
        nn.init.normal_(self.weight, std=0.5)
        nn.init.normal_(self.hidden_bias, std=0.5)
        nn.init.normal_(self.out, std=1 / math.sqrt(hidden))

    def activation(self, sums: Tensor, block: slice) -> Tensor:
        return torch.relu(self.rho[block, None] * sums)
