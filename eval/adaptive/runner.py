"""Counts how often attackers who know the detector, the purifier or both evade them."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import ambient, densities, detectors, preprocessing, purification, scores
from ... import attacks as attacks_package
from ... import classifier as classifier_module
from ... import images as images_package
from ...ambient import modes_kept, weights_frozen
from ...attacks import Attack, craft
from ...calibration import conformal
from ...classifier import predict_labels
from ...data import Images
from ...devices import device_of
from ...errors import DataError, ParameterError
from ...extras import extra
from ...images import from_uint8, to_uint8
from ...purification import PixelDefend, checked_eps
from ..cache import Cache, detector_key, images_key, module_key, source_digest, versions
from .checks import run_checks
from .outcome import FPRS, TARGET_FPR, Outcome, Outcomes, outcome_row, robustness_rows
from .presets import ADAPTIVE, AdaptiveAttack, resolve_attacks

CHECKED_IMAGES = 16  # for the checks that repeat an attack
SEARCHED = 4  # so many times the wanted number of images are searched for correctly classified ones
CLOSER_FPRS = (0.5, 0.01)  # their thresholds are attacked after that of TARGET_FPR


def run_adaptive(
    detector: Any,
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
    surrogate: tuple[nn.Module, Any] | None = None,
    seed: int = 0,
    chunk: int = 25,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps,
) -> dict[str, Any]:
    """Attacks classifier and detector at once, and counts how often that evades them.

    An attack evades if it finds an 8-bit image within the budget that is misclassified and not flagged. The thresholds
    are frozen before. The attack first targets the threshold of 5 % false alarms. Where it succeeds it then targets the
    threshold of 50 %, and where it fails the threshold of 1 %. An image that evades within one budget counts as evading
    within every larger one, so only the other images are attacked again. The blind attack cannot know whether it has
    evaded, so it attacks every image within every budget. The purifier is deterministic, so its gradient need not be
    averaged over random draws.

    Args:
        detector: A fitted detector.
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        test: Labelled test images; the first `limit` that are classified correctly are attacked.
        attacks: Keys of `ADAPTIVE`; None for all that can be made.
        eps: Budgets in 8-bit steps, 1 to 255.
        limit: How many images are attacked.
        expensive_eps: Budgets of expensive attacks; None for those of `eps`.
        expensive_limit: How many images expensive attacks attack.
        purify_eps: The purifier's budget, in 8-bit steps.
        steps: The number of steps of each attack.
        restarts: The number of restarts of each attack.
        surrogate: Another classifier and detector, for attacks by transfer.
        seed: Seed of the random starts.
        chunk: How many images are attacked at once and kept in one file. The outcome depends on it.
        cache: Where attacked images are kept.
        log: Called with a line for each attack and budget.
        progress: Wraps the iterable of steps of an attack, to show a progress bar.

    Returns:
        Plain JSON values, described by results.schema.json: `rows`, `robustness`, `checks` and the settings.

    Raises:
        ParameterError: If a name is unknown, an attack cannot be made, or a number is out of range.
        DataError: If there are no labels, or no image is classified correctly.
        MissingExtraError: If foolbox is not installed.
    """
    given: dict[str, Any] = dict(attacks=attacks, eps=eps, expensive_eps=expensive_eps, purify_eps=purify_eps)
    given |= dict(limit=limit, expensive_limit=expensive_limit, steps=steps, restarts=restarts, chunk=chunk)
    given["surrogate"] = surrogate
    given = checked_arguments(detector, test.x[:1], given)
    names, budgets = given["attacks"], given["eps"]
    expensive_budgets = budgets if given["expensive_eps"] is None else given["expensive_eps"]
    if test.y is None:
        raise DataError("an attack needs labels, and the images have none")
    settings = Settings(steps=steps, restarts=restarts, purify_eps=purify_eps, seed=seed, chunk=chunk)
    runner = Runner(detector, classifier, settings, surrogate=surrogate, cache=cache or Cache(), progress=progress)
    with modes_kept(classifier, getattr(detector, "density", None)):
        searched = test[: SEARCHED * limit]
        plain, among = runner.correctly_classified(classifier, searched, limit)
        rows: list[dict[str, Any]] = []
        outcomes: Outcomes = {}
        for name in names:
            attack = ADAPTIVE[name]
            chosen = plain
            if attack.purified:
                some = searched[: SEARCHED * expensive_limit]
                chosen, _ = runner.correctly_classified(runner.defence(attack), some, expensive_limit)
            elif attack.expensive:
                chosen = plain[:expensive_limit]
            found = Outcome.none(len(chosen))
            outcomes[name] = {}
            for budget in expensive_budgets if attack.expensive else budgets:
                found = runner.outcome(name, chosen, budget, Outcome.none(len(chosen)) if attack.blind else found)
                outcomes[name][budget] = found
                rows.append(row := outcome_row(name, budget, found))
                log(f"{name} at {budget}/255: {row[f'evasion_rate_at_fpr_{TARGET_FPR}']:.0%} of {row['images']} evade")
        accepted = ~runner.flagged(plain.x)[TARGET_FPR]
        checked = partial(runner.evaded, "joint-pgd", plain[:CHECKED_IMAGES], budgets[len(budgets) // 2])
        return {
            "images": len(plain),
            "steps": steps,
            "restarts": restarts,
            "purify_eps": purify_eps,
            "surrogate": surrogate is not None,
            "rows": rows,
            "robustness": robustness_rows(accepted, among, budgets, outcomes),
            "checks": run_checks(budgets, outcomes, steps, checked),
        }


def checked_arguments(detector: Any, x: Tensor, given: dict[str, Any]) -> dict[str, Any]:
    """Checks arguments of `run_adaptive`, which takes hours.

    Args:
        detector: A fitted detector.
        x: (1, C, H, W) uint8, an image on which the gradient is tried.
        given: The arguments, by name.

    Returns:
        The arguments, with the names of the attacks and with budgets in ascending order.

    Raises:
        ParameterError: As `run_adaptive` does.
    """
    checked = {**given, "attacks": resolve_attacks(given.get("attacks"), detector, x, given.get("surrogate"))}
    for name in ("eps", "expensive_eps"):
        if given.get(name) is not None:
            checked[name] = _budgets(given[name])
    for name in ("limit", "expensive_limit", "steps", "restarts", "chunk"):
        if given.get(name, 1) < 1:
            raise ParameterError(f"{name} must be at least 1, got {given[name]}")
    checked_eps(given.get("purify_eps", 0))
    return checked


def thresholds_of(detector: Any) -> dict[float, float]:
    """Returns the thresholds of a fitted detector at `FPRS`, with the detector's confidence."""
    confidence = getattr(detector, "confidence", None)
    return {fpr: conformal.threshold(detector.calibration_scores_, fpr, confidence) for fpr in FPRS}


@dataclass(frozen=True)
class Settings:
    """The settings that all attacks of a run share.

    Args:
        steps: The number of steps of each attack.
        restarts: The number of restarts of each attack.
        purify_eps: The purifier's budget, in 8-bit steps.
        seed: Seed of the random starts.
        chunk: How many images are attacked at once and kept in one file.
    """

    steps: int = 100
    restarts: int = 1
    purify_eps: int = 16
    seed: int = 0
    chunk: int = 25


@dataclass
class Runner:
    """One classifier and detector under many attacks.

    Args:
        detector: A fitted detector.
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        settings: The settings of all attacks.
        surrogate: Another classifier and detector, for attacks by transfer.
        cache: Where attacked images are kept.
        progress: Wraps the iterable of steps of an attack, to show a progress bar.
    """

    detector: Any
    classifier: nn.Module
    settings: Settings = Settings()
    surrogate: tuple[nn.Module, Any] | None = None
    cache: Cache = field(default_factory=Cache)
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda steps: steps

    def __post_init__(self) -> None:
        self.thresholds = thresholds_of(self.detector)
        density = getattr(self.detector, "density", None)
        self.device = device_of(self.classifier if density is None else density)
        self._models = self._key_of_models() if self.cache.folder else {}

    def defence(self, attack: AdaptiveAttack) -> nn.Module:
        """Returns the classifier that an attack must fool, behind the purifier if the attack is on purified images."""
        if not attack.purified:
            return self.classifier
        return PixelDefend(self.classifier, self.detector.density, self.settings.purify_eps).eval()

    def correctly_classified(self, classifier: nn.Module, images: Images, limit: int) -> tuple[Images, int]:
        """Returns the first images that are classified correctly, and how many images were searched for them.

        Args:
            classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
            images: Labelled images.
            limit: The largest number of images to return.

        Raises:
            DataError: If no image is classified correctly.
        """
        assert images.y is not None
        correct = predict_labels(classifier, images.x) == images.y
        places = correct.nonzero()[:limit, 0]
        if not len(places):
            raise DataError(f"none of {len(images)} test images is classified correctly: there is nothing to attack")
        return images[places], int(places[-1]) + 1 if len(places) == limit else len(images)

    def outcome(self, name: str, images: Images, eps: int, found: Outcome) -> Outcome:
        """Attacks the images that have not evaded yet.

        Args:
            name: The name of the attack.
            images: N images.
            eps: The budget, in 8-bit steps.
            found: The outcome within the next smaller budget.

        Returns:
            The outcome within either budget.
        """
        found = copy.deepcopy(found)
        self._target(name, images, eps, TARGET_FPR, found, ~found.evaded[TARGET_FPR])
        if ADAPTIVE[name].kind is not None:
            lower, higher = CLOSER_FPRS
            self._target(name, images, eps, lower, found, found.evaded[TARGET_FPR] & ~found.evaded[lower])
            self._target(name, images, eps, higher, found, ~found.evaded[higher])
        return found

    def evaded(self, name: str, images: Images, eps: int, steps: int) -> np.ndarray:
        """Makes an attack with another number of steps.

        Args:
            name: The name of the attack.
            images: N images.
            eps: The budget, in 8-bit steps.
            steps: The number of steps.

        Returns:
            (N,) bool, which images evade at `TARGET_FPR`.
        """
        made, _ = self._made(name, images, eps, TARGET_FPR, steps, self.settings.restarts)
        misclassified, flagged = self._judged(ADAPTIVE[name], made, images)
        held: np.ndarray = misclassified & ~flagged[TARGET_FPR]
        return held

    def flagged(self, x: Tensor) -> dict[float, np.ndarray]:
        """Returns whether the detector flags images.

        Args:
            x: (N, C, H, W) uint8.

        Returns:
            (N,) bool for each of `FPRS`. Without confidence, an image is flagged if its p-value is at most the rate,
            which also holds for detectors that calibrate groups of images apart.
        """
        if getattr(self.detector, "confidence", None) is None:
            p = self.detector.p_value(x)
            return {fpr: p <= fpr * (1 + 1e-9) for fpr in FPRS}
        scores = -self.detector.score_samples(x)
        return {fpr: scores > threshold for fpr, threshold in self.thresholds.items()}

    def _target(self, name: str, images: Images, eps: int, fpr: float, found: Outcome, todo: np.ndarray) -> None:
        """Attacks the images todo, (N,) bool, at the threshold of fpr, and adds the result to found."""
        if not todo.any():
            return
        attack, part = ADAPTIVE[name], images[torch.from_numpy(todo)]
        made, queries = self._made(name, part, eps, fpr, self.settings.steps, self.settings.restarts)
        misclassified, flagged = self._judged(attack, made, part)
        found.misclassified[todo] |= misclassified
        found.queries[todo] += queries.numpy()
        for rate, those in flagged.items():
            found.evaded[rate][todo] |= misclassified & (~those | (not attack.detected))

    def _made(
        self, name: str, images: Images, eps: int, fpr: float, steps: int, restarts: int
    ) -> tuple[Tensor, Tensor]:
        """Attacks the images chunk by chunk, and returns (N, C, H, W) uint8 and (N,) queries."""
        parts = []
        budget: dict[str, Any] = dict(eps=eps, fpr=fpr, steps=steps, restarts=restarts)
        for start in range(0, len(images), self.settings.chunk):
            part = images[start : start + self.settings.chunk]
            key = {"attack": ADAPTIVE[name].as_json(), **asdict(self.settings), **budget}
            key |= {**images_key(part), **self._models} if self.cache.folder else {}
            parts.append(self.cache(key, partial(self._attacked, ADAPTIVE[name], part, **budget)))
        return torch.cat([part["images"] for part in parts]), torch.cat([part["queries"] for part in parts])

    def _attacked(
        self, attack: AdaptiveAttack, images: Images, eps: int, fpr: float, steps: int, restarts: int
    ) -> dict[str, Tensor]:
        if attack.kind is None:
            return self._pgd(self.defence(attack), images, eps, steps, restarts)
        with extra("attacks"):
            from foolbox.criteria import Misclassification
            from foolbox.models.pytorch import PyTorchModel

        assert images.y is not None
        target, detector = self.defence(attack), self.detector
        if attack.surrogate:
            assert self.surrogate is not None
            target, detector = self.surrogate
        made = getattr(attacks_package, attack.kind)(
            detector.with_fpr(fpr),
            steps=steps,
            restarts=restarts,
            norm=attack.norm,
            seed=self.settings.seed,
            progress=self.progress,
            **attack.settings,
        )
        x = from_uint8(images.x).to(self.device)
        density = getattr(detector, "density", None)
        with modes_kept(target, density), weights_frozen(target, density):
            model, labels = PyTorchModel(target, (0, 1), self.device), Misclassification(images.y.to(self.device))
            length = math.sqrt(x[0].numel()) if attack.norm == "l2" else 1.0
            found = made.run(model, x, labels, epsilon=eps / 255 * length)
        return {"images": to_uint8(found.cpu()), "queries": made.queries_}

    def _pgd(self, target: nn.Module, images: Images, eps: int, steps: int, restarts: int) -> dict[str, Tensor]:
        """Attacks a classifier alone by PGD, with another random start where the last one did not succeed."""
        assert images.y is not None
        attack = Attack("LinfPGD", eps / 255, {"steps": steps})
        made, queries = images.x.clone(), torch.zeros(len(images), dtype=torch.long)
        todo = torch.arange(len(images))
        for restart in range(restarts):
            result = craft(target, images.x[todo], images.y[todo], attack, seed=self.settings.seed + restart)
            made[todo] = result.images
            queries[todo] += steps
            todo = todo[~result.succeeded]
            if not len(todo):
                break
        return {"images": made, "queries": queries}

    def _judged(self, attack: AdaptiveAttack, x: Tensor, images: Images) -> tuple[np.ndarray, dict[float, np.ndarray]]:
        """Returns (N,) whether each image is misclassified, and what `flagged` returns."""
        assert images.y is not None
        misclassified = (predict_labels(self.defence(attack), x) != images.y).numpy()
        return misclassified, self.flagged(x)

    def _key_of_models(self) -> dict[str, Any]:
        """Returns everything that the outcome of an attack depends on, besides its settings and the images."""
        packages = [attacks_package, densities, detectors, images_package, preprocessing, purification, scores]
        shared = [ambient, classifier_module]
        key: dict[str, Any] = {"classifier": module_key(self.classifier), "detector": detector_key(self.detector)}
        if self.surrogate is not None:
            key["surrogate"] = [module_key(self.surrogate[0]), detector_key(self.surrogate[1])]
        return key | {
            "code": source_digest(*packages, *shared, sys.modules[__name__]),
            "versions": versions("torch", "foolbox"),
        }


def _budgets(eps: Iterable[int]) -> list[int]:
    budgets = sorted(set(eps))
    if not budgets or budgets[0] < 1 or budgets[-1] > 255:
        raise ParameterError(f"eps must be whole 8-bit steps, 1 to 255, got {budgets}")
    return budgets
