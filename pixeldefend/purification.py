"""Moving an image back towards the data: PixelDefend (Song et al. 2018, arXiv:1710.10766), algorithm 1.

Site after site in raster order, and channel by channel, each sub-pixel becomes the most probable value within eps of
what it was, given the purified ones before it. That is a fixed point, and is computed as one: see `densities.sampling.solve`.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .densities import Autoregressive, Density, most_probable_within
from .densities.sampling import METHODS
from .detectors import Detector, is_out_of_memory
from .errors import ParameterError
from .images import match_channels, to_batch, to_uint8
from .zoo import cached_detector, detector_for, load_detector


def purify(
    x: Any,
    eps: int = 16,
    density: str | os.PathLike[str] | Density | Detector | None = None,
    *,
    adaptive: bool = False,
    method: str = "auto",
    batch_size: int = 64,
) -> Tensor:
    """x: one image or a batch, as `pixeldefend.images.to_batch` takes them. eps: how far a sub-pixel may move, in steps
    of the 8-bit grid, 0 to 255. density: of 8-bit images, or the detector that has it; a shipped or saved detector by
    name or path; None for the shipped one that fits. adaptive: leave alone what the detector does not flag (the paper's
    adaptive eps: 0 where the image is probable enough). method: as `densities.sampling.solve` takes it.

    Returns uint8 (N, C, H, W), or (C, H, W) for one image; of equally probable values the lowest is taken. Too large a
    batch for the memory is split, with a warning. Raises ParameterError for another eps, no images, a density that does not
    model 8-bit images of this shape, or if adaptive is asked of a density that is no detector.
    """
    eps = checked_eps(eps)
    batch, single = to_batch(x)
    if not len(batch):
        raise ParameterError("there are no images to purify")
    if density is None:
        density = detector_for(tuple(batch.shape[1:]))
    if isinstance(density, str | os.PathLike):
        density = cached_detector(str(density))
    model = checked_density(density)
    batch = match_channels(batch, model.event_shape[0])
    if tuple(batch.shape[1:]) != model.event_shape:
        raise ParameterError(f"the density models images of shape {model.event_shape}, got {tuple(batch.shape[1:])}")
    if method not in METHODS:
        raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ParameterError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
    purified = to_uint8(batch)
    todo = torch.arange(len(batch))
    if adaptive:
        if not isinstance(density, Detector):
            raise ParameterError(
                "adaptive wants a Detector, which can say what is probable enough; got a density alone"
            )
        todo = torch.from_numpy(density.is_adversarial(batch)).nonzero()[:, 0]
    while len(todo):
        part, rest = todo[:batch_size], todo[batch_size:]
        try:
            moved = most_probable_within(model, batch[part].to(model.device, model.dtype), eps, method=method)
            purified[part] = to_uint8(moved).cpu()
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            batch_size = len(part) // 2
            warnings.warn(
                f"{len(part)} images at once do not fit into memory: going on with {batch_size}", stacklevel=2
            )
            continue
        todo = rest
    return purified[0] if single else purified


class PixelDefend(nn.Module):
    """Purifies, then classifies: a drop-in for the classifier.

    (N, C, H, W) in [0, 1] -> its logits. The gradient passes through purification as if it were the identity
    (straight-through; BPDA, Athalye et al. 2018), so that gradient attacks can aim at it. Arguments as for `purify`,
    whose errors it raises; images off the 8-bit grid are rounded to it first.
    """

    def __init__(
        self,
        classifier: nn.Module,
        density: str | os.PathLike[str] | Density | Detector,
        eps: int = 16,
        *,
        adaptive: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(density, str | os.PathLike):
            density = load_detector(density)  # its own: it may be moved, with the classifier, to another device
        self.classifier = classifier
        self.model = checked_density(density)
        self.detector = density if isinstance(density, Detector) else None
        self.eps = checked_eps(eps)
        self.adaptive = adaptive

    def purified(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [0, 1]. Returns the same shape, on the 8-bit grid."""
        clean = purify(x.detach().clamp(0, 1), self.eps, self.detector or self.model, adaptive=self.adaptive)
        return clean.to(x.device) / 255

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x + (self.purified(x) - x).detach())
        return logits


def checked_eps(eps: Any) -> int:
    """Returns eps as an int. Raises ParameterError unless it is a whole number from 0 to 255."""
    try:
        whole = int(eps)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if isinstance(eps, bool | str) or np.ndim(eps) or whole != eps or not 0 <= whole <= 255:
        raise ParameterError(f"eps must be a whole number of 8-bit steps, 0 to 255, got {eps!r}")
    return whole


def checked_density(density: Density | Detector) -> Autoregressive:
    """Returns the density, of a detector its own. Raises ParameterError unless its sites are 8-bit pixels."""
    model = density.density if isinstance(density, Detector) else density
    if not isinstance(model, Autoregressive) or len(model.event_shape) != 3 or model.levels != 256:
        kind = type(model).__name__
        raise ParameterError(f"purification needs an autoregressive density of 8-bit images, got {kind}")
    return model
