"""What every density model can do: say how probable an image is, and draw new ones."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from ..storage import save_tensors


class Density(nn.Module, ABC):
    """A probability distribution p(x) over events of one shape.

    event_shape: shape of one event, (C, H, W) for images; None if any shape will do.
    config: what `densities.build` needs to make this model again (plain JSON values); None if it cannot be saved.
    """

    def __init__(self, event_shape: tuple[int, ...] | None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.event_shape = None if event_shape is None else tuple(event_shape)
        self.config = config

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,) nats. Raises ValueError as `check` does."""

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Returns (n, *event) exact samples."""

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """x: (N, *event). Returns (N,): -log2 p(x) per sub-pixel."""
        return -self.log_prob(x) / (math.prod(x.shape[1:]) * math.log(2))

    def check(self, x: Tensor) -> None:
        """Raises ValueError unless x is (N, *event), floating point and finite."""
        if self.event_shape is not None and tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"this density models events of shape {self.event_shape}, got x of shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"x must be floating point, got {x.dtype}")
        if not torch.isfinite(x).all():
            raise ValueError(f"x must be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite values")

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes one safetensors file that `densities.load` reads; notes (recipe, metrics: plain JSON values) are kept
        in it. Raises ValueError if the density has no config."""
        if self.config is None:
            raise ValueError(f"{type(self).__name__} has no config, so it could not be made again from a file")
        save_tensors(path, self.state_dict(), {"kind": "density", "density": self.config, **notes})

    @property
    def device(self) -> torch.device:
        """Where the weights are (the CPU if there are none)."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))


class GridDistribution(Distribution, ABC):
    """A distribution over the grid {0, 1, ..., L - 1} / (L - 1) of pixel values; L = 256 for 8-bit images."""

    support = constraints.unit_interval
    levels: int

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """value: broadcastable to batch_shape, in [0, 1]. Returns nats; exact on the grid, continuous off it."""

    @abstractmethod
    def pmf(self) -> Tensor:
        """Returns (*batch_shape, L): the probability of every value, which sum to 1."""

    def surprisal_moments(self) -> tuple[Tensor, Tensor]:
        """Returns the mean (the entropy) and the variance of -log p(v) for v drawn from p, both (*batch_shape), in
        nats and squared nats."""
        pmf = self.pmf()
        surprisal = -torch.log(pmf.clamp(min=torch.finfo(pmf.dtype).tiny))
        mean = (pmf * surprisal).sum(-1)
        return mean, (pmf * surprisal.square()).sum(-1).sub(mean.square()).clamp(min=0)

    def entropy(self) -> Tensor:
        """Returns (*batch_shape) nats."""
        return self.surprisal_moments()[0]

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        """Returns (*sample_shape, *batch_shape) values on the grid."""
        index = Categorical(self.pmf()).sample(torch.Size(sample_shape))
        return index / (self.levels - 1)


class Head(nn.Module, ABC):
    """Turns a net's parameters into the distribution of every site.

    outputs: number P of parameters a pixel that the net must supply.
    """

    outputs: int

    @abstractmethod
    def initial_bias(self) -> Tensor:
        """Returns (P,): the parameters to start training from, for the bias of a net's last layer."""

    @abstractmethod
    def forward(self, parameters: Tensor, x: Tensor) -> GridDistribution:
        """parameters: (N, P, H, W), x: (N, C, H, W) in [0, 1]. Returns a Distribution over (N, C, H, W) sub-pixels,
        each given the channels before it in x."""


class Autoregressive(Density):
    """p(x) = prod_i p(x_i | x_<i) in raster order, channel by channel within a pixel: a net and a head.

    net: (N, C, H, W) in [0, 1] -> (N, P, H, W); what it returns for a pixel depends on earlier pixels only.
    head: (N, P, H, W), x -> a Distribution over every sub-pixel given the channels before it.
    """

    event_shape: tuple[int, ...]

    def __init__(
        self, image_shape: tuple[int, int, int], net: nn.Module, head: Head, config: dict[str, Any] | None = None
    ) -> None:
        super().__init__(image_shape, config)
        self.net = net
        self.head = head

    def check(self, x: Tensor) -> None:
        """Raises ValueError unless x is (N, C, H, W), floating point and in [0, 1]."""
        super().check(x)
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"x must lie in [0, 1], got min {x.min():.3g} and max {x.max():.3g}")

    def conditionals(self, x: Tensor) -> GridDistribution:
        """x: (N, C, H, W) in [0, 1]. Returns the Distribution of every sub-pixel given those before it."""
        self.check(x)
        parameters = self.net(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(at_least_float32(parameters), at_least_float32(x))

    def log_prob_map(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [0, 1]. Returns (N, C, H, W) nats: log p(x_i | x_<i), whose sum is `log_prob`."""
        return self.conditionals(x).log_prob(at_least_float32(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [0, 1]; exact on the 8-bit grid, smooth off it. Returns (N,) nats."""
        return self.log_prob_map(x).flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        progress: Callable[[range], Any] = lambda sites: sites,
    ) -> Tensor:
        """Returns (n, C, H, W) exact samples on the 8-bit grid, by one forward pass a sub-pixel.

        progress: wraps the range of sub-pixels, as tqdm does.
        """
        channels, height, width = self.event_shape
        x = torch.zeros(n, channels, height, width, device=self.device)
        for site in progress(range(height * width * channels)):
            row, column, channel = site // (width * channels), site // channels % width, site % channels
            # a causal net gives the same answer for the image cropped below the row
            parameters = self.net(x[:, :, : row + 1])[:, :, row, column, None, None]
            pmf = self.head(at_least_float32(parameters), x[:, :, row, column, None, None]).pmf()[:, channel, 0, 0]
            value = torch.multinomial(pmf, 1, generator=generator)[:, 0]
            x[:, channel, row, column] = value / (pmf.shape[-1] - 1)
        return x


def at_least_float32(x: Tensor) -> Tensor:
    """Likelihoods are sums of many small logarithms: never in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
