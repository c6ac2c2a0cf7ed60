"""How often an attacker who knows the detector, the purifier or both gets by."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...attacks import SPSA, Attack, JointPGD, OrthogonalPGD, SelectivePGD, craft
from ...attacks.detector_aware import DetectorAwarePGD
from ...calibration import conformal
from ...data import Images
from ...detectors import Detector
from ...errors import ParameterError
from ...images import to_uint8
from ...purification import PixelDefend
from ..cache import Cache, digest
from ..metrics import rate

VERSION = importlib.metadata.version("pixeldefend")
FPRS = (0.01, 0.05, 0.5)
AIMED = 0.05  # the rate of false alarms at whose threshold attacks are aimed first
BLIND = "blind-pgd"  # the row to compare with
RISES_TO = 32  # 8-bit steps: within so much, an attack that means anything succeeds on nearly all images


@dataclass(frozen=True)
class Adaptive:
    """make: returns the foolbox attack, given a detector and steps, restarts, seed and norm; None for one that aims at
    the classifier alone, purified or not. dear: takes long, and is made for fewer images. purified: it is the purified
    image that must be read wrongly. detected: and the image itself must not be flagged. surrogate: made for another
    classifier and detector than it is judged by. norm: "linf", or "l2", whose budget is the root mean square of what a
    sub-pixel changes (rounding may add a little)."""

    make: type[DetectorAwarePGD] | None
    purified: bool = False
    detected: bool = True
    surrogate: bool = False
    expensive: bool = False
    norm: str = "linf"

    @property
    def against(self) -> str:
        return " + ".join(["purifier"] * self.purified + ["classifier"] + ["detector"] * self.detected)

    @property
    def blind(self) -> bool:
        """Whether it knows nothing of the detector that judges it."""
        return self.make is None and self.detected


ADAPTIVE: dict[str, Adaptive] = {
    # it does not know the detector
    BLIND: Adaptive(None),
    "joint-pgd": Adaptive(JointPGD),
    "selective-pgd": Adaptive(SelectivePGD),
    "orthogonal-pgd": Adaptive(OrthogonalPGD),
    "joint-pgd-l2": Adaptive(JointPGD, norm="l2"),
    # without gradients; Square (Andriushchenko et al. 2020) is in no library that this package builds on
    "spsa": Adaptive(SPSA, expensive=True),
    # by one who has but a classifier and a detector of the same kind
    "transfer-pgd": Adaptive(JointPGD, surrogate=True, expensive=True),
    # through the purifier, whose gradient is taken to be the identity (BPDA, Athalye et al. 2018)
    "bpda-pgd": Adaptive(None, purified=True, detected=False, expensive=True),
    "bpda-joint-pgd": Adaptive(JointPGD, purified=True, expensive=True),
}


@dataclass
class Outcome:
    """What became of N images within a budget. fooled: (N,) bool, whether an 8-bit image was found that is read
    wrongly. evaded: (N,) bool by rate of false alarms. queries: (N,), how many images were asked about."""

    fooled: np.ndarray
    evaded: dict[float, np.ndarray]
    queries: np.ndarray

    @classmethod
    def none(cls, n: int) -> Outcome:
        return cls(np.zeros(n, bool), {fpr: np.zeros(n, bool) for fpr in FPRS}, np.zeros(n, int))


def resolve_attacks(attacks: Iterable[str] | None, detector: Detector, surrogate: Any = None) -> list[str]:
    """Returns the attacks, or all that can be made. Raises ParameterError if one is unknown, wants a surrogate, or the
    gradient of a score that has none."""
    names = list(attacks) if attacks is not None else [n for n, a in ADAPTIVE.items() if surrogate or not a.surrogate]
    for name in names:
        if name not in ADAPTIVE:
            raise ParameterError(f"unknown attack {name!r}; there are: {', '.join(ADAPTIVE)}")
        if ADAPTIVE[name].surrogate and surrogate is None:
            raise ParameterError(f"{name} needs a surrogate classifier and detector")
    steep = [name for name in names if ADAPTIVE[name].make not in (None, SPSA) and not ADAPTIVE[name].surrogate]
    if steep:
        density = detector.density
        assert density is not None
        x = torch.full((1, *(density.event_shape or ())), 0.5, device=density.device, dtype=density.dtype)
        if not detector.anomaly_scores(x.requires_grad_()).requires_grad:
            raise ParameterError(
                f"the detector's score has no gradient, which {', '.join(steep)} would follow; take spsa"
            )
    return names


def run_adaptive(
    detector: Detector,
    classifier: nn.Module,
    test: Images,
    *,
    attacks: Iterable[str] | None = None,
    eps: Iterable[int] = (2, 4, 8),
    limit: int = 100,
    expensive_eps: Iterable[int] | None = None,
    expensive_limit: int = 20,
    purify_eps: int = 16,
    steps: int = 100,
    restarts: int = 1,
    surrogate: tuple[nn.Module, Detector] | None = None,
    seed: int = 0,
    chunk: int = 25,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps,
) -> dict[str, Any]:
    """Attacks the first `limit` test images that are read rightly, within each eps of 8-bit steps; by dear attacks,
    `expensive_limit` images within each of expensive_eps (None: the same). attacks: keys of `ADAPTIVE`; None for all (transfer
    only if there is a surrogate classifier and detector). steps, restarts: of each attack. kept: what is made goes
    there by `chunk` images, and is taken from there when the same is asked again.

    An attack succeeds if the 8-bit image within eps is read wrongly and is not flagged at the threshold, which was
    frozen before. It aims at the threshold of 5 % false alarms; then again, where that succeeded, at that of 50 %, and
    where it did not, at that of 1 %. What gets by within a budget gets by within every larger one, and only the rest is
    attacked there; the blind attack, which cannot tell, is made anew. The purifier draws nothing at random: there is
    no expectation to attack.

    Returns plain JSON values: `rows` (attack, against, norm, eps, images, fooled, success_at_fpr_0.01, …_0.05, …_0.5,
    each with its _ci, queries: the median asked about an image, in all aims and smaller budgets), `robustness` (eps,
    accuracy and clean_accuracy of classifier and detector at 5 % false alarms, where a flagged clean image counts as an
    error and any attack on both that is not dear is enough), `checks` (what, passed, detail) and the settings. Raises
    ValueError for unknown names, detectors without a gradient, or data without labels."""
    names = resolve_attacks(attacks, detector, surrogate)
    budgets = _budgets(eps)
    expensive_budgets = budgets if expensive_eps is None else _budgets(expensive_eps)
    if test.y is None:
        raise ParameterError("without labels nothing can be attacked")
    runner = _Runner(
        detector, classifier, surrogate, purify_eps, steps, restarts, seed, chunk, cache or Cache(), log, progress
    )
    seen = test[: 4 * limit]
    plain, among = runner.readable(classifier, seen, limit)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, dict[int, Outcome]] = {}
    for name in names:
        attack = ADAPTIVE[name]
        chosen = plain
        if attack.purified:
            chosen, _ = runner.readable(runner.defence(attack), seen[: 4 * expensive_limit], expensive_limit)
        elif attack.expensive:
            chosen = plain[:expensive_limit]
        found = Outcome.none(len(chosen))
        outcomes[name] = {}
        for budget in expensive_budgets if attack.expensive else budgets:
            found = runner.outcome(name, chosen, budget, Outcome.none(len(chosen)) if attack.blind else found)
            outcomes[name][budget] = found
            rows.append(row := _row(name, budget, found))
            log(f"{name} at {budget}/255: {row[f'success_at_fpr_{AIMED}']:.0%} of {row['images']} get by")
    return {
        "images": len(plain),
        "steps": steps,
        "restarts": restarts,
        "purify_eps": purify_eps,
        "surrogate": surrogate is not None,
        "rows": rows,
        "robustness": runner.robustness(plain, among, budgets, outcomes),
        "checks": runner.checks(plain, budgets, outcomes),
    }


def detector_aware_rows(adaptive: dict[str, Any] | None) -> list[dict[str, Any]]:
    """adaptive: what `run_adaptive` returned. Returns its rows of those who attack classifier and detector, know both,
    and attacked all the images, within Linf budgets."""
    names = _on_both(ADAPTIVE)
    rows = [row for row in (adaptive or {"rows": []})["rows"] if row["attack"] in names]
    return [row for row in rows if not ADAPTIVE[row["attack"]].blind]


def failed_checks(adaptive: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the checks that do not hold, of what `run_adaptive` returned."""
    return [check for check in (adaptive or {"checks": []})["checks"] if not check["passed"]]


def check_summary(adaptive: dict[str, Any]) -> str:
    """Returns what its checks say, in a word or two."""
    failed = len(failed_checks(adaptive))
    return f"**{failed} of {len(adaptive['checks'])} FAIL**" if failed else "hold"


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
        cache: Cache,
        log: Callable[[str], None],
        progress: Callable[[Iterable[Any]], Iterable[Any]],
    ) -> None:
        self.detector, self.classifier, self.surrogate = detector, classifier.eval(), surrogate
        self.purify_eps, self.steps, self.restarts, self.seed, self.chunk = purify_eps, steps, restarts, seed, chunk
        self.cache, self.log, self.progress = cache, log, progress
        self.thresholds = _thresholds(detector)
        assert detector.density is not None
        self.device = detector.density.device
        self.models = _identity(classifier, detector)
        self.surrogates = "" if surrogate is None else _identity(*surrogate)

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
            raise ParameterError(f"the classifier reads none of {len(images)} test images rightly: nothing to attack")
        return images[places], int(places[-1]) + 1 if len(places) == limit else len(images)

    def outcome(self, name: str, images: Images, eps: int, found: Outcome) -> Outcome:
        """found: what was, within the next smaller budget. Attacks the rest, and returns both together."""
        found = copy.deepcopy(found)
        self.aim(name, images, eps, AIMED, found, ~found.evaded[AIMED])
        if ADAPTIVE[name].make is not None:
            self.aim(name, images, eps, 0.5, found, found.evaded[AIMED] & ~found.evaded[0.5])
            self.aim(name, images, eps, 0.01, found, ~found.evaded[0.01])
        return found

    def aim(self, name: str, images: Images, eps: int, fpr: float, found: Outcome, todo: np.ndarray) -> None:
        """Attacks the images todo, (N,) bool, at the threshold of fpr, and adds to found what is found."""
        if not todo.any():
            return
        attack, part = ADAPTIVE[name], images[torch.from_numpy(todo)]
        made, queries = self.made(name, part, eps, fpr, self.steps, self.restarts)
        fooled, anomaly_score = self.judged(attack, made, part)
        found.fooled[todo] |= fooled
        found.queries[todo] += queries.numpy()
        for rate_, threshold in self.thresholds.items():
            found.evaded[rate_][todo] |= fooled & ((anomaly_score <= threshold) | (not attack.detected))

    def made(self, name: str, images: Images, eps: int, fpr: float, steps: int, restarts: int) -> tuple[Tensor, Tensor]:
        """Returns (N, C, H, W) uint8 and (N,) queries, a chunk at a time."""
        parts = []
        models = self.models + (self.surrogates if ADAPTIVE[name].surrogate else "")
        for start in range(0, len(images), self.chunk):
            part = images[start : start + self.chunk]
            key = dict(attack=name, eps=eps, fpr=fpr, steps=steps, restarts=restarts, seed=self.seed)
            key |= dict(images=part.digest(), models=models, purify_eps=self.purify_eps, version=VERSION)
            parts.append(self.cache(key, partial(self.attack, name, part, eps, fpr, steps, restarts)))
        return torch.cat([part["images"] for part in parts]), torch.cat([part["queries"] for part in parts])

    def attack(self, name: str, images: Images, eps: int, fpr: float, steps: int, restarts: int) -> dict[str, Tensor]:
        from foolbox.criteria import Misclassification
        from foolbox.models.pytorch import PyTorchModel

        attack = ADAPTIVE[name]
        if attack.make is None:
            return self.pgd(self.defence(attack), images, eps, steps, restarts)
        assert images.y is not None
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
            length = math.sqrt(x[0].numel()) if attack.norm == "l2" else 1.0
            found = made.run(model, x, labels, epsilon=eps / 255 * length)
        return {"images": to_uint8(found.cpu()), "queries": made.queries_}

    def pgd(self, target: nn.Module, images: Images, eps: int, steps: int, restarts: int) -> dict[str, Tensor]:
        """Foolbox's, against a classifier alone; again from another random start where that did not succeed."""
        import foolbox

        assert images.y is not None
        attack = Attack(lambda: foolbox.attacks.LinfPGD(steps=steps), eps / 255)
        made, queries = images.x.clone(), torch.zeros(len(images), dtype=torch.long)
        todo = torch.arange(len(images))
        for restart in range(restarts):
            result = craft(target, images.x[todo], images.y[todo], attack, seed=self.seed + restart)
            made[todo] = result.images
            queries[todo] += steps
            todo = todo[~result.succeeded]
            if not len(todo):
                break
        return {"images": made, "queries": queries}

    def judged(self, attack: Adaptive, x: Tensor, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Returns (N,) whether it is read wrongly, and (N,) its anomaly_score."""
        assert images.y is not None
        fooled = (_labels(self.defence(attack), x, self.device) != images.y).numpy()
        return fooled, -self.detector.score_samples(x)

    def robustness(
        self, images: Images, among: int, budgets: list[int], outcomes: dict[str, dict[int, Outcome]]
    ) -> list[dict[str, Any]]:
        """images: those, `among` so many, that are read rightly. Returns the share of all that classifier and detector
        handle, clean and under whichever attack on both gets by."""
        names = _on_both(outcomes)
        if not names:
            return []
        accepted = -self.detector.score_samples(images.x) <= self.thresholds[AIMED]
        rows = []
        for budget in budgets:
            broken = np.any([outcomes[name][budget].evaded[AIMED] for name in names], axis=0)
            row: dict[str, Any] = dict(eps=budget, images=among)
            for what, held in (("clean_accuracy", accepted), ("accuracy", accepted & ~broken)):
                row[what], row[f"{what}_ci"] = rate(int(held.sum()), among)
            rows.append(row)
        return rows

    def checks(
        self, images: Images, budgets: list[int], outcomes: dict[str, dict[int, Outcome]]
    ) -> list[dict[str, Any]]:
        """What must hold if the attacks mean anything."""
        checks: list[dict[str, Any]] = []

        def check(what: str, passed: bool, detail: str) -> None:
            checks.append(dict(what=what, passed=bool(passed), detail=detail))

        for name in [name for name in outcomes if not ADAPTIVE[name].blind]:
            shares = {fpr: [found.evaded[fpr].mean() for found in outcomes[name].values()] for fpr in FPRS}
            holds = all(a <= b for each in shares.values() for a, b in pairwise(each))
            words = [f"{', '.join(f'{share:.0%}' for share in each)} at {fpr:.0%}" for fpr, each in shares.items()]
            within = ", ".join(map(str, outcomes[name]))
            check(f"{name}: more budget does no worse", holds, f"within {within}: {'; '.join(words)} false alarms")
        aware = [name for name in _on_both(outcomes) if not ADAPTIVE[name].blind]
        if aware and budgets[-1] >= RISES_TO:
            share = np.any([outcomes[name][budgets[-1]].evaded[AIMED] for name in aware], axis=0).mean()
            check(f"within {budgets[-1]}/255 nearly every image gets by", share >= 0.95, f"{share:.0%}")
        if aware and BLIND in outcomes:
            for budget in budgets:
                best = {fpr: max(outcomes[name][budget].evaded[fpr].mean() for name in aware) for fpr in FPRS}
                blind = {fpr: outcomes[BLIND][budget].evaded[fpr].mean() for fpr in FPRS}
                words = [f"{best[fpr]:.0%} against {blind[fpr]:.0%} at {fpr:.0%}" for fpr in FPRS]
                helps = all(best[fpr] >= blind[fpr] for fpr in FPRS)
                check(f"to know the detector helps at {budget}/255", helps, f"{'; '.join(words)} false alarms")
        if "joint-pgd" in aware:
            attack, budget, part = ADAPTIVE["joint-pgd"], budgets[len(budgets) // 2], images[:16]

            def evaded(steps: int, restarts: int) -> np.ndarray:
                made, _ = self.made("joint-pgd", part, budget, AIMED, steps, restarts)
                fooled, anomaly_score = self.judged(attack, made, part)
                return fooled & (anomaly_score <= self.thresholds[AIMED])

            few, many, again = evaded(max(1, self.steps // 4), 1), evaded(self.steps, 1), evaded(self.steps, 2)
            detail = f"{few.mean():.0%} in {max(1, self.steps // 4)} steps, {many.mean():.0%} in {self.steps}"
            check("joint-pgd: more steps do no worse", many.mean() >= few.mean(), detail)
            detail = f"{many.mean():.0%} with one start, {again.mean():.0%} with two"
            check("joint-pgd: more restarts do no worse", again.mean() >= many.mean(), detail)
        return checks


def _budgets(eps: Iterable[int]) -> list[int]:
    budgets = sorted(set(eps))
    if not budgets or budgets[0] < 1 or budgets[-1] > 255:
        raise ParameterError(f"eps must be whole 8-bit steps, 1 to 255, got {budgets}")
    return budgets


def _row(name: str, eps: int, found: Outcome) -> dict[str, Any]:
    attack, n = ADAPTIVE[name], len(found.fooled)
    row: dict[str, Any] = dict(attack=name, against=attack.against, norm=attack.norm, eps=eps, images=n)
    row["fooled"] = float(found.fooled.mean())
    for fpr in FPRS:
        row[f"success_at_fpr_{fpr}"], row[f"success_at_fpr_{fpr}_ci"] = rate(int(found.evaded[fpr].sum()), n)
    row["queries"] = float(np.median(found.queries))
    return row


def _on_both(names: Iterable[str]) -> list[str]:
    """Returns those that attack classifier and detector, on all the images, within Linf budgets."""
    chosen = {name: ADAPTIVE[name] for name in names}
    return [
        n for n, a in chosen.items() if a.against == "classifier + detector" and not a.expensive and a.norm == "linf"
    ]


def _thresholds(detector: Detector) -> dict[float, float]:
    return {fpr: conformal.threshold(detector.calibration_scores_, fpr, detector.confidence) for fpr in FPRS}


def _identity(classifier: nn.Module, detector: Detector) -> str:
    """Returns what tells a classifier and a detector from others."""
    return digest(classifier, detector.density) + json.dumps([detector.statistic, *_thresholds(detector).values()])


def _labels(classifier: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([classifier(part.to(device) / 255).argmax(1).cpu() for part in x.split(64)])


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
