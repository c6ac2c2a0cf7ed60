"""The Square attack, which needs no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ..extras import extra
from .criteria import margin, true_labels

with extra("attacks"):
    from eagerpy.astensor import astensor, astensor_
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.distances import linf

# the squares' area is halved after these shares of the queries
HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


class LinfSquareAttack(FixedEpsilonAttack):
    """Random search within an Linf budget, by squares of one colour, without gradients.

    It starts from vertical stripes. In each query a square at a random place changes by plus or minus the budget in
    each channel, and the change is kept if the true class's margin falls. An image is left alone once it is
    misclassified.

    Args:
        queries: The largest number of queries of the classifier, at least 2.
        area: The share of the image that the first squares cover, in (0, 1].

    Raises:
        ParameterError: If a value is out of range.

    Reference:
        Andriushchenko et al. 2020, "Square attack: a query-efficient black-box adversarial attack via random search",
        arXiv:1912.00049.
    """

    distance = linf

    def __init__(self, *, queries: int = 1000, area: float = 0.05) -> None:
        if queries < 2:
            raise ParameterError(f"queries must be at least 2, got {queries}")
        if not 0 < area <= 1:
            raise ParameterError(f"area must lie in (0, 1], got {area}")
        self.queries, self.area = queries, area

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
        with torch.no_grad():
            return restore(astensor(self._searched(model, clean, labels, epsilon)))

    def _searched(self, model: Any, clean: Tensor, labels: Tensor, eps: float) -> Tensor:
        channels, height, width = clean.shape[1:]
        best, lowest = clean.clone(), margin(model(clean), labels)
        todo = (lowest >= 0).nonzero()[:, 0]
        if len(todo):
            best[todo] = (clean[todo] + eps * _signs(len(todo), channels, 1, width).to(clean)).clamp(0, 1)
            lowest[todo] = margin(model(best[todo]), labels[todo])
        for query in range(2, self.queries):
            todo = (lowest >= 0).nonzero()[:, 0]
            if not len(todo):
                break
            share = self.area / 2 ** sum(query > part * self.queries for part in HALVED)
            side = min(max(1, round((share * height * width) ** 0.5)), height, width)
            top, left = (int(torch.randint(size - side + 1, ())) for size in (height, width))
            window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
            tried = best[todo]
            signs = _signs(len(todo), channels, 1, 1).to(clean)
            tried[window] = (clean[todo][window] + eps * signs).clamp(0, 1)
            same = (tried[window] == best[todo][window]).flatten(1).all(1)  # to look again would waste a query
            signs[same, int(torch.randint(channels, ()))] *= -1
            tried[window] = (clean[todo][window] + eps * signs).clamp(0, 1)
            found = margin(model(tried), labels[todo])
            better = found < lowest[todo]
            best[todo[better]], lowest[todo[better]] = tried[better], found[better]
        return best


def _signs(*shape: int) -> Tensor:
    return 2.0 * torch.randint(0, 2, shape) - 1
