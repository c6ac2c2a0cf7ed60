"""What every density model can do: say how probable an image is, and draw new ones."""

from __future__ import annotations

import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..errors import ParameterError
from ..serialization import save_tensors


class Density(nn.Module, ABC):
    """A probability distribution p(x) over events of one shape.

    event_shape: shape of one event, (C, H, W) for images; None if any shape will do.
    config: what `densities.build` needs to make this model again (plain JSON values); None if it cannot be saved.
    levels: number L of values that a site takes, which are k / (L - 1) for k = 0 ... L - 1: 256 for 8-bit images and
    audio, 2 for binary data, as many as there are characters for text. None for real numbers, of which p(x) is a
    density and not a mass.
    """

    levels: int | None = 256
    any_length = False  # whether events with one dimension may be longer or shorter than event_shape says

    def __init__(self, event_shape: tuple[int, ...] | None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.event_shape = None if event_shape is None else tuple(event_shape)
        self.config = config

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,) nats. Raises ParameterError as `check` does."""

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns (n, *event) exact samples."""

    def objective(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,) nats, what training minimises: -log p(x), or an estimate of its mean over the
        orderings that a model learns at once."""
        return -self.log_prob(x)

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,): -log2 p(x) a site.

        Of a density of real numbers: for images as `to_support` dequantises them, 8 bits more, since a value of 8 bits is
        1/256 wide. Raises ParameterError for real-valued events that are no images: they have no bits.
        """
        return self.in_bits_per_dim(self.log_prob(x), tuple(x.shape[1:]))

    def in_bits_per_dim(self, log_prob: Tensor, shape: tuple[int, ...]) -> Tensor:
        """log_prob: (N,) nats of events of this shape. Returns (N,), as `bits_per_dim`, whose errors it raises."""
        if not self.has_bits(shape):
            raise ParameterError(f"a density of real numbers has no bits/dim; take log_prob, in nats (x is {shape})")
        return -log_prob / (math.prod(shape) * math.log(2)) + (8 if self.levels is None else 0)

    def has_bits(self, shape: tuple[int, ...]) -> bool:
        """Whether events of this shape have bits/dim: all but real numbers that are no dequantised images."""
        return self.levels is not None or len(shape) == 3

    def to_support(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """x: (N, C, H, W) images in [0, 1]. Returns what this density models of them: themselves; binarised at a half
        if it has 2 levels; dequantised, (255 x + u) / 256, if it models real numbers. Other events are as they are.

        noise: u, in [0, 1) and of the shape of x; by default one fixed pattern for all images, so that a score does not
        depend on chance or on the batch.
        """
        if x.ndim != 4:
            return x
        if self.levels == 2:
            return (x >= 0.5).to(x.dtype)
        if self.levels is None:
            if noise is None:
                generator = torch.Generator().manual_seed(0)
                noise = torch.rand(x.shape[1:], generator=generator).to(x)
            return (255 * x + noise) / 256
        return x

    def check(self, x: Tensor) -> None:
        """Raises ParameterError unless x is (N, *event), floating point and finite."""
        any_length = self.any_length and len(self.event_shape or ()) == 1 and x.ndim == 2 and x.shape[1] > 0
        if self.event_shape is not None and tuple(x.shape[1:]) != self.event_shape and not any_length:
            raise ParameterError(
                f"this density models events of shape {self.event_shape}, got x of shape {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ParameterError(f"x must be floating point, got {x.dtype}")
        if not torch.isfinite(x).all():
            raise ParameterError(f"x must be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite values")

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes one safetensors file that `densities.load` reads; notes (recipe, metrics: plain JSON values) are kept
        in it. Raises ParameterError if the density has no config."""
        if self.config is None:
            raise ParameterError(f"{type(self).__name__} has no config, so it could not be made again from a file")
        save_tensors(path, self.state_dict(), {"kind": "density", "density": self.config, **notes})

    @property
    def device(self) -> torch.device:
        """Where the weights are (the CPU if there are none)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights (float32 if there are none)."""
        return next((p.dtype for p in self.parameters()), torch.float32)


class SiteDistribution(Distribution, ABC):
    """The distribution of every site given those before it: what a head makes."""

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """value: broadcastable to batch_shape. Returns nats."""

    @abstractmethod
    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Returns the mean (the entropy) and the variance of -log p(v) for v drawn from p, both (*batch_shape), in
        nats and squared nats."""

    @abstractmethod
    def below(self, value: Tensor) -> Tensor:
        """value: broadcastable to batch_shape. Returns P(v < value) for v drawn from p, in [0, 1]."""

    @abstractmethod
    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """u: (*batch_shape) in [0, 1), or more of them in front. Returns values of the same shape, which are drawn from
        p^(1/temperature), normalised, if u is uniform: of ordered values the inverse of the distribution function."""

    @abstractmethod
    def part(self, index: tuple[Any, ...]) -> Self:
        """index: of (*batch_shape). Returns the distribution of these sites."""

    def entropy(self) -> Tensor:
        """Returns (*batch_shape) nats."""
        return self.surprisal_moments()[0]

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        """Returns (*sample_shape, *batch_shape) values."""
        shape = torch.Size(sample_shape)
        u = torch.rand(math.prod(shape), *self.batch_shape).to(self.entropy())
        return self.part((None, ...)).quantile(u).reshape(*shape, *self.batch_shape)


class GridDistribution(SiteDistribution):
    """A distribution over the grid {0, 1, ..., L - 1} / (L - 1); L = 256 for 8-bit images."""

    support = constraints.unit_interval
    levels: int

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """value: broadcastable to batch_shape, in [0, 1]. Returns nats; exact on the grid, continuous off it."""

    @abstractmethod
    def pmf(self) -> Tensor:
        """Returns (*batch_shape, L): the probability of every value, which sum to 1."""

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        pmf = self.pmf()
        surprisal = -torch.log(pmf.clamp(min=torch.finfo(pmf.dtype).tiny))
        mean = (pmf * surprisal).sum(-1)
        return mean, (pmf * surprisal.square()).sum(-1).sub(mean.square()).clamp(min=0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        pmf = self.pmf()
        if temperature != 1:
            logits = pmf.log()
            pmf = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
        # the sum of the masses is 1 but for rounding, and u must not be beyond it
        cdf = pmf.cumsum(-1)
        index = (cdf <= u.unsqueeze(-1) * cdf[..., -1:]).sum(-1).clamp(max=self.levels - 1)
        return index.to(pmf) / (self.levels - 1)

    def most_probable(self, low: Tensor, high: Tensor) -> Tensor:
        """low, high: (*batch_shape), values of the grid. Returns (*batch_shape): the most probable value from low to
        high; of several the lowest."""
        pmf = self.pmf()
        value = torch.arange(self.levels, device=pmf.device, dtype=pmf.dtype) / (self.levels - 1)
        half = 0.5 / (self.levels - 1)
        inside = (value > low.unsqueeze(-1) - half) & (value < high.unsqueeze(-1) + half)
        return value[pmf.where(inside, -1).argmax(-1)]


class Head(nn.Module, ABC):
    """Turns a net's parameters into the distribution of every site.

    outputs: number P of parameters that the net must supply, a site (a pixel for heads that join a pixel's channels).
    levels: number of values of a site; None if it is a real number, and the distribution a density.
    """

    outputs: int
    levels: int | None

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Returns (P,): the parameters to start training from, for the bias of a net's last layer."""

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> SiteDistribution:
        """parameters: (N, *event, P), x: (N, *event), which only heads look at that join the channels of a pixel
        (they take parameters (N, P, H, W) a pixel). Returns a Distribution over (N, *event)."""

    def in_turn(self, parameters: Tensor, x: Tensor) -> Iterator[SiteDistribution]:
        """For heads that join the channels of a pixel. parameters: (N, P, H, W). x: (N, C, H, W), into which the caller
        writes each channel before it asks for the next. Yields the Distribution of channel after channel, over
        (N, 1, H, W)."""
        for i in range(x.shape[1]):
            yield self(parameters, x).part((slice(None), slice(i, i + 1)))


class Autoregressive(Density):
    """p(x) = prod_i p(x_i | x_<i): a net, whose parameters for a site depend on earlier sites only, and a head.

    The order of sites is that of the event, flattened; of images, raster order, channel by channel within a pixel.
    net: (N, *event) -> what `head` takes.
    """

    event_shape: tuple[int, ...]
    events: frozenset[str] = frozenset({"images"})  # what it models, of "images", "rows" and "sequences"
    default_head: str | None = None  # the head whatever the data, if not the one that suits their values
    only_levels: int | None = None  # the number of levels of the data, of a model that takes no other

    def __init__(
        self, event_shape: tuple[int, ...], net: nn.Module, head: Head, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__(event_shape, config)
        self.net = net
        self.head = head
        self.levels = head.levels

    def check(self, x: Tensor) -> None:
        """Raises ParameterError unless x is (N, *event), floating point, finite and, if values are on a grid, in [0, 1]."""
        super().check(x)
        if self.levels is not None and x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise ParameterError(f"x must lie in [0, 1], got min {x.min():.3g} and max {x.max():.3g}")

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns what the head takes."""
        return self.net(x)

    def conditionals(self, x: Tensor) -> SiteDistribution:
        """x: (N, *event), not to be written to while the outcome is used. Returns the Distribution of every site given
        those before it. Raises ParameterError as `check` does."""
        self.check(x)
        parameters = self.parameters_of_sites(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(at_least_float32(parameters), at_least_float32(x))

    def log_prob_map(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N, *event) nats: log p(x_i | x_<i), whose sum is `log_prob`."""
        return self.conditionals(x).log_prob(at_least_float32(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, *event); exact on the grid of `levels` values, smooth off it. Returns (N,) nats."""
        return self.log_prob_map(x).flatten(1).sum(1)

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sites(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Returns the index of every site of an event of this shape, in the model's order."""
        if len(shape) == 3:
            c, h, w = shape
            return [(k, i, j) for i, j, k in itertools.product(range(h), range(w), range(c))]
        return list(itertools.product(*map(range, shape)))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Yields the conditional, over (n,), of site after site. x: (n, *event) as `blank` makes it, into which the
        caller writes each value before it asks for the next conditional. Models that need not recompute what has not
        changed override it."""
        return self.steps_anew(x)

    def steps_anew(self, x: Tensor) -> Iterator[SiteDistribution]:
        """The same as `steps`, but computes everything again for every site."""
        for site in self.sites(tuple(x.shape[1:])):
            parameters = at_least_float32(self.parameters_of_sites(x)[at(site)])
            yield self.head(parameters, x[at(site)])

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        progress: Callable[[list[Any]], Iterable[Any]] = lambda steps: steps,
        given: Tensor | None = None,
        temperature: float = 1.0,
        length: int | None = None,
        method: str = "auto",
    ) -> Tensor:
        """Returns (n, *event) exact samples: every site is the quantile of its conditional at a number that is drawn
        once, from `generator`, so that they do not depend on how they are computed.

        progress: wraps the list of sites, or of rows, as tqdm does. given: (1 or n, k), the values of the first k sites
        in the model's order, to go on from. temperature: 1 samples from p; below it, conditionals are sharpened
        (p^(1/temperature), normalised). length: of the event, for models of sequences of any length. method: as `solve`
        takes it; the same samples.
        Raises ParameterError if n is below 0, given is of another shape or out of range, temperature is not positive, or
        the length fixed or below 1.
        """
        from .sampling import solve

        if n < 0:
            raise ParameterError(f"n must be at least 0, got {n}")
        shape = self.event_shape
        if length is not None:
            if not self.any_length or len(shape) != 1:
                raise ParameterError(f"this density models events of shape {shape} only, not of length {length}")
            if length < 1:
                raise ParameterError(f"length must be at least 1, got {length}")
            shape = (length,)
        x = torch.zeros(n, *shape, device=self.device, dtype=self.dtype)
        sites = self.sites(shape)
        known = torch.zeros(shape, dtype=torch.bool, device=self.device)
        for i, site in enumerate(sites[: self._checked_given(given, n, len(sites))]):
            assert given is not None
            known[site] = True
            x[at(site)] = given[:, i].to(x)
        if not temperature > 0:
            raise ParameterError(f"temperature must be positive, got {temperature}")
        u = torch.rand(x.shape, generator=generator, device=self.device, dtype=self.dtype)
        fixed, everywhere = x, known.expand(x.shape)

        def rule(conditionals: SiteDistribution, where: tuple[Any, ...]) -> Tensor:
            drawn = conditionals.quantile(u[where], temperature).to(fixed)
            return torch.where(everywhere[where], fixed[where], drawn) if given is not None else drawn

        return solve(self, x, rule, method=method, progress=progress)

    # which rows a net can be shown by themselves, given what it has seen of those above: any number of them, if it is a
    # multiple of this. None: it sees whole events only
    rows_at_once: int | None = None

    def of(self, images: Tensor, n: int) -> Autoregressive:
        """images: (m,) int64. Returns the density of these out of a batch of n; the same, if it treats all alike."""
        return self

    def _checked_given(self, given: Tensor | None, n: int, sites: int) -> int:
        """Returns how many values are given."""
        if given is None:
            return 0
        if given.ndim != 2 or given.shape[0] not in (1, n):
            raise ParameterError(f"given must be (1 or {n}, k), got {tuple(given.shape)}")
        if given.shape[1] > sites:
            raise ParameterError(f"given holds {given.shape[1]} values, the event has {sites} sites")
        if not torch.isfinite(given).all() or (self.levels is not None and ((given < 0) | (given > 1)).any()):
            raise ParameterError("given must be finite, and lie in [0, 1] where values are on a grid")
        return given.shape[1]

    def blank(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Returns (n, *shape) zeros, in memory in the order of the sites, so that `to_row` is a view."""
        return from_row(torch.zeros(n, math.prod(shape), device=self.device, dtype=self.dtype), shape)


class RowAutoregressive(Autoregressive):
    """An autoregressive model of any event as one row of sites: its net maps (N, D) to (N, D, P), and its
    `net.steps(row)` yields (n, P) for site after site, computing only what is new."""

    events = frozenset({"images", "rows"})

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        return from_row(self.net(to_row(x)), tuple(x.shape[1:]))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        for parameters in self.net.steps(to_row(x)):  # type: ignore[operator]
            yield self.head(at_least_float32(parameters), x)


def at(site: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Returns the index of a site in a batch of events."""
    return (slice(None), *site)


def to_row(x: Tensor) -> Tensor:
    """(N, *event) -> (N, D): the sites in raster order, channel by channel within a pixel."""
    if x.ndim == 4:
        x = x.permute(0, 2, 3, 1)
    return x.flatten(1)


def from_row(row: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, D) -> (N, *shape), or (N, D, P) -> (N, *shape, P): the inverse of `to_row`."""
    n, _, *rest = row.shape
    if len(shape) == 3:
        c, h, w = shape
        return row.reshape(n, h, w, c, *rest).movedim(3, 1)
    return row.reshape(n, *shape, *rest)


def number_of_sites(event_shape: tuple[int, ...]) -> int:
    """Returns D. Raises ParameterError if there is none."""
    if not event_shape or min(event_shape) < 1:
        raise ParameterError(f"event_shape must be (D,) or (C, H, W), all at least 1, got {tuple(event_shape)}")
    return math.prod(event_shape)


def at_least_float32(x: Tensor) -> Tensor:
    """Likelihoods are sums of many small logarithms: never in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
