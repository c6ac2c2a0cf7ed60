"""Projected gradient descent on classifier and detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...densities import Autoregressive
from ...errors import ParameterError
from ...extras import extra
from ...scores import Evidence
from ..criteria import rounded, true_labels

with extra("attacks"):
    from eagerpy.astensor import astensor, astensor_
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.distances import l2, linf

    DISTANCES = {"linf": linf, "l2": l2}

WEIGHT_GROWTH = 1.2  # a step changes the detector's weight by this factor
NOT_YET_MISCLASSIFIED = 1e6  # puts every image that is classified correctly behind all that are not


class DetectorAwarePGD(FixedEpsilonAttack):
    """Projected gradient descent on two numbers: the classifier's margin and the detector's excess.

    The margin is the true class's logit less the highest other one; the excess is the anomaly score above the
    detector's threshold. An image has evaded when the margin is negative and the excess at most zero. A subclass says
    in `direction` how the two gradients become one step.

    Args:
        detector: A fitted detector whose anomaly score has a gradient.
        steps: The largest number of steps of a try.
        step: The length of a step, as a share of the budget.
        restarts: How many tries; the first starts at the image, the others at random within the budget.
        regions: Entropies, in nats. Each restart tries them one after another, and moves only the pixels whose
            predicted entropy is at least so high: where the density is certain, the least change shows. 0 moves all.
        norm: "linf" or "l2".
        seed: Of random starts.
        progress: Wraps the steps of a try.

    Attributes:
        queries_: (N,) after a call, how often detector and classifier were asked about each image.

    Raises:
        ParameterError: If a value is out of range.
    """

    queries_per_step = 1

    def __init__(
        self,
        detector: Any,
        *,
        steps: int = 100,
        step: float = 0.1,
        restarts: int = 1,
        regions: Sequence[float] = (0.05, 0.5, 0.0),
        norm: str = "linf",
        seed: int = 0,
        progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps,
    ) -> None:
        if min(steps, restarts) < 1:
            raise ParameterError(f"steps and restarts must be at least 1, got {steps} and {restarts}")
        if not step > 0:
            raise ParameterError(f"step must be positive, got {step}")
        if norm not in DISTANCES:
            raise ParameterError(f"norm must be one of {', '.join(DISTANCES)}, got {norm!r}")
        if not regions:
            raise ParameterError("regions must hold at least one entropy; 0 selects all pixels")
        self.detector = detector
        self.steps, self.step, self.restarts, self.norm, self.seed = steps, step, restarts, norm, seed
        self.regions = tuple(regions)
        self.progress = progress

    @property
    def distance(self) -> Any:
        """foolbox's distance of the norm."""
        return DISTANCES[self.norm]

    @abstractmethod
    def direction(self, classify: Tensor, detect: Tensor, misclassified: Tensor, weight: Tensor) -> Tensor:
        """Makes one step of two gradients.

        Args:
            classify: (N, D) gradients of the margin, of length 1.
            detect: (N, D) gradients of the anomaly score, of length 1.
            misclassified: (N,) bool.
            weight: (N,) weight of the detector's gradient; it grows while the image is misclassified but flagged.

        Returns:
            (N, D), the direction to step against.
        """

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """Attacks images, as foolbox asks for it.

        Args:
            model: foolbox's model of the classifier.
            inputs: (N, C, H, W) in [0, 1].
            criterion: One that holds the true labels: `Misclassification`, alone or within an `&`.
            epsilon: The budget in the norm.

        Returns:
            The shape of inputs, on the 8-bit grid; where nothing was found, the image that came closest.
        """
        x, restore = astensor_(inputs)
        clean = x.raw.detach()
        labels = true_labels(criterion).to(clean.device)
        generator = torch.Generator().manual_seed(self.seed)
        best = clean.clone()
        # the least so far of what margin and excess have above zero
        found = torch.full((len(clean),), torch.inf, device=clean.device)
        self.queries_ = torch.zeros(len(clean), dtype=torch.long)
        masks = self._masks(clean)
        for restart in range(self.restarts):
            noise = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1 if restart else 0 * clean
            for mask in masks:
                moved = self._within(clean, clean + epsilon * noise * mask, epsilon)
                weight = torch.ones(len(clean), device=clean.device)
                for _ in self.progress(range(self.steps + 1)):
                    todo = (found > 0).nonzero()[:, 0]
                    if not len(todo):
                        break
                    margin, excess, gradients = self.look(model, moved[todo], labels[todo], mask[todo], generator)
                    self.queries_[todo.cpu()] += self.queries_per_step
                    misclassified = margin < 0
                    worst = torch.where(misclassified, excess.clamp(min=0), NOT_YET_MISCLASSIFIED + margin)
                    better = todo[worst < found[todo]]
                    best[better] = moved[better]
                    found[todo] = torch.minimum(found[todo], worst)
                    # whichever of the two is not reached is given more weight
                    weight[todo] *= torch.where(misclassified, WEIGHT_GROWTH, 1 / WEIGHT_GROWTH)
                    classify, detect = (_unit(gradient * mask[todo]) for gradient in gradients)
                    against = self.direction(classify, detect, misclassified, weight[todo])
                    against = against.sign() if self.norm == "linf" else _unit(against)
                    stepped = moved[todo] - self.step * epsilon * against.reshape(moved[todo].shape)
                    moved[todo] = self._within(clean[todo], stepped, epsilon)
        return restore(astensor(rounded(best)))

    def look(
        self, model: Any, x: Tensor, labels: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Asks classifier and detector about the rounded images.

        Args:
            model: foolbox's model of the classifier.
            x: (N, C, H, W) in [0, 1].
            labels: (N,) true labels.
            mask: As x, 1 for the pixels that may move.
            generator: For what is drawn at random.

        Returns:
            (N,) margins, (N,) excesses, and the gradients of both, as x is.
        """
        x = x.clone().requires_grad_()
        margin, excess = self.margin_and_excess(model, x + (rounded(x) - x).detach(), labels)
        (classify,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        (detect,) = torch.autograd.grad(excess.sum(), x)
        return margin.detach(), excess.detach(), (torch.nan_to_num(classify), torch.nan_to_num(detect))

    def margin_and_excess(self, model: Any, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (N,) margins and (N,) excesses of images (N, C, H, W) with true labels (N,)."""
        logits = model(x)
        true = logits.gather(1, labels[:, None])[:, 0]
        margin = true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        return margin, self.detector.anomaly_scores(x).to(margin) + float(self.detector.offset_)

    def _masks(self, clean: Tensor) -> list[Tensor]:
        """Returns for each region which pixels may move, as 0 and 1."""
        everywhere = torch.ones_like(clean)
        density = getattr(self.detector, "density", None)
        if not isinstance(density, Autoregressive) or max(self.regions) <= 0:
            return [everywhere]  # without conditionals no pixel is more certain than another
        with torch.no_grad():
            entropy = Evidence(density, density.to_support(clean)).expected_surprisal
        return [everywhere if region <= 0 else (entropy >= region).to(clean) for region in self.regions]

    def _within(self, clean: Tensor, x: Tensor, epsilon: float) -> Tensor:
        change = x - clean
        if self.norm == "linf":
            change = change.clamp(-epsilon, epsilon)
        else:
            length = change.flatten(1).norm(dim=1)[:, None, None, None]
            change = change * (epsilon / length.clamp(min=1e-12)).clamp(max=1)
        return (clean + change).clamp(0, 1)


def _unit(x: Tensor) -> Tensor:
    """(N, ...) -> (N, D), each of length 1, or 0."""
    return x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)
