"""MI-FGSM, whose momentum makes images that also fool classifiers that it does not know."""

from __future__ import annotations

from typing import Any

from ..errors import ParameterError
from ..extras import extra

with extra("attacks"):
    from eagerpy.astensor import astensor
    from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod


class LinfMomentumAttack(LinfMomentumIterativeFastGradientMethod):
    """Steps along the sign of a moving sum of gradients, within an Linf budget.

    Each gradient is divided by its mean absolute value before it is added, as in the paper. foolbox's attack adds the
    signs of the gradients.

    Args:
        steps: The number T of steps, at least 1. Each is 1/T of the budget.
        momentum: The share of the last sum that is kept, at least 0.

    Raises:
        ParameterError: If a value is out of range.

    Reference:
        Dong et al. 2018, "Boosting adversarial attacks with momentum", arXiv:1710.06081.
    """

    def __init__(self, *, steps: int = 10, momentum: float = 1.0) -> None:
        if steps < 1:
            raise ParameterError(f"steps must be at least 1, got {steps}")
        if not momentum >= 0:
            raise ParameterError(f"momentum must be at least 0, got {momentum}")
        super().__init__(steps=steps, momentum=momentum, rel_stepsize=1 / steps)

    def normalize(self, gradients: Any, *, x: Any, bounds: Any) -> Any:
        """Divides gradients, (N, C, H, W), by their mean absolute values; foolbox calls this method."""
        g = gradients.raw
        return astensor(g / g.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-12))
