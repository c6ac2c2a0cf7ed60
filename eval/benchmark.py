"""How well attacks are detected: thresholds first, then attacks."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import conformal
from ..attacks import ATTACKS, craft
from ..datasets import DataSet
from ..detector import Detector
from ..scores import SCORES, Evidence, LearnedScore, Score, make_score
from .metrics import auroc, promised_interval, rate

RATES = (0.01, 0.05)


def run_benchmark(
    detector: Detector,
    classifier: nn.Module,
    data: DataSet,
    *,
    attacks: list[str] | None = None,
    scores: list[str] | None = None,
    limit: int | None = None,
    clean: int | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """detector: its density is measured under every score; thresholds come from data.calibration alone. classifier:
    what is attacked, (N, C, H, W) in [0, 1] -> logits. attacks, scores: names, None for all. limit: attack the first
    so many test images. clean: take the first so many test images as clean ones (None: as many as are attacked).

    Returns plain JSON values: `rows` (attack, score, attempted, succeeded, auroc, tpr_at_fpr_0.01, tpr_at_fpr_0.05,
    each with its _ci), `false_alarms` (score, fpr, observed, its _ci and the interval `promised`), `roc` (points of
    the curves) and what it takes to do it again. AUROC compares attacked images that fool the classifier after
    rounding to 8 bits with the clean ones. Raises ValueError for unknown names or data without labels.
    """
    attacks, scores = attacks or list(ATTACKS), scores or list(SCORES)
    for name, known in [*((name, ATTACKS) for name in attacks), *((name, SCORES) for name in scores)]:
        if name not in known:
            raise ValueError(f"unknown name {name!r}; there are: {', '.join(known)}")
    if data.test.y is None:
        raise ValueError(f"{data.name} has no labels: without them nothing can be attacked")
    assert detector.density is not None
    victims = data.test[:limit]
    assert victims.y is not None
    clean_images = data.test[: clean or len(victims)]

    log(f"calibrating on {len(data.calibration)} clean images")
    functions = {name: _fitted(name, detector, data.fit.x) for name in scores}
    calibration = _suspicions(detector, functions, data.calibration.x)
    ranks = {fpr: conformal.rank(fpr, len(data.calibration)) for fpr in RATES}
    thresholds = {name: {fpr: conformal.threshold(calibration[name], fpr) for fpr in RATES} for name in scores}

    log(f"scoring {len(clean_images)} clean test images")
    normal = _suspicions(detector, functions, clean_images.x)
    false_alarms = []
    for name in scores:
        for fpr in RATES:
            flagged = int((normal[name] > thresholds[name][fpr]).sum())
            observed, interval = rate(flagged, len(clean_images))
            promised = promised_interval(ranks[fpr], len(data.calibration), len(clean_images))
            false_alarms.append(
                {"score": name, "fpr": fpr, "observed": observed, "observed_ci": interval, "promised": promised}
            )

    rows, curves = [], []
    for attack in attacks:
        attacked = craft(classifier, victims.x, victims.y, attack, seed=seed)
        attempted, succeeded = int(attacked.attempted.sum()), int(attacked.succeeded.sum())
        log(f"{attack}: {succeeded} of {attempted} succeeded")
        base = {
            "attack": attack,
            "attempted": attempted,
            "succeeded": succeeded,
            "linf_median": _median(attacked.linf[attacked.succeeded]),
            "l2_median": _median(attacked.l2[attacked.succeeded]),
            "model_calls": attacked.model_calls,
        }
        suspicious = _suspicions(detector, functions, attacked.images[attacked.succeeded]) if succeeded else {}
        for name in scores:
            row: dict[str, Any] = {**base, "score": name, "auroc": None, "auroc_ci": None}
            if succeeded:
                row["auroc"], row["auroc_ci"] = auroc(normal[name], suspicious[name])
                curves.append({"attack": attack, "score": name, **_curve(normal[name], suspicious[name])})
            for fpr in RATES:
                key = f"tpr_at_fpr_{fpr}"
                row[key], row[f"{key}_ci"] = None, None
                if succeeded:
                    detected = int((suspicious[name] > thresholds[name][fpr]).sum())
                    row[key], row[f"{key}_ci"] = rate(detected, succeeded)
            rows.append(row)

    return {
        "data": data.name,
        "density": detector.density.config,
        "images": {
            "train": len(data.train),
            "fit": len(data.fit),
            "calibration": len(data.calibration),
            "clean_test": len(clean_images),
            "attacked_test": len(victims),
        },
        "classifier_accuracy": _accuracy(classifier, victims.x, victims.y),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("pixeldefend", "torch", "foolbox", "scikit-learn")},
        },
        "thresholds": {name: {str(fpr): value for fpr, value in by.items()} for name, by in thresholds.items()},
        "false_alarms": false_alarms,
        "rows": rows,
        "roc": curves,
    }


def _fitted(name: str, detector: Detector, fit: Tensor) -> Score:
    score = make_score(name)
    if isinstance(score, LearnedScore):
        features = _suspicions(detector, {name: score.features}, fit)[name]
        score.fit(torch.from_numpy(features))
    return score


def _suspicions(detector: Detector, scores: dict[str, Score], x: Tensor) -> dict[str, np.ndarray]:
    """x: (N, C, H, W) uint8. Returns (N,) for every score, from one pass of the density."""
    assert detector.density is not None
    parts: dict[str, list[Tensor]] = {name: [] for name in scores}
    with torch.inference_mode():
        for batch in x.split(detector.batch_size):
            evidence = Evidence(detector.density, batch.to(detector.density.device) / 255)
            for name, score in scores.items():
                parts[name].append(score(evidence).double().cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def _accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    device = next(classifier.parameters()).device
    with torch.inference_mode():
        hits = [
            (classifier(a.to(device) / 255).argmax(1).cpu() == b)
            for a, b in zip(x.split(256), y.split(256), strict=True)
        ]
    return torch.cat(hits).float().mean().item()


def _median(distances: Tensor) -> float | None:
    return distances.median().item() if len(distances) else None


def _curve(clean: np.ndarray, attacked: np.ndarray) -> dict[str, list[float]]:
    """Returns the ROC curve at false-alarm rates that are evenly spaced on a logarithmic axis."""
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(np.r_[np.zeros(len(clean)), np.ones(len(attacked))], np.r_[clean, attacked])
    grid = np.geomspace(1 / len(clean), 1, 100)
    # the curve is a staircase: at a rate, the best that is reached without exceeding it
    height = tpr[np.searchsorted(fpr, grid + 1e-12, side="right") - 1]
    return {"fpr": [round(v, 6) for v in grid.tolist()], "tpr": [round(v, 6) for v in height.tolist()]}
