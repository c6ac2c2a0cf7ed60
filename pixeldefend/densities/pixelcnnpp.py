"""PixelCNN++, the model that the shipped detectors use.

PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017) improves on the gated PixelCNN with a mixture of logistics for the
values of a pixel (`logistic_mixture`), convolutions that are shifted instead of masked, coarser scales with shortcuts
between them (a U-net), and a net that works on whole pixels: the head makes green depend on red, and blue on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from . import kernels
from .autoregressive import Autoregressive
from .distributions import SiteDistribution, at_least_float32
from .heads import Head, PixelCategoricalHead, PixelLogisticMixtureHead
from .layers import MaskedConv2d, PointwiseConv2d, ShiftedConv2d, with_constant
from .pixelcnnpp_blocks import Activation, Downsample, OneStreamBlock, StreamPair, Upsample, elu
from .sampling import CachedConv2d, MostProbable, Progress, Rule

ACTIVATIONS: dict[str, Activation] = {"elu": elu, "silu": F.silu}


class PixelCNNPlusPlus(Autoregressive):
    """PixelCNN++ for grey or RGB images of 8 x 8 pixels or more.

    Args:
        event_shape: Shape of one image, (C, H, W) with C = 1 or 3, H and W at least 8.
        filters: Number of channels of every hidden layer, at least 1.
        blocks: Number of gated residual blocks of each stage, at least 1.
        scales: Number of resolutions, each half the one before: 1, 2 or 3.
        streams: 2, as in the paper, or 1 for small machines, at one scale: see `OneStreamNet`.
        activation: "elu", as in the paper, or with one stream "silu", with which training on a CPU is faster.
        dropout: Share of the units inside every block that training drops.
        head: "logistics", a discretized mixture of logistics, or "categorical", 256-way.
        mixtures: Number of logistics, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Salimans, Karpathy, Chen & Kingma 2017, "PixelCNN++: improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications", arXiv:1701.05517.
    """

    name = "pixelcnnpp"
    heads = ("logistics", "categorical")
    min_side = 8
    full_context = False  # it reaches as far as its layers do

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        *,
        filters: int = 64,
        blocks: int = 2,
        scales: int = 3,
        streams: int = 2,
        activation: Literal["elu", "silu"] = "elu",
        dropout: float = 0.0,
        head: Literal["logistics", "categorical"] = "logistics",
        mixtures: int = 10,
    ) -> None:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3) or None in event_shape or min(event_shape[1:]) < 8:
            raise ParameterError(f"event_shape must be (1 or 3, H >= 8, W >= 8), got {tuple(event_shape)}")
        channels = event_shape[0]
        if scales not in (1, 2, 3):
            raise ParameterError(f"scales must be 1, 2 or 3, got {scales}")
        if streams not in (1, 2) or (streams == 1 and scales != 1):
            raise ParameterError(f"streams must be 1 (at 1 scale) or 2, got {streams} at {scales} scales")
        if activation not in ACTIVATIONS or (activation != "elu" and streams != 1):
            raise ParameterError(
                f"activation must be elu, or silu with streams=1, got {activation!r} with streams={streams}"
            )
        for name, value in {"filters": filters, "blocks": blocks, "mixtures": mixtures}.items():
            if value < 1:
                raise ParameterError(f"{name} must be at least 1, got {value}")
        heads: dict[str, Head] = {
            "logistics": PixelLogisticMixtureHead(channels, mixtures),
            "categorical": PixelCategoricalHead(channels),
        }
        if head not in heads:
            raise ParameterError(f"head must be one of {', '.join(heads)}, got {head!r}")
        net: nn.Module
        if streams == 1:
            net = OneStreamNet(channels, heads[head], filters, blocks, ACTIVATIONS[activation], dropout)
        else:
            net = PixelCNNPlusPlusNet(channels, heads[head], filters, blocks, scales, dropout)
        super().__init__(event_shape, net, heads[head])
        self.rows_at_once = 2 ** (scales - 1)

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        places = ((i, j) for i in range(x.shape[2]) for j in range(x.shape[3]))
        for (i, j), parameters in zip(places, self.net.steps(x), strict=True):  # type: ignore[operator]
            for conditionals in self.head.by_channel(at_least_float32(parameters), x[:, :, i, j, None, None]):
                yield conditionals.part((slice(None), 0, 0, 0))

    def can_draft(self, x: Tensor, rule: Rule) -> bool:
        """Returns whether there is a compiled kernel; see `Autoregressive.can_draft`."""
        usual = isinstance(rule, MostProbable) or rule.temperature == 1
        supported = isinstance(self.net, OneStreamNet) and isinstance(self.head, PixelLogisticMixtureHead)
        return usual and supported and kernels.can_run(x)

    def draft(self, rule: Rule, progress: Progress) -> Tensor:
        """Runs the compiled kernel; see `Autoregressive.draft`."""
        from .drafts import draft

        assert isinstance(self.net, OneStreamNet)
        if isinstance(rule, MostProbable):
            return draft(self.net, rule.low, rule.high, progress=progress)
        low, high = (rule.values.where(rule.known, float(end)) for end in (0, 1))
        return draft(self.net, low, high, rule.u, progress)

    def sequential_steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes everything again for every site; see `Autoregressive.sequential_steps`."""
        for channel, row, column in self.sites(tuple(x.shape[1:])):
            parameters = at_least_float32(self.net(x)[:, :, row, column, None, None])
            yield self.head(parameters, x[:, :, row, column, None, None]).part((slice(None), channel, 0, 0))


class PixelCNNPlusPlusNet(nn.Module):
    """Maps images, (N, C, H, W) in [0, 1], to the parameters of every pixel, (N, P, H, W).

    There are two streams: `down` sees all rows above, `right` sees these and the pixels to the left in its own row.
    Both go down through the scales and up again, with shortcuts from each layer of the first half to its mirror image
    in the second.

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each pixel.
        filters: Number of channels of every hidden layer.
        blocks: Number of gated residual blocks of each stage.
        scales: Number of resolutions.
        dropout: Share of the units inside every block that training drops.
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
            # the mirror image of `blocks` layers and of the layer that led into this scale
            mirrored = blocks if scale == scales - 1 else blocks + 1
            self.decoder.extend(StreamPair(f, dropout, shortcut=True) for _ in range(mirrored))
            if scale > 0:
                self.decoder.append(Upsample(f))
        self.last = PointwiseConv2d(f, head.outputs)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias = nn.Parameter(head.initial_bias())

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all pixels."""
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
        """Yields the parameters, (n, P, 1, 1), of one pixel of x, (n, C, H, W), after another.

        At the beginning of a row it computes that row of the down stream, then one pixel of the right stream after
        another. Coarser scales are computed only where a row or a pixel of theirs begins (Ramachandran et al. 2017,
        arXiv:1704.06001).
        """
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
    """A layer of `PixelCNNPlusPlusNet`, computed a row of its down stream and a pixel of its right stream at a time.

    Args:
        layer: A `StreamPair`, `Downsample` or `Upsample`.
        size: (n, h, w) of the layer's input, or of its output if it is an `Upsample`.
        scale: The scale of `size`, 0 for the finest.
        shortcut: The index of the earlier output that the layer also takes, 0 for that of the first convolutions; None
            if it takes none.
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
        self.row: Tensor | None = None  # the row of the down stream's output that was computed last
        self.pixels: Tensor | None = None  # of the right stream's output, in that row

    def down_row(self, i: int, before: list[Tensor]) -> Tensor:
        """Computes the output of the down stream.

        Args:
            i: The row of the image.
            before: The outputs of the layers before, for this row.

        Returns:
            The row of the output that covers this row, (n, F, 1, w').
        """
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
        """Computes the output of the right stream.

        Args:
            i: The row of the image.
            j: Its column.
            before: The outputs of the layers before, for this pixel.
            down: The row that `down_row` returned.

        Returns:
            The pixel of the output that covers this pixel, (n, F, 1, 1).
        """
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
    """A plainer net for the same head: gated residual blocks of masked 2 x 3 convolutions, one after the other.

    It maps images, (N, C, H, W) in [0, 1], to the parameters of every pixel, (N, P, H, W). It has half the layers of
    the net with two streams, and PixelCNN's blind spot: it cannot see pixels d rows up and more than d + 2 columns to
    the right.

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each pixel.
        filters: Number of channels of every hidden layer.
        blocks: Number of gated residual blocks.
        activation: The activation before each convolution but the first.
        dropout: Share of the units inside every block that training drops.
    """

    blocks: Sequence[OneStreamBlock]

    def __init__(
        self, channels: int, head: Head, filters: int, blocks: int, activation: Activation, dropout: float
    ) -> None:
        super().__init__()
        self.activation = activation
        self.first = MaskedConv2d([0] * (channels + 1), [0] * filters, (4, 7), strict=True)
        self.blocks = nn.ModuleList(OneStreamBlock(filters, activation, dropout) for _ in range(blocks))  # type: ignore[assignment]
        self.last = PointwiseConv2d(filters, head.outputs)
        self.direct = PointwiseConv2d(filters, head.outputs, bias=False)  # linear in the pixels around: learned first
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.last.bias = nn.Parameter(head.initial_bias())
            self.direct.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Computes the parameters of all pixels."""
        x = with_constant(2 * x - 1).to(memory_format=torch.channels_last)
        y = first = self.first(x)
        for block in self.blocks:
            y = block(y)
        return self.last(self.activation(y)) + self.direct(first)

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the parameters, (n, P, 1, 1), of one pixel of x, (n, C, H, W), after another.

        It computes one pixel of every layer, and reads the pixels around it from caches of the layers below.
        """
        n, _, h, w = x.shape
        first = CachedConv2d(self.first, n, h, w)
        caches = [[CachedConv2d(conv, n, h, w) for conv in (block.first, block.second)] for block in self.blocks]
        for i, j in product(range(h), range(w)):
            y = seen = first(with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1), i, j)
            for block, pair in zip(self.blocks, caches, strict=True):
                y = block(y, *(partial(cache, row=i, column=j) for cache in pair))
            yield self.last(self.activation(y)) + self.direct(seen)
            first.write(with_constant(2 * x[:, :, i : i + 1, j : j + 1] - 1), i, j)
