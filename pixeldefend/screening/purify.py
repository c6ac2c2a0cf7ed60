"""Purifies screened files, and asks the detector and a classifier about the purified images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..classifier import predict_labels
from ..images import match_channels, to_batch, to_uint8
from ..purification import checked_density, checked_eps, purify
from ..zoo import DetectorSet
from .screener import Screened, together_or_alone

if TYPE_CHECKING:
    from ..detectors import Detector


@dataclass
class Purified:
    """The result of purifying a screened file.

    Values are None if the file had an error, and labels also if there is no classifier.

    Attributes:
        screened: The screened file.
        image: The purified image, uint8 (H, W) or (H, W, 3).
        p_value: The p-value of the purified image.
        bits_per_dim: The bits a sub-pixel of the purified image.
        label_before: The classifier's label of the screened image.
        label_after: The classifier's label of the purified image.
    """

    screened: Screened
    image: np.ndarray | None = None
    p_value: float | None = None
    bits_per_dim: float | None = None
    label_before: int | None = None
    label_after: int | None = None


def purify_screened(
    results: Iterable[Screened],
    eps: int = 16,
    detector: str | os.PathLike[str] | Detector | None = None,
    *,
    adaptive: bool = False,
    classifier: nn.Module | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> Iterator[Purified]:
    """Purifies screened files.

    Args:
        results: The results of `screening.screen`.
        eps: How far a sub-pixel may move, in steps of the 8-bit grid, 0 to 255.
        detector: The detector, as it was given to `screen`.
        adaptive: Whether to return images that are not flagged unchanged.
        classifier: The classifier that gives labels. The detector's statistic uses it too, if it needs one.
        batch_size: How many images are purified at once.
        device: Where the detector runs, as torch names it.

    Yields:
        One result for each file, in order. If a file cannot be purified, its record holds the error.

    Raises:
        PixelDefendError: If eps is out of range, or the detector cannot be loaded.
    """
    eps = checked_eps(eps)
    chosen = detector if detector is None or not isinstance(detector, str | os.PathLike) else str(detector)
    detectors = DetectorSet(chosen, device=device, classifier=classifier).detectors
    remaining = iter(results)
    while batch := [Purified(result) for result in islice(remaining, batch_size)]:
        groups: dict[tuple[str, tuple[int, ...]], list[Purified]] = {}
        for item in batch:
            record, image = item.screened.record, item.screened.image
            if record.verdict != "error" and record.detector is not None and image is not None:
                groups.setdefault((record.detector, image.shape), []).append(item)
        for (name, _), group in groups.items():
            work = partial(_purify, eps=eps, detector=detectors[name], adaptive=adaptive, classifier=classifier)
            together_or_alone(group, work, lambda item: item.screened.record)
        yield from batch


def _purify(group: list[Purified], eps: int, detector: Detector, adaptive: bool, classifier: nn.Module | None) -> None:
    x = to_batch(np.stack([item.screened.image for item in group if item.screened.image is not None]))[0]
    purified = to_uint8(match_channels(x, (checked_density(detector).event_shape or (3,))[0] or 3))
    # by the verdicts that there are, which also depend on what the files say of themselves, and on the rate
    chosen = [i for i, item in enumerate(group) if item.screened.record.verdict == "adversarial" or not adaptive]
    if chosen:
        purified[chosen] = purify(x[chosen], eps, detector)
    verdicts = detector.judge(purified)
    if classifier is not None:
        before, after = (
            predict_labels(classifier, y).tolist() for y in (match_channels(x, purified.shape[1]), purified)
        )
    for i, item in enumerate(group):
        image = purified[i].permute(1, 2, 0).numpy()
        item.image = image[..., 0] if image.shape[2] == 1 else image
        item.p_value, item.bits_per_dim = float(verdicts.p_value[i]), float(verdicts.bits_per_dim[i])
        if classifier is not None:
            item.label_before, item.label_after = before[i], after[i]
