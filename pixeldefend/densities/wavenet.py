"""WaveNet (van den Oord et al. 2016, arXiv:1609.03499), sampled as in Fast WaveNet (Le Paine et al. 2016,
arXiv:1611.09482)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head
from .heads import make_head
from .sequences import SequenceModel, SiteEmbedding, at_least_one, levels_of


class WaveNet(SequenceModel):
    """p(x_i | x_<i) from causal convolutions over two sites each, 1, 2, 4 ... 2^(depth - 1) sites apart.

    event_shape: of one event, (D,), which is then any length, or (C, H, W), read in raster order, channel by channel
    within a pixel. residual: channels of the convolutions. skip: channels that the output is made from. stacks: how
    often the `depth` dilations are repeated. head: a key of `heads.HEADS`. levels, mixtures: as `heads.make_head` takes
    them. vocabulary: the characters, all distinct, that the levels stand for: there are then as many levels.
    """

    net: WaveNetNet

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        residual: int = 32,
        skip: int = 64,
        depth: int = 8,
        stacks: int = 2,
        head: str = "categorical",
        levels: int = 256,
        mixtures: int = 5,
        vocabulary: str | None = None,
    ) -> None:
        at_least_one(residual=residual, skip=skip, depth=depth, stacks=stacks)
        levels = levels_of(vocabulary, levels)
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(
            model="wavenet",
            event_shape=list(event_shape),
            residual=residual,
            skip=skip,
            depth=depth,
            stacks=stacks,
            head=head,
            levels=levels,
            mixtures=mixtures,
            vocabulary=vocabulary,
        )
        dilations = [2**i for i in range(depth)] * stacks
        super().__init__(
            event_shape, WaveNetNet(event_shape, residual, skip, dilations, made), made, config, vocabulary
        )

    @property
    def receptive_field(self) -> int:
        """How many of the sites just before it a site depends on."""
        return 1 + sum(self.net.dilations)


class WaveNetNet(nn.Module):
    """(N, D) -> (N, D, P). The likelihood convolves all sites at once; a sample takes of each layer what a queue has
    kept of it, O(layers) a site."""

    def __init__(
        self, event_shape: tuple[int, ...], residual: int, skip: int, dilations: list[int], head: Head
    ) -> None:
        super().__init__()
        self.dilations = dilations
        self.embedding = SiteEmbedding(event_shape, residual, head)
        # a convolution over two sites is a linear map of both
        self.gates = nn.ModuleList(nn.Linear(2 * residual, 2 * residual) for _ in dilations)
        self.residuals = nn.ModuleList(nn.Linear(residual, residual) for _ in dilations[1:])  # into all but the first
        self.skip = nn.Linear(len(dilations) * residual, skip)  # the sum of every layer's skip connection, as one map
        self.hidden = nn.Linear(skip, skip)
        self.out = nn.Linear(skip, head.outputs)
        with torch.no_grad():
            self.out.weight *= 0.1
            self.out.bias.copy_(head.initial_bias())

    def forward(self, x: Tensor) -> Tensor:
        def delay(h: Tensor, layer: int) -> Tensor:
            return F.pad(h, (0, 0, self.dilations[layer], 0))[:, : h.shape[1]]

        return self.convolve(self.embedding(x), delay)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        before = torch.zeros_like(self.embedding.at(x, 0))
        queues = [deque([before] * dilation, dilation) for dilation in self.dilations]

        def delay(h: Tensor, layer: int) -> Tensor:
            delayed = queues[layer][0]
            queues[layer].append(h)  # pushes the first one out
            return delayed

        for i in range(x.shape[1]):
            yield self.convolve(self.embedding.at(x, i), delay)[:, 0]

    def convolve(self, h: Tensor, delay: Callable[[Tensor, int], Tensor]) -> Tensor:
        """h: (N, T, R). delay: given what enters a layer, (N, T, R), and which layer it is, returns what entered it
        `dilations[layer]` sites earlier, zeros before the first site. Returns (N, T, P)."""
        outputs: list[Tensor] = []
        for layer, gate in enumerate(self.gates):
            if layer:
                h = h + self.residuals[layer - 1](outputs[-1])
            signal, opening = gate(torch.cat([delay(h, layer), h], -1)).chunk(2, -1)
            outputs.append(torch.tanh(signal) * torch.sigmoid(opening))  # eq. 2
        skips = torch.relu(self.skip(torch.cat(outputs, -1)))
        return self.out(torch.relu(self.hidden(skips)))
