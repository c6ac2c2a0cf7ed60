"""The blocks of PixelCNN++: gated residual blocks, changes of scale, and the activation.

The activation takes much of the time of scoring an image on a CPU, so it is optimised for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import MaskedConv2d, PointwiseConv2d, ShiftedConv2d, ShiftedConvTranspose2d

Activation = Callable[[Tensor], Tensor]
Convolution = Callable[[Tensor], Tensor]

# below, the exponential is negligible beside 1, and slow to compute once it is subnormal
MIN_EXPONENT = -80.0


class OneStreamBlock(nn.Module):
    """Adds a gated residual to x, (N, F, H, W), by two masked convolutions.

    Args:
        filters: F.
        activation: The activation before each convolution.
        dropout: Share of the units between the convolutions that training drops.
    """

    def __init__(self, filters: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation = activation
        group = [0] * filters
        self.first = MaskedConv2d(group, group, (2, 3))
        self.dropout = nn.Dropout(dropout)
        self.second = MaskedConv2d(group, 2 * group, (2, 3))

    def forward(self, x: Tensor, first: Convolution | None = None, second: Convolution | None = None) -> Tensor:
        """Computes x + a sigmoid(b).

        Args:
            x: (N, F, H, W).
            first: A cached convolution that replaces the first one in sampling.
            second: A cached convolution that replaces the second one.
        """
        y = self.dropout(self.activation((first or self.first)(self.activation(x))))
        return x + F.glu((second or self.second)(y), 1)


class StreamPair(nn.Module):
    """One gated residual block of each stream; the right stream also sees the down stream.

    Args:
        filters: F.
        dropout: As for `GatedResidualBlock`.
        shortcut: Whether the blocks also see an earlier output of both streams.
    """

    def __init__(self, filters: int, dropout: float, *, shortcut: bool = False) -> None:
        super().__init__()
        f = filters
        self.down = GatedResidualBlock(f, (2, 3), False, dropout, f if shortcut else 0)
        self.right = GatedResidualBlock(f, (2, 2), True, dropout, 2 * f if shortcut else f)

    def forward(self, down: Tensor, right: Tensor, *shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Runs both blocks on the streams, (N, F, H, W), and on the streams of the shortcut, if there is one."""
        down = self.down(down, *shortcut[:1])
        return down, self.right(right, down, *shortcut[1:])


class GatedResidualBlock(nn.Module):
    """Adds a gated residual to x, from convolutions of x and of further inputs.

    Args:
        filters: F.
        kernel: Rows and columns of the convolutions.
        right: As for `ShiftedConv2d`.
        dropout: Share of the units between the convolutions that training drops.
        others: Number of features of the further inputs.
    """

    def __init__(self, filters: int, kernel: tuple[int, int], right: bool, dropout: float, others: int) -> None:
        super().__init__()
        self.first = ShiftedConv2d(2 * filters, filters, kernel, right=right)
        self.others = PointwiseConv2d(2 * others, filters) if others else None
        self.dropout = nn.Dropout(dropout)
        self.second = ShiftedConv2d(2 * filters, 2 * filters, kernel, right=right)

    def forward(self, x: Tensor, *others: Tensor, convolutions: Sequence[Convolution] | None = None) -> Tensor:
        """Computes x + a sigmoid(b).

        Args:
            x: (N, F, H, W).
            *others: (N, ·, H, W), the further inputs.
            convolutions: Cached convolutions that replace the two convolutions in sampling.
        """
        first, second = convolutions or (self.first, self.second)
        y = first(concat_elu(x))
        if self.others is not None:
            y = y + self.others(concat_elu(torch.cat(others, 1)))
        a, b = second(self.dropout(concat_elu(y))).chunk(2, 1)
        return x + a * torch.sigmoid(b)


class Downsample(nn.Module):
    """Halves the resolution of both streams, rounding up.

    Args:
        filters: F.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.down = ShiftedConv2d(filters, filters, (2, 3), stride=2)
        self.right = ShiftedConv2d(filters, filters, (2, 2), right=True, stride=2)

    def forward(self, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Convolves both streams, (N, F, H, W)."""
        return self.down(down), self.right(right)


class Upsample(nn.Module):
    """Doubles the resolution of both streams.

    Args:
        filters: F.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.down = ShiftedConvTranspose2d(filters, filters, (2, 3), right=False)
        self.right = ShiftedConvTranspose2d(filters, filters, (2, 2), right=True)

    def forward(self, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Convolves both streams, (N, F, H, W)."""
        return self.down(down), self.right(right)


def elu(x: Tensor) -> Tensor:
    """Computes F.elu(x), faster than torch on the CPU, where torch computes expm1 value by value."""
    if _leave_to_torch(x):
        return F.elu(x)
    if x.requires_grad:
        return torch.where(x >= 0, x, x.clamp(MIN_EXPONENT, 0).exp() - 1)
    return torch.maximum(x, x.clamp(MIN_EXPONENT, 0).exp_().sub_(1))  # the same: exp(x) - 1 is at least x


def concat_elu(x: Tensor) -> Tensor:
    """Computes elu of x and of -x, as in the paper's code: (N, C, H, W) -> (N, 2C, H, W)."""
    if _leave_to_torch(x) or x.requires_grad:
        return elu(torch.cat([x, -x], 1))
    negative = (
        x.abs().neg_().clamp_(min=MIN_EXPONENT).exp_().sub_(1)
    )  # one call for both signs: the value that is not wanted is the smaller one
    return torch.cat([torch.maximum(x, negative), torch.maximum(-x, negative)], 1)


def _leave_to_torch(x: Tensor) -> bool:
    """Returns whether to use F.elu: off the CPU it is fast, and a trace for OpenVINO must contain it by name."""
    return x.device.type != "cpu" or torch.jit.is_tracing()  # type: ignore[attr-defined]
