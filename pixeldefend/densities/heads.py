"""Heads: from a net's parameters to the distribution of every site. `HEADS` names those that any net can have."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from ..errors import ParameterError
from .base import GridDistribution, Head, SiteDistribution

LEVELS = 256


class DiscretizedLogisticMixture(GridDistribution):
    """A mixture of logistics, integrated over the 256 bins of 8-bit values (PixelCNN++, Salimans et al. 2017, eq. 2).

    Pixel values are in [0, 1]; the logistics live on [-1, 1], as in the paper. Bins are 2/255 wide; the first and the
    last one reach to minus and to plus infinity, so the 256 masses sum to 1.

    logits, means, log_scales: (*batch_shape, K). log_scales are clamped to [-7, 7]: a scale of exp(-7) puts its mass
    in one bin, one of exp(7) half of it at either end.
    """

    LOG_SCALES = (-7.0, 7.0)
    BLOCK = 1024
    arg_constraints = {
        "logits": constraints.independent(constraints.real, 1),
        "means": constraints.independent(constraints.real, 1),
        "log_scales": constraints.independent(constraints.real, 1),
    }
    levels = LEVELS

    known: tuple[Tensor, Tensor] | None = None  # values, and `component_log_masses` of them, if these are known already

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.means = means
        self.log_scales = log_scales.clamp(*self.LOG_SCALES)
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    def part(self, index: tuple[Any, ...]) -> Self:
        return type(self)(self.logits[index], self.means[index], self.log_scales[index], validate_args=False)

    def component_log_masses(self, value: Tensor) -> Tensor:
        """value: (*batch_shape) in [0, 1]. Returns (*batch_shape, K): log of the mass that each logistic puts on the
        bin around value.

        Exact on the grid. Off it the bin slides along, and its outer edges open to infinity gradually within the last
        1/255 at either end, so that the result is continuous and has a gradient.
        """
        if self.known is not None and value is self.known[0] and not value.requires_grad:
            return self.known[1]
        x = value.unsqueeze(-1)
        half = 1 / (LEVELS - 1)
        inverse_scale = torch.exp(-self.log_scales)
        upper = (2 * x - 1 - self.means + half) * inverse_scale
        lower = (2 * x - 1 - self.means - half) * inverse_scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no cancellation, however far the tail
        up, down = _log_sigmoid(upper), _log_sigmoid(-lower)
        tanh = torch.tanh(half * inverse_scale)
        inside = up + down + torch.log(2 * tanh / (1 + tanh))  # which is 1 - exp(-2 half inverse_scale)
        below = lower + down + _log_openness(x)  # the tail below the first bin, sigmoid(lower)
        above = up - upper + _log_openness(1 - x)  # and above the last one
        return _log_add(_log_add(inside, below), above)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits + self.component_log_masses(value), -1)

    def below(self, value: Tensor) -> Tensor:
        x = value.unsqueeze(-1)
        edge = (2 * x - 1 - 1 / (LEVELS - 1) - self.means) * torch.exp(-self.log_scales)
        return (self.logits.exp() * edge.sigmoid()).sum(-1).clamp(max=1).where(value > 0, 0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        if temperature != 1:
            return super().quantile(u, temperature)
        # the highest value below which there is at most u, a hexadecimal digit at a time
        digits = torch.arange(1, 16, device=u.device, dtype=u.dtype).reshape(-1, *[1] * u.ndim)
        index = torch.zeros_like(u)
        for place in (16, 1):
            index = index + place * (self.below((index + place * digits) / (LEVELS - 1)) <= u).sum(0)
        return index / (LEVELS - 1)

    def most_probable(self, low: Tensor, high: Tensor) -> Tensor:
        k = self.logits.shape[-1]
        flat = [t.expand(*self.batch_shape, k).reshape(-1, k) for t in (self.logits, self.means, self.log_scales)]
        blocks = zip(*(t.split(self.BLOCK) for t in (*flat, low.flatten(), high.flatten())), strict=True)
        return torch.cat([_most_probable(*block) for block in blocks]).reshape(self.batch_shape)

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        # a table of 256 values for every site of a batch would be written to memory and read again many times: blocks
        # of sites whose table fits into a cache are several times faster
        k = self.logits.shape[-1]
        flat = [t.expand(*self.batch_shape, k).reshape(-1, k) for t in (self.logits, self.means, self.log_scales)]
        blocks = zip(*(t.split(self.BLOCK) for t in flat), strict=True)
        moments = [_surprisal_moments(*block) for block in blocks]
        mean, variance = (torch.cat(parts).reshape(self.batch_shape) for parts in zip(*moments, strict=True))
        return mean, variance

    def pmf(self) -> Tensor:
        return _masses(self.logits, self.means, self.log_scales).clamp(min=0)


class GridCategorical(GridDistribution):
    """A free probability for each of L values (256: what the authors of PixelDefend trained their PixelCNN with; 2: a
    Bernoulli distribution).

    logits: (*batch_shape, L). Off the grid the log-probability is interpolated linearly.
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 1)}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits.log_softmax(-1)
        self.levels = logits.shape[-1]
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    def part(self, index: tuple[Any, ...]) -> Self:
        return type(self)(self.logits[index], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        position = (value * (self.levels - 1)).unsqueeze(-1)
        below = position.detach().floor().clamp(0, self.levels - 2)
        index = below.long()
        logits = self.logits.expand(*value.shape, -1)
        left, right = logits.gather(-1, index), logits.gather(-1, index + 1)
        return torch.lerp(left, right, position - below).squeeze(-1)

    def below(self, value: Tensor) -> Tensor:
        value = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        index = (value * (self.levels - 1)).round().long().unsqueeze(-1)
        pmf = self.pmf().expand(*value.shape, -1)
        return (pmf.cumsum(-1) - pmf).gather(-1, index).squeeze(-1).clamp(0, 1)

    def pmf(self) -> Tensor:
        return self.logits.exp()


class RealMixture(SiteDistribution):
    """A mixture of normal or of Laplace distributions of a real number: a density.

    logits, locations, log_scales: (*batch_shape, K). log_scales are clamped to [-7, 7].
    """

    LOG_SCALES = (-7.0, 7.0)
    arg_constraints = {
        "logits": constraints.independent(constraints.real, 1),
        "locations": constraints.independent(constraints.real, 1),
        "log_scales": constraints.independent(constraints.real, 1),
    }
    support = constraints.real
    quadrature: tuple[np.ndarray, np.ndarray]  # nodes and weights of E f(z) for a standard z

    def __init__(
        self, logits: Tensor, locations: Tensor, log_scales: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits = logits.log_softmax(-1)
        self.locations = locations
        self.log_scales = log_scales.clamp(*self.LOG_SCALES)
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    def part(self, index: tuple[Any, ...]) -> Self:
        return type(self)(self.logits[index], self.locations[index], self.log_scales[index], validate_args=False)

    @abstractmethod
    def _log_standard(self, z: Tensor) -> Tensor:
        """Log of the standard density at z."""

    @abstractmethod
    def _standard_below(self, z: Tensor) -> Tensor:
        """The standard distribution function at z."""

    @abstractmethod
    def _standard_quantile(self, u: Tensor) -> Tensor:
        """The inverse of the standard distribution function at u, in (0, 1)."""

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value.unsqueeze(-1) - self.locations) * torch.exp(-self.log_scales)
        return torch.logsumexp(self.logits + self._log_standard(z) - self.log_scales, -1)

    def below(self, value: Tensor) -> Tensor:
        z = (value.unsqueeze(-1) - self.locations) * torch.exp(-self.log_scales)
        return (self.logits.exp() * self._standard_below(z)).sum(-1)

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        # Gauss quadrature within each component: exact for one, close for several
        nodes, weights = (torch.from_numpy(array).to(self.logits) for array in self.quadrature)
        scales, mixture = self.log_scales.exp(), self.logits.exp()
        mean, square = torch.zeros_like(mixture[..., 0]), torch.zeros_like(mixture[..., 0])
        for node, weight in zip(nodes, weights, strict=True):
            for k in range(mixture.shape[-1]):
                surprisal = -self.log_prob(self.locations[..., k] + node * scales[..., k])
                mean = mean + weight * mixture[..., k] * surprisal
                square = square + weight * mixture[..., k] * surprisal.square()
        return mean, (square - mean.square()).clamp(min=0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        # which component, and what u still tells within it: one number is enough
        if temperature != 1:
            raise ParameterError(f"a mixture of real numbers is sampled at temperature 1, got {temperature}")
        weights, locations, log_scales = (
            t.expand(*u.shape, -1) for t in (self.logits.exp(), self.locations, self.log_scales)
        )
        cdf = weights.cumsum(-1)
        u = u.unsqueeze(-1) * cdf[..., -1:]
        chosen = (cdf <= u).sum(-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
        weight, before = weights.gather(-1, chosen), (cdf - weights).gather(-1, chosen)
        tiny = torch.finfo(u.dtype).eps
        within = ((u - before) / weight).clamp(tiny, 1 - tiny).squeeze(-1)
        location, log_scale = (t.gather(-1, chosen).squeeze(-1) for t in (locations, log_scales))
        return location + self._standard_quantile(within) * log_scale.exp()


class NormalMixture(RealMixture):
    """A mixture of normal distributions."""

    quadrature = (
        np.polynomial.hermite_e.hermegauss(24)[0],
        np.polynomial.hermite_e.hermegauss(24)[1] / math.sqrt(2 * math.pi),
    )

    def _log_standard(self, z: Tensor) -> Tensor:
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi)

    def _standard_below(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z)

    def _standard_quantile(self, u: Tensor) -> Tensor:
        return torch.special.ndtri(u)


class LaplaceMixture(RealMixture):
    """A mixture of Laplace distributions."""

    quadrature = (
        np.concatenate([-np.polynomial.laguerre.laggauss(16)[0], np.polynomial.laguerre.laggauss(16)[0]]),
        np.tile(np.polynomial.laguerre.laggauss(16)[1] / 2, 2),
    )

    def _log_standard(self, z: Tensor) -> Tensor:
        return -z.abs() - math.log(2)

    def _standard_below(self, z: Tensor) -> Tensor:
        return 0.5 - 0.5 * z.sign() * torch.expm1(-z.abs())

    def _standard_quantile(self, u: Tensor) -> Tensor:
        return -(u - 0.5).sign() * torch.log1p(-2 * (u - 0.5).abs())


# -- heads of one site, which any net can have -------------------------------------------------------------------------


class BernoulliHead(Head):
    """A coin a site, values 0 and 1."""

    levels = 2
    outputs = 1

    def initial_bias(self) -> Tensor:
        """Returns (1,): a fair coin."""
        return torch.zeros(1)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        return GridCategorical(F.pad(parameters, (1, 0)), validate_args=False)


class CategoricalHead(Head):
    """A softmax over all `levels` values of a site."""

    def __init__(self, levels: int = LEVELS) -> None:
        super().__init__()
        self.levels = levels
        self.outputs = levels

    def initial_bias(self) -> Tensor:
        """Returns (L,): uniform."""
        return torch.zeros(self.outputs)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        return GridCategorical(parameters, validate_args=False)


class LogisticMixtureHead(Head):
    """A discretized mixture of `mixtures` logistics a site of 256 values."""

    levels = LEVELS

    def __init__(self, mixtures: int) -> None:
        super().__init__()
        self.outputs = 3 * mixtures

    def initial_bias(self) -> Tensor:
        """Returns (3 K,): as for `PixelLogisticMixtureHead`."""
        return PixelLogisticMixtureHead(1, self.outputs // 3).initial_bias()

    def forward(self, parameters: Tensor, x: Tensor) -> DiscretizedLogisticMixture:
        return DiscretizedLogisticMixture(*parameters.chunk(3, -1), validate_args=False)


class NormalMixtureHead(Head):
    """A mixture of `mixtures` normal distributions a site (1: a single Gaussian)."""

    levels = None
    distribution: type[RealMixture] = NormalMixture

    def __init__(self, mixtures: int) -> None:
        super().__init__()
        self.outputs = 3 * mixtures

    def initial_bias(self) -> Tensor:
        """Returns (3 K,): locations spread over [-1, 1], scales of 1."""
        k = self.outputs // 3
        locations = torch.linspace(-1, 1, k) if k > 1 else torch.zeros(1)
        return torch.cat([torch.zeros(k), locations, torch.zeros(k)])

    def forward(self, parameters: Tensor, x: Tensor) -> RealMixture:
        return self.distribution(*parameters.chunk(3, -1), validate_args=False)


class LaplaceMixtureHead(NormalMixtureHead):
    """A mixture of `mixtures` Laplace distributions a site."""

    distribution = LaplaceMixture


# name -> head, given the number of values and of mixture components; a head uses what it needs
HEADS: dict[str, Callable[[int, int], Head]] = {
    "bernoulli": lambda levels, mixtures: BernoulliHead(),
    "categorical": lambda levels, mixtures: CategoricalHead(levels),
    "logistics": lambda levels, mixtures: LogisticMixtureHead(mixtures),
    "normals": lambda levels, mixtures: NormalMixtureHead(mixtures),
    "laplacians": lambda levels, mixtures: LaplaceMixtureHead(mixtures),
}


def make_head(name: str, *, levels: int = LEVELS, mixtures: int = 5) -> Head:
    """name: a key of `HEADS`. levels: number of values of a site, for "categorical". mixtures: number of components,
    for mixtures. Raises ParameterError if the name is unknown, levels is below 2 or mixtures below 1."""
    if name not in HEADS:
        raise ParameterError(f"head must be one of {', '.join(HEADS)}, got {name!r}")
    if levels < 2 or mixtures < 1:
        raise ParameterError(f"levels must be at least 2 and mixtures at least 1, got {levels} and {mixtures}")
    return HEADS[name](levels, mixtures)


# -- heads of one pixel, which join its channels -----------------------------------------------------------------------


class PixelLogisticMixtureHead(Head):
    """K logistics a sub-pixel; for RGB the channel-by-channel factorisation of PixelCNN++ (section 2.2).

    There the mixture is over whole pixels: one component explains R, G and B, with means of G and B linear in the
    channels before them. As conditionals a sub-pixel, that is a mixture whose weights are updated (Bayes) by how well
    each component explained the channels already seen.
    """

    levels = LEVELS

    def __init__(self, channels: int, mixtures: int) -> None:
        super().__init__()
        self.channels = channels
        self.mixtures = mixtures
        self.pairs = channels * (channels - 1) // 2
        self.outputs = mixtures * (1 + 2 * channels + self.pairs)

    def initial_bias(self) -> Tensor:
        """Returns (P,): means spread over [-0.7, 0.7] and scales of exp(-2), from which training starts fast."""
        k, c = self.mixtures, self.channels
        means = torch.linspace(-0.7, 0.7, k) if k > 1 else torch.zeros(1)
        return torch.cat([torch.zeros(k), means.repeat(c), torch.full((k * c,), -2.0), torch.zeros(k * self.pairs)])

    def forward(self, parameters: Tensor, x: Tensor) -> DiscretizedLogisticMixture:
        logits, means, log_scales, coefficients = self._parts(parameters)
        c = self.channels
        if c == 1:
            return DiscretizedLogisticMixture(logits, means, log_scales, validate_args=False)
        seen = 2 * x.unsqueeze(-1) - 1
        shifts = [torch.zeros_like(means[:, 0])]
        for i in range(1, c):
            shifts.append((self._row(coefficients, i) * seen[:, :i]).sum(1))
        means = means + torch.stack(shifts, 1)
        fit = DiscretizedLogisticMixture(logits, means, log_scales, validate_args=False).component_log_masses(x)
        explained = torch.cat([torch.zeros_like(fit[:, :1]), fit.cumsum(1)[:, :-1]], 1)
        mixture = DiscretizedLogisticMixture(logits + explained, means, log_scales, validate_args=False)
        mixture.known = (x, fit)
        return mixture

    def in_turn(self, parameters: Tensor, x: Tensor) -> Iterator[DiscretizedLogisticMixture]:
        logits, means, log_scales, coefficients = self._parts(parameters)
        for i in range(self.channels):
            channel, mean = slice(i, i + 1), means[:, i : i + 1]
            if i:
                mean = mean + (self._row(coefficients, i) * (2 * x[:, :i].unsqueeze(-1) - 1)).sum(1, keepdim=True)
            mixture = DiscretizedLogisticMixture(logits, mean, log_scales[:, channel], validate_args=False)
            yield mixture
            if i + 1 < self.channels:
                logits = logits + mixture.component_log_masses(x[:, channel])

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns logits (N, 1, H, W, K), means and log-scales (N, C, H, W, K), and coefficients (N, pairs, H, W, K) in
        (-1, 1)."""
        n, _, h, w = parameters.shape
        k, c = self.mixtures, self.channels
        sections = [k, c * k, c * k, self.pairs * k]
        parts = parameters.permute(0, 2, 3, 1).split(sections, -1)  # (N, H, W, ·)
        logits, means, log_scales, coefficients = (
            part.reshape(n, h, w, section // k, k).movedim(3, 1) for part, section in zip(parts, sections, strict=True)
        )
        return logits, means, log_scales, coefficients.tanh()

    def _row(self, coefficients: Tensor, i: int) -> Tensor:
        """Row i of the lower triangle: the weights of channels 0 ... i - 1 in the mean of channel i."""
        return coefficients[:, i * (i - 1) // 2 : i * (i + 1) // 2]


class PixelCategoricalHead(Head):
    """A 256-way softmax a sub-pixel; the logits of G see R, those of B see R and G, through a learnt table."""

    levels = LEVELS

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.outputs = channels * LEVELS
        tables = [nn.Linear(i * LEVELS, LEVELS, bias=False) for i in range(1, channels)]
        for table in tables:
            nn.init.zeros_(table.weight)
        self.tables = nn.ModuleList(tables)

    def initial_bias(self) -> Tensor:
        """Returns (P,): uniform."""
        return torch.zeros(self.outputs)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        n, _, h, w = parameters.shape
        logits = parameters.reshape(n, self.channels, LEVELS, h, w).movedim(2, -1)  # (N, C, H, W, 256)
        if self.channels > 1:
            # hat functions: a one-hot code on the grid, linear in between, so that gradients reach x
            grid = torch.arange(LEVELS, device=x.device, dtype=x.dtype)
            hats = (1 - (x.unsqueeze(-1) * (LEVELS - 1) - grid).abs()).clamp(min=0)  # (N, C, H, W, 256)
            updates = [torch.zeros_like(logits[:, 0])]
            for i, table in enumerate(self.tables, start=1):
                updates.append(table(hats[:, :i].movedim(1, -2).flatten(-2)))
            logits = logits + torch.stack(updates, 1)
        return GridCategorical(logits, validate_args=False)


def _masses(logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """(*, K) each. Returns (*, 256): the mass of every value; differences of sums, which rounding may make negative."""
    edges = torch.arange(1, LEVELS, device=means.device, dtype=means.dtype) * (2 / (LEVELS - 1))
    edges = edges - (1 + 1 / (LEVELS - 1))  # between value v - 1 and v, v = 1 ... 255
    inverse_scale, weights = torch.exp(-log_scales).unsqueeze(-1), logits.exp().unsqueeze(-1)
    offset = -means.unsqueeze(-1) * inverse_scale
    # one component at a time: the table is large, a table of K tables larger
    components = range(logits.shape[-1])
    if torch.is_grad_enabled() and (means.requires_grad or weights.requires_grad):
        parts = [
            weights[..., k, :] * torch.sigmoid(offset[..., k, :] + edges * inverse_scale[..., k, :]) for k in components
        ]
        return F.pad(F.pad(torch.stack(parts).sum(0), (0, 1), value=1.0), (1, 0)).diff(dim=-1)
    shape = torch.broadcast_shapes(logits.shape, means.shape, log_scales.shape)[:-1]
    cdf = torch.zeros(*shape, LEVELS + 1, device=edges.device, dtype=edges.dtype)
    cdf[..., LEVELS] = 1
    inside = cdf[..., 1:LEVELS]
    for k in components:
        z = torch.addcmul(offset[..., k, :], edges, inverse_scale[..., k, :])
        inside.addcmul_(z.sigmoid_(), weights[..., k, :])
    return cdf.diff(dim=-1)


def _surprisal_moments(logits: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) each. Returns (M,), (M,): as `SiteDistribution.surprisal_moments`."""
    masses = _masses(logits, means, log_scales)
    masses = masses.clamp(min=torch.finfo(masses.dtype).tiny)
    log = masses.log()
    weighted = masses * log
    mean = -weighted.sum(-1)
    return mean, (weighted * log).sum(-1).sub(mean.square()).clamp(min=0)


def _most_probable(logits: Tensor, means: Tensor, log_scales: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """logits, means, log_scales: (M, K). low, high: (M,). Returns (M,), as `GridDistribution.most_probable`.

    The mass of a bin of half width d (in scales) around z is sinh(d) / (cosh(z) + cosh(d)), which does not cancel as a
    difference of two sigmoids does. All masses of a site are multiplied by exp of the least |z|: values within reach
    may be so improbable that in float32 there would be nothing left of them.
    """
    first, last = (LEVELS - 1) * low.unsqueeze(1), (LEVELS - 1) * high.unsqueeze(1)
    first, last = first.round(), last.round()
    steps = int((last - first).max().item()) + 1
    value = first + torch.arange(steps, device=means.device)  # (M, S)
    inverse_scale = torch.exp(-log_scales).unsqueeze(1)  # (M, 1, K)
    half = inverse_scale / (LEVELS - 1)
    z = (2 / (LEVELS - 1) * value - 1).unsqueeze(2).sub(means.unsqueeze(1)).mul_(inverse_scale)  # (M, S, K)
    away = z.abs()
    least = away.amin((1, 2), keepdim=True)
    scaled = torch.exp(least - away)
    true = scaled * torch.exp(-least)
    mass = scaled.mul_(half.sinh()).div_(true.square().add_(1).mul_(0.5).addcmul_(true, half.cosh()))
    for end, sign in ((0, 1), (LEVELS - 1, -1)):  # whose bins reach to infinity: their mass is sigmoid(u)
        site = ((first <= end) & (end <= last)).nonzero()[:, 0]
        if len(site):
            column = (end - first[site, 0]).long()
            u = sign * z[site, column] + half[site, 0]
            scale = least[site, 0].expand_as(u)
            # a small sigmoid(u) is exp(u): it is scaled before it underflows; a large one may make all others nothing
            power = torch.where(u < 0, scale + u, scale).clamp(max=60)
            mass[site, column] = torch.exp(power) / (1 + torch.exp(-u.abs()))
    probability = (mass @ logits.exp().unsqueeze(2)).squeeze(2).masked_fill_(value > last, -1)
    chosen = value.gather(1, probability.argmax(1, keepdim=True)).squeeze(1)
    return chosen / (LEVELS - 1)


def _log_sigmoid(x: Tensor) -> Tensor:
    """F.logsigmoid, whose log1p torch computes value by value on the CPU; this loses what is below 1e-7 beside 1."""
    return x.clamp(max=0) - torch.log(1 + torch.exp((-x.abs()).clamp(min=-80)))


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """torch.logaddexp, likewise, for a finite a."""
    return torch.maximum(a, b) + torch.log(1 + torch.exp((-(a - b).abs()).clamp(min=-80)))


def _log_openness(distance: Tensor) -> Tensor:
    """distance: from an end of the range. Returns log of how far the bin's outer edge is opened to infinity: 0 at the
    end itself, minus infinity (with a zero gradient) from one grid step on, where rounding must not open it again."""
    slack = 1e-4
    opened = 1 - (LEVELS - 1) / (1 - slack) * distance
    positive = opened > 0
    return torch.where(positive, torch.log(torch.where(positive, opened, 1)), -math.inf)
