"""Purification moves an image back towards the data (PixelDefend, Song et al. 2018, arXiv:1710.10766).

Sub-pixel after sub-pixel, in raster order and channel by channel, the value becomes the most probable one within eps of
the original, given the purified values before it. The result is a fixed point, and is computed as one: see
`densities.sampling`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .ambient import torch_defaults
from .batching import in_batches
from .densities import Autoregressive, Density, most_probable_within
from .densities.sampling import METHODS
from .detectors import Detector, PhotoDetector
from .errors import ImageError, ParameterError
from .images import from_uint8, match_channels, to_batch, to_uint8
from .zoo import cached_detector, cached_set, load_detector


@torch_defaults()
def purify(
    x: Any,
    eps: int = 16,
    density: str | os.PathLike[str] | Density | Detector | PhotoDetector | None = None,
    *,
    adaptive: bool = False,
    method: str = "auto",
    batch_size: int = 64,
) -> Tensor:
    """Moves images towards more probable ones.

    Args:
        x: One image or a batch, as `pixeldefend.images.to_batch` takes them.
        eps: How far a sub-pixel may move, in 8-bit steps, 0 to 255.
        density: A density of 8-bit images, a detector that has one, the name of a shipped detector, or the path of a
            saved one; None for the shipped detector that takes the images.
        adaptive: Whether images that the detector does not flag are left unchanged (the paper's adaptive eps).
        method: How the fixed point is computed, as `densities.sampling.solve` takes it. All methods agree, up to
            rounding, and bit for bit unless the density is a NeLLoC.
        batch_size: The number of images at once. A batch that does not fit into memory is split, with a warning.

    Returns:
        uint8 (N, C, H, W), or (C, H, W) for one image. Among equally probable values the lowest is taken.

    Raises:
        ParameterError: If eps, method or batch_size is out of range, if there are no images, if the density does not
            model 8-bit images, or if `adaptive` is set for a density without a detector.
        ImageError: If the density does not model images of this size.

    Reference:
        Song, Kim, Nowozin, Ermon & Kushman 2018, PixelDefend, arXiv:1710.10766, algorithm 1.
    """
    eps = checked_eps(eps)
    batch, single = to_batch(x)
    if not len(batch):
        raise ParameterError("there are no images to purify")
    if density is None:
        density = cached_set()[cached_set().choose(x if isinstance(x, str | os.PathLike | bytes) else batch[0])]
    if isinstance(density, str | os.PathLike):
        density = cached_detector(str(density))
    model = checked_density(density)
    batch = match_channels(batch, model.event_shape[0] or 3)
    if not model.fits(tuple(batch.shape[1:])):
        raise ImageError(
            f"the density models images of shape {model.event_shape}, got {tuple(batch.shape[1:])}", "size"
        )
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ParameterError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
    purified = to_uint8(batch)
    moving = torch.arange(len(batch), device="cpu")
    if adaptive:
        if not isinstance(density, Detector | PhotoDetector):
            raise ParameterError("adaptive needs a Detector, which has a threshold; got a density")
        moving = torch.from_numpy(density.is_adversarial(batch)).nonzero()[:, 0]

    def move(part: Tensor) -> Tensor:
        moved = most_probable_within(model, part.to(model.device, model.dtype), eps, method=method)
        return to_uint8(moved).cpu()

    if len(moving):
        purified[moving] = torch.cat(list(in_batches(move, batch[moving], batch_size)))
    return purified[0] if single else purified


class PixelDefend(nn.Module):
    """A classifier of purified images, which can take the place of the classifier itself.

    It maps images, (N, C, H, W) in [0, 1], to the classifier's logits. It first rounds them to the 8-bit grid, then
    purifies them. The gradient passes through purification as if it were the identity, so that gradient attacks can aim
    at it.

    Args:
        classifier: A module, (N, C, H, W) in [0, 1] -> logits.
        density: As for `purify`.
        eps: As for `purify`.
        adaptive: As for `purify`.

    Raises:
        ParameterError: As `purify` does.

    Reference:
        Athalye, Carlini & Wagner 2018, Obfuscated gradients give a false sense of security, arXiv:1802.00420 (BPDA).
    """

    def __init__(
        self,
        classifier: nn.Module,
        density: str | os.PathLike[str] | Density | Detector | PhotoDetector,
        eps: int = 16,
        *,
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(density, str | os.PathLike):
            # a copy of its own, because it may be moved to another device with the classifier
            density = load_detector(density)
        self.classifier = classifier
        self.model = checked_density(density)
        self.detector = density if isinstance(density, Detector | PhotoDetector) else None
        self.eps = checked_eps(eps)
        self.adaptive = adaptive

    def purified(self, x: Tensor) -> Tensor:
        """Purifies images, (N, C, H, W) in [0, 1], and returns them on the 8-bit grid."""
        clean = purify(x.detach().clamp(0, 1), self.eps, self.detector or self.model, adaptive=self.adaptive)
        return from_uint8(clean).to(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x + (self.purified(x) - x).detach())
        return logits


def checked_eps(eps: Any) -> int:
    """Returns eps, in 8-bit steps, as an int.

    Raises:
        ParameterError: If it is not an integer from 0 to 255.
    """
    try:
        whole = int(eps)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if isinstance(eps, bool | str) or np.ndim(eps) or whole != eps or not 0 <= whole <= 255:
        raise ParameterError(f"eps must be a whole number of 8-bit steps, 0 to 255, got {eps!r}")
    return whole


def checked_density(density: Density | Detector | PhotoDetector) -> Autoregressive:
    """Returns the given density, or that of the given detector, after checking that it can purify.

    Raises:
        ParameterError: If it is not autoregressive, or does not model 8-bit pixels.
    """
    model = density.density if isinstance(density, Detector | PhotoDetector) else density
    if not isinstance(model, Autoregressive) or len(model.event_shape) != 3 or model.levels != 256:
        kind = type(model).__name__
        if isinstance(model, Density):
            kind = f"a {kind} of events {model.event_shape} with {model.levels} levels"
        raise ParameterError(
            "purification needs an autoregressive density of images (C, H, W) with 256 levels: train one of 8-bit "
            f"images; got {kind}"
        )
    return model
