"""The criteria of foolbox by which an attack on classifier and detector succeeds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ..extras import extra

with extra("attacks"):
    from eagerpy.astensor import astensor, astensor_
    from foolbox.criteria import Criterion, Misclassification


class NotFlagged(Criterion):
    """The criterion that the detector does not flag the image, rounded to 8 bits, at its frozen threshold.

    `Misclassification(labels) & NotFlagged(detector)` makes every decision-based attack of foolbox aware of the
    detector.

    Args:
        detector: A fitted detector.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def __repr__(self) -> str:
        name = getattr(self.detector, "statistic", type(self.detector).__name__)
        return f"{type(self).__name__}({name} at {self.detector.fpr:g})"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """Returns for each image whether the detector does not flag it.

        Args:
            perturbed: (N, C, H, W) in [0, 1].
            outputs: The classifier's logits, which are not used.

        Returns:
            (N,) bool.
        """
        x, restore = astensor_(perturbed)
        flagged = torch.from_numpy(self.detector.is_adversarial(rounded(x.raw.detach().cpu())))
        return restore(astensor(~flagged.to(x.raw.device)))


def true_labels(criterion: Any) -> Tensor:
    """Returns the true labels that a criterion holds.

    Args:
        criterion: `Misclassification`, alone or joined to others by `&`.

    Returns:
        (N,) whole numbers of any type.

    Raises:
        ParameterError: If the criterion holds no labels.
    """
    todo = [criterion]
    while todo:
        part = todo.pop()
        if isinstance(part, Misclassification):
            return torch.as_tensor(part.labels.raw)
        todo += [half for half in (getattr(part, name, None) for name in ("b", "a")) if half is not None]
    raise ParameterError(f"the criterion must hold the true labels: Misclassification(labels), got {criterion!r}")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes by how much the logit of the true class exceeds the highest other one.

    Args:
        logits: (N, classes).
        labels: (N,) int64, the true classes.

    Returns:
        (N,), negative for misclassified images.
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    return true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def rounded(x: Tensor) -> Tensor:
    """Rounds images in [0, 1] to the 8-bit grid."""
    return (255 * x).round().clamp(0, 255) / 255
