"""Screened files -> purified images, with what the detector and a classifier make of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import nn

from ..detectors import Detector
from ..images import match_channels, to_batch
from ..purification import checked_eps, purify
from ..zoo import cached_detector
from .screener import Screened


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
