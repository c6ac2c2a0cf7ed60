"""NeLLoC, a local model for images of any size.

A photograph has millions of pixels, but most of what is known about a pixel is known from the few around it. A pixel of
NeLLoC (Zhang, Townsend, Kang & Barber 2022) sees a window of rows above and of columns on both sides, and nothing else.
So one small net serves images of every size, and their likelihood is computed tile by tile.

This implementation predicts how a pixel differs from its left neighbour: the net sees differences in the window, and
the means of its mixture are added to the neighbour. It then learns the contrast of edges, not the brightness of areas,
and trains several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ambient import ordinary, torch_defaults
from ..errors import ParameterError
from ..images import from_uint8
from ..threads import in_threads
from .autoregressive import Autoregressive
from .distributions import SiteDistribution, at_least_float32
from .heads import PixelLogisticMixtureHead
from .layers import ShiftedConv2d, with_constant
from .logistic_mixture import DiscretizedLogisticMixture

T = TypeVar("T")
Place = tuple[slice, ...]  # an index of images: which images, channels, rows and columns
Tile = tuple[Place, DiscretizedLogisticMixture, Tensor]  # a place, the conditionals there, and the images there

GAIN = 8.0  # neighbouring pixels differ by little: differences are given to the net as so many times as large
TILE = 128  # rows and columns of a tile, whose conditionals are in memory at once
PIXELS = 4096  # that go through the layers of single pixels at once
NO_CONTEXT = (0, 0, 0)


class NeLLoC(Autoregressive):
    """A local model of images of any size, whose pixels see a window of rows above and of columns on both sides.

    Args:
        event_shape: (C, None, None) for images of any size, or (C, H, W) for images of one size; C = 1 or 3.
        rows: Number of rows above a pixel that it sees, at least 1.
        columns: Number of columns on either side that it sees, at least 1.
        width: Number of features of every layer, at least 1.
        layers: Number of residual layers of single pixels, at least 0.
        mixtures: Number of logistics, at least 1.

    Raises:
        ParameterError: If an argument is out of range.

    Reference:
        Zhang, Townsend, Kang & Barber 2022, "Parallel neural local lossless compression", arXiv:2201.05213. The model
        is from Zhang, Zhang & McDonagh 2021, "On the out-of-distribution generalization of probabilistic image
        modelling", arXiv:2109.02639.
    """

    name = "nelloc"
    heads = ("logistics",)
    any_size = True
    full_context = False  # it sees its window
    rows_at_once = 1

    head: PixelLogisticMixtureHead
    net: NeLLoCNet

    def __init__(
        self,
        event_shape: tuple[int | None, ...],
        *,
        rows: int = 5,
        columns: int = 5,
        width: int = 96,
        layers: int = 4,
        mixtures: int = 4,
    ) -> None:
        channels, *size = event_shape if len(event_shape) == 3 else (None,)
        sized = all(side is not None and side > 0 for side in size)
        if channels is None or channels not in (1, 3) or not (sized or size == [None, None]):
            raise ParameterError(
                f"event_shape must be (1 or 3, H, W), or (1 or 3, None, None) for any size, got {tuple(event_shape)}"
            )
        least = {"rows": 1, "columns": 1, "width": 1, "layers": 0, "mixtures": 1}
        given = {"rows": rows, "columns": columns, "width": width, "layers": layers, "mixtures": mixtures}
        for name, value in given.items():
            if value < least[name]:
                raise ParameterError(f"{name} must be at least {least[name]}, got {value}")
        head = PixelLogisticMixtureHead(channels, mixtures)
        super().__init__(event_shape, NeLLoCNet(channels, head, rows, columns, width, layers), head)
        self.rows, self.columns = rows, columns

    def parameters_of_sites(self, x: Tensor, context: tuple[int, int, int] = NO_CONTEXT) -> Tensor:
        """Runs the net on images or a part of them.

        Args:
            x: (N, C, H, W).
            context: The numbers of upper rows, left columns and right columns of x that are only context.

        Returns:
            (N, P, H - upper, W - left - right), the parameters of the other pixels.
        """
        return self.net(x, context)

    # -- tile by tile ------------------------------------------------------------------------------------------------

    def places(self, shape: torch.Size) -> list[Place]:
        """Lists the places of the tiles of images, (N, C, H, W), as indices of the images, row after row.

        Raises:
            ParameterError: If the shape is not one of images, or a side is 0.
        """
        if len(shape) != 4 or 0 in shape[1:]:
            raise ParameterError(f"x must be (N, C, H, W) with sides of at least 1, got {tuple(shape)}")
        n, _, h, w = shape
        images = max(1, TILE**2 // (min(h, TILE) * min(w, TILE)))
        return [
            (
                slice(first, min(first + images, n)),
                slice(None),
                slice(top, min(top + TILE, h)),
                slice(left, min(left + TILE, w)),
            )
            for first in range(0, n, images)
            for top in range(0, h, TILE)
            for left in range(0, w, TILE)
        ]

    def tiles(self, x: Tensor) -> Iterator[Tile]:
        """Computes the conditionals tile by tile, so that memory does not grow with the image.

        Args:
            x: (N, C, H, W) in [0, 1], or uint8, of which one tile at a time is converted.

        Yields:
            As `Autoregressive.tiles`.

        Raises:
            ParameterError: As `check` does.
        """
        self._check_once(x)
        for place in self.places(x.shape):
            yield place, *self._tile(x, place)

    def for_each(
        self, x: Tensor, places: Sequence[Place], function: Callable[[Place, DiscretizedLogisticMixture, Tensor], T]
    ) -> Iterator[T]:
        """Calls a function for each of some tiles; on the CPU and without gradients, in several threads.

        Args:
            x: (N, C, H, W), the images, as `tiles` takes them.
            places: Some of `places(x.shape)`.
            function: Takes a tile, as `tiles` yields it.

        Returns:
            The results, in the order of the places. Each is computed when it is asked for, or shortly before.

        Raises:
            ParameterError: As `check` does.
        """
        self._check_once(x)

        def call(place: Place) -> T:
            return function(place, *self._tile(x, place))

        if self._needs_gradient(x) or self.device.type != "cpu":
            return map(call, places)
        return in_threads(call, places)

    def _check_once(self, x: Tensor) -> None:
        """Checks images, and not again for each tile, since this reads every pixel."""
        (self.check_shape if x.dtype == torch.uint8 else self.check)(x)

    @torch_defaults()
    def _tile(self, x: Tensor, where: Place) -> tuple[DiscretizedLogisticMixture, Tensor]:
        """Computes the conditionals of one place, and returns them with the images there."""
        images, channels, rows, columns = where
        upper = min(rows.start, self.rows)
        left, right = min(columns.start, self.columns), min(x.shape[3] - columns.stop, self.columns)
        window = slice(rows.start - upper, rows.stop), slice(columns.start - left, columns.stop + right)
        part = ordinary(x[(images, channels, *window)]).contiguous()
        if part.dtype == torch.uint8:
            part = from_uint8(part).to(self.device, self.dtype)
        tile = at_least_float32(part[:, :, upper:, left : part.shape[3] - right])
        return self.head(at_least_float32(self.parameters_of_sites(part, (upper, left, right))), tile), tile

    @torch_defaults()
    def log_prob_map(self, x: Tensor) -> Tensor:
        """Evaluates log p(x_i | x_<i), tile by tile if there is no gradient; see `Autoregressive.log_prob_map`."""
        if self._needs_gradient(x):
            return super().log_prob_map(x)
        found = torch.empty_like(at_least_float32(x[:0])).new_empty(x.shape)

        def evaluate(place: Place, conditionals: DiscretizedLogisticMixture, tile: Tensor) -> None:
            found[place] = conditionals.log_prob(tile)

        for _ in self.for_each(x, self.places(x.shape), evaluate):
            pass
        return found

    @torch_defaults()
    def log_prob(self, x: Tensor) -> Tensor:
        """Evaluates log p(x), tile by tile if there is no gradient; see `Density.log_prob`."""
        if self._needs_gradient(x):
            return super().log_prob(x)

        def evaluate(place: Place, conditionals: DiscretizedLogisticMixture, tile: Tensor) -> Tensor:
            return conditionals.log_prob(tile).flatten(1).sum(1)

        places = self.places(x.shape)
        total = torch.zeros(len(x), dtype=torch.float64, device="cpu")  # of up to hundreds of millions of terms
        for place, of_tile in zip(places, self.for_each(x, places, evaluate), strict=True):
            total[place[0]] += of_tile.cpu()
        return total.to(at_least_float32(x[:0]))

    def _needs_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))

    # -- sampling ----------------------------------------------------------------------------------------------------

    def parts(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Lists the channels of all fronts; see `Autoregressive.parts`.

        A front holds at most one pixel of each row. Each pixel lies so far behind the one above that all it sees is
        settled.
        """
        channels, *size = shape
        return [
            (slice(None), channel, *pixels) for pixels in self._fronts(size[0], size[1]) for channel in range(channels)
        ]

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one part after another; see `Autoregressive.steps`."""
        fronts = list(self._fronts(*x.shape[2:]))
        for pixels, parameters in zip(fronts, self.net.steps(x, fronts), strict=True):
            values = x[:, :, *pixels].unsqueeze(2)
            for channel, conditionals in enumerate(self.head.by_channel(at_least_float32(parameters), values)):
                yield conditionals.part((slice(None), 0, 0))
                values[:, channel, 0] = x[:, channel, *pixels]

    def _fronts(self, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the rows and the columns of the pixels of each front."""
        lag = self.columns + 1
        for front in range(width + lag * (height - 1)):
            first = max(0, -((width - 1 - front) // lag))
            rows = torch.arange(first, min(height - 1, front // lag) + 1, device=self.device)
            if len(rows):
                yield rows, front - lag * rows

    def sequential_steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes everything again for every site; see `Autoregressive.sequential_steps`."""
        for channel, row, column in self.sites(tuple(x.shape[1:])):
            parameters = at_least_float32(self.net(x)[:, :, row, column, None, None])
            yield self.head(parameters, x[:, :, row, column, None, None]).part((slice(None), channel, 0, 0))


class NeLLoCNet(nn.Module):
    """Maps images, (N, C, H, W) in [0, 1], to the parameters of every pixel, (N, P, H, W).

    Args:
        channels: Number C of channels of an image.
        head: The head, which needs P parameters for each pixel.
        rows: Number of rows above a pixel that it sees.
        columns: Number of columns on either side that it sees.
        width: Number of features of every layer.
        layers: Number of residual layers of single pixels.
    """

    def __init__(
        self, channels: int, head: PixelLogisticMixtureHead, rows: int, columns: int, width: int, layers: int
    ) -> None:
        super().__init__()
        self.sections = [head.mixtures * count for count in (1, channels, channels, head.pairs)]
        self.channels = channels
        self.window = WindowConv2d(channels, width, rows, columns)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last = nn.Linear(width, head.outputs)
        with torch.no_grad():
            nn.init.normal_(self.last.weight, 0, 0.01)
            scales = torch.linspace(-5, -2, head.mixtures).repeat(channels)  # of differences, which are small
            zeros = [torch.zeros(section) for section in self.sections]
            self.last.bias.copy_(torch.cat([zeros[0], zeros[1], scales, zeros[3]]))

    def forward(self, x: Tensor, context: tuple[int, int, int] = NO_CONTEXT) -> Tensor:
        """Computes the parameters of all pixels that are not context; see `NeLLoC.parameters_of_sites`."""
        upper, before, after = context
        x = 2 * x - 1
        y = self.window(with_constant(x).to(memory_format=torch.channels_last), context)
        neighbours = F.pad(x[:, :, upper:], (1, 0))[..., before : x.shape[3] - after]
        return self._from_features(y, neighbours)

    def steps(self, x: Tensor, fronts: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
        """Computes the parameters of some pixels after others.

        Args:
            x: (n, C, H, W) in [0, 1], into which the caller writes the values of the pixels.
            fronts: The rows and the columns, (M,) each, of pixels that see pixels of earlier fronts only.

        Yields:
            (n, P, 1, M).
        """
        left, right, top, _ = self.window.pads
        kernel = self.window.kernel()
        bias = self.window.bias[:, None]  # type: ignore[index]
        seen = F.pad(with_constant(torch.zeros_like(x)), (left, right, top, 0))
        windows = seen.unfold(2, kernel.shape[2], 1).unfold(3, kernel.shape[3], 1)  # (n, C + 1, H, W, rows, columns)
        for rows, columns in fronts:
            y = torch.einsum("ncmij,fcij->nfm", windows[:, :, rows, columns], kernel) + bias
            neighbours = seen[:, :-1, rows + top, columns + left - 1]
            yield self._from_features(y.unsqueeze(2), neighbours.unsqueeze(2))
            seen[:, :-1, rows + top, columns + left] = 2 * x[:, :, rows, columns] - 1

    def _from_features(self, y: Tensor, neighbours: Tensor) -> Tensor:
        """(N, F, H, W) features and (N, C, H, W) left neighbours in [-1, 1] -> (N, P, H, W)."""
        y = y.movedim(1, -1)  # as it is in memory, so that layers of single pixels are matrix products
        pixels = y.shape[:-1]
        # so many pixels that their features stay in the CPU's cache from layer to layer
        planes = torch.cat([self._planes(part) for part in y.reshape(-1, y.shape[-1]).split(PIXELS)], 1)
        planes = planes.unflatten(1, pixels)
        logits, differences, log_scales, coefficients = planes.split(self.sections)
        left = neighbours.movedim(1, 0).unsqueeze(1)  # (C, 1, N, H, W)
        means = differences.unflatten(0, (self.channels, -1)) / GAIN + left
        # the head's coefficients multiply the values of earlier channels, but they are of their differences
        if self.channels == 3:
            green, of_red, of_green = coefficients.tanh().unflatten(0, (3, -1))
            red = torch.zeros_like(green)
            means = means - torch.stack([red, green * left[0], of_red * left[0] + of_green * left[1]])
        return torch.cat([logits, means.flatten(0, 1), log_scales, coefficients]).movedim(0, 1)

    def _planes(self, y: Tensor) -> Tensor:
        """(M, F) features of pixels -> (P, M)."""
        # A layer writes its output over its input, which saves a copy. This is not possible with gradients, in a trace
        # (OpenVINO) or under autocast.
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
        in_place = not (tracing or torch.is_grad_enabled()) and y.dtype == self.last.weight.dtype
        for layer in self.layers:
            active = F.silu(y)
            if in_place:
                y.add_(layer.bias).addmm_(active, layer.weight.T)  # type: ignore[arg-type]
            else:
                y = layer(active).add_(y)
        return torch.addmm(self.last.bias[:, None], self.last.weight, y.T)


class WindowConv2d(ShiftedConv2d):
    """A convolution of the window before a pixel, which sees differences from the left neighbour.

    (N, C + 1, H, W) -> (N, F, H, W). The input is an image in [-1, 1] and a plane of ones. The weights of the image
    apply to differences from the left neighbour, and `level` applies to the neighbour itself.

    Args:
        channels: C.
        width: F.
        rows: Number of rows above a pixel.
        columns: Number of columns on either side.
    """

    mask: Tensor

    def __init__(self, channels: int, width: int, rows: int, columns: int) -> None:
        super().__init__(channels + 1, width, (rows + 1, 2 * columns + 1))
        self.level = nn.Parameter(torch.empty(width, channels))
        mask = torch.ones(rows + 1, 2 * columns + 1, dtype=torch.bool)
        mask[-1, columns:] = False
        self.register_buffer("mask", mask, persistent=False)
        nn.init.normal_(self.weight, 0, 1 / math.sqrt(channels * int(mask.sum())))
        nn.init.normal_(self.level, 0, 0.3)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def kernel(self) -> Tensor:
        """Returns (F, C + 1, rows + 1, 2 columns + 1): the weights of pixels, and not of their differences."""
        weight = self.weight * self.mask
        image = GAIN * weight[:, :-1]
        neighbour = torch.zeros_like(self.mask, dtype=weight.dtype)
        neighbour[-1, self.mask.shape[1] // 2 - 1] = 1
        level = (self.level - image.sum((2, 3)))[..., None, None]
        return torch.cat([image + level * neighbour, weight[:, -1:]], 1)

    def forward(self, x: Tensor, context: tuple[int, int, int] = NO_CONTEXT) -> Tensor:
        """Convolves x, (N, C + 1, H, W), in which rows above and columns on both sides may be context.

        Args:
            x: The input.
            context: The numbers of upper rows, left columns and right columns that have no output.
        """
        if self.rows_above is not None:
            return self.rows_above(self, x)
        upper, before, after = context
        left, right, top, _ = self.pads
        padded = F.pad(x, (left - before, right - after, top - upper, 0))
        return F.conv2d(padded, self.kernel(), self.bias)
