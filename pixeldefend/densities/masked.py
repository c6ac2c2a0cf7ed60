"""Layers whose outputs see only what comes before them in raster order."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pads))


class ShiftedConvTranspose2d(nn.ConvTranspose2d):
    """Doubles the resolution; an output sees what `ShiftedConv2d` with stride 2 allows it to. The caller crops the
    result to the size that it came from. (N, C, H, W) -> (N, C', 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int], *, right: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2)
        self.left = 0 if right else (kernel_size[1] - 1) // 2

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        h, w = 2 * x.shape[2], 2 * x.shape[3]
        return super().forward(x)[:, :, :h, self.left : self.left + w]
