"""RNADE, the real-valued NADE.

RNADE (Uria, Murray & Larochelle 2013) is NADE for data that are real numbers: each conditional is a mixture of normal
or of Laplace distributions, whose weights, locations and scales come from the shared hidden units. Its p(x) is a
density and not a probability.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .autoregressive import RowAutoregressive
from .heads import Head, make_head
from .nade import NADENet
from .sites import number_of_sites


class RNADE(RowAutoregressive):
    """Predicts every site, a real number, by a mixture; its parameters come from the hidden units of a NADE.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        hidden: Number H of hidden units, at least 1.
        head: A key of `heads.HEADS`, "normals" or "laplacians" in the paper.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Uria, Murray & Larochelle 2013, "RNADE: the real-valued neural autoregressive density-estimator",
        arXiv:1306.0186.
    """

    name = "rnade"
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
        super().__init__(event_shape, RNADENet(number_of_sites(event_shape), hidden, made), made)


class RNADENet(NADENet):
    """NADE's net with hidden units relu(rho_i a_i).

    The learned rho_i keeps them from growing with the number of sites that a_i sums over (section 3 of the paper).

    Args:
        sites: Number D of sites.
        hidden: Number H of hidden units.
        head: The head, which needs P parameters for each site.
    """

    def __init__(self, sites: int, hidden: int, head: Head) -> None:
        super().__init__(sites, hidden, head)
        self.rho = nn.Parameter(1 / torch.arange(1, sites + 1).sqrt())
        nn.init.normal_(self.weight, std=0.5)
        nn.init.normal_(self.hidden_bias, std=0.5)
        nn.init.normal_(self.out, std=1 / math.sqrt(hidden))

    def activation(self, sums: Tensor, block: slice) -> Tensor:
        """Applies the non-linearity to sums, (N, B, H), of the B sites in `block`."""
        return torch.relu(self.rho[block, None] * sums)
