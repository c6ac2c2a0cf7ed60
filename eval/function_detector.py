"""A stand-in until `pixeldefend.detectors.FunctionDetector` is there, which has the same interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..calibration import conformal
from ..detectors import Verdicts
from ..devices import check_device
from ..errors import ModelError, ParameterError
from ..images import to_batch


class FunctionDetector:
    """Calibrates a function of images.

    Args:
        function: (N, C, H, W) float in [0, 1] -> (N,), higher = more anomalous: tensors or, if it raises a TypeError
            for them, arrays.
        name: What it is called.
        fpr: The false-alarm rate.
        device: Where the function gets its tensors.
    """

    confidence = None
    batch_size = 64

    def __init__(
        self, function: Callable[[Any], Any], *, name: str = "function", fpr: float = 0.01, device: str = "cpu"
    ) -> None:
        self.function, self.name, self.fpr, self.device = function, name, fpr, device

    def fit(self, X: Any, y: Any = None) -> FunctionDetector:
        self.corruptions_: list[str] = []
        self.calibration_scores_ = self._scores(X)
        return self._set_threshold()

    def with_fpr(self, fpr: float) -> FunctionDetector:
        other = FunctionDetector(self.function, name=self.name, fpr=fpr, device=self.device)
        other.calibration_scores_, other.corruptions_ = self.calibration_scores_, self.corruptions_
        return other._set_threshold()

    def anomaly_scores(self, x: Tensor) -> Tensor:
        x = x.to(check_device(self.device))
        try:
            found = self.function(x)
        except TypeError:
            if x.requires_grad:
                raise ParameterError(f"{self.name} takes no tensors, so it has no gradient: use spsa") from None
            found = self.function(x.detach().cpu().numpy())
        scores = torch.as_tensor(found).to(x.device)
        if scores.shape != x.shape[:1] or not torch.isfinite(scores).all():
            raise ModelError(f"{self.name} must return {len(x)} finite numbers, got {tuple(scores.shape)}")
        return scores

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
            parts = [self.anomaly_scores(part).double().cpu() for part in to_batch(X)[0].split(self.batch_size)]
        return torch.cat(parts).numpy()
