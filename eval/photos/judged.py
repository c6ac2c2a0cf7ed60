"""What a detector says of files, and the rates that this gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ...calibration import conformal
from ...errors import CalibrationError, ImageError
from ..cache import statistic_of
from ..metrics import auroc, rate

BITS = "bits_per_dim"
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
class Said:
    """What a detector says of N files.

    Attributes:
        by: What each statistic says of them, by the name of the statistic.
        bits_per_dim: (N,) bits/dim, NaN without a density.
        refused: How many further files the detector, or its decoder, refused.
    """

    by: dict[str, Judged]
    bits_per_dim: np.ndarray
    refused: int


class Judge:
    """A detector that judges files by its own statistic and, where its density says them, by bits/dim.

    Args:
        detector: A fitted detector.
        calibration: The bytes of clean files that calibrate bits/dim; None to leave it out.

    Attributes:
        own: The name of the detector's own statistic.
        calibration: The calibration scores of each statistic, (n,), by name.
        sizes: The number of calibration scores that a score is compared with, by name; of several groups, the smallest.
        rates: Those of `RATES` that each statistic has enough calibration images for, by name.
    """

    def __init__(self, detector: Any, calibration: Iterable[bytes] | None = None) -> None:
        self.detector = detector
        self.own = statistic_of(detector)
        self.calibration = {self.own: np.asarray(detector.calibration_scores_)}
        categories = getattr(detector, "mondrian_", None)
        groups = [group for parts in categories[0].groups.values() for group in parts] if categories else []
        self.sizes = {self.own: min(map(len, groups or [self.calibration[self.own]]))}
        self.rates = {self.own: promised_rates(detector)}
        if calibration is not None and getattr(detector, "density", None) is not None and self.own != BITS:
            bits = self(calibration).bits_per_dim
            if len(bits) and np.isfinite(bits).all():
                self.calibration[BITS] = bits
                self.sizes[BITS] = len(bits)
                self.rates[BITS] = [fpr for fpr in RATES if conformal.images_needed(fpr) <= len(bits)]

    def __call__(self, files: Iterable[bytes]) -> Said:
        """Judges files.

        Args:
            files: The bytes of image files.
        """
        p, scores, bits, refused = [np.empty(0)], [np.empty(0)], [np.empty(0)], 0
        left = iter(files)
        while part := list(islice(left, FILES_AT_ONCE)):
            for found in _asked(self.detector, part):
                if found is None:
                    refused += 1
                else:
                    p.append(found.p_value)
                    scores.append(found.score)
                    bits.append(found.bits_per_dim)
        of_density = np.concatenate(bits)
        by = {self.own: Judged(np.concatenate(p), np.concatenate(scores))}
        if self.own != BITS and BITS in self.calibration:
            by[BITS] = Judged(conformal.p_values(of_density, self.calibration[BITS]), of_density)
        return Said(by, of_density, refused)


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
