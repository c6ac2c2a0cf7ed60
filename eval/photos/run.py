"""Measures how well attacks on photographs are detected."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ...ambient import modes_kept
from ...attacks import ATTACKS
from ...calibration import conformal
from ...classifier import predict_labels
from ...data import Images
from ...errors import DataError, ParameterError
from ...images.corruptions import HISTORIES
from ..adaptive import resolve_attacks, run_adaptive
from ..cache import Cache, digest, scores_digest, statistic_of
from ..detection import histograms, roc_points
from ..examples import examples
from ..false_alarms import calibration_curve, p_value_counts
from ..metrics import promised_interval, rate
from ..run import installed_versions, validate_names
from ..upgrade import FORMAT
from .attacked import SAVED_AS, AttackedPhotographs, attack_photographs, saved_again, still_misclassified
from .data import NATIVE, Photographs, png_files, read_photograph
from .judged import Judged, detection, flagged_row, judge, promised_rates, ranks
from .learning import Learning

AS_IT_IS = "as it is"  # the file in the folder
SMALLEST_SOURCE = 96  # the shorter side that histories need, in pixels
BITS = "bits_per_dim"


def run_photographs(
    detector: Any,
    classifier: nn.Module,
    photographs: Photographs,
    *,
    learning: Learning | None = None,
    attacks: list[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    attacked: dict[str, AttackedPhotographs] | None = None,
    corruptions: bool = False,
    adaptive: dict[str, Any] | None = None,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures how well a detector finds attacked photographs.

    The detector judges files, so that it can use what a file tells besides its pixels. Clean and attacked images are
    PNG files alike. An image counts as detected at a rate of false alarms if its p-value is at most that rate. Images
    are ranked by p-value and, where p-values are equal, by score; AUROC compares these ranks. Only attacked 8-bit
    images that are misclassified count, except in columns whose name contains `_all`.

    Args:
        detector: A fitted detector of images of these sizes.
        classifier: The classifier that is attacked: (N, 3, H, W) in [0, 1] -> (N, classes) logits. In the native view
            it takes images of any size.
        photographs: Clean photographs, of which nothing has been learned.
        learning: Other clean photographs, which calibrate the statistic bits/dim of a detector with a density.
        attacks: Keys of `ATTACKS`, None for all.
        limit: How many photographs are attacked; None for all.
        seed: Seed of all random numbers.
        attacked: The result of `attack_photographs`, to use it again; None to attack now.
        corruptions: Whether to count how often clean photographs are flagged after each history.
        adaptive: Arguments of `run_adaptive`, to attack the detector too; None not to.
        cache: Where attacked images are kept.
        log: Called with lines that report progress.

    Returns:
        Plain JSON values, described by results.schema.json.

    Raises:
        ParameterError: If a name is unknown, or an attack cannot be made.
        DataError: If the detector does not take the photographs, or some of them are also in `learning`.
        MissingExtraError: If foolbox is not installed.
    """
    attacks = validate_names(attacks, ATTACKS)
    victims = photographs.take(range(len(photographs) if limit is None else min(limit, len(photographs))))
    for image in photographs.x:
        if not detector.accepts(image):
            raise DataError(f"{photographs.name} holds an image of shape {tuple(image.shape)}: give others")
    if learning is not None:
        learning.check_others(photographs)
    if adaptive is not None:
        adaptive = _adaptive_options(detector, victims, {"seed": seed, "cache": cache, "log": log, **adaptive})
    density = getattr(detector, "density", None)
    own = statistic_of(detector)
    rates = promised_rates(detector)

    with modes_kept(classifier, density):
        log(f"judging {len(photographs)} clean photographs")
        start = time.perf_counter()
        verdicts = judge(detector, photographs.files())
        milliseconds = 1000 * (time.perf_counter() - start) / len(photographs)
        if verdicts.refused:
            raise DataError(f"the detector refuses {verdicts.refused} of {len(photographs)} clean photographs")
        has_bits = bool(np.isfinite(verdicts.bits_per_dim).all())
        calibration = {own: np.asarray(detector.calibration_scores_)}
        if has_bits and learning is not None and own != BITS:
            log("calibrating bits/dim")
            calibration[BITS] = judge(detector, learning.calibration.files()).bits_per_dim

        def statistics_of(found: Any) -> dict[str, Judged]:
            both = {own: found.own}
            if BITS in calibration:
                bits = found.bits_per_dim
                both[BITS] = Judged(conformal.p_values(bits, calibration[BITS]), bits)
            return both

        def rates_of(name: str) -> list[float]:
            return rates if name == own else [fpr for fpr in rates if fpr * (len(calibration[name]) + 1) >= 1]

        clean = statistics_of(verdicts)
        normal = {name: found[: len(victims)] for name, found in clean.items()}

        if attacked is None:
            attacked = attack_photographs(classifier, victims, attacks, seed=seed, cache=cache, log=log)
        saved_clean, flagged = {}, []
        for how in SAVED_AS:
            log(f"judging clean images saved as {how}")
            found = judge(detector, saved_again(victims.x, how))
            saved_clean[how] = statistics_of(found)
            for name, said in saved_clean[how].items():
                flagged.append(flagged_row(f"view, saved as {how}", name, said, rates_of(name), found.refused))
        rows: list[dict[str, Any]] = []
        resaved: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        shown = {name: {"clean": found.score} for name, found in normal.items()}
        for attack in attacks:
            result = attacked[attack]
            log(f"judging {attack}")
            tried = [result.images[i] for i in result.attempted.nonzero()[:, 0].tolist()]
            succeeded = result.succeeded[result.attempted].numpy()
            for name, said in statistics_of(judge(detector, png_files(tried))).items():
                base = _row(attack, result, succeeded) | {"statistic": name}
                row = detection(normal[name], said[succeeded], rates_of(name))
                rows.append(base | row | detection(normal[name], said, rates_of(name), "_all"))
                if succeeded.any():
                    shown[name][attack] = said[succeeded].score
                    curves.append(
                        {"attack": attack, "statistic": name, **roc_points(*ranks(normal[name], said[succeeded]))}
                    )
            fooling = result.succeeded.nonzero()[:, 0]
            for how in SAVED_AS if len(fooling) else ():
                files = list(saved_again([result.images[i] for i in fooling.tolist()], how))
                still = still_misclassified(classifier, files, victims.y[fooling]) | ATTACKS[attack].is_control
                kept = [file for file, holds in zip(files, still.tolist(), strict=True) if holds]
                base = {"attack": attack, "saved_as": how, "is_control": ATTACKS[attack].is_control}
                base |= {"fooling": len(fooling), "still_fooling": len(kept)}
                for name, said in statistics_of(judge(detector, kept)).items():
                    row = detection(saved_clean[how][name], said, rates_of(name))
                    resaved.append(base | {"statistic": name} | row)

        for what, files in _histories(photographs, seed) if corruptions else ():
            log(f"judging clean photographs, {what}")
            found = judge(detector, files)
            for name, said in statistics_of(found).items():
                flagged.append(flagged_row(what, name, said, rates_of(name), found.refused))

        aware = None
        if adaptive is not None:
            log("attacks that know the detector")
            aware = run_adaptive(detector, classifier, _stacked(victims), **adaptive)
        pictures = examples(detector, classifier, victims, attacked)
        correct = torch.cat([predict_labels(classifier, part.x) == part.y for part in victims.batches(2**20)])

    n, m = len(calibration[own]), len(photographs)
    p = clean[own].p
    return {
        "format": FORMAT,
        "data": photographs.name,
        "view": photographs.view,
        "labels": photographs.labels,
        "warnings": [],
        "density": getattr(density, "config", None),
        "images": {
            "train": 0,
            "validation": 0,
            "fit": 0 if learning is None else len(learning.fit),
            "calibration": n,
            "clean_test": m,
            "attacked_test": len(victims),
            "left_out": photographs.left_out,
        },
        "milliseconds": milliseconds,
        "bits_per_dim": float(verdicts.bits_per_dim.mean()) if has_bits else None,
        "classifier_accuracy": correct.double().mean().item(),
        "seed": seed,
        "sha256": {
            "detector": scores_digest(detector) if density is None else digest(density),
            "classifier": digest(classifier),
            "calibration_images": scores_digest(detector),  # the images are those of whoever calibrated it
            "test_images": photographs.digest(),
        },
        "versions": installed_versions(),
        "thresholds": {},  # each image is judged by its p-value
        "false_alarms": [
            {"statistic": name, "fpr": fpr, "calibration_images": len(calibration[name])}
            | _observed(clean[name], fpr, len(calibration[name]))
            for name in clean
            for fpr in rates_of(name)
        ],
        "statistic": own,
        "classifier_statistics": [],
        "rows": rows,
        "resaved": resaved,
        "benign_corruptions": flagged,
        "other_data": [],
        "by_class": [],
        "oracle": [],
        "roc": curves,
        "histograms": {name: histograms(values) for name, values in shown.items()},
        "p_values": p_value_counts(p),
        "calibration": calibration_curve(p),
        "adaptive": aware,
        "examples": pictures,
    }


def compare_photographs(
    detectors: dict[str, Any],
    classifier: nn.Module,
    photographs: Photographs,
    *,
    attacks: list[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    cache: Cache | None = None,
    log: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Measures several detectors on the same attacked photographs.

    Args:
        detectors: Fitted detectors by their names in the table.
        classifier: As for `run_photographs`.
        photographs: As for `run_photographs`.
        attacks: As for `run_photographs`.
        limit: As for `run_photographs`.
        seed: As for `run_photographs`.
        cache: As for `run_photographs`.
        log: As for `run_photographs`.
        options: Further arguments of `run_photographs`.

    Returns:
        What `compare` returns, for `write_comparison`.

    Raises:
        ParameterError, DataError: As `run_photographs` does.
    """
    from ..comparison import PICTURES

    attacks = validate_names(attacks, ATTACKS)
    victims = photographs.take(range(min(limit or len(photographs), len(photographs))))
    attacked = attack_photographs(classifier, victims, attacks, seed=seed, cache=cache, log=log)
    found = {}
    for name, detector in detectors.items():
        log(f"-- {name}")
        shared: dict[str, Any] = dict(attacks=attacks, limit=limit, seed=seed, attacked=attacked, cache=cache, log=log)
        results = run_photographs(detector, classifier, photographs, **shared, **options)
        found[name] = {key: value for key, value in results.items() if key not in PICTURES}
    return {"format": FORMAT, "data": photographs.name, "attacks": attacks, "statistics": [], "detectors": found}


def _row(attack: str, result: AttackedPhotographs, succeeded: np.ndarray) -> dict[str, Any]:
    chosen = result.succeeded
    return {
        "attack": attack,
        "is_control": ATTACKS[attack].is_control,
        "attempted": int(result.attempted.sum()),
        "succeeded": int(succeeded.sum()),
        "linf_median": result.linf[chosen].median().item() if chosen.any() else None,
        "l2_median": result.l2[chosen].median().item() if chosen.any() else None,
        "model_calls": result.model_calls,
    }


def _observed(clean: Judged, fpr: float, n: int) -> dict[str, Any]:
    observed, interval = rate(int(clean.flagged(fpr).sum()), len(clean))
    promised = promised_interval(conformal.rank(fpr, n), n, len(clean))
    return {"observed": observed, "observed_ci": interval, "promised": promised}


def _histories(photographs: Photographs, seed: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields each history's name and the files that it makes of the photographs of the folder."""
    yield AS_IT_IS, (path.read_bytes() for path in photographs.paths)
    for number, name in enumerate(HISTORIES):

        def made(name: str = name, number: int = number) -> Iterator[bytes]:
            for index, path in zip(photographs.index.tolist(), photographs.paths, strict=True):
                source = Image.fromarray(read_photograph(path).permute(1, 2, 0).numpy())
                if min(source.size) >= SMALLEST_SOURCE:
                    yield HISTORIES[name](source, np.random.default_rng([seed, number, index]))

        yield name, made()


def _adaptive_options(detector: Any, victims: Photographs, given: dict[str, Any]) -> dict[str, Any]:
    """Checks the arguments of `run_adaptive`, before hours of other attacks."""
    if victims.view == NATIVE:
        raise ParameterError("attacks that know the detector need images of one size: take another --view")
    names = resolve_attacks(given.get("attacks"), detector, victims.x[0][None], given.get("surrogate"))
    return {**given, "attacks": names}


def _stacked(photographs: Photographs) -> Images:
    return Images(torch.stack(photographs.x), photographs.y, photographs.index)
