"""Attacks on classifier and detector at once, by one who knows both. Each is a foolbox attack.

    aware = JointPGD(detector, steps=100)
    _, images, fooled_and_unflagged = aware(model, x, Misclassification(y) & NotFlagged(detector), epsilons=8 / 255)

What counts is the image rounded to 8 bits: it is what classifier and detector see in every step, with the gradient
passed straight through the rounding (Athalye et al. 2018).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from eagerpy.astensor import astensor, astensor_
from foolbox.attacks.base import FixedEpsilonAttack
from foolbox.criteria import Criterion, Misclassification
from foolbox.distances import l2, linf
from torch import Tensor

from ...densities import Autoregressive
from ...detectors import Detector
from ...errors import ParameterError
from ...scores import Evidence

DISTANCES = {"linf": linf, "l2": l2}


class NotFlagged(Criterion):
    """The detector does not flag the image, rounded to 8 bits, at its frozen threshold.

    `Misclassification(labels) & NotFlagged(detector)` makes every decision-based attack of foolbox aware of the
    detector. detector: a fitted `Detector`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.detector.statistic} at {self.detector.fpr:g})"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        """perturbed: (N, C, H, W) in [0, 1]. outputs: not looked at. Returns (N,) bool."""
        x, restore = astensor_(perturbed)
        flagged = torch.from_numpy(self.detector.is_adversarial(_rounded(x.raw.detach().cpu())))
        return restore(astensor(~flagged.to(x.raw.device)))


class DetectorAwarePGD(FixedEpsilonAttack):
    """Projected gradient descent on two numbers: the classifier's margin (right logit less the highest other) and what
    the detector's score has above its threshold. An image is done when both are negative.

    detector: a fitted `Detector` of images whose score has a gradient (not those of compressed lengths; through counts
    and bands, in which a site is or is not, the gradient is that of the rest). steps: at most, a try. step: its length,
    as a share of eps. restarts: the first starts at the image, the others at random within eps. regions: each restart
    tries one after another, of these, to move only the pixels whose predicted entropy is at least so many nats; where
    the density is sure, the least change shows, and at 0 and 255 the gradient does not tell. norm: "linf" or "l2".
    passes: of a classifier that draws at random, the mean of so many logits is attacked (expectation over
    transformation, Athalye et al. 2018). seed: of random starts. progress: wraps the steps of a try. Raises ParameterError
    for values out of range.

    After a call: queries_, (N,) how often the detector, and `passes` times as often the classifier, was asked about
    each image.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        steps: int = 100,
        step: float = 0.1,
        restarts: int = 1,
        regions: Sequence[float] = (0.05, 0.5, 0.0),
        norm: str = "linf",
        passes: int = 1,
        seed: int = 0,
        progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps,
    ) -> None:
        if min(steps, restarts, passes) < 1:
            raise ParameterError(f"steps, restarts and passes must be at least 1, got {steps}, {restarts} and {passes}")
        if not step > 0:
            raise ParameterError(f"step must be positive, got {step}")
        if norm not in DISTANCES:
            raise ParameterError(f"norm must be one of {', '.join(DISTANCES)}, got {norm!r}")
        if not regions:
            raise ParameterError("regions must be at least one entropy, 0 for all pixels")
        self.detector = detector
        self.steps, self.step, self.restarts, self.norm, self.seed = steps, step, restarts, norm, seed
        self.regions, self.passes = tuple(regions), passes
        self.progress = progress

    @property
    def distance(self) -> Any:
        return DISTANCES[self.norm]

    @abstractmethod
    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, weight: Tensor) -> Tensor:
        """classify, detect: (N, D) gradients of margin and of anomaly_score, of length 1. fooled: (N,) bool. weight: (N,),
        what the detector's counts for. Returns (N, D), what to step against."""

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
        regions = self._regions(clean)
        for restart in range(self.restarts):
            noise = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1 if restart else 0 * clean
            for region in regions:
                moved = self._within(clean, clean + epsilon * noise * region, epsilon)
                weight = torch.ones(len(clean), device=clean.device)
                for _ in self.progress(range(self.steps + 1)):
                    todo = (found > 0).nonzero()[:, 0]
                    if not len(todo):
                        break
                    margin, excess, gradients = self._look(model, moved[todo], labels[todo], region[todo], generator)
                    self.queries_[todo.cpu()] += self.queries_a_step
                    fooled = margin < 0
                    worst = torch.where(fooled, excess.clamp(min=0), 1e6 + margin)
                    better = todo[worst < found[todo]]
                    best[better] = moved[better]
                    found[todo] = torch.minimum(found[todo], worst)
                    # whichever of the two is not reached is given more weight
                    weight[todo] *= torch.where(fooled, 1.2, 1 / 1.2)
                    classify, detect = (_direction(gradient * region[todo]) for gradient in gradients)
                    against = self.direction(classify, detect, fooled, weight[todo])
                    against = against.sign() if self.norm == "linf" else _direction(against)
                    stepped = moved[todo] - self.step * epsilon * against.reshape(moved[todo].shape)
                    moved[todo] = self._within(clean[todo], stepped, epsilon)
        return restore(astensor(_rounded(best)))

    queries_a_step = 1

    def _look(
        self, model: Any, x: Tensor, labels: Tensor, region: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Returns (N,) margins, (N,) excesses of anomaly_score, and the gradients of both, as x is."""
        x = x.clone().requires_grad_()
        margin, excess = self._values(model, x + (_rounded(x) - x).detach(), labels)
        (classify,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        (detect,) = torch.autograd.grad(excess.sum(), x)
        return margin.detach(), excess.detach(), (torch.nan_to_num(classify), torch.nan_to_num(detect))

    def _values(self, model: Any, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = torch.stack([model(x) for _ in range(self.passes)]).mean(0)
        right = logits.gather(1, labels[:, None])[:, 0]
        margin = right - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        return margin, self.detector.anomaly_scores(x).to(margin) + float(self.detector.offset_)

    def _regions(self, clean: Tensor) -> list[Tensor]:
        """Returns for each region which pixels may move, as 0 and 1."""
        everywhere = torch.ones_like(clean)
        density = self.detector.density
        if not isinstance(density, Autoregressive) or max(self.regions) <= 0:
            return [everywhere]  # without conditionals no pixel is surer than another
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


class JointPGD(DetectorAwarePGD):
    """Descends margin + weight x anomaly_score, a weight for each image: more for the detector while the classifier is
    fooled, less while it is not (as Carlini & Wagner 2017a, arXiv:1705.07263, search for theirs)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, weight: Tensor) -> Tensor:
        return classify + weight[:, None] * detect


class SelectivePGD(DetectorAwarePGD):
    """Descends the margin until the classifier is fooled, and else anomaly_score (Bryniarski et al. 2021,
    arXiv:2106.15023)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, weight: Tensor) -> Tensor:
        return torch.where(fooled[:, None], detect, classify)


class OrthogonalPGD(DetectorAwarePGD):
    """As `SelectivePGD`, but each step leaves the other number, to first order, as it is: what the other's gradient has
    in common with it is taken out (Bryniarski et al. 2021, arXiv:2106.15023)."""

    def direction(self, classify: Tensor, detect: Tensor, fooled: Tensor, weight: Tensor) -> Tensor:
        common = (classify * detect).sum(1, keepdim=True)
        return torch.where(fooled[:, None], detect - common * classify, classify - common * detect)


class SPSA(JointPGD):
    """As `JointPGD`, for who sees logits and score but no gradients: they are estimated from differences along random
    signs (Spall 1992; Uesato et al. 2018, arXiv:1802.05666).

    samples: pairs of images asked about, a step. delta: how far they lie from the image; less than 1 / 255 would be
    lost in the rounding. The rest is as for `DetectorAwarePGD`.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        samples: int = 16,
        delta: float = 2 / 255,
        regions: Sequence[float] = (0.05,),
        **settings: Any,
    ) -> None:
        super().__init__(detector, regions=regions, **settings)
        if samples < 1 or not 1 / 255 <= delta <= 1:
            raise ParameterError(f"samples must be at least 1 and delta in [1/255, 1], got {samples} and {delta}")
        self.samples, self.delta = samples, delta
        self.queries_a_step = 1 + 2 * samples

    def _look(
        self, model: Any, x: Tensor, labels: Tensor, region: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        with torch.no_grad():
            margin, excess = self._values(model, _rounded(x), labels)
            classify, detect = torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(self.samples):
                signs = (torch.randint(2, x.shape, generator=generator) * 2 - 1).to(x) * region
                ahead = self._values(model, _rounded(x + self.delta * signs), labels)
                behind = self._values(model, _rounded(x - self.delta * signs), labels)
                classify += (ahead[0] - behind[0])[:, None, None, None] * signs
                detect += (ahead[1] - behind[1])[:, None, None, None] * signs
        return margin, excess, (classify, detect)


def _labels(criterion: Any) -> Any:
    """Returns the right labels that a criterion holds. Raises ParameterError if it holds none."""
    if isinstance(criterion, Misclassification):
        return criterion.labels.raw
    for part in (getattr(criterion, name, None) for name in ("a", "b")):
        if part is not None:
            try:
                return _labels(part)
            except ValueError:
                pass
    raise ParameterError(f"the criterion must hold the right labels: Misclassification(labels), got {criterion!r}")


def _direction(x: Tensor) -> Tensor:
    """x: (N, ...). Returns (N, D), each of length 1 (or 0)."""
    return x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)


def _rounded(x: Tensor) -> Tensor:
    return (255 * x).round().clamp(0, 255) / 255
