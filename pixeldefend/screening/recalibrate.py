"""Calibrates a detector again, on images of the traffic that were confirmed clean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..detectors import Detector, PhotoDetector
from ..detectors.by_history import UNKNOWN
from ..serialization import check_writable, sha256_of
from ..zoo import card, load_detector, shipped
from .audit_log import AuditLog
from .feedback import Confirmed, confirmed_clean


@dataclass(frozen=True)
class Recalibrated:
    """The result of a recalibration.

    Attributes:
        detector: The detector with its new calibration.
        confirmed: The number of images that calibrate the detector.
        traffic: The number of images of the log on which the thresholds are compared.
        fpr: The rate of false alarms.
        thresholds: The anomaly scores above which images are flagged, before and after: their means over the traffic,
            if a detector of photographs has one for each history.
        flagged: The shares of the traffic that are flagged, before and after.
    """

    detector: Detector | PhotoDetector
    confirmed: int
    traffic: int
    fpr: float
    thresholds: tuple[float, float]
    flagged: tuple[float, float]


def recalibrate(
    detector: str,
    log: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    fpr: float | None = None,
    backend: str | None = None,
    like_traffic: bool = True,
) -> Recalibrated:
    """Calibrates a detector on the images of an audit log that were confirmed clean, and writes it.

    Args:
        detector: The name of a shipped detector or the path of a saved one: the one that wrote the log.
        log: The audit log.
        out: The .safetensors file to write.
        fpr: The rate of false alarms, in (0, 1); None for the detector's own.
        backend: The backend whose scores the log holds; None for the detector's own.
        like_traffic: Whether to refuse confirmed images that differ from the traffic by more than chance.

    Returns:
        The detector, and its thresholds before and after.

    Raises:
        PixelDefendError: If the detector or the log cannot be used, or the confirmed images are too few or too unlike
            the traffic.
        OSError: If a file is missing or `out` cannot be written.
    """
    check_writable(Path(out))
    audit_log = AuditLog(log, read_only=True)
    try:
        before = load_detector(detector, backend=backend)
        if fpr is not None:
            before = before.with_fpr(fpr)
        digest = str(card(detector)["sha256"]) if detector in shipped("detector") else sha256_of(detector)
        found = confirmed_clean(audit_log, digest, before.precision, like_traffic=like_traffic)
        after: Detector | PhotoDetector
        if isinstance(before, PhotoDetector):
            after = before.with_calibration(found.scores, [history or UNKNOWN for history in found.histories])
        else:
            after = before.with_calibration(found.scores)
        counts = dict(confirmed=len(found.scores), traffic=len(found.traffic))
        after.save(out, recalibrated=dict(**counts, detector_sha256=digest))
    finally:
        audit_log.close()
    first, second = (_thresholds(made, found) for made in (before, after))
    shares = (float((found.traffic > first).mean()), float((found.traffic > second).mean()))
    means = float(first.mean()), float(second.mean())
    return Recalibrated(after, **counts, fpr=after.fpr, thresholds=means, flagged=shares)


def _thresholds(detector: Detector | PhotoDetector, found: Confirmed) -> np.ndarray:
    """Returns (N,): the score above which each image of the traffic is flagged; of photographs, a lower bound."""
    if isinstance(detector, PhotoDetector):
        return detector.thresholds([history or UNKNOWN for history in found.traffic_histories])
    return np.full(len(found.traffic), -float(detector.offset_))
