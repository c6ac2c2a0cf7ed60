"""The gated PixelCNN (van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu 2016, arXiv:1606.05328)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .base import Autoregressive, Head, SiteDistribution, at_least_float32
from .heads import make_head
from .layers import (
    CONSTANT,
    CachedConv2d,
    ChannelOutputs,
    MaskedConv2d,
    ShiftedConv2d,
    channel_groups,
    channels_of,
    with_constant,
)

FORGOTTEN = 0.1  # share of the labels that are withheld in training, so that p(x) is learnt beside p(x|y)


class GatedPixelCNN(Autoregressive):
    """PixelCNN with gates, without a blind spot, and, if there are classes, p(x|y) beside p(x).

    event_shape: (C, H, W). filters: features of each stack, a multiple of C. blocks: layers. kernel: width of the
    convolutions, odd, at least 3; they reach kernel // 2 pixels up and to each side. classes: number of classes, 0 if
    there are no labels. head: a key of `heads.HEADS`. levels, mixtures: as `heads.make_head` takes them. label: the
    class y of which this density is p(x|y); None for p(x).
    """

    net: GatedPixelCNNNet

    def __init__(
        self,
        event_shape: tuple[int, int, int],
        *,
        filters: int = 32,
        blocks: int = 5,
        kernel: int = 3,
        classes: int = 0,
        head: str = "logistics",
        levels: int = 256,
        mixtures: int = 5,
        label: int | None = None,
    ) -> None:
        channels = channels_of(event_shape, filters)
        if blocks < 1 or classes < 0:
            raise ParameterError(f"blocks must be at least 1 and classes at least 0, got {blocks} and {classes}")
        if kernel < 3 or kernel % 2 == 0:
            raise ParameterError(f"kernel must be odd and at least 3, got {kernel}")
        made = make_head(head, levels=levels, mixtures=mixtures)
        config = dict(
            model="gated_pixelcnn",
            event_shape=list(event_shape),
            filters=filters,
            blocks=blocks,
            kernel=kernel,
            classes=classes,
            head=head,
            levels=levels,
            mixtures=mixtures,
            label=label,
        )
        net = GatedPixelCNNNet(channels, made, filters, blocks, kernel, classes)
        super().__init__(event_shape, net, made, config)
        self.rows_at_once = 1
        self.classes = classes
        self.label: int | Tensor | None = None if label is None else self._checked(label)

    def conditioned(self, y: int | Tensor) -> Self:
        """y: a class, or (N,) int64, one for each image that it will be asked about. Returns the density p(x|y); it
        shares the weights of this one. Raises ParameterError if there is no such class."""
        other = copy.copy(self)
        other.label = self._checked(y)
        other.config = {**(self.config or {}), "label": y} if isinstance(y, int) else None
        return other

    def objective(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x: (N, *event). y: (N,) int64, labels if there are any. Returns (N,) nats: -log p(x|y), or -log p(x) for one
        image in ten, and for all without labels."""
        if y is None:
            return super().objective(x)
        conditioned = self.conditioned(y)
        forgotten = torch.rand(y.shape, device=y.device) < FORGOTTEN
        conditioned.label = y.masked_fill(forgotten, self.classes)
        return -conditioned.log_prob(x)

    def of(self, images: Tensor, n: int) -> Autoregressive:
        if isinstance(self.label, Tensor) and self.label.ndim:
            self._check_number(self.label, n)
            return self.conditioned(self.label.to(images.device)[images])
        return self

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        return self.net(x, self._labels(x))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        for parameters in self.net.steps(x, self._labels(x)):
            yield self.head(at_least_float32(parameters), x)

    def _labels(self, x: Tensor) -> Tensor | None:
        """Returns (N,) int64 for the net, in which the class after the last stands for none."""
        if not self.classes:
            return None
        label = self.classes if self.label is None else self.label
        labels = torch.as_tensor(label, device=x.device)
        if labels.ndim:
            self._check_number(labels, len(x))
        return labels.expand(len(x))

    def _check_number(self, labels: Tensor, n: int) -> None:
        if len(labels) != n:
            raise ParameterError(f"there are {len(labels)} labels, one for each image, but {n} images")

    def _checked(self, y: int | Tensor) -> int | Tensor:
        labels = torch.as_tensor(y)
        if labels.is_floating_point():
            raise ParameterError(f"y must be whole numbers, got {y}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            got = f"{int(labels.min())} to {int(labels.max())}"
            raise ParameterError(f"y must be at least 0 and below the number of classes, {self.classes}, got {got}")
        return y


class GatedPixelCNNNet(nn.Module):
    """(N, C, H, W), (N,) labels or None -> (N, C, H, W, P), the parameters of `head`."""

    layers: Sequence[GatedLayer]

    def __init__(self, channels: int, head: Head, filters: int, blocks: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.on_grid = head.levels not in (2, None)
        groups = channel_groups(filters, channels)
        pixel = [*range(channels), CONSTANT]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            GatedLayer(groups if i else pixel, groups, kernel, classes, first=i == 0) for i in range(blocks)
        )
        self.outputs = ChannelOutputs(filters, channels, head)

    def inputs(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + 1, H, W)."""
        return with_constant(2 * x - 1 if self.on_grid else x)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        above = left = self.inputs(x).to(memory_format=torch.channels_last)
        for layer in self.layers:
            above = layer.see_above(above, y)
            left = layer.see_left(left, above)
        return self.outputs(left)

    def steps(self, x: Tensor, y: Tensor | None = None) -> Iterator[Tensor]:
        """x: (n, C, H, W), y: (n,). Yields (n, P) for site after site: computes one pixel of the horizontal stack, and
        whenever a row begins that row of the vertical one, from what the layers below kept of the pixels around."""
        n, c, h, w = x.shape
        rows = [CachedConv2d(layer.vertical, n, h, w) for layer in self.layers]
        pixels = [CachedConv2d(layer.horizontal, n, h, w) for layer in self.layers]
        for i in range(h):
            above, aboves = self.inputs(x[:, :, i : i + 1]), []
            for layer, cache in zip(self.layers, rows, strict=True):
                above = layer.see_above(above, y, partial(cache, row=i, column=0))
                aboves.append(above)
            for j in range(w):
                pixel = x[:, :, i : i + 1, j : j + 1]
                for k in range(c):
                    left = self.inputs(pixel)
                    for layer, cache, above in zip(self.layers, pixels, aboves, strict=True):
                        left = layer.see_left(left, above[..., j : j + 1], partial(cache, row=i, column=j))
                    yield self.outputs(left)[:, k, 0, 0]
                pixels[0].write(self.inputs(pixel), i, j)  # with its last channel, which only pixels to come may see
            rows[0].write(self.inputs(x[:, :, i : i + 1]), i, 0)


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2): the vertical one sees all rows above, the horizontal one that and what is
    left in its own row.

    Only the horizontal stack sees channels of its own pixel, so its features alone are in groups. inputs: the group of
    every feature that comes in. groups: of every feature that goes out. first: whether images come in.
    """

    def __init__(self, inputs: list[int], groups: list[int], kernel: int, classes: int, *, first: bool) -> None:
        super().__init__()
        f, reach = len(groups), kernel // 2 + 1
        self.first = first
        self.vertical = ShiftedConv2d(len(inputs), 2 * f, (reach, kernel), shift=(int(first), 0))
        self.label = nn.Embedding(classes + 1, 2 * f) if classes else None
        self.link = nn.Conv2d(2 * f, 2 * f, 1, bias=False)
        self.horizontal = MaskedConv2d(inputs, groups * 2, (1, reach), right=True, strict=first)
        self.last = MaskedConv2d(groups, groups, (1, 1))
        with torch.no_grad():
            for conv in (self.vertical, self.link, self.horizontal, self.last):
                conv.weight.mul_(2)  # gates halve what passes them, and vertical layers have no shortcut around them
            if self.label is not None:
                self.label.weight.zero_()

    def see_above(self, x: Tensor, y: Tensor | None, vertical: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """x: what the layer before returned, or the image. Returns (N, 2F, H, W), before the gate: the next layer's
        business, as the last one's would gate in vain. vertical: what stands in for the convolution in sampling."""
        above = (vertical or self.vertical)(x if self.first else gate(x))
        if self.label is not None:
            above = above + self.label(y)[:, :, None, None]  # eq. 4; reaches the horizontal stack through the link
        return above

    def see_left(self, x: Tensor, above: Tensor, horizontal: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """x: what the layer before returned, or the image. above: of this layer. Returns (N, F, H, W). horizontal: what
        stands in for the convolution in sampling."""
        y = self.last(gate((horizontal or self.horizontal)(x) + self.link(above)))
        return y if self.first else x + y


def gate(x: Tensor) -> Tensor:
    """(N, 2F, H, W) -> (N, F, H, W): eq. 2."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)
