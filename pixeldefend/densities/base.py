"""The base of all density models, which compute the probability of an event and draw new events.

A density is a torch module with `log_prob` and `sample`. It remembers the arguments of its constructor, so that it can
be saved and made again (`registry`).
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..devices import device_of, dtype_of
from ..errors import ParameterError
from ..serialization import save_tensors
from .distributions import BYTE_LEVELS


class Density(nn.Module, ABC):
    """A probability distribution p(x) over events of one shape.

    Args:
        event_shape: Shape of one event, (C, H, W) for images, or (C, None, None) for images of any size; None if any
            shape is possible.

    Attributes:
        name: The model's key in `DENSITIES`. None if it has no key; it can then not be saved.
        events: The kinds of events that it models: "images" (C, H, W), "rows" (D,) and "sequences" (rows of any
            length).
        levels: The number L of values that a site takes, which are k / (L - 1) for k = 0 ... L - 1: 256 for 8-bit
            images and audio, 2 for binary data, as many as there are characters for text. None for real numbers, for
            which p(x) is a density and not a probability.
        config: `name` and the constructor's arguments, plain JSON values, from which `densities.build` makes the model
            again. The base class records it, so a subclass need not. None if there is no name.
    """

    name: str | None = None
    events: frozenset[str] = frozenset({"images"})
    levels: int | None = BYTE_LEVELS
    config: dict[str, Any] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]

    event_shape: tuple[int | None, ...] | None

    def __init__(self, event_shape: tuple[int | None, ...] | None) -> None:
        super().__init__()
        self.event_shape = None if event_shape is None else tuple(event_shape)

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Evaluates log p(x).

        Args:
            x: (N, *event), as `to_support` gives it.

        Returns:
            (N,) nats.

        Raises:
            ParameterError: As `check` does.
        """

    @abstractmethod
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws exact samples.

        Args:
            n: The number of samples, at least 0.
            generator: The source of random numbers, on the density's device; None for torch's default one.

        Returns:
            (n, *event).

        Raises:
            ParameterError: If n is below 0.
        """

    def objective(self, x: Tensor) -> Tensor:
        """Computes the loss of each event, which training minimises.

        Args:
            x: (N, *event).

        Returns:
            (N,) nats: -log p(x), or an estimate of its mean over the orders that a model learns at once.
        """
        return -self.log_prob(x)

    def bits_per_dim(self, x: Tensor) -> Tensor:
        """Computes -log2 p(x) for each site.

        A density of real numbers gets images dequantised (`to_support`), where an 8-bit value has a width of 1/256. It
        therefore counts 8 bits more.

        Args:
            x: (N, *event).

        Returns:
            (N,) bits.

        Raises:
            ParameterError: If x holds real numbers that are no images, which have no bits.
        """
        return self.in_bits_per_dim(self.log_prob(x), tuple(x.shape[1:]))

    def in_bits_per_dim(self, log_prob: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Converts log-probabilities into bits for each site.

        Args:
            log_prob: (N,) nats.
            shape: The shape of one event.

        Returns:
            (N,) bits, as `bits_per_dim` returns them.

        Raises:
            ParameterError: As `bits_per_dim` does.
        """
        if not self.has_bits(shape):
            raise ParameterError(f"a density of real numbers has no bits/dim; take log_prob, in nats (x is {shape})")
        return -log_prob / (math.prod(shape) * math.log(2)) + (8 if self.levels is None else 0)

    def has_bits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether events of this shape have bits/dim: all but real numbers that are no dequantised images."""
        return self.levels is not None or len(shape) == 3

    def to_support(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Converts images into the values that this density models.

        A density of 2 levels gets them binarised at a half, and a density of real numbers dequantised, (255 x + u) /
        256. Other densities get them unchanged. Events other than images are never changed.

        Args:
            x: (N, C, H, W) in [0, 1], or other events.
            noise: u, in [0, 1) and of the shape of x. By default it is one fixed pattern for all images, so that a
                score depends neither on chance nor on the batch.

        Returns:
            The values, in the same shape.
        """
        if x.ndim != 4:
            return x
        if self.levels == 2:
            return (x >= 0.5).to(x.dtype)
        if self.levels is None:
            if noise is None:
                generator = torch.Generator().manual_seed(0)
                noise = torch.rand(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
            return (255 * x + noise) / 256
        return x

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether the density models events of this shape."""
        if self.event_shape is None:
            return True
        if len(shape) != len(self.event_shape):
            return False
        if "sequences" in self.events and len(shape) == 1:  # of any length
            return shape[0] > 0
        return all(
            side > 0 if wanted is None else side == wanted for side, wanted in zip(shape, self.event_shape, strict=True)
        )

    @property
    def is_open(self) -> bool:
        """Whether the density models images of any size: `event_shape` is (C, None, None)."""
        return self.event_shape is not None and None in self.event_shape

    def check_shape(self, x: Tensor) -> None:
        """Checks that x holds events that the density models.

        Raises:
            ParameterError: If x is not (N, *event).
        """
        if not x.ndim or not self.fits(tuple(x.shape[1:])):
            raise ParameterError(
                f"this density models events of shape {self.event_shape}, got x of shape {tuple(x.shape)}"
            )

    def check(self, x: Tensor) -> None:
        """Checks that x can be scored.

        Raises:
            ParameterError: If x is not (N, *event), floating point and finite.
        """
        self.check_shape(x)
        if not x.is_floating_point():
            raise ParameterError(f"x must be floating point, got {x.dtype}")
        # the least and the greatest value are NaN if one is, and take no memory
        if x.numel() and not all(math.isfinite(end) for end in x.detach().aminmax()):
            raise ParameterError(f"x must be finite, got {int((~torch.isfinite(x)).sum())} NaN or infinite values")

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes one safetensors file, which `densities.load` reads.

        Args:
            path: The file to write.
            **notes: Plain JSON values to store in the file, such as the recipe and metrics.

        Raises:
            ParameterError: If the density has no config.
            OSError: If the file cannot be written.
        """
        if self.config is None:
            raise ParameterError(f"{type(self).__name__} has no config, so a saved file could not be loaded")
        save_tensors(path, self.state_dict(), {"kind": "density", "density": self.config, **notes})

    @property
    def device(self) -> torch.device:
        """The device of the weights, the CPU if there are none."""
        return device_of(self)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, float32 if there are none."""
        return dtype_of(self)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """Wraps a constructor so that it first records its arguments in `config`, unless a subclass has done so."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recorded(self: Density, *args: Any, **kwargs: Any) -> None:
        if self.name is not None and "config" not in vars(self):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = list(bound.arguments.items())[1:]  # all but self
            self.config = {"model": self.name, **{name: _plain(value) for name, value in arguments}}
        init(self, *args, **kwargs)

    return recorded


def _plain(value: Any) -> Any:
    """Returns an argument as a plain JSON value."""
    if isinstance(value, Density):
        return value.config
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
