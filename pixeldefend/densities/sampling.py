"""Computes samples and purified images, whose values are determined one site after another.

A sample, or a purified image, is the only x with x_i = rule(p(. | x_<i)) for every site i. Computed literally, that
takes one pass of the net for every site. Two faster ways give the same x, up to rounding:

- as a fixed point (Song et al. 2021, arXiv:2002.03629; Wiggers & Hoogeboom 2020, arXiv:2002.09928): all sites are
  computed in parallel from the last iterate, until nothing changes. Every pass settles at least one more site, and in
  practice many. For images, a window of rows moves down: it leaves settled rows behind, and does not yet compute rows
  far ahead (`RowStream`).
- as a draft by a compiled kernel, which passes of the whole net then check (`drafts`).
- site after site, from caches of what the layers have computed before (`CachedConv2d`; Ramachandran et al. 2017,
  arXiv:1704.06001). A model whose pixels see little of the row above computes a site of every row at once
  (`NeLLoC.parts`; van den Oord et al. 2016, arXiv:1601.06759, compute the diagonal LSTM in this order).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ambient import modes_kept, torch_defaults
from ..errors import ModelError, ParameterError
from .distributions import GridDistribution, SiteDistribution, at_least_float32
from .layers import ShiftedConv2d
from .sites import at, from_row, to_row

if TYPE_CHECKING:
    from .autoregressive import Autoregressive

Progress = Callable[[list[Any]], Iterable[Any]]
# up to so many images the fixed point was measured to be faster on the CPU
FIXED_POINT_IMAGES = 3
DRAFT_IMAGES = 64  # the same for drafts
# rows at a time: fewer need more passes; with more, most rows are computed in vain
WINDOW_ROWS = 8
METHODS = ("auto", "compiled", "fixed_point", "cached", "sequential")


@dataclass(frozen=True)
class MostProbable:
    """The most probable of the allowed values.

    Args:
        low: (n, *event), the lowest allowed value of each site, on its grid.
        high: (n, *event), the highest one.
    """

    low: Tensor
    high: Tensor

    def __call__(self, conditionals: SiteDistribution, where: tuple[Any, ...]) -> Tensor:
        """Returns the values of some sites of x, given their conditionals and their index in x."""
        assert isinstance(conditionals, GridDistribution)
        return conditionals.most_probable(self.low[where], self.high[where]).to(self.low)

    def given(self, images: Tensor, known: Tensor, values: Tensor) -> MostProbable:
        """Returns the rule for some images, (m,), in which the values of some sites, (m, *event), are known."""
        return MostProbable(*(values.where(known, bound[images]) for bound in (self.low, self.high)))


@dataclass(frozen=True)
class Quantile:
    """The quantile of the conditional at a random number, which is a random value.

    Args:
        u: (n, *event), uniform random numbers.
        temperature: As for `Autoregressive.sample`.
        known: (n, *event), which sites have a given value instead.
        values: (n, *event), the given values.
    """

    u: Tensor
    temperature: float
    known: Tensor
    values: Tensor

    def __call__(self, conditionals: SiteDistribution, where: tuple[Any, ...]) -> Tensor:
        """Returns the values of some sites of x, given their conditionals and their index in x."""
        drawn = conditionals.quantile(self.u[where], self.temperature).to(self.values)
        return torch.where(self.known[where], self.values[where], drawn)

    def given(self, images: Tensor, known: Tensor, values: Tensor) -> Quantile:
        """Returns the rule for some images, (m,), in which the values of more sites, (m, *event), are known."""
        values = values.where(known, self.values[images])
        return Quantile(self.u[images], self.temperature, self.known[images] | known, values)


Rule = MostProbable | Quantile


@torch_defaults()
@torch.no_grad()
def solve(
    density: Autoregressive, x: Tensor, rule: Rule, *, method: str = "auto", progress: Progress = lambda steps: steps
) -> Tensor:
    """Finds the x with x_i = rule(p(. | x_<i)) for every site i.

    For convolutional models of images whose parts are single sites, all methods agree bit for bit, if the net rounds
    each part of a batch in the same way. For other models they may differ after a site where rounding decides.

    Args:
        density: The density that gives the conditionals.
        x: (n, *event), the start of the search for a fixed point, which is shorter if the start is closer.
        rule: What determines the value of a site.
        method: "compiled", for densities that have `drafts`; "fixed_point"; "cached", part after part with caches;
            "auto", the one of these that was measured to be fastest; or "sequential", a whole pass for every site, for
            tests and benchmarks.
        progress: Wraps the list of parts, of rows or of images, as tqdm does.

    Returns:
        (n, *event).

    Raises:
        ParameterError: If there is no such method, or if it is "compiled" and the density has no kernel.
        ModelError: If a value is NaN.
    """
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    shape = tuple(x.shape[1:])
    one_by_one = len(density.parts(shape)) == math.prod(shape)
    can_draft = density.can_draft(x, rule)
    if method == "compiled" and not can_draft:
        raise ParameterError(
            "method 'compiled' is for a PixelCNN++ with one stream and logistics, on the CPU in float32, with numba "
            "(pip install 'pixeldefend[fast]'), at temperature 1: use method 'auto'"
        )
    if method == "auto" and can_draft and len(x) <= DRAFT_IMAGES:
        method = "compiled"
    elif method == "auto":
        few = len(x) <= FIXED_POINT_IMAGES or x.device.type != "cpu"
        method = "fixed_point" if density.rows_at_once and few and one_by_one else "cached"
    x = density.blank(len(x), shape).copy_(x)
    with modes_kept(density):
        if method == "compiled":
            _by_drafts(density, x, rule, progress)
        elif method == "fixed_point" and density.rows_at_once:
            _by_rows(density, x, rule, progress)
        elif method == "fixed_point":
            _whole(density, x, rule)
        else:
            if method == "cached":
                parts, steps = density.parts(shape), density.steps(x)
            else:
                parts, steps = [at(site) for site in density.sites(shape)], density.sequential_steps(x)
            for where, conditional in zip(progress(parts), steps, strict=True):
                x[where] = rule(conditional, where)
            _check_numbers(x)
        if method not in ("sequential", "compiled") and density.rows_at_once and one_by_one and len(x):
            # a part of an image may be rounded differently than the whole: passes over whole images decide. For a
            # photograph that could take thousands: one site that is rounded differently changes nearly all after it
            _whole(density, x, rule)
    return x.contiguous()


def _by_drafts(density: Autoregressive, x: Tensor, rule: Rule, progress: Progress) -> None:
    """Drafts images, and drafts what follows again where torch rounds a site differently."""
    x.copy_(density.draft(rule, progress))
    active = torch.arange(len(x), device=x.device)
    while len(active):
        new = _pass(density, x, rule, active)
        differs = to_row(new != x[active])
        changed = differs.any(1)
        active, new, differs = active[changed], new[changed], differs[changed]
        if len(active):
            # all sites before the first one that differs are right, and so is its new value
            settled = torch.arange(differs.shape[1], device=x.device) <= differs.int().argmax(1, keepdim=True)
            again = rule.given(active, from_row(settled, tuple(x.shape[1:])), new)
            x[active] = density.draft(again, lambda steps: steps)


def _whole(density: Autoregressive, x: Tensor, rule: Rule) -> None:
    """Iterates over whole events until none changes."""
    active = torch.arange(len(x), device=x.device)
    while len(active):
        new = _pass(density, x, rule, active)
        changed = (new != x[active]).flatten(1).any(1)
        x[active] = new
        active = active[changed]


def _pass(density: Autoregressive, x: Tensor, rule: Rule, active: Tensor) -> Tensor:
    """Returns the new values of whole events, (m, *event), from the last ones, by one pass of the net."""
    # an image alone may be rounded differently than in a batch
    among = active if len(active) > 1 else active.repeat(min(2, len(x)))
    new = torch.empty_like(x[among])
    for (events, *where), conditionals, _ in density.for_images(among, len(x)).tiles(x[among]):
        new[(events, *where)] = rule(conditionals, (among[events], *where))
    new = new[: len(active)]
    _check_numbers(new)
    return new


def _by_rows(density: Autoregressive, x: Tensor, rule: Rule, progress: Progress) -> None:
    """Iterates over a window of rows, which moves down as its upper rows settle."""
    n, _, h, w = x.shape
    align = density.rows_at_once or 1
    window = align * (WINDOW_ROWS // align)
    stream = RowStream(density, n, w, window)
    bar = iter(progress(list(range(h))))
    start = 0
    while n and start < h:
        stop = min(start + window, h)
        active = torch.arange(n, device=x.device)
        settled = torch.zeros(n, dtype=torch.long, device=x.device)  # rows of the window
        while len(active):
            where = (active, slice(None), slice(start, stop))
            rows = x[where]
            new = stream.solve_pixels(rows, rule, where, start)
            _check_numbers(new)
            x[where] = new
            changed = (new != rows).any(3).any(1)  # (m, R)
            first = torch.where(changed.any(1), changed.int().argmax(1), stop - start)
            settled[active] = first
            active = active[(first < align) & (first < stop - start)]
        reached = start + int(settled.min())
        reached = h if reached >= h else reached - reached % align
        for _ in range(start, reached):
            next(bar, None)
        start = reached
    next(bar, None)


def _check_numbers(x: Tensor) -> None:
    """Raises an error for NaN, which would never settle, since it is not equal to itself."""
    if torch.isnan(x).any():
        raise ModelError("the density gives NaN: it has diverged in training, or its weights are damaged")


class RowStream:
    """A density of images whose net works on a few rows at a time.

    Where a causal convolution would pad the top with zeros, it gets the rows above, which the stream has kept. The
    stream shares the weights of the density and does not change it.

    Args:
        density: A density of images with `rows_at_once`.
        n: Number of images.
        w: Their width.
        window: The largest number of rows at a time.
    """

    def __init__(self, density: Autoregressive, n: int, w: int, window: int) -> None:
        shared = {id(t): t for t in (*density.parameters(), *density.buffers())}
        self.density = copy.deepcopy(density, shared).eval()
        self.n, self.w, self.window = n, w, window
        self.start = self.advance = 0
        self.images: Tensor | slice = slice(None)
        for module in self.density.modules():
            if isinstance(module, ShiftedConv2d):
                module.rows_above = RowsAbove(self, module)

    def parameters(self, x: Tensor, images: Tensor, start: int) -> Tensor:
        """Runs the net on some rows.

        Args:
            x: (m, C, R, W), the rows from `start` on.
            images: (m,) int64, the positions of these images in the batch. They must be all images if `start` has moved
                since the last call; it may move by at most the rows of that call.
            start: The first row.

        Returns:
            The net's parameters for these rows.
        """
        self.advance, self.start = start - self.start, start
        self.images = slice(None) if len(images) == self.n else images
        return self.density.for_images(images, self.n).parameters_of_sites(x)

    def solve_pixels(self, x: Tensor, rule: Rule, where: tuple[Any, ...], start: int) -> Tensor:
        """Computes new rows from one pass of the net.

        If the head joins the channels of a pixel, each channel is computed from the new values of earlier channels.

        Args:
            x: (m, C, R, W), as for `parameters`.
            rule: As for `solve`.
            where: The index of these rows in the batch: images, channels, rows.
            start: The first row.

        Returns:
            (m, C, R, W).
        """
        parameters = at_least_float32(self.parameters(x, where[0], start))
        head = self.density.head
        if parameters.ndim > 4 or x.shape[1] == 1:
            return rule(head(parameters, x), where)
        images, _, rows = where
        x = x.clone()
        for k, conditionals in enumerate(head.by_channel(parameters, x)):
            x[:, k : k + 1] = rule(conditionals, (images, slice(k, k + 1), rows))
        return x


class RowsAbove:
    """The rows of the padded input of a convolution in a `RowStream` that may be needed again.

    Args:
        stream: The stream.
        conv: The convolution.
    """

    def __init__(self, stream: RowStream, conv: ShiftedConv2d) -> None:
        self.stream = stream
        self.kernel = conv.kernel()
        self.seen: Tensor | None = None

    def __call__(self, conv: ShiftedConv2d, x: Tensor) -> Tensor:
        """Convolves some rows, x (m, C, R, W), with the rows above, and returns the output in the same rows."""
        left, right, top, bottom = conv.pads
        rows, w = x.shape[2:]
        if not top:
            padded = F.pad(x, conv.pads) if any(conv.pads) else x
            return F.conv2d(padded, self.kernel, conv.bias, conv.stride)
        scale = next(scale for scale in (1, 2, 4) if -(-self.stream.w // scale) == w)
        if self.seen is None:
            shape = (self.stream.n, x.shape[1], top - (-self.stream.window // scale), left + w + max(right, 0))
            self.seen = x.new_zeros(shape).to(memory_format=torch.channels_last)
        if advance := self.stream.advance // scale:
            self.seen[:, :, :top] = self.seen[:, :, advance : advance + top].clone()
        images = self.stream.images
        self.seen[images, :, top : top + rows, left : left + w] = x
        window = self.seen[images, :, : top + rows + bottom, : left + w + right]
        return F.conv2d(window, self.kernel, conv.bias, conv.stride)


class CachedConv2d:
    """A `ShiftedConv2d` that is computed piece by piece, as samples are drawn.

    It keeps the pieces of its input (zeros at first) and computes only the pieces of its output that are needed. It
    computes them by a matrix product, since for so few pixels a convolution would mostly be overhead.

    Args:
        conv: The convolution.
        n: Number of images of its whole input.
        h: Height of its whole input.
        w: Width of its whole input.
    """

    def __init__(self, conv: ShiftedConv2d, n: int, h: int, w: int) -> None:
        left, right, self.top, _ = conv.pads
        kernel = conv.kernel()
        self.left, self.stride, self.bias = left, conv.stride[0], conv.bias
        self.size = kernel.shape[2:]
        self.matrix = kernel.permute(2, 3, 1, 0).reshape(-1, conv.out_channels).contiguous()  # (kh kw C, C')
        self.seen = kernel.new_zeros(n, self.top + h, left + w + max(right, 0), conv.in_channels)

    def write(self, x: Tensor, row: int, column: int) -> None:
        """Writes a piece of the input: x, (N, C, 1, M), in one row, from `column` on."""
        start = self.left + column
        self.seen[:, row + self.top, start : start + x.shape[3]] = x[:, :, 0].transpose(1, 2)

    def output(self, row: int, column: int, columns: int) -> Tensor:
        """Computes a piece of the output: (N, C', 1, columns), in one row, from `column` on."""
        kh, kw = self.size
        row, column, span = row * self.stride, column * self.stride, (columns - 1) * self.stride + kw
        window = self.seen[:, row : row + kh, column : column + span]
        if columns > 1:
            window = window.unfold(2, kw, self.stride).permute(0, 2, 1, 4, 3)  # (N, columns, kh, kw, C)
        out = window.reshape(-1, len(self.matrix)) @ self.matrix
        if self.bias is not None:
            out += self.bias
        return out.reshape(len(self.seen), columns, 1, -1).permute(0, 3, 2, 1)

    def __call__(self, x: Tensor, row: int, column: int) -> Tensor:
        """Writes x, (N, C, 1, M), and computes the output in the same places, if the stride is 1."""
        self.write(x, row, column)
        return self.output(row, column, x.shape[3])
