"""PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Autoregressive, Head, SiteDistribution, at_least_float32
from .heads import make_head
from .layers import CONSTANT, CachedConv2d, ChannelOutputs, MaskedConv2d, channel_groups, channels_of, with_constant


class PixelCNN(Autoregressive):
    """The first PixelCNN: residual blocks of masked convolutions, for images of any number of channels.

    It has a blind spot: pixels above and to the right, d rows up and more than d + 2 columns away, are out of reach of
    every number of blocks, since each 3 x 3 layer goes one column to the right only with a row up. `GatedPixelCNN` has
    none.

    event_shape: (C, H, W). filters: h, a multiple of C; there are 2h features between blocks and h within. blocks:
    residual blocks. head: a key of `heads.HEADS`. levels, mixtures: as `heads.make_head` takes them.
    """

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
        config = dict(
            model="pixelcnn",
            event_shape=list(event_shape),
            filters=filters,
            blocks=blocks,
            head=head,
            levels=levels,
            mixtures=mixtures,
        )
        super().__init__(event_shape, PixelCNNNet(channels, made, filters, blocks), made, config)
        self.rows_at_once = 1

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        for parameters in self.net.steps(x):
            yield self.head(at_least_float32(parameters), x)


class PixelCNNNet(nn.Module):
    """(N, C, H, W) -> (N, C, H, W, P), the parameters of `head`."""

    blocks: Sequence[ResidualBlock]

    def __init__(self, channels: int, head: Head, filters: int, blocks: int) -> None:
        super().__init__()
        self.on_grid = head.levels not in (2, None)
        groups = channel_groups(2 * filters, channels)
        # 7 x 7, of which the lower three rows are masked whole
        self.first = MaskedConv2d([*range(channels), CONSTANT], groups, (4, 7), strict=True)
        self.blocks = nn.ModuleList(ResidualBlock(filters, channels) for _ in range(blocks))  # type: ignore[assignment]
        self.outputs = ChannelOutputs(2 * filters, channels, head)

    def inputs(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 1, H, W)."""
        return with_constant(2 * x - 1 if self.on_grid else x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.inputs(x).to(memory_format=torch.channels_last))
        for block in self.blocks:
            y = block(y)
        return self.outputs(y)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """x: (n, C, H, W). Yields (n, P) for site after site: computes one pixel of every layer, from what the layers
        below kept of the pixels around it."""
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
    """A bottleneck of half as many features around a 3 x 3 masked convolution (figure 5). (N, 2h, H, W) -> the same."""

    def __init__(self, filters: int, channels: int) -> None:
        super().__init__()
        narrow, wide = channel_groups(filters, channels), channel_groups(2 * filters, channels)
        self.shrink = MaskedConv2d(wide, narrow, (1, 1))
        self.middle = MaskedConv2d(narrow, narrow, (2, 3))
        self.expand = MaskedConv2d(narrow, wide, (1, 1))

    def forward(self, x: Tensor, middle: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """middle: what stands in for the 3 x 3 convolution when x is a single pixel, in sampling."""
        y = torch.relu(self.shrink(torch.relu(x)))
        y = torch.relu((middle or self.middle)(y))
        return x + self.expand(y)
