"""PixelCNN, an image model of masked convolutions.

PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016) predicts every pixel from the pixels above it and to its left
by a stack of convolutions, whose kernels are masked so that no output sees its own pixel or a later one. All pixels are
computed at once, which makes it much faster to train than the recurrent models of the same paper (`pixelrnn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .autoregressive import Autoregressive
from .distributions import SiteDistribution, at_least_float32
from .heads import Head, make_head
from .layers import CONSTANT_GROUP, ChannelOutputs, MaskedConv2d, channel_groups, channels_of, with_constant
from .sampling import CachedConv2d


class PixelCNN(Autoregressive):
    """The original PixelCNN, made of residual blocks of masked convolutions.

    It has a blind spot. Each 3 x 3 layer reaches one column further to the right only in the row above, so no number of
    blocks reaches pixels d rows up and more than d + 2 columns to the right. `GatedPixelCNN` has no blind spot.

    Args:
        event_shape: Shape of one image, (C, H, W), any C.
        filters: h, a multiple of C; there are 2h features between blocks and h within.
        blocks: Number of residual blocks, at least 1.
        head: A key of `heads.HEADS`.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        van den Oord, Kalchbrenner & Kavukcuoglu 2016, "Pixel recurrent neural networks", arXiv:1601.06759.
    """

    name = "pixelcnn"
    full_context = False
    rows_at_once = 1
    net: PixelCNNNet

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        *,
        filters: int = 32,
        blocks: int = 5,
        head: str = "logistics",
        levels: int = 256,
        mixtures: int = 5,
    ) -> None:
        channels = channels_of(event_shape, filters)
        if blocks < 1:
            raise ParameterError(f"blocks must be at least 1, got {blocks}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        super().__init__(event_shape, PixelCNNNet(channels, made, filters, blocks), made)

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        for parameters in self.net.steps(x):
            yield self.head(at_least_float32(parameters), x)


class PixelCNNNet(nn.Module):
    """Maps images, (N, C, H, W), to the parameters of every site, (N, C, H, W, P).

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each site.
        filters: h; there are 2h features between blocks and h within.
        blocks: Number of residual blocks.
    """

    blocks: Sequence[ResidualBlock]

    def __init__(self, channels: int, head: Head, filters: int, blocks: int) -> None:
        super().__init__()
        self.on_grid = head.levels not in (2, None)
        groups = channel_groups(2 * filters, channels)
        # 7 x 7, of which the lower three rows are masked whole
        self.first = MaskedConv2d([*range(channels), CONSTANT_GROUP], groups, (4, 7), strict=True)
        self.blocks = nn.ModuleList(ResidualBlock(filters, channels) for _ in range(blocks))  # type: ignore[assignment]
        self.outputs = ChannelOutputs(2 * filters, channels, head)

    def inputs(self, x: Tensor) -> Tensor:
        """Scales images, (N, C, H, W), and adds a plane of ones: (N, C + 1, H, W)."""
        return with_constant(2 * x - 1 if self.on_grid else x)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all sites."""
        y = self.first(self.inputs(x).to(memory_format=torch.channels_last))
        for block in self.blocks:
            y = block(y)
        return self.outputs(y)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (n, P), of one site of x, (n, C, H, W), after another.

        It computes one pixel of every layer, and reads the pixels around it from caches of the layers below.
        """
        n, c, h, w = x.shape
        first = CachedConv2d(self.first, n, h, w)
        caches = [CachedConv2d(block.middle, n, h, w) for block in self.blocks]
        for i, j in product(range(h), range(w)):
            pixel = x[:, :, i : i + 1, j : j + 1]
            for k in range(c):
                y = first(self.inputs(pixel), i, j)
                for block, cache in zip(self.blocks, caches, strict=True):
                    y = block(y, partial(cache, row=i, column=j))
                yield self.outputs(y)[:, k, 0, 0]
            first.write(self.inputs(pixel), i, j)  # with its last channel, which only pixels to come may see


class ResidualBlock(nn.Module):
    """A bottleneck of half as many features around a 3 x 3 masked convolution (figure 5).

    It maps (N, 2h, H, W) to the same shape.

    Args:
        filters: h, a multiple of C.
        channels: Number C of channels of an image, which the features are grouped by.
    """

    def __init__(self, filters: int, channels: int) -> None:
        super().__init__()
        narrow, wide = channel_groups(filters, channels), channel_groups(2 * filters, channels)
        self.shrink = MaskedConv2d(wide, narrow, (1, 1))
        self.middle = MaskedConv2d(narrow, narrow, (2, 3))
        self.expand = MaskedConv2d(narrow, wide, (1, 1))

    def forward(self, x: Tensor, middle: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Adds the output of the block to x.

        Args:
            x: (N, 2h, H, W).
            middle: A cached convolution that replaces the 3 x 3 one in sampling, when x is a single pixel.
        """
        y = torch.relu(self.shrink(torch.relu(x)))
        y = torch.relu((middle or self.middle)(y))
        return x + self.expand(y)
