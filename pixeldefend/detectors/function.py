"""A detector made of any function of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import check_device
from ..errors import ModelError, ParameterError
from .base import ConformalDetector


class FunctionDetector(ConformalDetector):
    """A detector that flags images for which a function is too high, at a known rate of false alarms.

    Args:
        function: (N, C, H, W) float32 in [0, 1] -> (N,), higher = more anomalous. The function gets a tensor and may
            return one. If it does not take tensors, it gets an array, and has no gradient.
        name: The name of the function in tables and messages.
        fpr: As for `ConformalDetector`.
        confidence: As for `ConformalDetector`.
        batch_size: As for `ConformalDetector`.
        device: The device of the tensors that the function gets.
    """

    def __init__(
        self,
        function: Callable[[Any], Any] | None = None,
        *,
        name: str = "function",
        fpr: float = 0.01,
        confidence: float | None = None,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> None:
        super().__init__(fpr=fpr, confidence=confidence, batch_size=batch_size)
        self.function = function
        self.name = name
        self.device = device

    def anomaly_scores(self, x: Tensor) -> Tensor:
        """Returns the function's values, (N,), of images (N, C, H, W) in [0, 1].

        Raises:
            ModelError: If the values are not N finite numbers.
            ParameterError: If a gradient is needed and the function does not take tensors.
        """
        if self.function is None:
            raise ParameterError("FunctionDetector needs a function: FunctionDetector(function)")
        x = x.to(check_device(self.device))
        try:
            found = self.function(x)
        except TypeError as error:
            if x.requires_grad:
                raise ParameterError(
                    f"{self.name} does not take tensors ({error}), so it has no gradient: use spsa"
                ) from error
            found = self.function(x.detach().cpu().numpy())
        scores = torch.as_tensor(np.asarray(found) if not isinstance(found, Tensor) else found).to(x.device)
        if scores.shape != x.shape[:1]:
            raise ModelError(f"{self.name} must return {len(x)} numbers, got shape {tuple(scores.shape)}")
        if wrong := int((~torch.isfinite(scores)).sum()):
            raise ModelError(f"{self.name} must return finite numbers, got {wrong} NaN or infinite of {len(x)}")
        return scores
