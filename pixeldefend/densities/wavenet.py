"""WaveNet, a convolutional model of sequences, made for audio.

WaveNet (van den Oord et al. 2016) predicts the next value from causal convolutions whose inputs lie 1, 2, 4, 8 ...
sites apart, so a few layers see many sites: the receptive field doubles with every layer. All sites are computed in
parallel in training. Sampling keeps earlier inputs of every layer in a queue (Fast WaveNet, Le Paine et al. 2016).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import Head, make_head
from .sequences import SequenceModel, SiteEmbedding, at_least_one, levels_of


class WaveNet(SequenceModel):
    """Predicts every site by causal convolutions over pairs of sites that lie 1, 2, 4 up to 2^(depth - 1) sites apart.

    Args:
        event_shape: Shape of one event: (D,), and then events may have any length, or (C, H, W).
        residual: Number of channels of the convolutions, at least 1.
        skip: Number of channels that the output is made from, at least 1.
        depth: Number of dilations, at least 1.
        stacks: How often the dilations are repeated, at least 1.
        head: A key of `heads.HEADS`.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.
        vocabulary: The characters, all distinct, that the levels stand for; there are then as many levels.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        van den Oord et al. 2016, "WaveNet: a generative model for raw audio", arXiv:1609.03499; Le Paine et al. 2016,
        "Fast Wavenet generation algorithm", arXiv:1611.09482.
    """

    name = "wavenet"
    full_context = False
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
        dilations = [2**i for i in range(depth)] * stacks
        super().__init__(event_shape, WaveNetNet(event_shape, residual, skip, dilations, made), made, vocabulary)

    @property
    def receptive_field(self) -> int:
        """The number of sites just before a site that its conditional depends on."""
        return 1 + sum(self.net.dilations)


class WaveNetNet(nn.Module):
    """Maps events, (N, D), to the parameters of every site, (N, D, P).

    The likelihood convolves all sites at once. Sampling takes earlier inputs of each layer from a queue, in O(layers)
    for each site.

    Args:
        event_shape: Shape of one event.
        residual: Number R of channels of the convolutions.
        skip: Number of channels that the output is made from.
        dilations: How many sites apart the two inputs of each layer's convolution are.
        head: The head, which needs P parameters for each site.
    """

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
        """Computes the parameters of all sites."""

        def delay(h: Tensor, layer: int) -> Tensor:
            return F.pad(h, (0, 0, self.dilations[layer], 0))[:, : h.shape[1]]

        return self.convolve(self.embedding(x), delay)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another."""
        before = torch.zeros_like(self.embedding.at(x, 0))
        queues = [deque([before] * dilation, dilation) for dilation in self.dilations]

        def delay(h: Tensor, layer: int) -> Tensor:
            delayed = queues[layer][0]
            queues[layer].append(h)  # pushes the first one out
            return delayed

        for i in range(x.shape[1]):
            yield self.convolve(self.embedding.at(x, i), delay)[:, 0]

    def convolve(self, h: Tensor, delay: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Runs all layers on T sites.

        Args:
            h: (N, T, R), the embeddings of the sites.
            delay: A function of a layer's input, (N, T, R), and the layer's index. It returns the input of that layer
                `dilations[layer]` sites earlier, zeros before the first site.

        Returns:
            (N, T, P).
        """
        outputs: list[Tensor] = []
        for layer, gate in enumerate(self.gates):
            if layer:
                h = h + self.residuals[layer - 1](outputs[-1])
            signal, opening = gate(torch.cat([delay(h, layer), h], -1)).chunk(2, -1)
            outputs.append(torch.tanh(signal) * torch.sigmoid(opening))  # eq. 2
        skips = torch.relu(self.skip(torch.cat(outputs, -1)))
        return self.out(torch.relu(self.hidden(skips)))
