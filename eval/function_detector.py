"""A stand-in until `pixeldefend.detectors.FunctionDetector` is there, which has the same interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calibration import conformal
from ..detectors import Verdicts
from ..images import to_batch


class FunctionDetector:
    """Calibrates a function of images.

    Args:
        function: (N, C, H, W) float in [0, 1] -> (N,), higher = more anomalous.
        name: What it is called.
        fpr: The false-alarm rate.
    """

    confidence = None
    density = None
    classifier = None

    def __init__(self, function: Callable[[Tensor], Tensor], name: str = "function", *, fpr: float = 0.01) -> None:
        self.function, self.name, self.fpr = function, name, fpr
        self.batch_size = 64

    def fit(self, X: Any, y: Any = None) -> FunctionDetector:
        self.corruptions_: list[str] = []
        self.calibration_scores_ = self._scores(X)
        return self._set_threshold()

    def with_fpr(self, fpr: float) -> FunctionDetector:
        other = FunctionDetector(self.function, self.name, fpr=fpr)
        other.calibration_scores_, other.corruptions_ = self.calibration_scores_, self.corruptions_
        return other._set_threshold()

    def anomaly_scores(self, x: Tensor) -> Tensor:
        return self.function(x)

    def score_samples(self, X: Any) -> np.ndarray:
        return -self._scores(X)

    def is_adversarial(self, X: Any) -> np.ndarray:
        return self._scores(X) > -self.offset_

    def judge(self, X: Any, *, maps: bool = False) -> Verdicts:
        scores = self._scores(X)
        p = conformal.p_values(scores, self.calibration_scores_)
        return Verdicts(scores > -self.offset_, p, scores, np.full(len(scores), np.nan))

    def _set_threshold(self) -> FunctionDetector:
        self.offset_ = -conformal.threshold(self.calibration_scores_, self.fpr)
        return self

    def _scores(self, X: Any) -> np.ndarray:
        with torch.inference_mode():
            parts = [self.function(part).double().cpu() for part in to_batch(X)[0].split(self.batch_size)]
        return torch.cat(parts).numpy()
