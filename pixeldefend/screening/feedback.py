"""The scores of confirmed clean traffic in the audit log, on which a detector can be calibrated again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from ..errors import CalibrationError
from .audit_log import AuditLog


@dataclass(frozen=True)
class Confirmed:
    """The scores that a detector gave to images of the audit log.

    Attributes:
        scores: (n,), the scores of the images that were confirmed clean.
        traffic: (N,), the scores of all images but confirmed attacks.
        histories: (n,), the histories of the confirmed images, None where the detector estimates none.
        traffic_histories: (N,), those of all images but confirmed attacks.
    """

    scores: np.ndarray
    traffic: np.ndarray
    histories: list[str | None]
    traffic_histories: list[str | None]


def confirmed_clean(
    log: AuditLog, detector_sha256: str, precision: str = "float32", *, like_traffic: bool = True
) -> Confirmed:
    """Finds the scores of images whose feedback is that they are clean ("clean" or "false_alarm").

    Args:
        log: The audit log.
        detector_sha256: The hash of the file of the detector that gave the scores.
        precision: The precision of these scores, a value of `pixeldefend.detectors.backends.PRECISION`.
        like_traffic: Whether to refuse confirmed images whose verdicts are distributed differently from those of the
            traffic.

    Returns:
        The scores of these images and of the traffic.

    Raises:
        CalibrationError: If no image was confirmed clean. With like_traffic, also if the share of flagged images among
            the confirmed ones differs from that of the traffic by more than chance (1 in 1,000). If mostly alarms were
            confirmed, the threshold would rise until attacks pass; if only images that were not flagged were confirmed,
            it would fall.
    """
    made_by = (detector_sha256, precision)
    rows = [row for row in log.rows() if (row["detector_sha256"], row["precision"]) == made_by]
    rows = [row for row in rows if row["score"] is not None and row["feedback"] not in ("attack", "missed")]
    chosen = [row for row in rows if row["feedback"] in ("clean", "false_alarm")]
    if not chosen:
        raise CalibrationError(
            f"no image that this detector judged in {precision} was confirmed clean in {log.path} (feedback clean or "
            "false_alarm)"
        )
    flagged, of_all = (np.array([row["verdict"] == "adversarial" for row in part]) for part in (chosen, rows))
    if like_traffic and binomtest(int(flagged.sum()), len(flagged), float(of_all.mean())).pvalue < 1e-3:
        raise CalibrationError(
            f"of the {len(flagged)} images confirmed clean {flagged.mean():.1%} had been flagged, of all {len(of_all)} "
            f"{of_all.mean():.1%}: they were not drawn at random, and a threshold from them would not hold for the "
            "rest; confirm images without regard to their verdict, and mark attacks as such"
        )
    scores, histories = ([[row[name] for row in part] for part in (chosen, rows)] for name in ("score", "history"))
    return Confirmed(np.array(scores[0]), np.array(scores[1]), histories[0], histories[1])
