"""Calibrates a detector again, on images of the traffic that were confirmed clean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..detectors import Detector
from ..detectors.backends import PRECISION
from ..serialization import check_writable, sha256_of
from ..zoo import card, load_detector, shipped
from .audit_log import AuditLog
from .feedback import confirmed_clean


@dataclass(frozen=True)
class Recalibrated:
    """The result of a recalibration.

    Attributes:
        detector: The detector with its new calibration.
        confirmed: The number of images that calibrate the detector.
        traffic: The number of images of the log on which the thresholds are compared.
        fpr: The rate of false alarms.
        thresholds: The anomaly scores above which images are flagged, before and after.
        flagged: The shares of the traffic that are flagged, before and after.
    """

    detector: Detector
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
        found = confirmed_clean(audit_log, digest, PRECISION[before.backend], like_traffic=like_traffic)
        after = before.with_calibration(found.scores)
        counts = dict(confirmed=len(found.scores), traffic=len(found.traffic))
        after.save(out, recalibrated=dict(**counts, detector_sha256=digest))
    finally:
        audit_log.close()
    first, second = (-float(made.offset_) for made in (before, after))
    shares = (float((found.traffic > first).mean()), float((found.traffic > second).mean()))
    return Recalibrated(after, **counts, fpr=after.fpr, thresholds=(first, second), flagged=shares)
