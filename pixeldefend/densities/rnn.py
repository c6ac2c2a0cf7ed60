"""Recurrent nets that generate sequences (Graves 2013, arXiv:1308.0850; of characters, Karpathy 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Head
from .heads import make_head
from .sequences import SequenceModel, SiteEmbedding, at_least_one, levels_of

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class RNN(SequenceModel):
    """p(x_i | x_<i) from the state of a recurrent net that has read the sites before, one after another.

    event_shape: of one event, (D,), which is then any length, or (C, H, W), read in raster order, channel by channel
    within a pixel. cell: a key of `CELLS`. hidden: units of each of the `layers`. dropout: share of the units after
    each layer that training drops. head: a key of `heads.HEADS`. levels, mixtures: as `heads.make_head` takes them.
    vocabulary: the characters, all distinct, that the levels stand for: there are then as many levels.
    """

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
        config = dict(
            model="rnn",
            event_shape=list(event_shape),
            cell=cell,
            hidden=hidden,
            layers=layers,
            dropout=dropout,
            head=head,
            levels=levels,
            mixtures=mixtures,
            vocabulary=vocabulary,
        )
        super().__init__(
            event_shape, RNNNet(event_shape, cell, hidden, layers, dropout, made), made, config, vocabulary
        )


class RNNNet(nn.Module):
    """(N, D) -> (N, D, P)."""

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
        return self.read(self.embedding(x), [None] * len(self.cells))

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        states: list[object] = [None] * len(self.cells)
        for i in range(x.shape[1]):
            yield self.read(self.embedding.at(x, i), states)[:, 0]

    def read(self, h: Tensor, states: list[object]) -> Tensor:
        """h: (N, T, H), the next sites. states: of each layer, after the sites before (None: there are none); replaced
        by those after these. Returns (N, T, P)."""
        for k, layer in enumerate(self.cells):
            h, states[k] = layer(h, states[k])
            h = self.dropout(h)
        return self.out(h)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.cells.train()  # the same to a single layer, but cuDNN takes gradients in this mode only
        return self
