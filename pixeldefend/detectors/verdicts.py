"""What a detector says of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of a detector on N images.

    Attributes:
        is_adversarial: (N,) bool, whether each image is flagged at the detector's rate.
        p_value: (N,), the share of clean images that are at least as anomalous.
        score: (N,), the anomaly score; higher is more anomalous.
        threshold: (N,), the score above which each image is flagged.
        bits_per_dim: (N,), -log2 p(x) per sub-pixel; NaN where it is not defined.
        surprisal_map: (N, H, W) nats a pixel, or a list of (H, W) if the images differ in size; (N, D) for rows. None
            if it was not asked for or the detector has no density.
        history: What each image has been through, if the detector estimates it.
    """

    is_adversarial: np.ndarray
    p_value: np.ndarray
    score: np.ndarray
    threshold: np.ndarray
    bits_per_dim: np.ndarray
    surprisal_map: Any = None
    history: list[str] | None = None
