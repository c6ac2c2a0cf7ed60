"""Projected gradient descent on the classifier and the detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ambient import ordinary, torch_defaults
from ...classifier import whole_numbers
from ...densities import Autoregressive
from ...errors import ParameterError
from ...extras import extra
from ...scores import Evidence
from ..criteria import margin, rounded, true_labels

with extra("attacks"):
    from eagerpy.astensor import astensor, astensor_
    from foolbox.attacks.base import FixedEpsilonAttack
    from foolbox.distances import l2, linf

    DISTANCES = {"linf": linf, "l2": l2}

Classifier = Callable[[Tensor], Tensor]
WEIGHT_GROWTH = 1.2  # a step changes the detector's weight by this factor
NOT_YET_MISCLASSIFIED = 1e6  # ranks every correctly classified image behind all misclassified ones


class DetectorAwarePGD(FixedEpsilonAttack):
    """Projected gradient descent on two numbers: the classifier's margin and the detector's excess.

    The margin is the true class's logit less the highest other one; the excess is the anomaly score above the
    detector's threshold. An image has evaded when the margin is negative and the excess at most zero. The method
    `direction` of a subclass combines the two gradients into one step.

    Args:
        detector: A fitted detector whose anomaly score has a gradient.
        steps: The largest number of steps of one try.
        step: The length of a step, as a share of the budget.
        restarts: The number of tries. The first starts at the image, the others at a random point within the budget.
        regions: Entropies, in nats, that each restart tries one after another. It moves only the pixels whose predicted
            entropy is at least that high, since even a small change shows where the density is certain. 0 moves all
            pixels.
        norm: "linf" or "l2".
        seed: Seed of the random starts.
        progress: Wraps the iterable of steps, to show a progress bar.

    Attributes:
        queries_: (N,), set by a call: the number of queries of the detector and the classifier for each image.

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
        """Combines the two gradients into one step.

        Args:
            classify: (N, D) gradients of the margin, of length 1.
            detect: (N, D) gradients of the anomaly score, of length 1.
            misclassified: (N,) bool.
            weight: (N,) weight of the detector's gradient; it grows while the image is misclassified but flagged.

        Returns:
            (N, D), the direction to step against.
        """

    @torch_defaults()
    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """Attacks images; foolbox calls this method.

        Args:
            model: foolbox's model of the classifier.
            inputs: (N, C, H, W) in [0, 1].
            criterion: A criterion that holds the true labels: `Misclassification`, alone or joined to others by `&`.
            epsilon: The budget in the norm.
            **kwargs: Ignored; foolbox passes further options to every attack.

        Returns:
            Images in the shape of inputs, on the 8-bit grid. Where no image evaded, it is the one that came closest.

        Raises:
            ParameterError: If the criterion holds no labels, or a label is not the number of a class.
        """
        x, restore = astensor_(inputs)
        clean = ordinary(x.raw.detach()).float()  # in half precision 8-bit values cannot be told apart

        def classify(images: Tensor) -> Tensor:
            return model(images.to(x.raw.dtype)).to(clean)

        with torch.enable_grad():
            return restore(astensor(self._attacked(classify, clean, criterion, epsilon).to(x.raw.dtype)))

    def _attacked(self, model: Classifier, clean: Tensor, criterion: Any, epsilon: float) -> Tensor:
        """Attacks images, float32 (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            classes = model(clean[:1]).shape[1]
        labels = whole_numbers(true_labels(criterion), len(clean), classes).to(clean.device)
        generator = torch.Generator().manual_seed(self.seed)
        best = clean.clone()
        # the least distance from evasion so far: 0 once an image has evaded
        found = clean.new_full((len(clean),), torch.inf, dtype=torch.float64)
        self.queries_ = torch.zeros(len(clean), dtype=torch.long, device="cpu")
        masks = self._masks(clean)
        for restart in range(self.restarts):
            noise = torch.zeros_like(clean)
            if restart:
                drawn = torch.rand(clean.shape, generator=generator, dtype=torch.float32, device="cpu")
                noise = drawn.to(clean) * 2 - 1
            for mask in masks:
                moved = self._within(clean, clean + epsilon * noise * mask, epsilon)
                weight = clean.new_ones(len(clean))
                for _ in self.progress(range(self.steps + 1)):
                    todo = (found > 0).nonzero()[:, 0]
                    if not len(todo):
                        break
                    short, excess, gradients = self.look(model, moved[todo], labels[todo], mask[todo], generator)
                    self.queries_[todo.cpu()] += self.queries_per_step
                    misclassified = short < 0
                    worst = torch.where(
                        misclassified, excess.double().clamp(min=0), NOT_YET_MISCLASSIFIED + short.double()
                    )
                    better = todo[worst < found[todo]]
                    best[better] = moved[better]
                    found[todo] = torch.minimum(found[todo], worst)
                    # the goal that is not reached yet gets more weight
                    weight[todo] *= torch.where(misclassified, WEIGHT_GROWTH, 1 / WEIGHT_GROWTH)
                    classify, detect = (_unit(gradient * mask[todo]) for gradient in gradients)
                    against = self.direction(classify, detect, misclassified, weight[todo])
                    against = against.sign() if self.norm == "linf" else _unit(against)
                    stepped = moved[todo] - self.step * epsilon * against.reshape(moved[todo].shape)
                    moved[todo] = self._within(clean[todo], stepped, epsilon)
        return rounded(best)

    def look(
        self, model: Classifier, x: Tensor, labels: Tensor, mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Computes margins, excesses and their gradients for the rounded images.

        Args:
            model: Images -> logits.
            x: (N, C, H, W) in [0, 1].
            labels: (N,) true labels.
            mask: The shape of x, 1 for the pixels that may move.
            generator: The source of random numbers.

        Returns:
            (N,) margins, (N,) excesses, and the gradients of both, each in the shape of x.
        """
        x = x.clone().requires_grad_()
        margin, excess = self.margin_and_excess(model, x + (rounded(x) - x).detach(), labels)
        (classify,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        (detect,) = torch.autograd.grad(excess.sum(), x)
        return margin.detach(), excess.detach(), (torch.nan_to_num(classify), torch.nan_to_num(detect))

    def margin_and_excess(self, model: Classifier, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (N,) margins and (N,) excesses of images (N, C, H, W) with true labels (N,)."""
        logits = model(x)
        return margin(logits, labels), self.detector.excess(x).to(logits)

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
    """Flattens (N, ...) to (N, D) and scales each row to length 1; rows of zeros stay zero."""
    return x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)
