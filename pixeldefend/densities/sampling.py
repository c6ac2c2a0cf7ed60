"""Whatever is determined site after site, from the conditionals: samples, purified images.

An autoregressive model asks for one pass a site. Since what is wanted is the only x with x_i = rule(p(. | x_<i)) for
every i, it can also be found as a fixed point (Song et al. 2021, arXiv:2002.03629; Wiggers & Hoogeboom 2020): all sites
in parallel from the last iterate, until nothing changes. Every pass settles at least one more site, and in practice
many. Of images in raster order, rows that are settled are left behind, and rows far ahead are not yet looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError, ParameterError
from .base import Autoregressive, GridDistribution, SiteDistribution, at_least_float32
from .layers import ShiftedConv2d

# conditionals of some sites, and the index of these sites in x -> their values
Rule = Callable[[SiteDistribution, tuple[Any, ...]], Tensor]
Progress = Callable[[list[Any]], Iterable[Any]]
FEW = 3
WINDOW = 8  # rows at a time: with fewer, more passes; with more, most of them in vain
METHODS = ("auto", "fixed_point", "cached", "sequential")


@torch.no_grad()
def solve(
    density: Autoregressive, x: Tensor, rule: Rule, *, method: str = "auto", progress: Progress = lambda steps: steps
) -> Tensor:
    """x: (n, *event), from which a fixed point is looked for; the closer, the sooner it is found.

    method: "fixed_point"; "cached", site after site, computing only what is new; "sequential", site after site, a whole pass
    each; "auto", the one that was measured to be the fastest: for convolutional models of images the first, on the CPU
    for up to `FEW` at once, else the second. For these models all agree bit for bit, if a net rounds the same whatever
    part of a batch it sees; for others "cached" may differ where a rule hangs in the balance.
    progress: wraps the list of sites, or of rows, as tqdm does.
    Returns (n, *event) with x_i = rule(p(. | x_<i)). Raises ParameterError for an unknown method, and if a value is NaN.
    """
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "auto":
        few = len(x) <= FEW or x.device.type != "cpu"
        method = "fixed_point" if density.rows_at_once and few else "cached"
    x = density.blank(len(x), tuple(x.shape[1:])).copy_(x)
    training = density.training
    density.eval()
    try:
        if method == "fixed_point" and density.rows_at_once:
            _by_rows(density, x, rule, progress)
        elif method == "fixed_point":
            _whole(density, x, rule)
        else:
            sites = density.sites(tuple(x.shape[1:]))
            steps = density.steps(x) if method == "cached" else density.steps_anew(x)
            for site, conditional in zip(progress(sites), steps, strict=True):
                where = (slice(None), *site)
                x[where] = rule(conditional, where)
            _check_numbers(x)
        if method != "sequential" and density.rows_at_once and len(x):
            # parts of an image may be rounded otherwise than the whole: what holds is what whole passes say
            _whole(density, x, rule)
    finally:
        density.train(training)
    return x.contiguous()


def most_probable_within(density: Autoregressive, x: Tensor, eps: int, *, method: str = "auto") -> Tensor:
    """x: (N, C, H, W) on the 8-bit grid. eps: in its steps. Returns the same shape: every sub-pixel the most probable
    value within eps of what it was, given those before it: PixelDefend (Song et al. 2018, arXiv:1710.10766), algorithm
    1. Raises ParameterError as `solve` does."""
    low, high = (((255 * x).round() + move).clamp(0, 255) / 255 for move in (-eps, eps))

    def rule(conditionals: SiteDistribution, where: tuple[Any, ...]) -> Tensor:
        assert isinstance(conditionals, GridDistribution)
        return conditionals.most_probable(low[where], high[where]).to(x)

    return solve(density, x, rule, method=method)


def _whole(density: Autoregressive, x: Tensor, rule: Rule) -> None:
    active = torch.arange(len(x), device=x.device)
    while len(active):
        # alone an image may be rounded otherwise than among others
        among = active if len(active) > 1 else active.repeat(min(2, len(x)))
        new = rule(density.of(among, len(x)).conditionals(x[among]), (among,))[: len(active)]
        _check_numbers(new)
        changed = (new != x[active]).flatten(1).any(1)
        x[active] = new
        active = active[changed]


def _by_rows(density: Autoregressive, x: Tensor, rule: Rule, progress: Progress) -> None:
    n, _, h, w = x.shape
    align = density.rows_at_once or 1
    window = align * (WINDOW // align)
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
    """Raises ParameterError for NaN, which would never settle, since it is not equal to itself."""
    if torch.isnan(x).any():
        raise ModelError("the density gives NaN: it has diverged in training, or its weights are damaged")


class RowStream:
    """A density of images, whose net works on a few rows at a time: where a causal convolution would pad the top of the
    image with zeros, it is given the rows above, which it was shown before.

    It shares the weights of `density` and leaves it as it is. n, w: number of images, and their width. window: the most
    rows at a time.
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
        """x: (m, C, R, W), rows from `start` on of the images numbered `images`, all of them if `start` has moved since
        the last call, by at most its rows. Returns the net's parameters for these rows."""
        self.advance, self.start = start - self.start, start
        self.images = slice(None) if len(images) == self.n else images
        return self.density.of(images, self.n).parameters_of_sites(x)

    def solve_pixels(self, x: Tensor, rule: Rule, where: tuple[Any, ...], start: int) -> Tensor:
        """x: (m, C, R, W), as for `parameters`. Returns new rows, of the same shape, from one pass of the net: if the
        head is what joins the channels of a pixel, each of these sees the new ones before it."""
        parameters = at_least_float32(self.parameters(x, where[0], start))
        head = self.density.head
        if parameters.ndim > 4 or x.shape[1] == 1:
            return rule(head(parameters, x), where)
        images, _, rows = where
        x = x.clone()
        for k, conditionals in enumerate(head.in_turn(parameters, x)):
            x[:, k : k + 1] = rule(conditionals, (images, slice(k, k + 1), rows))
        return x


class RowsAbove:
    """What a convolution was shown of its padded input, as far as it may be needed again."""

    def __init__(self, stream: RowStream, conv: ShiftedConv2d) -> None:
        self.stream = stream
        self.kernel = conv.kernel()
        self.seen: Tensor | None = None

    def __call__(self, conv: ShiftedConv2d, x: Tensor) -> Tensor:
        """x: (m, C, R, W), rows. Returns the convolution's output in the same rows."""
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
