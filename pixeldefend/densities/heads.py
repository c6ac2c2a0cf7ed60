"""Heads turn the outputs of a net into the distribution of every site.

A net gives P numbers for every site (or for every pixel), which depend only on earlier sites. A head turns them into a
distribution over the values of the site: a coin, a softmax, or a mixture. Any net can have any head of `HEADS`. The two
heads of PixelCNN++ are different, since they join the channels of a pixel: the net sees only whole pixels, and the head
makes green depend on red, and blue on both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ParameterError
from . import kernels
from .distributions import BYTE_LEVELS, GridCategorical, LaplaceMixture, NormalMixture, RealMixture, SiteDistribution
from .logistic_mixture import DiscretizedLogisticMixture, log_masses


class Head(nn.Module, ABC):
    """Turns a net's parameters into the distribution of every site.

    Attributes:
        outputs: The number P of parameters that the net must supply for a site, or for a pixel if the head joins the
            channels of a pixel.
        levels: The number of values of a site; None if it is a real number.
    """

    outputs: int
    levels: int | None

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Returns the initial bias of a net's last layer, from which training starts.

        Returns:
            (P,) parameters.
        """

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> SiteDistribution:
        """Makes the distributions.

        Args:
            parameters: (N, *event, P); (N, P, H, W) if the head joins the channels of a pixel.
            x: (N, *event), which only such a head uses.

        Returns:
            The distribution of every site, over (N, *event).
        """

    def by_channel(self, parameters: Tensor, x: Tensor) -> Iterator[SiteDistribution]:
        """Makes the distributions of one channel after another, for a head that joins the channels of a pixel.

        Args:
            parameters: (N, P, H, W).
            x: (N, C, H, W). The caller writes each channel into it before it asks for the next.

        Yields:
            The distribution of each channel, over (N, 1, H, W).
        """
        for i in range(x.shape[1]):
            yield self(parameters, x).part((slice(None), slice(i, i + 1)))


# -- heads of one site, which any net can have -------------------------------------------------------------------------


class BernoulliHead(Head):
    """A coin for each site, whose values are 0 and 1."""

    levels = 2
    outputs = 1

    def initial_bias(self) -> Tensor:
        """Returns (1,): a fair coin."""
        return torch.zeros(1)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        """Takes log-odds, (N, *event, 1); see `Head.forward`."""
        return GridCategorical(F.pad(parameters, (1, 0)), validate_args=False)


class CategoricalHead(Head):
    """A softmax over all values of a site.

    Args:
        levels: Number of values, at least 2.
    """

    def __init__(self, levels: int = BYTE_LEVELS) -> None:
        super().__init__()
        self.levels = levels
        self.outputs = levels

    def initial_bias(self) -> Tensor:
        """Returns (L,): all values equally probable."""
        return torch.zeros(self.outputs)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        """Takes logits, (N, *event, L); see `Head.forward`."""
        return GridCategorical(parameters, validate_args=False)


class LogisticMixtureHead(Head):
    """A discretized mixture of logistics for each site of 256 values.

    Args:
        mixtures: Number K of components, at least 1.
    """

    levels = BYTE_LEVELS

    def __init__(self, mixtures: int) -> None:
        super().__init__()
        self.outputs = 3 * mixtures

    def initial_bias(self) -> Tensor:
        """Returns (3 K,), as `PixelLogisticMixtureHead.initial_bias`."""
        return PixelLogisticMixtureHead(1, self.outputs // 3).initial_bias()

    def forward(self, parameters: Tensor, x: Tensor) -> DiscretizedLogisticMixture:
        """Takes logits, means and log-scales, (N, *event, 3 K); see `Head.forward`."""
        return DiscretizedLogisticMixture(*parameters.chunk(3, -1), validate_args=False)


class NormalMixtureHead(Head):
    """A mixture of normal distributions for each site that is a real number.

    Args:
        mixtures: Number K of components, at least 1; with 1 it is a single Gaussian.
    """

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
        """Takes logits, locations and log-scales, (N, *event, 3 K); see `Head.forward`."""
        return self.distribution(*parameters.chunk(3, -1), validate_args=False)


class LaplaceMixtureHead(NormalMixtureHead):
    """A mixture of Laplace distributions for each site that is a real number.

    Args:
        mixtures: Number K of components, at least 1.
    """

    distribution = LaplaceMixture


# name -> head, given the number of values and of mixture components; a head uses what it needs
HEADS: dict[str, Callable[[int, int], Head]] = {
    "bernoulli": lambda levels, mixtures: BernoulliHead(),
    "categorical": lambda levels, mixtures: CategoricalHead(levels),
    "logistics": lambda levels, mixtures: LogisticMixtureHead(mixtures),
    "normals": lambda levels, mixtures: NormalMixtureHead(mixtures),
    "laplacians": lambda levels, mixtures: LaplaceMixtureHead(mixtures),
}


def make_head(name: str, *, levels: int = BYTE_LEVELS, mixtures: int = 5) -> Head:
    """Makes a head of one site by its name.

    Args:
        name: A key of `HEADS`: "bernoulli", "categorical", "logistics", "normals" or "laplacians".
        levels: Number of values of a site, at least 2; for "categorical" only.
        mixtures: Number of components of a mixture, at least 1.

    Returns:
        The head.

    Raises:
        ParameterError: If the name is unknown, or a number too small.
    """
    if name not in HEADS:
        raise ParameterError(f"head must be one of {', '.join(HEADS)}, got {name!r}")
    if levels < 2 or mixtures < 1:
        raise ParameterError(f"levels must be at least 2 and mixtures at least 1, got {levels} and {mixtures}")
    return HEADS[name](levels, mixtures)


# -- heads of one pixel, which join its channels -----------------------------------------------------------------------


class PixelLogisticMixtureHead(Head):
    """A mixture of logistics over whole pixels, as in PixelCNN++.

    One component explains red, green and blue together: the mean of green is linear in red, and the mean of blue in red
    and green. The conditional of one sub-pixel is then a mixture whose weights are updated, by Bayes' rule, by how well
    each component has explained the channels before.

    Args:
        channels: C.
        mixtures: Number K of components, at least 1.

    Reference:
        Salimans, Karpathy, Chen & Kingma 2017, arXiv:1701.05517, section 2.2.
    """

    levels = BYTE_LEVELS

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
        """Takes the parameters of every pixel, (N, P, H, W); see `Head.forward`."""
        if kernels.can_run(parameters, x):
            from .pixel_mixtures import pixel_mixtures

            *mixture_of_each, fit = pixel_mixtures(parameters, x, self.mixtures)
            mixture = DiscretizedLogisticMixture.of_normalised(*mixture_of_each)
            mixture.known = (x, fit)
            return mixture
        logits, means, log_scales, coefficients = self._parts(parameters)
        c = self.channels
        if c == 1:
            return DiscretizedLogisticMixture(logits, means, log_scales, validate_args=False)
        seen = 2 * x.unsqueeze(-1) - 1
        shifts = [torch.zeros_like(means[:, 0])]
        for i in range(1, c):
            shifts.append((self._row(coefficients, i) * seen[:, :i]).sum(1))
        means = means + torch.stack(shifts, 1)
        log_scales = log_scales.clamp(*DiscretizedLogisticMixture.LOG_SCALES)
        fit = log_masses(means, log_scales, x)
        explained = [torch.zeros_like(fit[:, 0])]
        for i in range(1, c):
            explained.append(explained[-1] + fit[:, i - 1])
        mixture = DiscretizedLogisticMixture(logits + torch.stack(explained, 1), means, log_scales, validate_args=False)
        mixture.known = (x, fit)
        return mixture

    def by_channel(self, parameters: Tensor, x: Tensor) -> Iterator[DiscretizedLogisticMixture]:
        """Makes the distributions of one channel after another; see `Head.by_channel`."""
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
        """Logits (N, 1, H, W, K), means and log-scales (N, C, H, W, K), coefficients (N, pairs, H, W, K) in (-1, 1)."""
        k, c = self.mixtures, self.channels
        # one plane a parameter, whatever the net's order in memory: sums over few components are then much faster
        planes = parameters.movedim(1, 0).contiguous().unflatten(0, (-1, k)).permute(2, 0, 3, 4, 1)  # (N, ·, H, W, K)
        logits, means, log_scales, coefficients = planes.split([1, c, c, self.pairs], 1)
        return logits, means, log_scales, coefficients.tanh()

    def _row(self, coefficients: Tensor, i: int) -> Tensor:
        """Row i of the lower triangle: the weights of channels 0 ... i - 1 in the mean of channel i."""
        return coefficients[:, i * (i - 1) // 2 : i * (i + 1) // 2]


class PixelCategoricalHead(Head):
    """A 256-way softmax for each sub-pixel of a pixel.

    The logits of green see red, and those of blue see red and green, through a learned table.

    Args:
        channels: C.
    """

    levels = BYTE_LEVELS

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.outputs = channels * BYTE_LEVELS
        tables = [nn.Linear(i * BYTE_LEVELS, BYTE_LEVELS, bias=False) for i in range(1, channels)]
        for table in tables:
            nn.init.zeros_(table.weight)
        self.tables = nn.ModuleList(tables)

    def initial_bias(self) -> Tensor:
        """Returns (P,): all values equally probable."""
        return torch.zeros(self.outputs)

    def forward(self, parameters: Tensor, x: Tensor) -> GridCategorical:
        """Takes the parameters of every pixel, (N, P, H, W); see `Head.forward`."""
        n, _, h, w = parameters.shape
        logits = parameters.reshape(n, self.channels, BYTE_LEVELS, h, w).movedim(2, -1)  # (N, C, H, W, 256)
        if self.channels > 1:
            # hat functions: a one-hot code on the grid, linear in between, so that gradients reach x
            grid = torch.arange(BYTE_LEVELS, device=x.device, dtype=x.dtype)
            hats = (1 - (x.unsqueeze(-1) * (BYTE_LEVELS - 1) - grid).abs()).clamp(min=0)  # (N, C, H, W, 256)
            updates = [torch.zeros_like(logits[:, 0])]
            for i, table in enumerate(self.tables, start=1):
                updates.append(table(hats[:, :i].movedim(1, -2).flatten(-2)))
            logits = logits + torch.stack(updates, 1)
        return GridCategorical(logits, validate_args=False)
