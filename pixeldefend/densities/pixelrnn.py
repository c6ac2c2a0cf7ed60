"""Row LSTM and Diagonal BiLSTM (van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel Recurrent Neural Networks",
arXiv:1601.06759)."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .base import Autoregressive, Head, SiteDistribution, at_least_float32
from .heads import make_head
from .layers import CONSTANT, ChannelOutputs, MaskedConv2d, channel_groups, channels_of, with_constant

REACH = 3  # rows above a pixel, and columns on either side, that the first convolution sees


class PixelRNN(Autoregressive):
    """What both models share: all but the kind of LSTM layer.

    event_shape: (C, H, W), any C: sub-pixels are modelled one by one, R, G given R, B given both, by as many groups of
    features. filters: number h of features of an LSTM's state; the stream that the layers add to has 2h. layers: LSTM
    layers. head: a key of `heads.HEADS`. levels, mixtures: as `heads.make_head` takes them.
    """

    name: str  # a key of `DENSITIES`
    layer: type[LSTMLayer]
    net: PixelRNNNet

    def __init__(
        self,
        event_shape: tuple[int, ...],
        *,
        filters: int = 16,
        layers: int = 1,
        head: str = "logistics",
        levels: int = 256,
        mixtures: int = 5,
    ) -> None:
        channels = channels_of(event_shape, filters)
        if layers < 1:
            raise ParameterError(f"layers must be at least 1, got {layers}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(
            model=self.name,
            event_shape=list(event_shape),
            filters=filters,
            layers=layers,
            head=head,
            levels=levels,
            mixtures=mixtures,
        )
        super().__init__(event_shape, PixelRNNNet(channels, made, filters, layers, self.layer), made, config)

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        _, channels, height, width = x.shape
        above = None
        for row in range(height):
            band = x[:, :, max(row - REACH, 0) : row + 1]
            for column, channel in itertools.product(range(width), range(channels)):
                parameters = self.net.rows(band, 1, above)[0][:, channel, 0, column]
                yield self.head(at_least_float32(parameters), x[:, channel, row, column])
            above = self.net.rows(band, 1, above)[1]  # now that the row is complete


class PixelRNNNet(nn.Module):
    """(N, C, H, W) -> (N, C, H, W, P), the parameters of `head` for every sub-pixel.

    A 7 x 7 convolution, which hides every pixel from itself, LSTM layers with a shortcut around each (figure 5, right),
    and three convolutions of 1 x 1.
    """

    def __init__(self, channels: int, head: Head, filters: int, layers: int, layer: type[LSTMLayer]) -> None:
        super().__init__()
        self.on_grid = head.levels not in (None, 2)
        self.beyond = layer.beyond
        groups = channel_groups(2 * filters, channels)
        # 7 x 7, of which the lower three rows are masked whole
        self.first = MaskedConv2d([*range(channels), CONSTANT], groups, (REACH + 1, 2 * REACH + 1), strict=True)
        self.layers = nn.ModuleList(layer(channels, filters) for _ in range(layers))
        self.last = MaskedConv2d(groups, groups, (1, 1))
        self.outputs = ChannelOutputs(2 * filters, channels, head)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x, x.shape[2])[0]

    def rows(self, x: Tensor, count: int, above: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """x: (N, C, R, W), `count` rows and up to REACH ones above them. above: what the layers remember of the rows
        above those `count`; None if there are none. Returns (N, C, count, W, P) and what they remember now."""
        w = x.shape[3]
        x = F.pad(with_constant(2 * x - 1 if self.on_grid else x), (0, self.beyond))
        x = x.to(memory_format=torch.channels_last)
        y = self.first(x)[:, :, -count:]
        memories = []
        for i, layer in enumerate(self.layers):
            y, memory = layer(y, None if above is None else above[i])
            memories.append(memory)
        return self.outputs(self.last(torch.relu(y[..., :w]))), memories


class LSTMLayer(nn.Module, ABC):
    """(N, 2h, H, W), memory of the row above -> (N, 2h, H, W), memory of the last row: the input plus an LSTM over it.

    Layouts inside are (directions, N, H, W, features). memory: (2, N, W, h); None means zeros.
    beyond: columns of padding that the layer wants at the right edge of the map.
    """

    directions: int
    taps: int  # states that a state sees
    kernel: int  # columns of the convolution of the inputs
    beyond = 0

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        f, d = filters, self.directions
        narrow, wide = channel_groups(f, channels), channel_groups(2 * f, channels)
        self.input_to_state = MaskedConv2d(wide, narrow * (4 * d), (1, self.kernel))
        # no mask: the states seen are of earlier pixels; no bias: the empty corners of a skewed map must stay zero
        self.state_to_state = nn.Parameter(torch.empty(d, self.taps * f, 4 * f))
        self.up = MaskedConv2d(narrow, wide, (1, 1))
        bound = 1 / math.sqrt(self.taps * f)
        nn.init.uniform_(self.state_to_state, -bound, bound)
        bias = torch.zeros(d, 4, f)
        bias[:, 1] = 1  # cells remember at first; a Row LSTM starts to learn sooner so
        self.input_to_state.bias = nn.Parameter(bias.flatten())

    def forward(self, x: Tensor, above: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n, f, _, w = x.shape
        gates = self.input_to_state(x).movedim(1, -1).unflatten(-1, (self.directions, -1)).movedim(-2, 0)
        if above is None:
            above = gates.new_zeros(2, n, w, f // 2)
        hidden, memory = self.scan(gates, above)
        return x + self.up(hidden.movedim(-1, 1)), memory

    @abstractmethod
    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """gates: (directions, N, H, W, 4h), what the inputs add to them. Returns the hidden states (N, H, W, h) and the
        memory of the last row."""

    def step(self, gates: Tensor, seen: list[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
        """gates: (directions, N, places, 4h). seen: `taps` hidden states and cell: a cell state, (directions, N,
        places, h). Returns the next hidden and cell state (equation 3; gates in the order o, f, i, g)."""
        from_states = torch.bmm(torch.cat(seen, -1).flatten(1, 2), self.state_to_state)
        h = cell.shape[-1]
        # split, not slices: the gradient of each slice would first be filled up with zeros
        three, g = (gates + from_states.view(gates.shape)).split([3 * h, h], -1)
        o, f, i = three.sigmoid().chunk(3, -1)
        cell = f * cell + i * g.tanh()
        return o * cell.tanh(), cell


class RowLSTMLayer(LSTMLayer):
    """Row after row; a state sees the three states above it. Its memory: the hidden and the cell state of a row."""

    directions = 1
    taps = 3
    kernel = 3

    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = above[:1], above[1:]
        rows = []
        for row in gates.unbind(2):
            padded = F.pad(hidden, (0, 0, 1, 1))
            hidden, cell = self.step(row, [padded[:, :, :-2], hidden, padded[:, :, 2:]], cell)
            rows.append(hidden)
        return torch.stack(rows, 2)[0], torch.cat([hidden, cell])


class DiagonalBiLSTMLayer(LSTMLayer):
    """Diagonal after diagonal, for the map and for its mirror image at once; a state sees the one above it and the one
    behind it. Its memory: the hidden states of a row, in both directions.

    In the mirror image "behind" is to the right: the future. A pixel therefore takes the mirrored state of the pixel
    above it. One column beyond the right edge, whose inputs see a row's last pixel, is where the mirrored states start:
    without it (as in the paper) a pixel would see all of the row above but its end, which is hidden from itself.
    """

    directions = 2
    taps = 2
    kernel = 1
    beyond = 1

    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        h, w = gates.shape[2:4]
        gates = skew(torch.stack([gates[0], gates[1].flip(2)]))  # (2, N, H, W + H - 1, 4h)
        hidden = cell = gates.new_zeros(*gates.shape[:3], above.shape[-1])
        diagonals = []
        edge = F.pad(above, (0, 0, 0, h - 1)).unsqueeze(2).unbind(3)  # the row above the first one
        for diagonal, first in zip(gates.unbind(3), edge, strict=True):
            hidden, cell = self.step(diagonal, [torch.cat([first, hidden[:, :, :-1]], 2), hidden], cell)
            diagonals.append(hidden)
        states = unskew(torch.stack(diagonals, 3), w)
        mirrored = torch.cat([above[1].unsqueeze(1), states[1, :, :-1]], 1).flip(2)
        return states[0] + mirrored, states[:, :, -1]


class RowLSTM(PixelRNN):
    """Reads an image row by row, each pixel from the states of the three pixels above it.

    So it sees a triangle above the pixel, widened by the convolutions, but not what lies outside it, such as pixels of
    the same row that are further to the left than the convolutions reach. Arguments: as of `PixelRNN`.
    """

    name = "row_lstm"
    layer = RowLSTMLayer


class DiagonalBiLSTM(PixelRNN):
    """Reads an image along its diagonals, from both upper corners: every pixel sees all before it. Arguments: as of
    `PixelRNN`."""

    name = "diagonal_bilstm"
    layer = DiagonalBiLSTMLayer


def skew(x: Tensor) -> Tensor:
    """(..., H, W, F) -> (..., H, W + H - 1, F): each row one place further to the right than the row above it, so that
    diagonals become columns; zeros around them."""
    h, w = x.shape[-3:-1]
    return F.pad(x, (0, 0, 0, h)).flatten(-3, -2)[..., :-h, :].unflatten(-2, (h, w + h - 1))


def unskew(x: Tensor, width: int) -> Tensor:
    """(..., H, W + H - 1, F) -> (..., H, W, F): the inverse of `skew`."""
    h = x.shape[-3]
    return F.pad(x.flatten(-3, -2), (0, 0, 0, h)).unflatten(-2, (h, width + h))[..., :width, :]
