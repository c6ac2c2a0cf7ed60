"""MADE, the masked autoencoder for distribution estimation.

MADE (Germain, Gregor, Murray & Larochelle 2015) turns an ordinary autoencoder into a density by cutting connections:
every unit has a degree, which says how many inputs it may see, and masks on the weights make output i depend only on
inputs before i. One pass then gives all conditionals. Several sets of masks, and several orders of the inputs, can be
trained with the same weights and averaged (`OrderEnsemble`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .ensemble import Reorderable, random_order
from .heads import Head, make_head
from .sites import number_of_sites


class MADE(Reorderable):
    """Predicts every site by an autoencoder with masked weights, whose output i depends only on inputs before i.

    The degree of an input is its place in the order, 1 ... D; the degree of a hidden unit says how many inputs it may
    see. A connection into a hidden unit is kept if the degree does not decrease along it, a connection into an output
    if it increases.

    Args:
        event_shape: Shape of one event, (D,) or (C, H, W).
        hidden: Number of units of each hidden layer, one or more, all at least 1.
        masks: Number of sets of degrees that are trained, at least 1. Training draws one for each batch.
        order_agnostic: Whether the sets 1, 2 ... also order the inputs at random.
        direct: Whether the outputs also see the inputs directly.
        head: A key of `heads.HEADS`, "bernoulli" in the paper.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.
        ordering: Which set of degrees this density has, from 0 to masks - 1; set 0 is in raster order.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Germain, Gregor, Murray & Larochelle 2015, "MADE: masked autoencoder for distribution estimation",
        arXiv:1502.03509.
    """

    name = "made"
    net: MADENet

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        hidden: Sequence[int] = (500,),
        masks: int = 1,
        order_agnostic: bool = False,
        direct: bool = False,
        head: str = "bernoulli",
        levels: int = 256,
        mixtures: int = 5,
        ordering: int = 0,
    ) -> None:
        if not hidden or min(hidden) < 1:
            raise ParameterError(f"hidden must be one or more numbers of units, all at least 1, got {list(hidden)}")
        if masks < 1:
            raise ParameterError(f"masks must be at least 1, got {masks}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        net = MADENet(number_of_sites(event_shape), tuple(hidden), direct, made)
        super().__init__(event_shape, net, made, ordering, trained_orderings=masks)
        self.masks = masks
        self.order_agnostic = order_agnostic

    def objective(self, x: Tensor) -> Tensor:
        """Computes -log p(x), (N,) nats, under one of the sets of degrees, drawn at random."""
        density = self if self.masks == 1 else self.reordered(int(torch.randint(self.masks, (), device="cpu")))
        return super(MADE, density).objective(x)

    def order(self) -> Tensor:
        """Returns (D,): the sites in the order in which they are modelled."""
        d = math.prod(self.shape_of())
        return random_order(d, self.ordering if self.order_agnostic else 0).to(self.device)

    def arrangement(self) -> list[Tensor]:
        """Returns the degrees of every layer, inputs first: (D,), (H_1,), (H_2,) ..."""
        order = self.order()
        degrees = [order.argsort() + 1]
        generator = torch.Generator().manual_seed(self.ordering)
        for layer in self.net.hidden:
            # a unit that sees fewer inputs than all units below it would be disconnected
            least, most = min(int(degrees[-1].min()), len(order) - 1), max(1, len(order) - 1)
            degrees.append(
                torch.randint(least, most + 1, (layer.out_features,), generator=generator, device="cpu").to(order)
            )
        return degrees


class MADENet(nn.Module):
    """Maps events, (N, D), to the parameters of every site, (N, D, P), by masks made from the degrees of every layer.

    Args:
        sites: Number D of sites.
        hidden: Number of units in each hidden layer.
        direct: Whether the outputs are also connected to the inputs directly.
        head: The head, which needs P parameters for each site.
    """

    hidden: Sequence[nn.Linear]

    def __init__(self, sites: int, hidden: tuple[int, ...], direct: bool, head: Head) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(a, b) for a, b in pairwise((sites, *hidden))
        )
        self.out = nn.Parameter(torch.randn(sites, head.outputs, hidden[-1]) * 0.1 / math.sqrt(hidden[-1]))
        self.direct = nn.Parameter(torch.zeros(sites, head.outputs, sites)) if direct else None
        self.bias = nn.Parameter(head.initial_bias().repeat(sites, 1))
        for layer in self.hidden:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, degrees: list[Tensor]) -> Tensor:
        """Computes the parameters of all sites."""
        hidden = x
        for layer, (below, above) in zip(self.hidden, pairwise(degrees), strict=True):
            hidden = torch.relu(F.linear(hidden, layer.weight * (above[:, None] >= below), layer.bias))
        place = degrees[0][:, None, None]
        weight = self.out * (place > degrees[-1])  # strictly: output i must not see input i
        outputs = F.linear(hidden, weight.flatten(0, 1))
        if self.direct is not None:
            outputs = outputs + F.linear(x, (self.direct * (place > degrees[0])).flatten(0, 1))
        return outputs.unflatten(1, self.bias.shape) + self.bias

    def steps(self, x: Tensor, degrees: list[Tensor]) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another.

        It computes each hidden unit once, as soon as all inputs that the unit may see are there.
        """
        layers = [x, *(x.new_zeros(len(x), layer.out_features) for layer in self.hidden)]
        masked = [
            layer.weight * (above[:, None] >= below)
            for layer, (below, above) in zip(self.hidden, pairwise(degrees), strict=True)
        ]
        for place, site in enumerate(degrees[0].argsort()):
            for i, layer in enumerate(self.hidden):
                ready = (degrees[i + 1] == place).nonzero()[:, 0]
                layers[i + 1][:, ready] = torch.relu(F.linear(layers[i], masked[i][ready], layer.bias[ready]))
            outputs = layers[-1] @ (self.out[site] * (degrees[-1] <= place)).T + self.bias[site]
            if self.direct is not None:
                outputs = outputs + x @ (self.direct[site] * (degrees[0] <= place)).T
            yield outputs
