"""TI-FGSM, whose gradient is smoothed, so that its images also fool classifiers that it does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..errors import ParameterError
from ..extras import extra

with extra("attacks"):
    from eagerpy.astensor import astensor

from .mi_fgsm import LinfMomentumAttack


class LinfTranslationInvariantAttack(LinfMomentumAttack):
    """MI-FGSM on the mean gradient of slightly moved images.

    The mean over all moves, weighted by a Gaussian, is nearly the gradient smoothed by this Gaussian. So one gradient
    serves for all.

    Args:
        sigma: The standard deviation of the Gaussian in pixels, above 0.
        steps: The number of steps, at least 1.
        momentum: The share of the last sum of gradients that is kept, at least 0.

    Raises:
        ParameterError: If a value is out of range.

    Reference:
        Dong, Pang, Su & Zhu 2019, "Evading defenses to transferable adversarial examples by translation-invariant
        attacks", arXiv:1904.02884.
    """

    def __init__(self, *, sigma: float = 2.0, steps: int = 10, momentum: float = 1.0) -> None:
        if not sigma > 0:
            raise ParameterError(f"sigma must be above 0, got {sigma}")
        super().__init__(steps=steps, momentum=momentum)
        self.sigma = sigma

    def value_and_grad(self, loss_fn: Any, x: Any) -> Any:
        """Computes the loss and its smoothed gradient; foolbox calls this method."""
        loss, gradient = super().value_and_grad(loss_fn, x)
        g = gradient.raw
        reach = max(1, round(3 * self.sigma))
        bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(g) / self.sigma).square())
        kernel = (bell / bell.sum()).expand(g.shape[1], 1, 1, -1)
        for turned, padding in ((kernel, (0, reach)), (kernel.mT, (reach, 0))):
            g = F.conv2d(g, turned, padding=padding, groups=g.shape[1])
        return loss, astensor(g)
