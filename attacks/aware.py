"""Attacks on classifier and detector at once, by one who knows both. Each is a foolbox attack.

    aware = JointPGD(detector, steps=100)
    _, images, fooled_and_unflagged = aware(model, x, Misclassification(y) & Undetected(detector), epsilons=8 / 255)

What counts is the image rounded to 8 bits: it is what classifier and detector see in every step, with the gradient
passed straight through the rounding (Athalye et al. 2018).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from foolbox.attacks.base import FixedEpsilonAttack
from foolbox.criteria import Criterion, Misclassification
from foolbox.distances import l2, linf
from torch import Tensor

from ..detector import Detector

DISTANCES = {"linf": linf, "l2": l2}


class Undetected(Criterion):
    """The detector does not flag the image, rounded to 8 bits, at its frozen threshold.

    `Misclassification(labels) & Undetected(detector)` makes every decision-based attack of foolbox aware of the
    detector. detector: a fitted `Detector`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detector.score_name} at {self.detector.fpr:g})"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """perturbed: (N, C, H, W) in [0, 1]. outputs: not looked at. Returns (N,) bool."""
        x, restore = astensor_(perturbed)
        flagged = torch.from_numpy(self.detector.is_adversarial(_rounded(x.raw.detach().cpu())))
        return restore(astensor(~flagged.to(x.raw.device)))


class AwarePGD(FixedEpsilonAttack):
    """Projected gradient descent on two numbers: the classifier's margin (right logit less the highest other) and what
    the detector's score has above its threshold. An image is done when both are negative.

    detector: a fitted `Detector` of images whose score has a gradient (not those of compressed lengths; through counts
    and bands, in which a site is or is not, the gradient is that of the rest). steps: at most, a restart. step: its
    length, as a share of eps. restarts: the first starts at the image, the others at random within eps. norm: "linf"
    or "l2". seed: of random starts. Raises ValueError for values out of range.

    After a call: queries_, (N,) how often classifier and detector were asked about each image.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        steps: int = 100,
        step: float = 0.1,
        restarts: int = 1,
        norm: str = "linf",
        seed: int = 0,
    ) -> None:
        if steps < 1 or restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, got {steps} and {restarts}")
        if not step > 0:
            raise ValueError(f"step must be positive, got {step}")
        if norm not in DISTANCES:
            raise ValueError(f"norm must be one of {', '.join(DISTANCES)}, got {norm!r}")
        self.detector = detector
        self.steps, self.step, self.restarts, self.norm, self.seed = steps, step, restarts, norm, seed

    @property
    def distance(self) -> Any:
        return DISTANCES[self.norm]

    @abstractmethod
    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, unflagged: Tensor, weight: Tensor) -> Tensor:
        """classify, detect: (N, D) gradients of margin and of suspicion, of length 1. fooled, unflagged: (N,) bool.
        weight: (N,), what the detector's counts for. Returns (N, D), what to step against."""

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **kwargs: Any) -> Any:
        """inputs: (N, C, H, W). criterion: one that holds the right labels: `Misclassification`, alone or in an `&`, or
        the labels. Returns the same shape; where nothing was found, the image that came closest."""
        x, restore = astensor_(inputs)
        clean = x.raw.detach()
        labels = torch.as_tensor(_labels(criterion), device=clean.device)
        generator = torch.Generator().manual_seed(self.seed)
        best = clean.clone()
        # the least so far of what both have above zero, an image that fools before one that does not
        found = torch.full((len(clean),), torch.inf, device=clean.device)
        self.queries_ = torch.zeros(len(clean), dtype=torch.long)
        for restart in range(self.restarts):
            moved = clean.clone()
            if restart:
                noise = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1
                moved = self._within(clean, clean + epsilon * noise, epsilon)
            weight = torch.ones(len(clean), device=clean.device)
            for _ in range(self.steps + 1):
                todo = (found > 0).nonzero()[:, 0]
                if not len(todo):
                    break
                self.queries_[todo.cpu()] += 1
                margin, excess, gradients = self._look(model, moved[todo], labels[todo])
                fooled, unflagged = margin < 0, excess <= 0
                worst = torch.where(fooled, excess.clamp(min=0), 1e6 + margin)
                better = todo[worst < found[todo]]
                best[better] = moved[better]
                found[todo] = torch.minimum(found[todo], worst)
                # whichever of the two is not reached is given more weight
                weight[todo] *= torch.where(fooled, 1.2, 1 / 1.2)
                against = self.direction(*gradients, fooled, unflagged, weight[todo]).reshape(moved[todo].shape)
                if self.norm == "linf":
                    against = against.sign()
                else:
                    against = against / against.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
                stepped = moved[todo] - self.step * epsilon * against
                moved[todo] = self._within(clean[todo], stepped, epsilon)
        return restore(astensor(_rounded(best)))

    def _look(self, model: Any, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Returns (N,) margins, (N,) excesses of suspicion, and the gradients of both."""
        x = x.clone().requires_grad_()
        seen = x + (_rounded(x) - x).detach()
        logits = model(seen)
        right = logits.gather(1, labels[:, None])[:, 0]
        margin = right - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        (classify,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        excess = self.detector.suspicion(seen).to(margin) + float(self.detector.offset_)
        (detect,) = torch.autograd.grad(excess.sum(), x)
        gradients = [torch.nan_to_num(g).flatten(1) for g in (classify, detect)]
        classify, detect = (g / g.norm(dim=1, keepdim=True).clamp(min=1e-12) for g in gradients)
        return margin.detach(), excess.detach(), (classify, detect)

    def _within(self, clean: Tensor, x: Tensor, epsilon: float) -> Tensor:
        change = x - clean
        if self.norm == "linf":
            change = change.clamp(-epsilon, epsilon)
        else:
            length = change.flatten(1).norm(dim=1)[:, None, None, None]
            change = change * (epsilon / length.clamp(min=1e-12)).clamp(max=1)
        return (clean + change).clamp(0, 1)


class JointPGD(AwarePGD):
    """Descends margin + weight x suspicion, a weight for each image: more for the detector while the classifier is
    fooled, less while it is not (as Carlini & Wagner 2017a, arXiv:1705.07263, search for theirs)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, unflagged: Tensor, weight: Tensor) -> Tensor:
        return classify + weight[:, None] * detect


class SelectivePGD(AwarePGD):
    """Descends the margin until the classifier is fooled, and else suspicion (Bryniarski et al. 2021,
    arXiv:2106.15023)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, unflagged: Tensor, weight: Tensor) -> Tensor:
        return torch.where(fooled[:, None], detect, classify)


class OrthogonalPGD(AwarePGD):
    """As `SelectivePGD`, but each step leaves the other number, to first order, as it is: what the other's gradient has
    in common with it is taken out (Bryniarski et al. 2021, arXiv:2106.15023)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, unflagged: Tensor, weight: Tensor) -> Tensor:
        common = (classify * detect).sum(1, keepdim=True)
        return torch.where(fooled[:, None], detect - common * classify, classify - common * detect)


def _labels(criterion: Any) -> Any:
    """Returns the right labels that a criterion holds. Raises ValueError if it holds none."""
    if isinstance(criterion, Misclassification):
        return criterion.labels.raw
    for part in (getattr(criterion, name, None) for name in ("a", "b")):
        if part is not None:
            try:
                return _labels(part)
            except ValueError:
                pass
    raise ValueError(f"the criterion must hold the right labels: Misclassification(labels), got {criterion!r}")


def _rounded(x: Tensor) -> Tensor:
    return (255 * x).round().clamp(0, 255) / 255
