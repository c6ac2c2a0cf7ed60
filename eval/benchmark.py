"""How well attacks are detected: thresholds first, then attacks."""

from __future__ import annotations

import copy
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from torch import Tensor, nn

from ..attacks import ATTACKS, Attacked, craft
from ..calibration import conformal
from ..data import DataSet, Images
from ..detectors import Detector
from ..errors import ParameterError
from ..images import to_uint8
from ..images.corruptions import CORRUPTIONS, corrupt
from ..scores import (
    CLASSIFIER_SCORES,
    EXPENSIVE,
    SCORES,
    Combined,
    Evidence,
    Fused,
    LearnedScore,
    Score,
    bits_per_dim,
    make_score,
    with_noise,
)
from .adapters import Uniform
from .adaptive import resolve_attacks, run_adaptive
from .cache import Cache, digest
from .examples import gallery
from .metrics import auroc, promised_interval, rate

RATES = (0.01, 0.05)
FOLDS = 5
BINS = 60
FINE = np.r_[np.geomspace(0.001, 0.1, 13), np.linspace(0.15, 1, 18)]  # false-alarm rates, of the calibration curve

# what `pixeldefend benchmark --suite` runs: arguments of `run_benchmark`
SUITES: dict[str, dict[str, Any]] = {
    # two minutes on two cores
    "quick": dict(
        attacks=["noise-8", "fgsm-8", "pgd-2", "pgd-8", "deepfool-l2"],
        scores=["bits_per_dim", "excess_surprisal"],
        limit=100,
        clean=500,
    ),
    # attackers who know the classifier alone
    "standard": dict(limit=1000, controls=True),
    # and those who know the detector
    "adaptive": dict(limit=1000, controls=True, adaptive=dict(eps=[2, 4, 8, 16, 32], limit=100, steps=100)),
    "full": dict(
        controls=True,
        oracle=True,
        by_class=True,
        adaptive=dict(eps=[2, 4, 8, 16, 32], limit=200, expensive_limit=100, steps=1000, restarts=2),
    ),
}


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
    attacked: dict[str, Attacked] | None = None,
    controls: bool = False,
    others: list[DataSet] | None = None,
    oracle: bool = False,
    by_class: bool = False,
    adaptive: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """detector: its density is measured under every score. classifier: what is attacked, (N, C, H, W) in [0, 1] ->
    logits. attacks: names, None for all. scores: names, None for all but the dear ones and those that ask the
    classifier, [] for none; the detector's own is always among them, and the only one if it has no density of this
    package. limit: attack the first so many test images.
    clean: count false alarms on the first so many (None: on those that are attacked). controls: also count how many
    clean images are flagged after each benign transformation. others: data sets of the same shape, whose test images
    are flagged or not. oracle: also fit, to each attack, a classifier of all these scores that has seen it. adaptive:
    arguments of `run_adaptive`, to attack the detector too. recipe: of the density's training (`others.recipe_of`),
    whose train_sha256 tells whether it saw the images that data holds for training, and no other. cache: where attacked
    images are kept, for a run that is interrupted.

    Thresholds are frozen before any attack, at false-alarm rates of 1 % and 5 % on average: the detector's own score
    keeps its calibration, other scores are fitted on data.fit and calibrated on data.calibration. AUROC compares
    attacked 8-bit images that fool the classifier with all the clean ones of the same first `limit` test images;
    names with `_all` stand for all the images that were attacked, whether or not that fooled it.

    Returns plain JSON values: `rows` (attack, control, score, attempted, succeeded, auroc, tpr_at_fpr_0.01,
    tpr_at_fpr_0.05, auroc_all, tpr_all_at_fpr_0.01, tpr_all_at_fpr_0.05, each with its _ci), `bits_per_dim` (mean over
    the clean images), `milliseconds` (an image takes, under all these scores), `false_alarms` (score, fpr, observed,
    its _ci, and the interval `promised`), `controls` (what, images, score, flagged_at_0.01, flagged_at_0.05),
    `by_class` (class, images, flagged_at_0.01, flagged_at_0.05, and the same with _by_class), `oracle` (attack, auroc,
    tpr_at_fpr_0.01), `warnings` (what speaks against these figures), `roc` (points of the curves of the detector's own
    score and of bits/dim), `histograms` (of these two), `p_values` (of clean test images, counted in 20 bins),
    `calibration` (false alarms at many rates), `adaptive` (what `run_adaptive` returns, or None), `gallery` (see there)
    and what it takes to do it again; results.schema.json says it all. Two runs return the same, but for `milliseconds`.
    Raises ParameterError for unknown names, data without labels, or other data of another shape."""
    attacks = known(attacks, ATTACKS)
    if detector.classifier is None:  # for the scores that ask it
        detector = copy.copy(detector)
        detector.classifier = classifier.eval()
    if adaptive is not None:  # what cannot be is refused now, and not after hours of the other attacks
        adaptive = {
            **adaptive,
            "attacks": resolve_attacks(adaptive.get("attacks"), detector, adaptive.get("surrogate")),
        }
    if isinstance(detector.density, Uniform):  # somebody else's detector has no score but its own
        scores = []
    elif scores is None:
        scores = _usual_scores(detector, data, log)
    elif scores:
        scores = known(scores, SCORES | CLASSIFIER_SCORES)
    if detector.statistic not in scores:
        scores = [*scores, detector.statistic]
    pictured = (detector.statistic, "bits_per_dim")
    titles = [other.name for other in others or ()]
    if len(set(titles)) < len(titles):
        raise ParameterError(f"other data are told apart by their files' names, got {', '.join(titles)}")
    for other in others or ():
        if other.test.shape != data.test.shape:
            raise ParameterError(
                f"{other.name} holds images of shape {other.test.shape}, {data.name} {data.test.shape}"
            )
    victims = _victims(data, limit)
    assert victims.y is not None
    clean_images = data.test[: clean or len(victims)]

    warnings = []
    if (recipe or {}).get("train_sha256", data.train.digest()) != data.train.digest():
        warnings.append(
            f"The density was trained on other images than {data.name} holds for training here: it may have seen some "
            "of those that calibrate and test it."
        )
    for warning in warnings:
        log(f"warning: {warning}")

    log("freezing thresholds on clean calibration images")
    functions, calibration = _calibrated(detector, scores, data)
    thresholds = {name: {fpr: conformal.threshold(calibration[name], fpr) for fpr in RATES} for name in scores}

    log(f"scoring {max(len(clean_images), len(victims))} clean test images")
    start = time.perf_counter()
    asked = {**functions, "bits/dim": bits_per_dim}
    everything = _anomaly_scores(detector, asked, data.test.x[: max(len(clean_images), len(victims))])
    milliseconds = 1000 * (time.perf_counter() - start) / max(len(clean_images), len(victims))
    normal = {name: everything[name][: len(victims)] for name in scores}
    false_alarms = []
    for name in scores:
        for fpr in RATES:
            n, m = len(calibration[name]), len(clean_images)
            observed, interval = rate(int((everything[name][:m] > thresholds[name][fpr]).sum()), m)
            promised = promised_interval(conformal.rank(fpr, n), n, m)
            if name == detector.statistic and detector.corruptions_:  # calibrated for worse than clean images
                promised[0] = 0.0
            false_alarms.append(
                {
                    "score": name,
                    "fpr": fpr,
                    "calibration_images": n,
                    "observed": observed,
                    "observed_ci": interval,
                    "promised": promised,
                }
            )

    classes = []
    if by_class:
        log("scoring calibration images by class")
        anomaly_score = everything[detector.statistic][: len(clean_images)]
        classes = _by_class(detector, anomaly_score, clean_images, data.calibration, thresholds[detector.statistic])

    if attacked is None:
        attacked = attack_all(classifier, data, attacks, limit=limit, seed=seed, cache=cache, log=log)
    rows, curves, seen_by_oracle = [], [], []
    told: dict[str, dict[str, np.ndarray]] = {name: {"clean": normal[name]} for name in scores if name in pictured}
    for attack in attacks:
        result = attacked[attack]
        attempted, succeeded = int(result.attempted.sum()), int(result.succeeded.sum())
        base = {
            "attack": attack,
            "control": ATTACKS[attack].control,
            "attempted": attempted,
            "succeeded": succeeded,
            "linf_median": _median(result.linf[result.succeeded]),
            "l2_median": _median(result.l2[result.succeeded]),
            "model_calls": result.model_calls,
        }
        fooled = result.succeeded[result.attempted].numpy()
        suspicious = _anomaly_scores(detector, functions, result.images[result.attempted]) if attempted else {}
        if oracle and succeeded >= FOLDS:
            seen = {name: values[fooled] for name, values in suspicious.items()}
            seen_by_oracle.append({"attack": attack, **_oracle(normal, seen, result.succeeded.nonzero()[:, 0].numpy())})
        for name in scores:
            everyone = suspicious.get(name, np.empty(0))
            those = everyone[fooled]
            row = {**base, "score": name, **_detection(normal[name], those, thresholds[name])}
            rows.append(row | _detection(normal[name], everyone, thresholds[name], "_all"))
            if succeeded and name in pictured:
                told[name][attack] = those
                curves.append({"attack": attack, "score": name, **_curve(normal[name], those)})

    flagged = []
    for what, x in _no_attacks(victims.x, CORRUPTIONS if controls else (), others or (), seed):
        log(f"scoring {what}")
        for name, values in _anomaly_scores(detector, functions, x).items():
            shares = {f"flagged_at_{fpr}": float((values > thresholds[name][fpr]).mean()) for fpr in RATES}
            flagged.append({"what": what, "images": len(x), "score": name, **shares})

    density = detector.density
    assert density is not None
    alarms = everything[detector.statistic][: len(clean_images)]
    p = conformal.p_values(alarms, detector.calibration_scores_)
    known_to_all = None
    if adaptive is not None:
        log("attacks that know the detector")
        known_to_all = run_adaptive(
            detector, classifier, data.test, **{"seed": seed, "cache": cache, "log": log, **adaptive}
        )
    return {
        "data": data.name,
        "warnings": warnings,
        "density": density.config,
        "images": {
            "train": len(data.train),
            "validation": len(data.validation),
            "fit": len(data.fit),
            "calibration": len(detector.calibration_scores_),
            "clean_test": len(clean_images),
            "attacked_test": len(victims),
        },
        "milliseconds": milliseconds,
        "bits_per_dim": float(everything["bits/dim"][: len(clean_images)].mean()),
        "classifier_accuracy": _accuracy(classifier, victims.x, victims.y),
        "seed": seed,
        "sha256": {
            "detector": digest(density),
            "classifier": digest(classifier),
            "calibration_images": data.calibration.digest(),
            "test_images": data.test.digest(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("pixeldefend", "torch", "foolbox", "scikit-learn")},
        },
        "thresholds": {name: {str(fpr): value for fpr, value in by.items()} for name, by in thresholds.items()},
        "false_alarms": false_alarms,
        "score": detector.statistic,
        "asking_the_classifier": [name for name in scores if name in CLASSIFIER_SCORES],
        "rows": rows,
        "controls": flagged,
        "by_class": classes,
        "oracle": seen_by_oracle,
        "roc": curves,
        "histograms": {name: _histograms(values) for name, values in told.items()},
        "p_values": np.histogram(p, 20, (0, 1))[0].tolist(),
        "calibration": [[round(float(fpr), 6), float((p <= fpr).mean())] for fpr in FINE],
        "adaptive": known_to_all,
        "gallery": gallery(detector, classifier, victims, attacked),
    }


def known(names: list[str] | None, there: dict[str, Any]) -> list[str]:
    """Returns names, or all that there are. Raises ParameterError if one is unknown."""
    for name in names or ():
        if name not in there:
            raise ParameterError(f"unknown name {name!r}; there are: {', '.join(there)}")
    return names or list(there)


def attack_all(
    classifier: nn.Module,
    data: DataSet,
    attacks: list[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Attacked]:
    """Returns what each attack makes of the first `limit` test images, or takes it from `cache`. Raises ParameterError if
    data has no labels."""
    victims = _victims(data, limit)
    assert victims.y is not None
    attacked = {}
    models = digest(classifier) if cache else ""
    version = importlib.metadata.version("pixeldefend")
    for attack in attacks:
        key = dict(attack=attack, seed=seed, images=victims.digest(), classifier=models, version=version)

        def made(attack: str = attack) -> dict[str, Tensor]:
            result = craft(classifier, victims.x, victims.y, attack, seed=seed)
            return {name: torch.as_tensor(value) for name, value in vars(result).items()}

        parts: dict[str, Any] = (cache or Cache())(key, made)
        attacked[attack] = result = Attacked(**{**parts, "model_calls": int(parts["model_calls"])})
        log(f"{attack}: {int(result.succeeded.sum())} of {int(result.attempted.sum())} succeeded")
    return attacked


def _victims(data: DataSet, limit: int | None) -> Images:
    if data.test.y is None:
        raise ParameterError(f"{data.name} has no labels: without them nothing can be attacked")
    return data.test[:limit]


def _calibrated(detector: Detector, names: list[str], data: DataSet) -> tuple[dict[str, Score], dict[str, np.ndarray]]:
    """Returns for each score the function and its calibration scores, (n,)."""
    functions: dict[str, Score] = {}
    calibration: dict[str, np.ndarray] = {}
    for name in names:
        if name == detector.statistic:
            functions[name], calibration[name] = detector.score_, detector.calibration_scores_
            continue
        functions[name] = make_score(name)
    learners = {
        name: score for name, score in functions.items() if isinstance(score, LearnedScore) and name not in calibration
    }
    if learners:
        features = _anomaly_scores(detector, {name: score.features for name, score in learners.items()}, data.fit.x)
        contrasted: dict[str, Score] = {name: score.features for name, score in learners.items() if score.uses_noise}
        noisy = _anomaly_scores(detector, contrasted, to_uint8(with_noise(data.fit.x / 255))) if contrasted else {}
        for name, score in learners.items():
            score.fit(*(torch.from_numpy(part[name]) for part in (features, noisy) if name in part))
    others = {name: function for name, function in functions.items() if name not in calibration}
    if others:
        calibration |= _anomaly_scores(detector, others, data.calibration.x)
    return functions, calibration


def _by_class(
    detector: Detector, anomaly_score: np.ndarray, clean: Images, calibration: Images, thresholds: dict[float, float]
) -> list[dict[str, Any]]:
    """anomaly_score: (m,) of the clean images. Returns the share of each class that is flagged: at the thresholds for all
    classes, and at one that is calibrated for the class."""
    if clean.y is None or calibration.y is None:
        raise ParameterError("there are no labels, by which false alarms could be counted")
    labels, own = clean.y.numpy(), calibration.y.numpy()
    scores = _anomaly_scores(detector, {"own": detector.score_}, calibration.x)["own"]
    p = conformal.class_p_values(anomaly_score, labels, scores, own)
    rows = []
    for label in np.unique(labels):
        same = labels == label
        row: dict[str, Any] = {"class": int(label), "images": int(same.sum())}
        for fpr in RATES:
            row[f"flagged_at_{fpr}"] = float((anomaly_score[same] > thresholds[fpr]).mean())
            row[f"flagged_at_{fpr}_by_class"] = float((p[same] <= fpr).mean())
        rows.append(row)
    return rows


def _no_attacks(
    x: Tensor, corruptions: Iterable[str], others: Iterable[DataSet], seed: int
) -> Iterator[tuple[str, Tensor]]:
    """x: (N, C, H, W) uint8 clean images. Yields what each transformation makes of them, and N test images of each
    other data set, by name."""
    for name in corruptions:
        yield name, to_uint8(corrupt(x / 255, name, seed=seed))
    for other in others:
        yield other.name, other.test.x[: len(x)]


def _detection(
    clean: np.ndarray, attacked: np.ndarray, thresholds: dict[float, float], which: str = ""
) -> dict[str, Any]:
    """clean, attacked: (m,) and (n,) of a score. thresholds: by false-alarm rate. Returns auroc{which} and
    tpr{which}_at_fpr_..., each with its _ci; None without attacked images."""
    row: dict[str, Any] = dict.fromkeys((f"auroc{which}", f"auroc{which}_ci"))
    if len(attacked):
        row[f"auroc{which}"], row[f"auroc{which}_ci"] = auroc(clean, attacked)
    for fpr, threshold in thresholds.items():
        key = f"tpr{which}_at_fpr_{fpr}"
        row |= dict.fromkeys((key, f"{key}_ci"))
        if len(attacked):
            row[key], row[f"{key}_ci"] = rate(int((attacked > threshold).sum()), len(attacked))
    return row


def _oracle(clean: dict[str, np.ndarray], attacked: dict[str, np.ndarray], originals: np.ndarray) -> dict[str, Any]:
    """clean, attacked: (m,) and (n,) of every score. originals: (n,), which clean image each attacked one was. Returns
    the AUROC and the share detected at 1 % false alarms, with their intervals, of boosted trees of all scores, each
    image judged by those that were fitted on other images and on what was made of them; at so few images that 1 % of
    them is none, the share at the threshold that flags none."""
    x = np.stack([np.r_[clean[name], attacked[name]] for name in clean], 1)
    m = len(x) - len(originals)
    y = np.arange(len(x)) >= m
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    trees = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, min_samples_leaf=5, random_state=0)
    groups = np.r_[np.arange(m), originals]
    p = cross_val_predict(trees, x, y, groups=groups, cv=folds, method="predict_proba")[:, 1]
    most = np.quantile(p[:m], 1 - RATES[0], method="inverted_cdf")  # at most 1 % of the clean ones are above
    return _detection(p[:m], p[m:], {RATES[0]: float(most)})


def _usual_scores(detector: Detector, data: DataSet, log: Callable[[str], None]) -> list[str]:
    """Returns the names of all scores but the dear ones, less those that this density or so few images do not have."""
    names = []
    for name in [name for name in SCORES if name not in EXPENSIVE]:
        score = make_score(name)
        try:
            if isinstance(score, Combined | Fused) and len(data.fit) < Combined.LEAST_IMAGES:
                raise ParameterError(f"it needs {Combined.LEAST_IMAGES} images to fit on, there are {len(data.fit)}")
            first = score.features if isinstance(score, LearnedScore) else score
            _anomaly_scores(detector, {name: first}, data.test.x[:1])
            names.append(name)
        except ValueError as error:
            log(f"without {name}: {error}")
    return names


def _anomaly_scores(detector: Detector, scores: dict[str, Score], x: Tensor) -> dict[str, np.ndarray]:
    """x: (N, C, H, W) uint8. Returns (N,) for every score, from one pass of the density."""
    assert detector.density is not None
    parts: dict[str, list[Tensor]] = {name: [] for name in scores}
    with torch.inference_mode():
        for batch in x.split(detector.batch_size):
            seen = detector.density.to_support(batch.to(detector.density.device) / 255)
            evidence = Evidence(detector.density, seen, detector.classifier, detector._on_backend(detector.backend))
            for name, score in scores.items():
                parts[name].append(evidence.once(score).double().cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def _accuracy(classifier: nn.Module, x: Tensor, y: Tensor) -> float:
    device = next((p.device for p in classifier.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        hits = [
            (classifier(a.to(device) / 255).argmax(1).cpu() == b)
            for a, b in zip(x.split(256), y.split(256), strict=True)
        ]
    return torch.cat(hits).float().mean().item()


def _histograms(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """values: (n,) of each kind of image, "clean" among them. Returns {"edges", "counts": kind -> counts}; what lies
    beyond the edges is counted in the outermost bins. Attacked images may score a thousand times what clean ones do:
    the edges go no further than shows the clean ones."""
    low, high = np.quantile(np.concatenate(list(values.values())), [0.002, 0.998])
    least, most = np.quantile(values["clean"], [0.01, 0.99])
    low, high = max(low, least - 2 * (most - least)), min(high, most + 4 * (most - least))
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    counts = {kind: np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0].tolist() for kind, v in values.items()}
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts}


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
