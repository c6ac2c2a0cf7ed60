"""Recurrent nets that generate sequences.

A recurrent net (Graves 2013; Karpathy 2015 for characters) reads a sequence one value after another and keeps a state
of fixed size, from which it predicts the next value. All that it knows of earlier values has to fit into that state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .heads import Head, make_head
from .sequences import SequenceModel, SiteEmbedding, at_least_one, levels_of

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RNN(SequenceModel):
    """Predicts every site from the state of a recurrent net that has read the sites before it.

    Args:
        event_shape: Shape of one event: (D,), and then events may have any length, or (C, H, W).
        cell: A key of `CELLS`: "rnn", "gru" or "lstm".
        hidden: Number of units of each layer, at least 1.
        layers: Number of layers, at least 1.
        dropout: Share of the units after each layer that training drops, from 0 to below 1.
        head: A key of `heads.HEADS`.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.
        vocabulary: The characters, all distinct, that the levels stand for; there are then as many levels.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Graves 2013, "Generating sequences with recurrent neural networks", arXiv:1308.0850; Karpathy 2015, "The
        unreasonable effectiveness of recurrent neural networks".
    """

    name = "rnn"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        cell: str = "lstm",
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
        head: str = "categorical",
        levels: int = 256,
        mixtures: int = 5,
        vocabulary: str | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ParameterError(f"cell must be one of {', '.join(CELLS)}, got {cell!r}")
        at_least_one(hidden=hidden, layers=layers)
        if not 0 <= dropout < 1:
            raise ParameterError(f"dropout must be at least 0 and below 1, got {dropout}")
        levels = levels_of(vocabulary, levels)
        made = make_head(head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, RNNNet(event_shape, cell, hidden, layers, dropout, made), made, vocabulary)


class RNNNet(nn.Module):
    """Maps events, (N, D), to the parameters of every site, (N, D, P).

    Args:
        event_shape: Shape of one event.
        cell: A key of `CELLS`.
        hidden: Number H of units of each layer.
        layers: Number of layers.
        dropout: Share of the units after each layer that training drops.
        head: The head, which needs P parameters for each site.
    """

    def __init__(
        self, event_shape: tuple[int, ...], cell: str, hidden: int, layers: int, dropout: float, head: Head
    ) -> None:
        super().__init__()
        self.embedding = SiteEmbedding(event_shape, hidden, head)
        self.cells = nn.ModuleList(CELLS[cell](hidden, hidden, batch_first=True) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, head.outputs)
        with torch.no_grad():
            if cell == "lstm":  # forget gates that start open let gradients far back
                for layer in self.cells:
                    layer.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1
            self.out.weight *= 0.1
            self.out.bias.copy_(head.initial_bias())

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all sites."""
        return self.read(self.embedding(x), [None] * len(self.cells))

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (N, P), of one site after another."""
        states: list[object] = [None] * len(self.cells)
        for i in range(x.shape[1]):
            yield self.read(self.embedding.at(x, i), states)[:, 0]

    def read(self, h: Tensor, states: list[object]) -> Tensor:
        """Reads the next T sites.

        Args:
            h: (N, T, H), their embeddings.
            states: The state of each layer after the sites before, None at the start. The states after these sites
                replace them.

        Returns:
            (N, T, P).
        """
        for k, layer in enumerate(self.cells):
            h, states[k] = layer(h, states[k])
            h = self.dropout(h)
        return self.out(h)

    def train(self, mode: bool = True) -> Self:
        """Sets the mode of all but the recurrent layers."""
        super().train(mode)
        self.cells.train()  # it is the same to a single layer, but cuDNN takes gradients in this mode only
        return self
