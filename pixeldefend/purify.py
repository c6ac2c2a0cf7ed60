"""Moving an image back towards the data: PixelDefend (Song et al. 2018, arXiv:1710.10766), algorithm 1.

Site after site in raster order, and channel by channel, each sub-pixel becomes the most probable value within eps of
what it was, given the purified ones before it. That is a fixed point, and is computed as one: see `densities.solve`.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .densities import Autoregressive, Density
from .densities.solve import METHODS, most_probable_within
from .detector import Detector, is_out_of_memory
from .images import match_channels, to_batch, to_uint8
from .screening import Screened
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
    adaptive eps: 0 where the image is probable enough). method: as `densities.solve` takes it.

    Returns uint8 (N, C, H, W), or (C, H, W) for one image; of equally probable values the lowest is taken. Too large a
    batch for the memory is split, with a warning. Raises ValueError for another eps, no images, a density that does not
    model 8-bit images of this shape, or if adaptive is asked of a density that is no detector.
    """
    eps = checked_eps(eps)
    batch, single = to_batch(x)
    if not len(batch):
        raise ValueError("there are no images to purify")
    if density is None:
        density = detector_for(tuple(batch.shape[1:]))
    if isinstance(density, str | os.PathLike):
        density = cached_detector(str(density))
    model = checked_density(density)
    batch = match_channels(batch, model.event_shape[0])
    if tuple(batch.shape[1:]) != model.event_shape:
        raise ValueError(f"the density models images of shape {model.event_shape}, got {tuple(batch.shape[1:])}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1, got {batch_size!r}")
    purified = to_uint8(batch)
    todo = torch.arange(len(batch))
    if adaptive:
        if not isinstance(density, Detector):
            raise ValueError("adaptive wants a Detector, which can say what is probable enough; got a density alone")
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


@dataclass
class Purified:
    """What purification made of a screened file: the image, uint8 (H, W) or (H, W, 3), its p-value and bits/dim, and
    what a classifier says of the image before and after. None where the file had an error, or nobody was asked."""

    screened: Screened
    image: np.ndarray | None = None
    p_value: float | None = None
    bits_per_dim: float | None = None
    label_before: int | None = None
    label_after: int | None = None


def purify_screened(
    results: Iterable[Screened],
    eps: int = 16,
    detector: str | os.PathLike[str] | None = None,
    *,
    adaptive: bool = False,
    classifier: nn.Module | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> Iterator[Purified]:
    """results: what `screening.screen` yields. eps, adaptive: as for `purify`. detector: as it was for `screen`.
    classifier: to be asked for labels, and by the score, if it asks one. Yields one result each, in order; what cannot
    be purified becomes its record's error. Raises ValueError for a bad eps."""
    eps = checked_eps(eps)
    remaining = iter(results)
    judges: dict[str, Detector] = {}
    while batch := [Purified(result) for result in islice(remaining, batch_size)]:
        groups: dict[tuple[str, tuple[int, ...]], list[Purified]] = {}
        for item in batch:
            if item.screened.record.verdict != "error" and item.screened.image is not None:
                name = str(detector or item.screened.record.detector)
                groups.setdefault((name, item.screened.image.shape), []).append(item)
        for (name, _), group in groups.items():
            if name not in judges:
                judges[name] = copy.copy(cached_detector(name, device))
                judges[name].classifier = classifier  # for the scores that ask it
            judge = judges[name]
            try:
                _purify_group(group, eps, judge, adaptive, classifier)
            except (ValueError, RuntimeError, MemoryError) as error:
                for item in group:
                    item.screened.record.verdict, item.screened.record.error = "error", " ".join(str(error).split())
        yield from batch


def _purify_group(
    group: list[Purified], eps: int, detector: Detector, adaptive: bool, classifier: nn.Module | None
) -> None:
    x = to_batch(np.stack([item.screened.image for item in group if item.screened.image is not None]))[0]
    purified = purify(x, eps, detector, adaptive=adaptive)
    verdicts = detector.judge(purified)
    labels: list[list[int]] = []
    if classifier is not None:
        place = next((p.device for p in classifier.parameters()), torch.device("cpu"))
        with torch.inference_mode():
            channels = purified.shape[1]
            images = (match_channels(x, channels), purified / 255)
            labels = [classifier(image.to(place)).argmax(1).tolist() for image in images]
    for i, item in enumerate(group):
        item.image = purified[i].permute(1, 2, 0).numpy()
        if item.image.shape[2] == 1:
            item.image = item.image[..., 0]
        item.p_value, item.bits_per_dim = float(verdicts.p_value[i]), float(verdicts.bits_per_dim[i])
        if labels:
            item.label_before, item.label_after = labels[0][i], labels[1][i]


def checked_eps(eps: Any) -> int:
    """Returns eps as an int. Raises ValueError unless it is a whole number from 0 to 255."""
    try:
        whole = int(eps)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if isinstance(eps, bool | str) or np.ndim(eps) or whole != eps or not 0 <= whole <= 255:
        raise ValueError(f"eps must be a whole number of 8-bit steps, 0 to 255, got {eps!r}")
    return whole


def checked_density(density: Density | Detector) -> Autoregressive:
    """Returns the density, of a detector its own. Raises ValueError unless its sites are 8-bit pixels."""
    model = density.density if isinstance(density, Detector) else density
    if not isinstance(model, Autoregressive) or len(model.event_shape) != 3 or model.levels != 256:
        kind = type(model).__name__
        raise ValueError(f"purification needs an autoregressive density of 8-bit images, got {kind}")
    return model
