"""Layers of image models, whose outputs see only earlier pixels in raster order.

An ordinary convolution sees pixels on all sides. Here a kernel is shifted by the way its input is padded (PixelCNN++),
or masked (PixelCNN), so that an output depends on earlier pixels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .heads import Head


class ShiftedConv2d(nn.Conv2d):
    """A convolution that is causal by its padding instead of a mask, and so never multiplies by masked weights.

    (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: Rows and columns of the kernel.
        right: If False (down-shifted), an output sees its own row and rows above it, at columns on both sides. If True
            (down-right-shifted), it sees its own column and columns to the left only.
        stride: 1 or 2.
        shift: Further rows and columns by which the output is moved down and right, so that it does not see its own row
            or column.

    Reference:
        Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517, section 2.4.
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

    # replaces the convolution when some rows are computed alone: see `sampling.RowStream`
    rows_above: Callable[[ShiftedConv2d, Tensor], Tensor] | None = None

    def kernel(self) -> Tensor:
        """Returns (C', C, kh, kw): the weight."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x, (N, C, H, W)."""
        if self.rows_above is not None:
            return self.rows_above(self, x)
        padded = F.pad(x, self.pads) if any(self.pads) else x  # F.pad copies even if there is nothing to pad
        return F.conv2d(padded, self.kernel(), self.bias, self.stride)


class ShiftedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that doubles the resolution and undoes the stride of a `ShiftedConv2d` causally.

    (N, C, H, W) -> (N, C', 2H, 2W), which the caller crops to the size before the stride.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: Rows and columns of the kernel.
        right: As for `ShiftedConv2d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], *, right: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)
        self.left = 0 if right else (kernel_size[1] - 1) // 2

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolves x, (N, C, H, W); output_size is not used."""
        h, w = 2 * x.shape[2], 2 * x.shape[3]
        return super().forward(x)[:, :, :h, self.left : self.left + w]


CONSTANT_GROUP = -1  # the group of a constant feature, which all outputs may see


class MaskedConv2d(ShiftedConv2d):
    """A masked convolution of features in groups, one for each channel of the image: R, G given R, B given both.

    (N, C, H, W) -> (N, C', H, W). An output sees all channels of the pixels before its own. Of its own pixel, group g
    sees the groups up to g (mask B) or, if strict, only those before g (mask A). The kernel ends at the output's own
    row, so there are no weights for rows below.

    Args:
        inputs: The group of every input feature.
        outputs: The group of every output feature.
        kernel_size: Rows and columns of the kernel.
        right: As for `ShiftedConv2d`.
        strict: Whether group g is hidden from itself.

    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759, section 3.4.
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
        """Returns (C', C, kh, kw): the masked weight."""
        return self.weight * self.mask


class PointwiseConv2d(nn.Conv2d):
    """A convolution of single pixels, which is computed as a matrix product for one pixel alone, as in sampling.

    Args:
        in_channels: C.
        out_channels: C'.
        bias: Whether there is a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves x, (N, C, H, W)."""
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        return F.linear(x[:, :, 0, 0], self.weight[:, :, 0, 0], self.bias)[:, :, None, None]


class ChannelOutputs(nn.Module):
    """Two last layers, which compute the parameters of every sub-pixel from the group of features of its channel.

    (N, F, H, W), with features in groups -> (N, C, H, W, P), for a head of one site.

    Args:
        features: F, a multiple of C.
        channels: C.
        head: A head of single sites.
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
        """Runs both layers on x, (N, F, H, W)."""
        y = self.last(torch.relu(self.hidden(torch.relu(x))))
        return y.unflatten(1, (self.channels, -1)).movedim(2, -1)


def channels_of(event_shape: tuple[int, ...], filters: int) -> int:
    """Checks the shape of an image and the number of features of a model with a group of features for each channel.

    Args:
        event_shape: (C, H, W).
        filters: A multiple of C.

    Returns:
        C.

    Raises:
        ParameterError: If event_shape is not that of an image, or filters is not a multiple of C.
    """
    if len(event_shape) != 3 or None in event_shape or min(event_shape) < 1:
        raise ParameterError(f"event_shape must be (C, H, W), all at least 1, got {tuple(event_shape)}")
    if filters < 1 or filters % event_shape[0]:
        fits = max(filters // event_shape[0], 1) * event_shape[0]
        raise ParameterError(
            f"filters must be a multiple of the {event_shape[0]} channels, got {filters}; {fits} is one"
        )
    return event_shape[0]


def channel_groups(features: int, channels: int) -> list[int]:
    """Assigns the same number of features to each channel.

    Args:
        features: The number of features, a multiple of `channels`.
        channels: C.

    Returns:
        The group of every feature.
    """
    return [feature * channels // features for feature in range(features)]


def with_constant(x: Tensor) -> Tensor:
    """Adds a plane of ones, which tells the image from its padding: (N, C, H, W) -> (N, C + 1, H, W)."""
    return F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
