"""The discretized mixture of logistics, the distribution of a sub-pixel in PixelCNN++.

PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017) treats an 8-bit value as a rounded real number. The real number
follows a mixture of logistic distributions, and the probability of a value is the mass of the mixture in the bin around
it. A few numbers per sub-pixel describe all 256 probabilities, and neighbouring values have similar probabilities.

The functions below take most of the time of scoring an image. They compute the masses without cancellation in the
tails, and without tables that do not fit into the CPU's cache.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from . import kernels
from .distributions import BYTE_LEVELS, GridDistribution

LOGISTIC_VARIANCE = math.pi**2 / 3  # of a logistic distribution of scale 1
LEAST = -80.0  # exponents are clamped here: CPUs compute several times slower with the tiny numbers below
ROUNDING_VARIANCE = 1 / 12 / (BYTE_LEVELS - 1) ** 2  # what rounding adds (Sheppard's correction)


class DiscretizedLogisticMixture(GridDistribution):
    """A mixture of K logistics, integrated over the 256 bins of 8-bit values.

    Values are in [0, 1], which the logistics see scaled to [-1, 1], as in the paper. Bins are 2/255 wide. The first bin
    reaches to minus infinity and the last one to plus infinity, so the 256 masses sum to 1.

    Args:
        logits: (*batch_shape, K) unnormalised log-weights of the components.
        means: (*batch_shape, K), where [-1, 1] is the range of the values.
        log_scales: (*batch_shape, K), clamped to [-7, 7]: a scale of exp(-7) puts its mass into one bin, a scale of
            exp(7) puts half of it on either end.
        validate_args: As for `torch.distributions.Distribution`.

    Reference:
        Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517, equation 2.
    """

    LOG_SCALES = (-7.0, 7.0)
    SITES_PER_BLOCK = 1024  # the tables of so many sites are in memory at once
    arg_constraints = {
        "logits": constraints.independent(constraints.real, 1),
        "means": constraints.independent(constraints.real, 1),
        "log_scales": constraints.independent(constraints.real, 1),
    }
    levels = BYTE_LEVELS

    # the values that the head saw, and their log masses
    known: tuple[Tensor, Tensor] | None = None

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = _log_softmax(logits)
        self.means = means
        self.log_scales = log_scales.clamp(*self.LOG_SCALES)
        super().__init__(batch_shape=logits.shape[:-1], validate_args=validate_args)

    @classmethod
    def of_normalised(cls, logits: Tensor, means: Tensor, log_scales: Tensor) -> Self:
        """Makes a mixture without computing anything, of normalised logits and clamped log-scales."""
        mixture = cls.__new__(cls)
        mixture.logits, mixture.means, mixture.log_scales = logits, means, log_scales
        GridDistribution.__init__(mixture, batch_shape=logits.shape[:-1], validate_args=False)
        return mixture

    def part(self, index: tuple[Any, ...]) -> Self:
        """Selects some of the sites; see `SiteDistribution.part`."""
        return type(self)(self.logits[index], self.means[index], self.log_scales[index], validate_args=False)

    def component_log_masses(self, value: Tensor) -> Tensor:
        """Computes the log of the mass that each logistic puts on the bin around a value; see `log_masses`."""
        if self.known is not None and value is self.known[0] and not value.requires_grad:
            return self.known[1]
        return log_masses(self.means, self.log_scales, value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Evaluates log p, smooth off the grid; see `SiteDistribution.log_prob`."""
        if self._validate_args:
            self._validate_sample(value)
        return _log_sum_exp(self.logits + self.component_log_masses(value))

    def mean_and_deviation(self) -> tuple[Tensor, Tensor]:
        """Computes the mean and the standard deviation of a value, as if the range had no ends.

        Returns:
            (*batch_shape) each, where the values are in [0, 1].
        """
        weights = self.logits.clamp(min=LEAST).exp()
        mean = (weights * self.means).sum(-1)
        spread = (self.means - mean.unsqueeze(-1)).square()
        variance = (weights * (LOGISTIC_VARIANCE * torch.exp(2 * self.log_scales) + spread)).sum(-1)
        return (mean + 1) / 2, (variance / 4 + ROUNDING_VARIANCE).sqrt()

    def below(self, value: Tensor) -> Tensor:
        """Evaluates the mixture's distribution function; see `SiteDistribution.below`."""
        x = value.unsqueeze(-1)
        edge = (2 * x - 1 - 1 / (BYTE_LEVELS - 1) - self.means) * torch.exp(-self.log_scales)
        return (self.logits.exp() * edge.sigmoid()).sum(-1).clamp(max=1).where(value > 0, 0)

    def quantile(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Finds the quantile in two hexadecimal digits, without a table; see `SiteDistribution.quantile`."""
        if temperature != 1:
            return super().quantile(u, temperature)
        # the highest value below which there is at most u
        digits = torch.arange(1, 16, device=u.device, dtype=u.dtype).reshape(-1, *[1] * u.ndim)
        index = torch.zeros_like(u)
        for place in (16, 1):
            index = index + place * (self.below((index + place * digits) / (BYTE_LEVELS - 1)) <= u).sum(0)
        return index / (BYTE_LEVELS - 1)

    def most_probable(self, low: Tensor, high: Tensor) -> Tensor:
        """Compares only the masses within the interval; see `GridDistribution.most_probable`."""
        k = self.logits.shape[-1]
        flat = [t.expand(*self.batch_shape, k).reshape(-1, k) for t in (self.logits, self.means, self.log_scales)]
        blocks = zip(*(t.split(self.SITES_PER_BLOCK) for t in (*flat, low.flatten(), high.flatten())), strict=True)
        return torch.cat([_most_probable(*block) for block in blocks]).reshape(self.batch_shape)

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Sums over all masses, by a compiled kernel if there is one; see `SiteDistribution.surprisal_moments`."""
        k = self.logits.shape[-1]
        flat = [t.expand(*self.batch_shape, k).reshape(-1, k) for t in (self.logits, self.means, self.log_scales)]
        if kernels.can_run(*flat):
            mean, variance = kernels.surprisal_moments(*flat)
            return mean.reshape(self.batch_shape), variance.reshape(self.batch_shape)
        # blocks whose tables fit into the CPU's cache are several times faster than the tables of a whole batch
        blocks = zip(*(t.split(self.SITES_PER_BLOCK) for t in flat), strict=True)
        moments = [_surprisal_moments(*block) for block in blocks]
        mean, variance = (torch.cat(parts).reshape(self.batch_shape) for parts in zip(*moments, strict=True))
        return mean, variance

    def pmf(self) -> Tensor:
        """Tabulates the probability of every value; see `GridDistribution.pmf`."""
        return _masses(self.logits, self.means, self.log_scales).clamp(min=0)


def log_masses(means: Tensor, log_scales: Tensor, value: Tensor) -> Tensor:
    """Computes the log of the mass that each logistic puts on the bin around a value.

    It is exact on the grid. Off the grid the bin is centred on the value, and its outer edge moves to infinity
    gradually within the last 1/255 at either end. So the result is continuous and has a gradient.

    Args:
        means: (*batch_shape, K), as for `DiscretizedLogisticMixture`.
        log_scales: (*batch_shape, K), in [-7, 7].
        value: (*batch_shape) in [0, 1].

    Returns:
        (*batch_shape, K) nats.
    """
    inverse_scale = torch.exp(-log_scales)
    half = inverse_scale / (BYTE_LEVELS - 1)
    z = (2 * value.unsqueeze(-1) - 1 - means) * inverse_scale
    # sigmoid(z + half) - sigmoid(z - half) = sinh(half) / (cosh(z) + cosh(half)), which has no cancellation; both sides
    # of the fraction are divided by exp |z|, which may overflow
    rise = torch.expm1(half)  # sinh(half) = (rise + fall) / 2 and cosh(half) = 1 + (rise - fall) / 2
    fall = rise / (1 + rise)
    away = z.abs()
    small = torch.exp((-away).clamp(min=LEAST))
    masses = torch.log(rise + fall) - away - torch.log(1 + small * (small + (2 + rise - fall)))
    for distance, outwards in ((value, -1), (1 - value, 1)):
        openness = _openness(distance).expand(masses.shape[:-1])
        ends = openness.nonzero(as_tuple=True)  # few sites have bins that reach to infinity
        if len(ends[0]):
            beyond = _log_sigmoid(-outwards * z[ends] - half.expand_as(masses)[ends])
            opened = beyond + torch.log(openness[ends]).unsqueeze(-1)
            masses = masses.index_put(ends, _log_add(masses[ends], opened))
    return masses


def _masses(logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """(*, K) each -> (*, 256): the mass of every value, a difference that rounding may make negative."""
    edges = torch.arange(1, BYTE_LEVELS, device=means.device, dtype=means.dtype) * (2 / (BYTE_LEVELS - 1))
    edges = edges - (1 + 1 / (BYTE_LEVELS - 1))  # between value v - 1 and v, v = 1 ... 255
    inverse_scale, weights = torch.exp(-log_scales).unsqueeze(-1), logits.exp().unsqueeze(-1)
    offset = -means.unsqueeze(-1) * inverse_scale
    # one component at a time: the table is large, and K tables are larger
    components = range(logits.shape[-1])
    if torch.is_grad_enabled() and (means.requires_grad or weights.requires_grad):
        parts = [
            weights[..., k, :] * torch.sigmoid(offset[..., k, :] + edges * inverse_scale[..., k, :]) for k in components
        ]
        return F.pad(F.pad(torch.stack(parts).sum(0), (0, 1), value=1.0), (1, 0)).diff(dim=-1)
    shape = torch.broadcast_shapes(logits.shape, means.shape, log_scales.shape)[:-1]
    cdf = torch.zeros(*shape, BYTE_LEVELS + 1, device=edges.device, dtype=edges.dtype)
    cdf[..., BYTE_LEVELS] = 1
    inside = cdf[..., 1:BYTE_LEVELS]
    for k in components:
        z = torch.addcmul(offset[..., k, :], edges, inverse_scale[..., k, :])
        inside.addcmul_(z.sigmoid_(), weights[..., k, :])
    return cdf.diff(dim=-1)


def _surprisal_moments(logits: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) each -> (M,), (M,), as `SiteDistribution.surprisal_moments`."""
    masses = _masses(logits, means, log_scales)
    masses = masses.clamp(min=torch.finfo(masses.dtype).tiny)
    log = masses.log()
    weighted = masses * log
    mean = -weighted.sum(-1)
    return mean, (weighted * log).sum(-1).sub(mean.square()).clamp(min=0)


def _most_probable(logits: Tensor, means: Tensor, log_scales: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(M, K) thrice and (M,) twice -> (M,), as `GridDistribution.most_probable`.

    The mass of a bin of half width d (in scales) around z is sinh(d) / (cosh(z) + cosh(d)), which does not cancel as a
    difference of two sigmoids does. All masses of a site are multiplied by exp of the least |z|, since the allowed
    values may all be so improbable that float32 would round their masses to zero.
    """
    first, last = (BYTE_LEVELS - 1) * low.unsqueeze(1), (BYTE_LEVELS - 1) * high.unsqueeze(1)
    first, last = first.round(), last.round()
    steps = int((last - first).max().item()) + 1
    value = first + torch.arange(steps, device=means.device)  # (M, S)
    inverse_scale = torch.exp(-log_scales).unsqueeze(1)  # (M, 1, K)
    half = inverse_scale / (BYTE_LEVELS - 1)
    z = (2 / (BYTE_LEVELS - 1) * value - 1).unsqueeze(2).sub(means.unsqueeze(1)).mul_(inverse_scale)  # (M, S, K)
    away = z.abs()
    least = away.amin((1, 2), keepdim=True)
    scaled = torch.exp(least - away)
    true = scaled * torch.exp(-least)
    mass = scaled.mul_(half.sinh()).div_(true.square().add_(1).mul_(0.5).addcmul_(true, half.cosh()))
    for end, sign in ((0, 1), (BYTE_LEVELS - 1, -1)):  # whose bins reach to infinity: their mass is sigmoid(u)
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
    return chosen / (BYTE_LEVELS - 1)


def _log_sigmoid(x: Tensor) -> Tensor:
    """Computes F.logsigmoid without log1p, which torch computes value by value on the CPU; the error is about 1e-7."""
    return x.clamp(max=0) - torch.log(1 + torch.exp((-x.abs()).clamp(min=LEAST)))


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """Computes torch.logaddexp without log1p, for a finite a."""
    return torch.maximum(a, b) + torch.log(1 + torch.exp((-(a - b).abs()).clamp(min=LEAST)))


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Computes logits.logsumexp(-1) of finite logits, without numbers so small that CPUs are slow with them."""
    largest = logits.detach().amax(-1)
    return largest + torch.log(torch.exp((logits - largest.unsqueeze(-1)).clamp(min=LEAST)).sum(-1))


def _log_softmax(logits: Tensor) -> Tensor:
    """Computes logits.log_softmax(-1), which would copy logits whose last axis is not the innermost in memory."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(-1, keepdim=True))


def _openness(distance: Tensor) -> Tensor:
    """The share by which a bin's outer edge is open to infinity, at a distance from the end of the range.

    It is 1 at the end itself and 0 from one grid step on, where rounding must not open the bin again.
    """
    slack = 1e-4
    return (1 - (BYTE_LEVELS - 1) / (1 - slack) * distance).clamp(min=0)
