"""Autoregressive densities, the base of all models but the ensembles.

An autoregressive model writes the probability of an event, an image or a row of numbers, as a product over its sites,

    p(x) = p(x_1) p(x_2 | x_1) p(x_3 | x_1, x_2) ... p(x_D | x_1 ... x_D-1),

which is possible for every distribution and every order of sites. A net, which sees only earlier sites, gives the
parameters of each factor, and a head turns them into a distribution. The likelihood takes one pass of the net, since
all sites are known; a sample is drawn site by site. The models differ in their nets, one file per paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..ambient import ordinary, torch_defaults
from ..errors import ParameterError
from .base import Density
from .distributions import SiteDistribution, at_least_float32
from .heads import HEADS, Head
from .sampling import Progress, Quantile, Rule, solve
from .sites import at, from_row, raster_order, to_row


class Autoregressive(Density):
    """A density p(x) = prod_i p(x_i | x_<i), made of a net and a head that turns its outputs into distributions.

    The order of sites is that of `sites.raster_order`, unless a model says otherwise.

    Args:
        event_shape: Shape of one event.
        net: (N, *event) -> the input of `head`. The parameters of a site depend only on earlier sites.
        head: The head, which makes the distributions.

    Attributes:
        heads: The names of the heads that the model can have. A model that has only one takes no argument for it.
        default_head: The default head; None if the default depends on the data.
        min_side: The least height and width of an image.
        any_size: Whether `event_shape` can be (C, None, None), images of any size.
        full_context: Whether every conditional depends on all sites before it, however small the net is. False if a
            model has a limited reach or a blind spot.
        rows_at_once: If the net of a model of images can work on some rows, given those above (`sampling.RowStream`),
            their number must be a multiple of this. None if the net needs whole events.
    """

    event_shape: tuple[int | None, ...]
    heads: tuple[str, ...] = tuple(HEADS)
    default_head: str | None = None
    min_side: int = 1
    any_size: bool = False
    full_context: bool = True
    rows_at_once: int | None = None

    def __init__(self, event_shape: tuple[int | None, ...], net: nn.Module, head: Head) -> None:
        super().__init__(event_shape)
        self.net = net
        self.head = head
        self.levels = head.levels

    def check(self, x: Tensor) -> None:
        """Checks that x can be scored.

        Raises:
            ParameterError: If x is not (N, *event), floating point, finite and, where values are on a grid, in [0, 1].
        """
        super().check(x)
        if self.levels is not None and x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise ParameterError(f"x must lie in [0, 1], got min {x.min():.3g} and max {x.max():.3g}")

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        """Runs the net on x, (N, *event), and returns the input of the head."""
        return self.net(x)

    @torch_defaults()
    def conditionals(self, x: Tensor) -> SiteDistribution:
        """Computes the distribution of every site given those before it.

        Args:
            x: (N, *event). It must not be written to while the result is used.

        Returns:
            A distribution over (N, *event).

        Raises:
            ParameterError: As `check` does.
        """
        return self._conditionals(ordinary(x))

    def tiles(self, x: Tensor) -> Iterator[tuple[tuple[slice, ...], SiteDistribution, Tensor]]:
        """Computes the conditionals of one part of x after another, so that memory is bounded.

        Models of a limited reach override this method. The parts of others are whole events.

        Args:
            x: (N, *event).

        Yields:
            The index of a part in x; the conditionals of its sites; and x there. Every site is in one part.

        Raises:
            ParameterError: As `check` does.
        """
        yield (slice(0, len(x)),), self.conditionals(x), x

    @torch_defaults()
    def log_prob_map(self, x: Tensor) -> Tensor:
        """Evaluates log p(x_i | x_<i), the terms whose sum is `log_prob`.

        Args:
            x: (N, *event).

        Returns:
            (N, *event) nats.

        Raises:
            ParameterError: As `check` does.
        """
        x = ordinary(x)
        return self._conditionals(x).log_prob(at_least_float32(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """Evaluates log p(x), exact on the grid of `levels` values and smooth off it; see `Density.log_prob`."""
        return self.log_prob_map(x).flatten(1).sum(1)

    def objective(self, x: Tensor) -> Tensor:
        """Computes -log p(x), (N,) nats, which training minimises, with the net under autocast if it is on."""
        return -self._conditionals(x).log_prob(at_least_float32(x)).flatten(1).sum(1)

    def _conditionals(self, x: Tensor) -> SiteDistribution:
        """Computes `conditionals`, with the net under autocast if it is on."""
        self.check(x)
        parameters = self.parameters_of_sites(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(at_least_float32(parameters), at_least_float32(x))

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sites(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Lists the index of every site of an event of this shape, in the model's order."""
        return raster_order(shape)

    def parts(self, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
        """Lists the parts of an event, whose conditionals `steps` computes together.

        Here each part is one site. Models in which several sites see none of one another override this method.

        Args:
            shape: The shape of the event.

        Returns:
            Indices of a batch of events.
        """
        return [at(site) for site in self.sites(shape)]

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one part after another.

        Models that can reuse earlier results override this method.

        Args:
            x: (n, *event), as `blank` makes it. The caller writes each value into it before it asks for the next
                conditional.

        Yields:
            The distribution of each of the `parts`, over (n,) for a single site.
        """
        return self.sequential_steps(x)

    def sequential_steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Yields the same as `steps`, but computes everything again for every site, which is slow."""
        for site in self.sites(tuple(x.shape[1:])):
            parameters = at_least_float32(self.parameters_of_sites(x)[at(site)])
            yield self.head(parameters, x[at(site)])

    @torch_defaults()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        progress: Progress = lambda steps: steps,
        given: Tensor | None = None,
        temperature: float = 1.0,
        length: int | None = None,
        size: tuple[int, int] | None = None,
        method: str = "auto",
    ) -> Tensor:
        """Draws exact samples.

        Every site is the quantile of its conditional at a uniform random number, so the samples do not depend on the
        method.

        Args:
            n: The number of samples, at least 0.
            generator: The source of random numbers, on the density's device; None for torch's default one.
            progress: Wraps the list of parts, or of rows, as tqdm does.
            given: (1 or n, k), the values of the first k sites in the model's order, which the samples continue.
            temperature: Above 0. The conditionals become p^(1/temperature), normalised: 1 samples from p, lower values
                sharpen it.
            length: The length of the events, at least 1, for models of sequences.
            size: Height and width of the images, at least 1, for models of images of any size, which need it.
            method: As for `sampling.solve`; the samples are the same.

        Returns:
            (n, *event).

        Raises:
            ParameterError: If an argument is out of range, if `length` or `size` is given to a model of events of one
                shape, or if a model of images of any size gets no `size`.
            ModelError: If the density gives NaN.
        """
        if n < 0:
            raise ParameterError(f"n must be at least 0, got {n}")
        shape = self.shape_of(length, size)
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
        rule = Quantile(u, temperature, known.expand(x.shape), x)
        return solve(self, x, rule, method=method, progress=progress)

    def can_draft(self, x: Tensor, rule: Rule) -> bool:
        """Returns whether `draft` can compute events such as x, (n, *event), by a rule."""
        return False

    def draft(self, rule: Rule, progress: Progress) -> Tensor:
        """Computes events by a rule, up to rounding, faster than in passes of the net; see `drafts`.

        Args:
            rule: A rule for which `can_draft` is true.
            progress: As for `sampling.solve`.

        Returns:
            (n, *event).
        """
        raise NotImplementedError

    def for_images(self, images: Tensor, n: int) -> Autoregressive:
        """Returns the density for some events of a batch, which is this one unless it treats events differently.

        Args:
            images: (m,) int64, the positions of the events in the batch.
            n: The size of the batch.

        Returns:
            The density of these m events.
        """
        return self

    def blank(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """Returns (n, *shape) zeros in the memory order of the sites, so that `sites.to_row` is a view."""
        return from_row(torch.zeros(n, math.prod(shape), device=self.device, dtype=self.dtype), shape)

    def shape_of(self, length: int | None = None, size: tuple[int, int] | None = None) -> tuple[int, ...]:
        """Returns the shape of the events that `sample` draws.

        Args:
            length: As for `sample`.
            size: As for `sample`.

        Raises:
            ParameterError: As `sample` does.
        """
        shape = self.event_shape
        if length is not None and ("sequences" not in self.events or len(shape) != 1):
            raise ParameterError(f"this density models events of shape {shape} only, not of length {length}")
        if size is not None and not self.is_open:
            raise ParameterError(f"this density models events of shape {shape} only, not of size {tuple(size)}")
        if self.is_open:
            if size is None:
                raise ParameterError("this density models images of any size: give the size, (height, width)")
            if len(size) != 2 or min(size) < 1:
                raise ParameterError(f"size must be (height, width), both at least 1, got {tuple(size)}")
            shape = (shape[0], *size)
        elif length is not None:
            if length < 1:
                raise ParameterError(f"length must be at least 1, got {length}")
            shape = (length,)
        return tuple(side for side in shape if side is not None)

    def _checked_given(self, given: Tensor | None, n: int, sites: int) -> int:
        """Returns the number of given values, after checking them."""
        if given is None:
            return 0
        if given.ndim != 2 or given.shape[0] not in (1, n):
            raise ParameterError(f"given must be (1 or {n}, k), got {tuple(given.shape)}")
        if given.shape[1] > sites:
            raise ParameterError(f"given holds {given.shape[1]} values, but the event has only {sites} sites")
        if not torch.isfinite(given).all() or (self.levels is not None and ((given < 0) | (given > 1)).any()):
            raise ParameterError("given must be finite, and lie in [0, 1] where values are on a grid")
        return given.shape[1]


class RowAutoregressive(Autoregressive):
    """An autoregressive model that treats every event as one row of sites.

    Its net maps (N, D) to (N, D, P), and `net.steps(row)` yields (n, P) for one site after another, reusing earlier
    results. Its arguments are those of `Autoregressive`.
    """

    events = frozenset({"images", "rows"})

    def parameters_of_sites(self, x: Tensor) -> Tensor:
        """Runs the net on the rows of x, (N, *event), and returns (N, *event, P)."""
        return from_row(self.net(to_row(x)), tuple(x.shape[1:]))

    def steps(self, x: Tensor) -> Iterator[SiteDistribution]:
        """Computes the conditionals of one site after another; see `Autoregressive.steps`."""
        for parameters in self.net.steps(to_row(x)):  # type: ignore[operator]
            yield self.head(at_least_float32(parameters), x)
