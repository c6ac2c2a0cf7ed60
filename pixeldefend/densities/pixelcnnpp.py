"""PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from .base import Autoregressive, Head, SiteDistribution, at_least_float32
from .heads import PixelCategoricalHead, PixelLogisticMixtureHead
from .layers import (
    CachedConv2d,
    MaskedConv2d,
    PointwiseConv2d,
    ShiftedConv2d,
    ShiftedConvTranspose2d,
    with_constant,
)

Convolution = Callable[[Tensor], Tensor]


class PixelCNNPlusPlus(Autoregressive):
    """PixelCNN++ for grey or RGB images of any size from 8 x 8 up.

    event_shape: (C, H, W), C = 1 or 3.
    filters: channels of every hidden layer. blocks: gated residual blocks a stage. scales: 1, 2 or 3 resolutions,
    each half the one before. streams: 2, as in the paper; 1 is for small machines: see `OneStreamNet`.
    dropout: inside every block, in training.
    head: "logistics" (a discretized mixture of `mixtures` logistics) or "categorical" (256-way).
    """

    only_levels = 256

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        *,
        filters: int = 64,
        blocks: int = 2,
        scales: int = 3,
        streams: int = 2,
        dropout: float = 0.0,
        head: Literal["logistics", "categorical"] = "logistics",
        mixtures: int = 10,
    ) -> None:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3) or min(event_shape[1:]) < 8:
            raise ParameterError(f"event_shape must be (1 or 3, H >= 8, W >= 8), got {tuple(event_shape)}")
        channels = event_shape[0]
        if scales not in (1, 2, 3):
            raise ParameterError(f"scales must be 1, 2 or 3, got {scales}")
        if streams not in (1, 2) or (streams == 1 and scales != 1):
            raise ParameterError(f"streams must be 1 (at 1 scale) or 2, got {streams} at {scales} scales")
        for name, value in {"filters": filters, "blocks": blocks, "mixtures": mixtures}.items():
            if value < 1:
                raise ParameterError(f"{name} must be at least 1, got {value}")
        heads: dict[str, Head] = {
            "logistics": PixelLogisticMixtureHead(channels, mixtures),
            "categorical": PixelCategoricalHead(channels),
        }
        if head not in heads:
            raise ParameterError(f"head must be one of {', '.join(heads)}, got {head!r}")
        config = dict(
            model="pixelcnnpp",
            event_shape=list(event_shape),
            filters=filters,
            blocks=blocks,
            scales=scales,
            streams=streams,
            dropout=dropout,
            head=head,
            mixtures=mixtures,
        )
        net: nn.Module
        if streams == 1:
            net = OneStreamNet(channels, heads[head], filters, blocks, dropout)
        else:
            net = PixelCNNPlusPlusNet(channels, heads[head], filters, blocks, scales, dropout)
        super().__init__(event_shape, net, heads[head], config)
        self.rows_at_once = 2 ** (scales - 1)

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        places = ((i, j) for i in range(x.shape[2]) for j in range(x.shape[3]))
        for (i, j), parameters in zip(places, self.net.steps(x), strict=True):  # type: ignore[operator]
            for conditionals in self.head.in_turn(at_least_float32(parameters), x[:, :, i, j, None, None]):
                yield conditionals.part((slice(None), 0, 0, 0))

    def steps_anew(self, x: Tensor) -> Iterator[SiteDistribution]:
        for channel, row, column in self.sites(tuple(x.shape[1:])):
            parameters = at_least_float32(self.net(x)[:, :, row, column, None, None])
            yield self.head(parameters, x[:, :, row, column, None, None]).part((slice(None), channel, 0, 0))


class PixelCNNPlusPlusNet(nn.Module):
    """(N, C, H, W) in [0, 1] -> (N, P, H, W), the parameters of `head`.

    Two streams: `down` sees all rows above, `right` that and what is left in its own row. They go down through the
    scales and up again, with shortcuts from each layer of the first half to its mirror image in the second.
    """

    def __init__(self, channels: int, head: Head, filters: int, blocks: int, scales: int, dropout: float) -> None:
        super().__init__()
        f = filters
        self.first_down = ShiftedConv2d(channels + 1, f, (2, 3), shift=(1, 0))
        self.first_above = ShiftedConv2d(channels + 1, f, (1, 3), shift=(1, 0))
        self.first_left = ShiftedConv2d(channels + 1, f, (2, 1), right=True, shift=(0, 1))
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for scale in range(scales):
            self.encoder.extend(StreamPair(f, dropout) for _ in range(blocks))
            if scale < scales - 1:
                self.encoder.append(Downsample(f))
        for scale in reversed(range(scales)):
            # the mirror image of `blocks` layers and of what led into this scale
            mirrored = blocks if scale == scales - 1 else blocks + 1
            self.decoder.extend(StreamPair(f, dropout, shortcut=True) for _ in range(mirrored))
            if scale > 0:
                self.decoder.append(Upsample(f))
        self.last = PointwiseConv2d(f, head.outputs)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias = nn.Parameter(head.initial_bias())

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(2 * x - 1, (0, 0, 0, 0, 0, 1), value=1.0)  # a plane of ones tells the image from its padding
        x = x.to(memory_format=torch.channels_last)
        down = self.first_down(x)
        right = self.first_above(x) + self.first_left(x)
        shortcuts = [(down, right)]
        for layer in self.encoder:
            down, right = layer(down, right)
            shortcuts.append((down, right))
        down, right = shortcuts.pop()
        for layer in self.decoder:
            if isinstance(layer, Upsample):
                h, w = shortcuts[-1][0].shape[2:]
                down, right = (stream[:, :, :h, :w] for stream in layer(down, right))
            else:
                down, right = layer(down, right, *shortcuts.pop())
        return self.last(elu(right))

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """x: (n, C, H, W). Yields (n, P, 1, 1) for pixel after pixel (Ramachandran et al. 2017, arXiv:1704.06001):
        computes whenever a row begins that row of the down stream, then one pixel of the right one, and of coarser
        scales only where a new row or pixel of theirs begins."""
        n, _, h, w = x.shape
        size = (n, h, w)
        first = [CachedConv2d(conv, *size) for conv in (self.first_down, self.first_above, self.first_left)]
        layers: list[CachedLayer] = []
        sizes = [size]
        for layer in self.encoder:
            layers.append(CachedLayer(layer, sizes[-1], len(sizes) - 1))
            if isinstance(layer, Downsample):
                n, h, w = sizes[-1]
                sizes.append((n, -(-h // 2), -(-w // 2)))
        mirrored = list(range(len(layers)))  # the outputs that are shortcuts: 0 is that of the first convolutions
        scale = len(sizes) - 1
        for layer in self.decoder:
            shortcut = None if isinstance(layer, Upsample) else mirrored.pop()
            scale -= isinstance(layer, Upsample)
            layers.append(CachedLayer(layer, sizes[scale], scale, shortcut))

        for i in range(size[1]):
            line = with_constant(2 * x[:, :, i : i + 1] - 1)
            downs = [first[0](line, i, 0)]
            first[1].write(line, i, 0)
            for cached in layers:
                downs.append(cached.down_row(i, downs))
            for j in range(size[2]):
                pixel = with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1)
                rights = [first[1].output(i, j, 1) + first[2](pixel, i, j)]
                for k, cached in enumerate(layers):
                    rights.append(cached.right_pixel(i, j, rights, downs[k + 1]))
                yield self.last(elu(rights[-1]))
                first[2].write(with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1), i, j)
            line = with_constant(2 * x[:, :, i : i + 1] - 1)
            for conv in first[:2]:
                conv.write(line, i, 0)


class CachedLayer:
    """A layer of `PixelCNNPlusPlusNet`, computed a row of its down stream and a pixel of its right one at a time.

    size: (n, h, w) of its input (of an `Upsample`: its output). scale: of these, 0 for the finest. shortcut: which
    output, counted from that of the first convolutions, it also takes.
    """

    def __init__(self, layer: nn.Module, size: tuple[int, int, int], scale: int, shortcut: int | None = None) -> None:
        self.layer, self.size, self.scale, self.shortcut = layer, size, scale, shortcut
        if isinstance(layer, StreamPair):
            streams: list[tuple[ShiftedConv2d, ...]] = [
                (block.first, block.second) for block in (layer.down, layer.right)
            ]
        elif isinstance(layer, Downsample):
            streams = [(layer.down,), (layer.right,)]
        else:
            streams = [(), ()]
        self.down, self.right = ([CachedConv2d(conv, *size) for conv in stream] for stream in streams)
        self.row: Tensor | None = None  # of the down stream's output, the last that was computed
        self.pixels: Tensor | None = None  # of the right one's, those of the last row

    def down_row(self, i: int, before: list[Tensor]) -> Tensor:
        """i: the row of the image. before: what the layers before returned for it. Returns (n, F, 1, w'): the output's
        row that holds it."""
        x, row = before[-1], i >> self.scale
        if isinstance(self.layer, Upsample):
            self.row = self.layer.down(x)[:, :, row % 2, None, : self.size[2]]
        elif i % (1 << self.scale):
            pass
        elif isinstance(self.layer, Downsample):
            self.down[0].write(x, row, 0)
            if row % 2 == 0:
                self.row = self.down[0].output(row // 2, 0, -(-self.size[2] // 2))
        else:
            assert isinstance(self.layer, StreamPair)
            others = [] if self.shortcut is None else [before[self.shortcut]]
            convolutions = [partial(conv, row=row, column=0) for conv in self.down]
            self.row = self.layer.down(x, *others, convolutions=convolutions)
        assert self.row is not None
        return self.row

    def right_pixel(self, i: int, j: int, before: list[Tensor], down: Tensor) -> Tensor:
        """i, j: the pixel of the image. before: what the layers before returned for it. down: the row that `down_row`
        returned. Returns (n, F, 1, 1): the output's pixel that holds it."""
        x, row, column = before[-1], i >> self.scale, j >> self.scale
        if isinstance(self.layer, Upsample):  # whose right kernel is as wide as its stride: no outputs overlap
            kernel, bias = self.layer.right.weight[:, :, row % 2, column % 2], self.layer.right.bias
            return F.linear(x[:, :, 0, 0], kernel.T, bias)[:, :, None, None]
        every = 1 << (self.scale + isinstance(self.layer, Downsample))
        if i % every or j % every:
            if isinstance(self.layer, Downsample) and not (i % (every // 2) or j % (every // 2)):
                self.right[0].write(x, row, column)
            assert self.pixels is not None
            return self.pixels[..., j // every, None]
        if isinstance(self.layer, Downsample):
            self.right[0].write(x, row, column)
            y = self.right[0].output(row // 2, column // 2, 1)
        else:
            assert isinstance(self.layer, StreamPair)
            others = [down[..., column, None]] + ([] if self.shortcut is None else [before[self.shortcut]])
            convolutions = [partial(conv, row=row, column=column) for conv in self.right]
            y = self.layer.right(x, *others, convolutions=convolutions)
        if self.pixels is None:
            self.pixels = y.new_zeros(*y.shape[:3], down.shape[3])
        self.pixels[..., j // every] = y[..., 0]
        return y


class OneStreamNet(nn.Module):
    """The same head on a plainer net: gated residual blocks of masked 2 x 3 convolutions, one after the other.

    Half the layers of two streams. The price is a blind spot, PixelCNN's: pixels above and to the right, d rows up and
    more than d + 2 columns away, are out of reach. (N, C, H, W) in [0, 1] -> (N, P, H, W), the parameters of `head`.
    """

    blocks: Sequence[OneStreamBlock]

    def __init__(self, channels: int, head: Head, filters: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.first = MaskedConv2d([0] * (channels + 1), [0] * filters, (4, 7), strict=True)
        self.blocks = nn.ModuleList(OneStreamBlock(filters, dropout) for _ in range(blocks))  # type: ignore[assignment]
        self.last = PointwiseConv2d(filters, head.outputs)
        self.direct = PointwiseConv2d(filters, head.outputs, bias=False)  # linear in the pixels around: learned first
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias = nn.Parameter(head.initial_bias())
            self.direct.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = with_constant(2 * x - 1).to(memory_format=torch.channels_last)
        y = first = self.first(x)
        for block in self.blocks:
            y = block(y)
        return self.last(elu(y)) + self.direct(first)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """x: (n, C, H, W). Yields (n, P, 1, 1) for pixel after pixel: computes one pixel of every layer, from what the
        layers below kept of those around it."""
        n, _, h, w = x.shape
        first = CachedConv2d(self.first, n, h, w)
        caches = [[CachedConv2d(conv, n, h, w) for conv in (block.first, block.second)] for block in self.blocks]
        for i, j in product(range(h), range(w)):
            y = seen = first(with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1), i, j)
            for block, pair in zip(self.blocks, caches, strict=True):
                y = block(y, *(partial(cache, row=i, column=j) for cache in pair))
            yield self.last(elu(y)) + self.direct(seen)
            first.write(with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1), i, j)


class OneStreamBlock(nn.Module):
    """x + a sigmoid(b). (N, F, H, W) -> the same."""

    def __init__(self, filters: int, dropout: float) -> None:
        super().__init__()
        group = [0] * filters
        self.first = MaskedConv2d(group, group, (2, 3))
        self.dropout = nn.Dropout(dropout)
        self.second = MaskedConv2d(group, 2 * group, (2, 3))

    def forward(self, x: Tensor, first: Convolution | None = None, second: Convolution | None = None) -> Tensor:
        """first, second: what stands in for the convolutions in sampling."""
        y = self.dropout(elu((first or self.first)(elu(x))))
        a, b = (second or self.second)(y).chunk(2, 1)
        return x + a * torch.sigmoid(b)


class StreamPair(nn.Module):
    """One gated residual block of each stream; the right one also sees the down one."""

    def __init__(self, filters: int, dropout: float, *, shortcut: bool = False) -> None:
        super().__init__()
        f = filters
        self.down = GatedResidualBlock(f, (2, 3), False, dropout, f if shortcut else 0)
        self.right = GatedResidualBlock(f, (2, 2), True, dropout, 2 * f if shortcut else f)

    def forward(self, down: Tensor, right: Tensor, *shortcut: Tensor) -> tuple[Tensor, Tensor]:
        down = self.down(down, *shortcut[:1])
        return down, self.right(right, down, *shortcut[1:])


class GatedResidualBlock(nn.Module):
    """x + a sigmoid(b), where a and b are two convolutions of x and of what else the block is shown."""

    def __init__(self, filters: int, kernel: tuple[int, int], right: bool, dropout: float, others: int) -> None:
        super().__init__()
        self.first = ShiftedConv2d(2 * filters, filters, kernel, right=right)
        self.others = PointwiseConv2d(2 * others, filters) if others else None
        self.dropout = nn.Dropout(dropout)
        self.second = ShiftedConv2d(2 * filters, 2 * filters, kernel, right=right)

    def forward(self, x: Tensor, *others: Tensor, convolutions: Sequence[Convolution] | None = None) -> Tensor:
        """convolutions: what stands in for the two in sampling."""
        first, second = convolutions or (self.first, self.second)
        y = first(concat_elu(x))
        if self.others is not None:
            y = y + self.others(concat_elu(torch.cat(others, 1)))
        a, b = second(self.dropout(concat_elu(y))).chunk(2, 1)
        return x + a * torch.sigmoid(b)


class Downsample(nn.Module):
    """Halves the resolution of both streams, rounding up."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.down = ShiftedConv2d(filters, filters, (2, 3), stride=2)
        self.right = ShiftedConv2d(filters, filters, (2, 2), right=True, stride=2)

    def forward(self, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.down(down), self.right(right)


class Upsample(nn.Module):
    """Doubles the resolution of both streams."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.down = ShiftedConvTranspose2d(filters, filters, (2, 3), right=False)
        self.right = ShiftedConvTranspose2d(filters, filters, (2, 2), right=True)

    def forward(self, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return self.down(down), self.right(right)


LEAST_EXPONENT = (
    -80.0
)  # what lies below has an exponential that is nothing beside 1, and so small that it takes long to compute


def elu(x: Tensor) -> Tensor:
    """F.elu. On the CPU torch takes expm1 of value after value, for which exp takes a tenth of the time."""
    if _leave_to_torch(x):
        return F.elu(x)
    if x.requires_grad:
        return torch.where(x >= 0, x, x.clamp(LEAST_EXPONENT, 0).exp() - 1)
    return torch.maximum(x, x.clamp(LEAST_EXPONENT, 0).exp_().sub_(1))  # the same: exp(x) - 1 is at least x


def concat_elu(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 2C, H, W): elu of x and of -x, as in the paper's code."""
    if _leave_to_torch(x) or x.requires_grad:
        return elu(torch.cat([x, -x], 1))
    negative = (
        x.abs().neg_().clamp_(min=LEAST_EXPONENT).exp_().sub_(1)
    )  # serves both; where it is not wanted, it is the lesser
    return torch.cat([torch.maximum(x, negative), torch.maximum(-x, negative)], 1)


def _leave_to_torch(x: Tensor) -> bool:
    """Elsewhere than on the CPU F.elu is fast, and where it is traced, for OpenVINO, it is known by its name."""
    return x.device.type != "cpu" or torch.jit.is_tracing()  # type: ignore[attr-defined]
