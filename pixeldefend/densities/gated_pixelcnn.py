"""The gated PixelCNN, which has no blind spot and can be conditioned on a class.

The gated PixelCNN (van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu 2016) repairs PixelCNN in two
ways. It has two stacks of convolutions: a vertical one sees all rows above, a horizontal one sees the pixels to the
left, and together they see every earlier pixel. Gates, tanh times sigmoid as in an LSTM, replace relu. Given a class
label it models p(x|y).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from .autoregressive import Autoregressive
from .distributions import SiteDistribution, at_least_float32
from .heads import Head, make_head
from .layers import (
    CONSTANT_GROUP,
    ChannelOutputs,
    MaskedConv2d,
    ShiftedConv2d,
    channel_groups,
    channels_of,
    with_constant,
)
from .sampling import CachedConv2d

WITHHELD_LABELS = 0.1  # share of the labels that training does not see, so that p(x) is learned beside p(x|y)


class GatedPixelCNN(Autoregressive):
    """PixelCNN with gates and two stacks, which models p(x) and, if there are classes, p(x|y).

    Args:
        event_shape: Shape of one image, (C, H, W), any C.
        filters: Number of features of each stack, a multiple of C.
        blocks: Number of layers, at least 1.
        kernel: Width of the convolutions, odd, at least 3; they reach kernel // 2 pixels up and to each side.
        classes: Number of classes, 0 if there are no labels.
        head: A key of `heads.HEADS`.
        levels: Number of values of a site, at least 2, for the head "categorical".
        mixtures: Number of components of the heads that are mixtures, at least 1.
        label: The class y, for p(x|y); None for p(x).

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", arXiv:1606.05328.
    """

    name = "gated_pixelcnn"
    full_context = False  # it reaches as far as its layers do
    rows_at_once = 1
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
        net = GatedPixelCNNNet(channels, made, filters, blocks, kernel, classes)
        super().__init__(event_shape, net, made)
        self.classes = classes
        self.label: int | Tensor | None = None if label is None else self._checked(label)

    def conditioned(self, y: int | Tensor) -> Self:
        """Returns the density p(x|y), which shares the weights of this one.

        Args:
            y: A class, or (N,) int64, the class of each of the N images that the density will get.

        Returns:
            The density.

        Raises:
            ParameterError: If there is no such class.
        """
        other = copy.copy(self)
        other.label = self._checked(y)
        other.config = {**(self.config or {}), "label": y} if isinstance(y, int) else None
        return other

    def objective(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Computes -log p(x|y), but -log p(x) for a random tenth of the images, or for all if there are no labels.

        Args:
            x: (N, *event).
            y: (N,) int64, the labels if there are any.

        Returns:
            (N,) nats.
        """
        if y is None:
            return super().objective(x)
        conditioned = self.conditioned(y)
        forgotten = torch.rand(y.shape, device=y.device, dtype=torch.float32) < WITHHELD_LABELS
        conditioned.label = y.masked_fill(forgotten, self.classes)
        return conditioned.objective(x)

    def for_images(self, images: Tensor, n: int) -> Autoregressive:
        """Selects the labels of some images of a batch; see `Autoregressive.for_images`."""
        if isinstance(self.label, Tensor) and self.label.ndim:
            self._check_number(self.label, n)
            return self.conditioned(self.label.to(images.device)[images])
        return self

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        """Runs the net on x, (N, C, H, W), and the labels, and returns (N, C, H, W, P)."""
        return self.net(x, self._labels(x))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        for parameters in self.net.steps(x, self._labels(x)):
            yield self.head(at_least_float32(parameters), x)

    def _labels(self, x: Tensor) -> Tensor | None:
        """Returns the labels as the net takes them: (N,) int64, in which the class after the last means no label."""
        if not self.classes:
            return None
        label = self.classes if self.label is None else self.label
        labels = torch.as_tensor(label, device=x.device)
        if labels.ndim:
            self._check_number(labels, len(x))
        return labels.expand(len(x))

    def _check_number(self, labels: Tensor, n: int) -> None:
        if len(labels) != n:
            raise ParameterError(f"y must hold one label for each of the {n} images, got {len(labels)}")

    def _checked(self, y: int | Tensor) -> int | Tensor:
        labels = y if isinstance(y, Tensor) else torch.tensor(y, device="cpu")
        if labels.is_floating_point():
            raise ParameterError(f"y must be whole numbers, got {y}")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            got = f"{int(labels.min())} to {int(labels.max())}"
            raise ParameterError(f"y must be at least 0 and below the number of classes, {self.classes}, got {got}")
        return y


class GatedPixelCNNNet(nn.Module):
    """Maps images, (N, C, H, W), and labels, (N,) or None, to the parameters of every site, (N, C, H, W, P).

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each site.
        filters: Number of features of each stack.
        blocks: Number of layers.
        kernel: Width of the convolutions, odd.
        classes: Number of classes, 0 if there are no labels.
    """

    layers: Sequence[GatedLayer]

    def __init__(self, channels: int, head: Head, filters: int, blocks: int, kernel: int, classes: int) -> None:
        super().__init__()
        self.on_grid = head.levels not in (2, None)
        groups = channel_groups(filters, channels)
        pixel = [*range(channels), CONSTANT_GROUP]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            GatedLayer(groups if i else pixel, groups, kernel, classes, first=i == 0) for i in range(blocks)
        )
        self.outputs = ChannelOutputs(filters, channels, head)

    def inputs(self, x: Tensor) -> Tensor:
        """Scales images, (N, C, H, W), and adds a plane of ones: (N, C + 1, H, W)."""
        return with_constant(2 * x - 1 if self.on_grid else x)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Computes the parameters of all sites."""
        above = left = self.inputs(x).to(memory_format=torch.channels_last)
        for layer in self.layers:
            above = layer.see_above(above, y)
            left = layer.see_left(left, above)
        return self.outputs(left)

    def steps(self, x: Tensor, y: Tensor | None = None) -> Iterator[Tensor]:
        """Yields the parameters, (n, P), of one site of x, (n, C, H, W), with labels y, (n,), after another.

        For each pixel it computes one pixel of the horizontal stack, and at the beginning of a row also that row of the
        vertical stack. It reads the pixels around from caches of the layers below.
        """
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
    """One layer of both stacks (figure 2).

    The vertical stack sees all rows above. The horizontal stack sees these, the pixels to the left in its own row, and
    earlier channels of its own pixel; so only its features are in groups.

    Args:
        inputs: The group of every input feature.
        groups: The group of every output feature.
        kernel: Width of the convolutions.
        classes: Number of classes.
        first: Whether this is the first layer, whose inputs are images.
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
                conv.weight.mul_(2)  # gates halve their inputs, and vertical layers have no shortcut around them
            if self.label is not None:
                self.label.weight.zero_()

    def see_above(self, x: Tensor, y: Tensor | None, vertical: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Computes the vertical stack, before its gate, which the next layer applies.

        Args:
            x: What the layer before returned, or the image.
            y: (N,) int64 labels, or None.
            vertical: A cached convolution that replaces the layer's own in sampling.

        Returns:
            (N, 2F, H, W).
        """
        above = (vertical or self.vertical)(x if self.first else gate(x))
        if self.label is not None:
            above = above + self.label(y)[:, :, None, None]  # eq. 4; reaches the horizontal stack through the link
        return above

    def see_left(self, x: Tensor, above: Tensor, horizontal: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Computes the horizontal stack.

        Args:
            x: What the layer before returned, or the image.
            above: The vertical stack of this layer.
            horizontal: A cached convolution that replaces the layer's own in sampling.

        Returns:
            (N, F, H, W).
        """
        y = self.last(gate((horizontal or self.horizontal)(x) + self.link(above)))
        return y if self.first else x + y


def gate(x: Tensor) -> Tensor:
    """Multiplies the tanh of one half of the features by the sigmoid of the other: (N, 2F, H, W) -> (N, F, H, W)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)
