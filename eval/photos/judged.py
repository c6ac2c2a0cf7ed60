"""What a detector says of files: p-values, scores and bits/dim, and the rates that they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ...errors import CalibrationError, ImageError
from ..metrics import auroc, rate

RATES = (0.001, 0.01, 0.05)  # of false alarms
FILES_AT_ONCE = 32  # bounds the memory that decoded photographs take


@dataclass(frozen=True)
class Judged:
    """What one statistic says of N images.

    Attributes:
        p: (N,) p-values.
        score: (N,) anomaly scores, which may not be comparable between images of different groups of a calibration.
    """

    p: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.p)

    def __getitem__(self, which: Any) -> Judged:
        return Judged(self.p[which], self.score[which])

    def flagged(self, fpr: float) -> np.ndarray:
        """Returns (N,) bool, whether each image is flagged at a rate of false alarms."""
        return self.p <= fpr * (1 + 1e-9)


@dataclass(frozen=True)
class Verdicts:
    """What a detector says of N files.

    Attributes:
        own: What its own statistic says.
        bits_per_dim: (N,) bits/dim, NaN without a density.
        refused: How many further files the detector, or its decoder, refused.
    """

    own: Judged
    bits_per_dim: np.ndarray
    refused: int


def judge(detector: Any, files: Iterable[bytes]) -> Verdicts:
    """Asks a detector about files.

    Args:
        detector: A fitted detector.
        files: The bytes of image files.
    """
    p, scores, bits, refused = [np.empty(0)], [np.empty(0)], [np.empty(0)], 0
    left = iter(files)
    while part := list(islice(left, FILES_AT_ONCE)):
        for found in _asked(detector, part):
            if found is None:
                refused += 1
            else:
                p.append(found.p_value)
                scores.append(found.score)
                bits.append(found.bits_per_dim)
    return Verdicts(Judged(np.concatenate(p), np.concatenate(scores)), np.concatenate(bits), refused)


def _asked(detector: Any, files: list[bytes]) -> Iterator[Any]:
    """Yields the verdicts about all files or, where one is refused, about each; None for each that is refused."""
    try:
        yield detector.judge(files)
    except ImageError:
        if len(files) == 1:
            yield None
            return
        for file in files:
            yield from _asked(detector, [file])


def promised_rates(detector: Any) -> list[float]:
    """Returns those of `RATES` for which the detector has enough calibration images."""
    found = []
    for fpr in RATES:
        try:
            detector.with_fpr(fpr)
        except CalibrationError:
            continue
        found.append(fpr)
    return found


def ranks(*groups: Judged) -> list[np.ndarray]:
    """Ranks images by their p-values and, where these are equal, by their scores.

    Detectors of photographs have a calibration for each group of photographs, so that scores of images of different
    groups cannot be compared, but p-values can. If there is one group, this is the order of the scores.

    Args:
        *groups: What one statistic says of several groups of images.

    Returns:
        For each group (N,), higher = more anomalous; equal for images that are equal in both.
    """
    both = np.concatenate([np.stack([-group.p, group.score], 1) for group in groups])
    place = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1).astype(float)
    return np.split(place, np.cumsum([len(group) for group in groups])[:-1])


def detection(clean: Judged, attacked: Judged, rates: Sequence[float], which: str = "") -> dict[str, Any]:
    """Compares attacked images with clean ones.

    Args:
        clean: What a statistic says of m clean images.
        attacked: What it says of n attacked images; n may be 0.
        rates: The rates that the calibration allows, some of `RATES`.
        which: The end of the names: "_all" for all attacked images.

    Returns:
        auroc{which}, of the order of `ranks`, and tpr{which}_at_fpr_{rate}, the share whose p-value is at most the
        rate, each with its 95 % interval under {name}_ci; None without attacked images or for another rate.
    """
    row: dict[str, Any] = dict.fromkeys((f"auroc{which}", f"auroc{which}_ci"))
    if len(attacked):
        row[f"auroc{which}"], row[f"auroc{which}_ci"] = auroc(*ranks(clean, attacked))
    for fpr in RATES:
        key = f"tpr{which}_at_fpr_{fpr}"
        row |= dict.fromkeys((key, f"{key}_ci"))
        if len(attacked) and fpr in rates:
            row[key], row[f"{key}_ci"] = rate(int(attacked.flagged(fpr).sum()), len(attacked))
    return row


def flagged_row(what: str, statistic: str, found: Judged, rates: Sequence[float], refused: int) -> dict[str, Any]:
    """Returns the share of clean images that are flagged, with its 95 % interval.

    Args:
        what: The name of the images.
        statistic: The name of the statistic.
        found: What the statistic says of them.
        rates: The rates that the calibration allows, some of `RATES`.
        refused: How many further images the detector refused.
    """
    row: dict[str, Any] = {"what": what, "images": len(found), "refused": refused, "statistic": statistic}
    for fpr in RATES:
        key = f"flagged_at_{fpr}"
        row |= dict.fromkeys((key, f"{key}_ci"))
        if len(found) and fpr in rates:
            row[key], row[f"{key}_ci"] = rate(int(found.flagged(fpr).sum()), len(found))
    return row
