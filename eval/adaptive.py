"""How often an attacker who knows the detector, the purifier or both gets by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import conformal
from ..attacks import SPSA, Attack, JointPGD, OrthogonalPGD, SelectivePGD, craft
from ..attacks.aware import AwarePGD
from ..datasets import Images
from ..detector import Detector
from ..images import to_uint8
from ..purify import PixelDefend
from .kept import Kept, digest
from .metrics import rate

FPRS = (0.01, 0.05, 0.5)
AIMED = 0.05  # the rate of false alarms at whose threshold attacks are aimed first
RISES_TO = 32  # 8-bit steps: within so much, an attack that means anything succeeds on nearly all images


@dataclass(frozen=True)
class Adaptive:
    """make: returns the foolbox attack, given a detector and steps, restarts, seed and norm; None for one that knows
    the classifier alone. dear: takes some hundred times longer than others. purified: it is the purified image that
    must be read wrongly. detected: and the image itself must not be flagged. surrogate: made for another classifier and
    detector than it is judged by."""

    make: type[AwarePGD] | None
    purified: bool = False
    detected: bool = True
    surrogate: bool = False
    dear: bool = False
    norm: str = "linf"

    @property
    def against(self) -> str:
        return " + ".join(["purifier"] * self.purified + ["classifier"] + ["detector"] * self.detected)


ADAPTIVE: dict[str, Adaptive] = {
    # the row to compare with: it does not know the detector
    "blind-pgd": Adaptive(None),
    "joint-pgd": Adaptive(JointPGD),
    "selective-pgd": Adaptive(SelectivePGD),
    "orthogonal-pgd": Adaptive(OrthogonalPGD),
    # without gradients
    "spsa": Adaptive(SPSA, dear=True),
    # by one who has but a classifier and a detector of the same kind
    "transfer-pgd": Adaptive(JointPGD, surrogate=True),
    # through the purifier, whose gradient is taken to be the identity (BPDA, Athalye et al. 2018)
    "bpda-pgd": Adaptive(None, purified=True, detected=False, dear=True),
    "bpda-joint-pgd": Adaptive(JointPGD, purified=True, dear=True),
}


def run_adaptive(
    detector: Detector,
    classifier: nn.Module,
    test: Images,
    *,
    attacks: Iterable[str] | None = None,
    eps: Iterable[int] = (2, 4, 8),
    limit: int = 100,
    dear_limit: int = 20,
    purify_eps: int = 16,
    steps: int = 100,
    restarts: int = 1,
    surrogate: tuple[nn.Module, Detector] | None = None,
    seed: int = 0,
    chunk: int = 25,
    kept: Kept | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps,
) -> dict[str, Any]:
    """Attacks the first `limit` test images that are read rightly (of dear attacks: `dear_limit`), within each eps of
    8-bit steps. attacks: keys of `ADAPTIVE`; None for all (transfer only if there is a surrogate classifier and
    detector). steps, restarts: of each attack. kept: what is made goes there by `chunk` images, and is taken from there
    when the same is asked again.

    An attack succeeds if the 8-bit image within eps is read wrongly and is not flagged at the threshold, which was
    frozen before. It aims at the threshold of 5 % false alarms; then again, where that succeeded, at that of 50 %, and
    where it did not, at that of 1 %.

    Returns plain JSON values: `rows` (attack, against, eps, images, fooled, success_at_fpr_0.01, …_0.05, …_0.5, each
    with its _ci, queries: the median asked about an image), `robustness` (eps, accuracy and clean_accuracy of
    classifier and detector at 5 % false alarms, where a flagged clean image counts as an error and any attack on both
    that is not dear is enough), `checks` (what, passed, detail) and the settings. Raises ValueError for unknown
    names, detectors without a gradient, or data without labels."""
    names = list(attacks) if attacks is not None else [n for n, a in ADAPTIVE.items() if surrogate or not a.surrogate]
    for name in names:
        if name not in ADAPTIVE:
            raise ValueError(f"unknown attack {name!r}; there are: {', '.join(ADAPTIVE)}")
        if ADAPTIVE[name].surrogate and surrogate is None:
            raise ValueError(f"{name} needs a surrogate classifier and detector")
    budgets = sorted(set(eps))
    if not budgets or budgets[0] < 1 or budgets[-1] > 255:
        raise ValueError(f"eps must be whole 8-bit steps, 1 to 255, got {budgets}")
    if test.y is None:
        raise ValueError("without labels nothing can be attacked")
    runner = _Runner(
        detector, classifier, surrogate, purify_eps, steps, restarts, seed, chunk, kept or Kept(), log, progress
    )
    seen = test[: 4 * limit]
    plain, among = runner.readable(classifier, seen, limit)
    rows: list[dict[str, Any]] = []
    outcomes: dict[tuple[str, int], dict[float, np.ndarray]] = {}
    for name in names:
        attack = ADAPTIVE[name]
        chosen = plain
        if attack.purified:
            chosen, _ = runner.readable(runner.defence(attack), seen[: 4 * dear_limit], dear_limit)
        elif attack.dear:
            chosen = plain[:dear_limit]
        for budget in budgets:
            row, found = runner.row(name, chosen, budget)
            rows.append(row)
            outcomes[name, budget] = found
            log(f"{name} at {budget}/255: {row[f'success_at_fpr_{AIMED}']:.0%} of {row['images']} get by")
    against_both = [
        name for name in names if ADAPTIVE[name].against == "classifier + detector" and not ADAPTIVE[name].dear
    ]
    return {
        "images": len(plain),
        "steps": steps,
        "restarts": restarts,
        "purify_eps": purify_eps,
        "surrogate": surrogate is not None,
        "rows": rows,
        "robustness": runner.robustness(plain, among, against_both, budgets, outcomes) if against_both else [],
        "checks": runner.checks(plain, against_both, budgets, outcomes) if against_both else [],
    }


class _Runner:
    """One classifier and detector under many attacks."""

    def __init__(
        self,
        detector: Detector,
        classifier: nn.Module,
        surrogate: tuple[nn.Module, Detector] | None,
        purify_eps: int,
        steps: int,
        restarts: int,
        seed: int,
        chunk: int,
        kept: Kept,
        log: Callable[[str], None],
        progress: Callable[[Iterable[Any]], Iterable[Any]],
    ) -> None:
        self.detector, self.classifier, self.surrogate = detector, classifier.eval(), surrogate
        self.purify_eps, self.steps, self.restarts, self.seed, self.chunk = purify_eps, steps, restarts, seed, chunk
        self.kept, self.log, self.progress = kept, log, progress
        self.thresholds = {fpr: conformal.threshold(detector.calibration_scores_, fpr) for fpr in FPRS}
        assert detector.density is not None
        self.device = detector.density.device
        self.digest = digest(detector.density, classifier, *(part for part in _modules(surrogate)))
        self.digest += json.dumps([detector.score_name, [self.thresholds[fpr] for fpr in FPRS]])

    def defence(self, attack: Adaptive) -> nn.Module:
        """What must read the image wrongly."""
        if not attack.purified:
            return self.classifier
        assert self.detector.density is not None
        return PixelDefend(self.classifier, self.detector.density, self.purify_eps).eval()

    def readable(self, classifier: nn.Module, images: Images, limit: int) -> tuple[Images, int]:
        """Returns the first `limit` that are read rightly, and among how many they are."""
        assert images.y is not None
        right = _labels(classifier, images.x, self.device) == images.y
        places = right.nonzero()[:limit, 0]
        if not len(places):
            raise ValueError(f"the classifier reads none of {len(images)} test images rightly: nothing to attack")
        return images[places], int(places[-1]) + 1 if len(places) == limit else len(images)

    def row(self, name: str, images: Images, eps: int) -> tuple[dict[str, Any], dict[float, np.ndarray]]:
        """Returns the row, and (N,) for each rate of false alarms whether the attack got by."""
        attack = ADAPTIVE[name]
        made, queries = self.made(name, images, eps, AIMED, self.steps, self.restarts)
        fooled, suspicion = self.judged(attack, made, images)
        found = {fpr: fooled & (suspicion <= threshold) for fpr, threshold in self.thresholds.items()}
        if not attack.detected:
            found = {fpr: fooled for fpr in FPRS}
        elif attack.make is not None:
            for fpr, again in ((0.5, found[AIMED] & ~found[0.5]), (0.01, ~found[0.01])):
                places = torch.from_numpy(again).nonzero()[:, 0]
                if len(places):
                    part = images[places]
                    other, _ = self.made(name, part, eps, fpr, self.steps, self.restarts)
                    hit, score = self.judged(attack, other, part)
                    found[fpr][again] |= hit & (score <= self.thresholds[fpr])
        row: dict[str, Any] = dict(attack=name, against=attack.against, eps=eps, images=len(images))
        row["fooled"] = float(fooled.mean())
        for fpr in FPRS:
            row[f"success_at_fpr_{fpr}"], row[f"success_at_fpr_{fpr}_ci"] = rate(int(found[fpr].sum()), len(images))
        row["queries"] = float(queries.double().median())
        return row, found

    def made(self, name: str, images: Images, eps: int, fpr: float, steps: int, restarts: int) -> tuple[Tensor, Tensor]:
        """Returns (N, C, H, W) uint8 and (N,) queries, a chunk at a time."""
        parts = []
        for start in range(0, len(images), self.chunk):
            part = images[start : start + self.chunk]
            key = dict(attack=name, eps=eps, fpr=fpr, steps=steps, restarts=restarts, seed=self.seed)
            key |= dict(images=part.digest(), models=self.digest, purify_eps=self.purify_eps)
            parts.append(self.kept(key, partial(self.attack, name, part, eps, fpr, steps, restarts)))
        return torch.cat([part["images"] for part in parts]), torch.cat([part["queries"] for part in parts])

    def attack(self, name: str, images: Images, eps: int, fpr: float, steps: int, restarts: int) -> dict[str, Tensor]:
        import foolbox
        from foolbox.criteria import Misclassification
        from foolbox.models.pytorch import PyTorchModel

        attack = ADAPTIVE[name]
        assert images.y is not None
        if attack.make is None:
            blind = Attack(lambda: foolbox.attacks.LinfPGD(steps=steps), eps / 255)
            result = craft(self.defence(attack), images.x, images.y, blind, seed=self.seed)
            return {"images": result.images, "queries": torch.full((len(images),), steps)}
        target, detector = self.defence(attack), self.detector
        if attack.surrogate:
            assert self.surrogate is not None
            target, detector = self.surrogate[0].eval(), self.surrogate[1]
        made = attack.make(
            detector.with_fpr(fpr),
            steps=steps,
            restarts=restarts,
            norm=attack.norm,
            seed=self.seed,
            progress=self.progress,
        )
        x = (images.x / 255).to(self.device)
        with _frozen(target), _frozen(detector.density):
            model, labels = PyTorchModel(target, (0, 1), self.device), Misclassification(images.y.to(self.device))
            found = made.run(model, x, labels, epsilon=eps / 255)
        return {"images": to_uint8(found.cpu()), "queries": made.queries_}

    def judged(self, attack: Adaptive, x: Tensor, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N,) whether it is read wrongly, and (N,) its suspicion."""
        assert images.y is not None
        fooled = (_labels(self.defence(attack), x, self.device) != images.y).numpy()
        return fooled, -self.detector.score_samples(x)

    def robustness(
        self,
        images: Images,
        among: int,
        names: list[str],
        budgets: list[int],
        outcomes: dict[tuple[str, int], dict[float, np.ndarray]],
    ) -> list[dict[str, Any]]:
        """images: those, `among` so many, that are read rightly. Returns the share of all that classifier and detector
        handle, clean and under whichever attack gets by."""
        accepted = -self.detector.score_samples(images.x) <= self.thresholds[AIMED]
        rows = []
        for budget in budgets:
            broken = np.any([outcomes[name, budget][AIMED] for name in names], axis=0)
            row: dict[str, Any] = dict(eps=budget, images=among)
            for what, held in (("clean_accuracy", accepted), ("accuracy", accepted & ~broken)):
                row[what], row[f"{what}_ci"] = rate(int(held.sum()), among)
            rows.append(row)
        return rows

    def checks(
        self,
        images: Images,
        names: list[str],
        budgets: list[int],
        outcomes: dict[tuple[str, int], dict[float, np.ndarray]],
    ) -> list[dict[str, Any]]:
        """What must hold if the attacks mean anything."""
        checks: list[dict[str, Any]] = []

        def check(what: str, passed: bool, detail: str) -> None:
            checks.append(dict(what=what, passed=bool(passed), detail=detail))

        aware = [name for name in names if ADAPTIVE[name].make is not None and not ADAPTIVE[name].surrogate]
        for name in aware:
            shares = [outcomes[name, budget][AIMED].mean() for budget in budgets]
            detail = ", ".join(f"{share:.0%} at {budget}/255" for share, budget in zip(shares, budgets, strict=True))
            check(f"{name}: more budget does no worse", all(a <= b for a, b in pairwise(shares)), detail)
        if aware and budgets[-1] >= RISES_TO:
            best = np.any([outcomes[name, budgets[-1]][AIMED] for name in aware], axis=0).mean()
            check(f"within {budgets[-1]}/255 nearly every image gets by", best >= 0.95, f"{best:.0%}")
        if aware and "blind-pgd" in names:
            for budget in budgets:
                best = max(outcomes[name, budget][AIMED].mean() for name in aware)
                blind = outcomes["blind-pgd", budget][AIMED].mean()
                check(f"to know the detector helps at {budget}/255", best >= blind, f"{best:.0%} against {blind:.0%}")
        if "joint-pgd" in aware:
            attack, budget, part = ADAPTIVE["joint-pgd"], budgets[len(budgets) // 2], images[:16]

            def got_by(steps: int, restarts: int) -> np.ndarray:
                made, _ = self.made("joint-pgd", part, budget, AIMED, steps, restarts)
                fooled, suspicion = self.judged(attack, made, part)
                return fooled & (suspicion <= self.thresholds[AIMED])

            few, many, again = got_by(max(1, self.steps // 4), 1), got_by(self.steps, 1), got_by(self.steps, 2)
            detail = f"{few.mean():.0%} in {max(1, self.steps // 4)} steps, {many.mean():.0%} in {self.steps}"
            check("joint-pgd: more steps do no worse", many.mean() >= few.mean(), detail)
            detail = f"{many.mean():.0%} with one start, {again.mean():.0%} with two"
            check("joint-pgd: more restarts do no worse", again.mean() >= many.mean(), detail)
        return checks


def _labels(classifier: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([classifier(part.to(device) / 255).argmax(1).cpu() for part in x.split(64)])


def _modules(surrogate: tuple[nn.Module, Detector] | None) -> Iterator[nn.Module]:
    if surrogate is not None:
        yield surrogate[0]
        assert surrogate[1].density is not None
        yield surrogate[1].density


class _frozen:
    """No gradients of the weights inside: they are not needed."""

    def __init__(self, module: nn.Module | None) -> None:
        self.trained = [p for p in module.parameters() if p.requires_grad] if module is not None else []

    def __enter__(self) -> None:
        for p in self.trained:
            p.requires_grad_(False)

    def __exit__(self, *error: Any) -> None:
        for p in self.trained:
            p.requires_grad_(True)
