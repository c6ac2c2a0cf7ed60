"""Auto-PGD: projected gradient descent that chooses its own step size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ParameterError
from ..extras import extra
from .criteria import margin, true_labels

with extra("attacks"):
    from eagerpy.astensor import astensor, astensor_
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.distances import linf

MOMENTUM = 0.75  # the weight of the new step; the rest is that of the last one
ENOUGH = 0.75  # the step is halved if a smaller share of the steps since the last checkpoint raised the loss


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of each image.

    Args:
        logits: (N, K).
        labels: (N,) int64.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the difference of logits ratio of each image.

    It is -(z_y - max_{i != y} z_i) / (z_1 - z_3), where z_1 >= z_2 >= ... are the sorted logits. Two classes have no
    z_3, and the numerator alone is returned.

    Args:
        logits: (N, K).
        labels: (N,) int64.
    """
    difference = -margin(logits, labels)
    if logits.shape[1] < 3:
        return difference
    highest = logits.topk(3, dim=1).values
    return difference / (highest[:, 0] - highest[:, 2] + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "dlr": logits_ratio}


class LinfAutoPGD(FixedEpsilonAttack):
    """Auto-PGD within an Linf budget: gradient ascent with momentum that halves its step where the loss stagnates.

    Each image gets the last misclassified image on its way, or the image of the highest loss if none is misclassified.

    Args:
        steps: The number of steps.
        loss: A key of `LOSSES`: "ce" for the cross-entropy, "dlr" for the difference of logits ratio.

    Raises:
        ParameterError: If a value is out of range.

    Reference:
        Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks", arXiv:2003.01690, algorithm 1.
    """

    distance = linf

    def __init__(self, *, steps: int = 100, loss: str = "ce") -> None:
        if steps < 1:
            raise ParameterError(f"steps must be at least 1, got {steps}")
        if loss not in LOSSES:
            raise ParameterError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        self.steps, self.loss = steps, loss

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """Attacks images; foolbox calls this method.

        Args:
            model: foolbox's model of the classifier.
            inputs: (N, C, H, W) in [0, 1].
            criterion: A criterion that holds the true labels.
            epsilon: The budget.
            **kwargs: Ignored; foolbox passes further options to every attack.

        Returns:
            Images in the shape of inputs.
        """
        given, restore = astensor_(inputs)
        clean, labels = given.raw.detach(), true_labels(criterion).to(given.raw.device)

        def look(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Returns the loss, its gradient and whether each image is misclassified."""
            x = x.clone().requires_grad_()
            logits = model(x)
            loss = LOSSES[self.loss](logits, labels)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            return loss.detach(), gradient, logits.detach().argmax(1) != labels

        with torch.enable_grad():
            return restore(astensor(self._climbed(look, clean, epsilon)))

    def _climbed(self, look: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]], clean: Tensor, eps: float) -> Tensor:
        def within(x: Tensor) -> Tensor:
            return (clean + (x - clean).clamp(-eps, eps)).clamp(0, 1)

        def each(values: Tensor) -> Tensor:
            return values[:, None, None, None]

        noise = 2 * torch.rand(clean.shape).to(clean) - 1
        x = within(clean + eps * noise / each(noise.flatten(1).abs().amax(1)))
        best, found = x.clone(), x.clone()
        highest, gradient, misclassified = look(x)
        of_best, fooled = gradient.clone(), misclassified.clone()
        size = torch.full_like(highest, 2 * eps)
        before = x.clone()
        raised = torch.zeros_like(highest)  # how many steps since the last checkpoint raised the loss
        last, at_checkpoint, halved = highest.clone(), highest.clone(), torch.ones_like(fooled)
        points = checkpoints(self.steps)
        for step in range(self.steps):
            # the first step has no momentum
            weight = MOMENTUM if step else 1.0
            stepped = within(x + each(size) * gradient.sign())
            x, before = within(x + weight * (stepped - x) + (1 - weight) * (x - before)), x
            loss, gradient, misclassified = look(x)
            raised += loss > last
            last = loss
            found[misclassified], fooled = x[misclassified], fooled | misclassified
            better = loss > highest
            best[better], of_best[better], highest[better] = x[better], gradient[better], loss[better]
            if step + 1 in points:
                interval = step + 1 - points[points.index(step + 1) - 1]
                stuck = ~halved & (highest <= at_checkpoint)
                halved = (raised < ENOUGH * interval) | stuck
                size[halved] /= 2
                x[halved], gradient[halved] = best[halved], of_best[halved]
                at_checkpoint, raised = highest.clone(), torch.zeros_like(raised)
        return torch.where(each(fooled), found, best)


def checkpoints(steps: int) -> list[int]:
    """Returns the steps after which Auto-PGD reconsiders the size of its steps, from 0.

    Args:
        steps: The number of steps of the attack.
    """
    before, now = 0.0, 0.22
    found = [0]
    while now <= 1:
        if (point := math.ceil(now * steps - 1e-9)) > found[-1]:
            found.append(point)
        before, now = now, now + max(now - before - 0.03, 0.06)
    return found
