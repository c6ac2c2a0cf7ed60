"""PixelRNN: the Row LSTM and the Diagonal BiLSTM.

PixelRNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016) reads an image with LSTMs that run over whole rows or diagonals
at once. A Row LSTM goes down row by row, and sees a triangle above each pixel. A Diagonal BiLSTM goes along the
diagonals, from both upper corners, and sees every earlier pixel. Both reach further than convolutions and are slower to
train.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .autoregressive import Autoregressive
from .distributions import SiteDistribution, at_least_float32
from .heads import Head, make_head
from .layers import CONSTANT_GROUP, ChannelOutputs, MaskedConv2d, channel_groups, channels_of, with_constant

CONV_REACH = 3  # rows above a pixel, and columns on either side, that the first convolution sees


class PixelRNN(Autoregressive):
    """The base of both models, which differ only in the kind of LSTM layer.

    The channels of a pixel are modelled one by one, each by a group of features of its own: R, then G given R, then B
    given both.

    Args:
        event_shape: Shape of one image, (C, H, W), any C.
        filters: Number h of features of an LSTM's state, a multiple of C; the stream that the layers add to has 2h.
        layers: Number of LSTM layers, at least 1.
        head: A key of `heads.HEADS`.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks", arXiv:1601.06759.
    """

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
        super().__init__(event_shape, PixelRNNNet(channels, made, filters, layers, self.layer), made)

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        _, channels, height, width = x.shape
        above = None
        for row in range(height):
            band = x[:, :, max(row - CONV_REACH, 0) : row + 1]
            for column, channel in itertools.product(range(width), range(channels)):
                parameters = self.net.rows(band, 1, above)[0][:, channel, 0, column]
                yield self.head(at_least_float32(parameters), x[:, channel, row, column])
            above = self.net.rows(band, 1, above)[1]  # now that the row is complete


class PixelRNNNet(nn.Module):
    """Maps images, (N, C, H, W), to the parameters of every sub-pixel, (N, C, H, W, P).

    It has a 7 x 7 convolution, which hides every pixel from itself, LSTM layers with a shortcut around each (figure 5,
    right), and three convolutions of 1 x 1.

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each sub-pixel.
        filters: Number h of features of an LSTM's state.
        layers: Number of LSTM layers.
        layer: The kind of LSTM layer.
    """

    def __init__(self, channels: int, head: Head, filters: int, layers: int, layer: type[LSTMLayer]) -> None:
        super().__init__()
        self.on_grid = head.levels not in (None, 2)
        self.beyond = layer.beyond
        groups = channel_groups(2 * filters, channels)
        # 7 x 7, of which the lower three rows are masked whole
        kernel = (CONV_REACH + 1, 2 * CONV_REACH + 1)
        self.first = MaskedConv2d([*range(channels), CONSTANT_GROUP], groups, kernel, strict=True)
        self.layers = nn.ModuleList(layer(channels, filters) for _ in range(layers))
        self.last = MaskedConv2d(groups, groups, (1, 1))
        self.outputs = ChannelOutputs(2 * filters, channels, head)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all sites."""
        return self.rows(x, x.shape[2])[0]

    def rows(self, x: Tensor, count: int, above: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Computes the parameters of some rows.

        Args:
            x: (N, C, R, W): the last `count` rows, and up to CONV_REACH rows above them.
            count: Number of rows.
            above: The memories of the layers after the rows above; None if there are none.

        Returns:
            (N, C, count, W, P), and the memories of the layers after these rows.
        """
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
    """A layer that adds the output of an LSTM to its input.

    Layouts inside are (directions, N, H, W, features).

    Args:
        channels: C.
        filters: h.

    Attributes:
        directions: The number of directions in which the LSTM runs.
        taps: The number of earlier states that a state sees.
        kernel: The width of the convolution of the inputs.
        beyond: The columns of padding that the layer needs at the right edge of the map.
    """

    directions: int
    taps: int
    kernel: int
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
        """Runs the layer.

        Args:
            x: (N, 2h, H, W).
            above: (2, N, W, h), the memory of the row above; None means zeros.

        Returns:
            (N, 2h, H, W), and the memory of the last row.
        """
        n, f, _, w = x.shape
        gates = self.input_to_state(x).movedim(1, -1).unflatten(-1, (self.directions, -1)).movedim(-2, 0)
        if above is None:
            above = gates.new_zeros(2, n, w, f // 2)
        hidden, memory = self.scan(gates, above)
        return x + self.up(hidden.movedim(-1, 1)), memory

    @abstractmethod
    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the LSTM.

        Args:
            gates: (directions, N, H, W, 4h), the contributions of the inputs to the gates.
            above: The memory of the row above.

        Returns:
            The hidden states, (N, H, W, h), and the memory of the last row.
        """

    def step(self, gates: Tensor, seen: list[Tensor], cell: Tensor) -> tuple[Tensor, Tensor]:
        """Makes one step of the LSTM (equation 3; gates in the order o, f, i, g).

        Args:
            gates: (directions, N, places, 4h).
            seen: `taps` hidden states, (directions, N, places, h).
            cell: A cell state, (directions, N, places, h).

        Returns:
            The next hidden state and the next cell state.
        """
        from_states = torch.bmm(torch.cat(seen, -1).flatten(1, 2), self.state_to_state)
        h = cell.shape[-1]
        # split, not slices: the gradient of each slice would first be filled up with zeros
        three, g = (gates + from_states.view(gates.shape)).split([3 * h, h], -1)
        o, f, i = three.sigmoid().chunk(3, -1)
        cell = f * cell + i * g.tanh()
        return o * cell.tanh(), cell


class RowLSTMLayer(LSTMLayer):
    """An LSTM layer that runs row after row, in which a state sees the three states above it.

    Its memory is the hidden and the cell state of a row.
    """

    directions = 1
    taps = 3
    kernel = 3

    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the LSTM; see `LSTMLayer.scan`."""
        hidden, cell = above[:1], above[1:]
        rows = []
        for row in gates.unbind(2):
            padded = F.pad(hidden, (0, 0, 1, 1))
            hidden, cell = self.step(row, [padded[:, :, :-2], hidden, padded[:, :, 2:]], cell)
            rows.append(hidden)
        return torch.stack(rows, 2)[0], torch.cat([hidden, cell])


class DiagonalBiLSTMLayer(LSTMLayer):
    """An LSTM layer that runs diagonal after diagonal, for the map and for its mirror image at once.

    A state sees the state above it and the state behind it. Its memory is the hidden states of a row, in both
    directions. In the mirror image "behind" is to the right, where later pixels are, so a pixel takes the mirrored
    state of the pixel above it. The mirrored states start one column beyond the right edge, where the inputs see the
    last pixel of a row. Without that column (as in the paper) a pixel would not see the last pixel of the row above.
    """

    directions = 2
    taps = 2
    kernel = 1
    beyond = 1

    def scan(self, gates: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the LSTM; see `LSTMLayer.scan`."""
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
    """Reads an image row by row: the state of a pixel depends on the states of the three pixels above it.

    It sees a triangle above the pixel, widened by the convolutions, but nothing outside, such as pixels further to the
    left in the same row than the convolutions reach. Its arguments are those of `PixelRNN`.

    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759, section 3.1.
    """

    name = "row_lstm"
    full_context = False
    layer = RowLSTMLayer


class DiagonalBiLSTM(PixelRNN):
    """Reads an image along its diagonals, from both upper corners: every pixel sees all pixels before it.

    Its arguments are those of `PixelRNN`.

    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759, section 3.2.
    """

    name = "diagonal_bilstm"
    layer = DiagonalBiLSTMLayer


def skew(x: Tensor) -> Tensor:
    """Moves each row one place further to the right than the row above it: diagonals become columns.

    Args:
        x: (..., H, W, F).

    Returns:
        (..., H, W + H - 1, F), with zeros around the rows.
    """
    h, w = x.shape[-3:-1]
    return F.pad(x, (0, 0, 0, h)).flatten(-3, -2)[..., :-h, :].unflatten(-2, (h, w + h - 1))


def unskew(x: Tensor, width: int) -> Tensor:
    """Inverts `skew`.

    Args:
        x: (..., H, W + H - 1, F).
        width: W.

    Returns:
        (..., H, W, F).
    """
    h = x.shape[-3]
    return F.pad(x.flatten(-3, -2), (0, 0, 0, h)).unflatten(-2, (h, width + h))[..., :width, :]
