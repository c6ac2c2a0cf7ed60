"""Layers whose outputs see only what comes before them in raster order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .base import Head


class ShiftedConv2d(nn.Conv2d):
    """A convolution that is causal by where it is padded, not by a mask: it never multiplies by zeros.

    Down-shifted (right=False): an output sees its own row and rows above it, at columns on both sides.
    Down-right-shifted (right=True): an output sees its own row and rows above it, its own column and columns to its
    left. shift: (rows, columns) that the output is moved down and right by, beyond that, so that it no longer sees its
    own row or column. (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)). PixelCNN++, section 2.4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        right: bool = False,
        stride: int = 1,
        shift: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        kh, kw = kernel_size
        left = kw - 1 if right else (kw - 1) // 2
        # F.pad counts left, right, top, bottom; a negative pad crops what the shift moves out of the image
        self.pads = (left + shift[1], kw - 1 - left - shift[1], kh - 1 + shift[0], -shift[0])

    # what stands in for it where rows are computed by themselves: see `RowStream`
    rows_above: Callable[[ShiftedConv2d, Tensor], Tensor] | None = None

    def kernel(self) -> Tensor:
        """Returns (C', C, kh, kw): the weight as it is applied."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.rows_above is not None:
            return self.rows_above(self, x)
        padded = F.pad(x, self.pads) if any(self.pads) else x  # F.pad copies even if there is nothing to pad
        return F.conv2d(padded, self.kernel(), self.bias, self.stride)


class ShiftedConvTranspose2d(nn.ConvTranspose2d):
    """Doubles the resolution; an output sees what `ShiftedConv2d` with stride 2 allows it to. The caller crops the
    result to the size that it came from. (N, C, H, W) -> (N, C', 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], *, right: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)
        self.left = 0 if right else (kernel_size[1] - 1) // 2

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        h, w = 2 * x.shape[2], 2 * x.shape[3]
        return super().forward(x)[:, :, :h, self.left : self.left + w]


CONSTANT = -1  # the group of a feature that knows nothing of the image, which all may see


class MaskedConv2d(ShiftedConv2d):
    """A convolution of features in groups, one group a channel of the image (PixelCNN, section 3.4: R, G|R, B|RG).

    All pixels that come before an output's own one are seen whole; of its own, group g sees groups up to g (mask B) or,
    strict, those before g only (mask A). The kernel ends at its own row: what lies below does not exist as a weight.
    inputs, outputs: the group of every feature. (N, C, H, W) -> (N, C', H, W).
    """

    mask: Tensor

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        kernel_size: tuple[int, int],
        *,
        right: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__(len(inputs), len(outputs), kernel_size, right=right)
        own = self.pads[0]  # the kernel's column that lies on the output's own pixel
        mask = torch.ones(self.weight.shape, dtype=torch.bool)
        mask[:, :, -1, own] = torch.tensor(inputs) <= torch.tensor(outputs)[:, None] - int(strict)
        mask[:, :, -1, own + 1 :] = False
        self.register_buffer("mask", mask, persistent=False)

    def kernel(self) -> Tensor:
        return self.weight * self.mask


class CachedConv2d:
    """A `ShiftedConv2d`, computed piece by piece in sampling: it keeps what it was shown of its input (zeros at first)
    and computes only what is asked for, as a matrix product: of so few pixels a convolution would mostly be overhead.
    n, h, w: of the input as a whole."""

    def __init__(self, conv: ShiftedConv2d, n: int, h: int, w: int) -> None:
        left, right, self.top, _ = conv.pads
        kernel = conv.kernel()
        self.left, self.stride, self.bias = left, conv.stride[0], conv.bias
        self.size = kernel.shape[2:]
        self.matrix = kernel.permute(2, 3, 1, 0).reshape(-1, conv.out_channels).contiguous()  # (kh kw C, C')
        self.seen = kernel.new_zeros(n, self.top + h, left + w + max(right, 0), conv.in_channels)

    def write(self, x: Tensor, row: int, column: int) -> None:
        """x: (N, C, 1, M), the input in one row, from `column` on."""
        start = self.left + column
        self.seen[:, row + self.top, start : start + x.shape[3]] = x[:, :, 0].transpose(1, 2)

    def output(self, row: int, column: int, columns: int) -> Tensor:
        """Returns (N, C', 1, columns): the output in one row, from `column` on."""
        kh, kw = self.size
        row, column, span = row * self.stride, column * self.stride, (columns - 1) * self.stride + kw
        window = self.seen[:, row : row + kh, column : column + span]
        if columns > 1:
            window = window.unfold(2, kw, self.stride).permute(0, 2, 1, 4, 3)  # (N, columns, kh, kw, C)
        out = window.reshape(-1, len(self.matrix)) @ self.matrix
        if self.bias is not None:
            out += self.bias
        return out.reshape(len(self.seen), columns, 1, -1).permute(0, 3, 2, 1)

    def __call__(self, x: Tensor, row: int, column: int) -> Tensor:
        """x: as `write` takes it. Returns (N, C', 1, M): the output in the same places, of a convolution of stride
        1."""
        self.write(x, row, column)
        return self.output(row, column, x.shape[3])


class PointwiseConv2d(nn.Conv2d):
    """A convolution of single pixels; of one pixel alone, as in sampling, a matrix product, which takes less time."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        return F.linear(x[:, :, 0, 0], self.weight[:, :, 0, 0], self.bias)[:, :, None, None]


class ChannelOutputs(nn.Module):
    """The parameters of every sub-pixel, from its own channel's group of features after two more layers.

    (N, F, H, W), with features in groups -> (N, C, H, W, P) for a head of one site.
    """

    def __init__(self, features: int, channels: int, head: Head) -> None:
        super().__init__()
        groups = channel_groups(features, channels)
        self.hidden = MaskedConv2d(groups, groups, (1, 1))
        self.last = MaskedConv2d(groups, channel_groups(channels * head.outputs, channels), (1, 1))
        self.channels = channels
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias = nn.Parameter(head.initial_bias().repeat(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.hidden(torch.relu(x))))
        return y.unflatten(1, (self.channels, -1)).movedim(2, -1)


def channels_of(event_shape: tuple[int, ...], filters: int) -> int:
    """Returns C. Raises ParameterError unless event_shape is (C, H, W) and filters can be split into C groups."""
    if len(event_shape) != 3 or min(event_shape) < 1:
        raise ParameterError(f"event_shape must be (C, H, W), all at least 1, got {tuple(event_shape)}")
    if filters < 1 or filters % event_shape[0]:
        fits = max(filters // event_shape[0], 1) * event_shape[0]
        raise ParameterError(
            f"filters must be a multiple of the {event_shape[0]} channels, got {filters}; {fits} is one"
        )
    return event_shape[0]


def channel_groups(features: int, channels: int) -> list[int]:
    """Returns the group of every feature: as many of the first channel as of the second, and so on."""
    return [feature * channels // features for feature in range(features)]


def with_constant(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C + 1, H, W): a plane of ones, which tells the image from its padding."""
    return F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
