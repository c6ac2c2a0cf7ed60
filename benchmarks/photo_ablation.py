"""Measures what each part of the detector of photographs is worth, from the profiles that `photo_detector.py` wrote.

    python benchmarks/photo_ablation.py DENSITY RUNS PHOTOGRAPHS [--limit N] [--cache FOLDER]

Each variant has a calibration of its own. It is tested on the clean photographs of RUNS/test, and on PHOTOGRAPHS, a
folder like those of `pixeldefend benchmark`, of which the first N are attacked; the same cache of attacked images may
be given. The perturbations of training and the density are the same for all. The networks of the variants are smaller
than the detector's, and are trained for fewer steps. It writes results/photo_ablation.json.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photo_detector import COPIES, origins, read_profiles
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pixeldefend.densities import NeLLoC, load
from pixeldefend.detectors import PhotoDetector
from pixeldefend.detectors.by_history import Origins
from pixeldefend.eval import Cache
from pixeldefend.eval.photos.attacked import attack_photographs
from pixeldefend.eval.photos.data import read_photographs
from pixeldefend.imagenet import imagenet_classifier
from pixeldefend.images import Origin
from pixeldefend.scores import profile
from pixeldefend.scores.likelihood_ratio import LikelihoodRatio
from pixeldefend.training.photographs import NAMES
from pixeldefend.training.ratio import fit_ratio

ATTACKS = ("fgsm-2", "fgsm-8", "pgd-1", "pgd-2")
RATE = 0.01
SMALLER = {"width": 96, "steps": 4000}  # networks of the variants
OUT = Path(__file__).parent / "results" / "photo_ablation.json"
Array = np.ndarray
Rows = dict[str, Array]


class Scored(PhotoDetector):
    """A detector of photographs whose score is the last column of a profile; the rest says the history."""

    def _scored(self, profiles: Array, origins: Origins) -> tuple[Array, Array, Array]:
        _, *histories = super()._scored(profiles[:, :-1], origins)
        return profiles[:, -1], *histories


class Pooled(PhotoDetector):
    """A detector of photographs that compares every image with all calibration images."""

    def _scored(self, profiles: Array, origins: Origins) -> tuple[Array, Array, Array]:
        scores, histories, probabilities = super()._scored(profiles, origins)
        return scores, np.zeros_like(histories), np.zeros_like(probabilities)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("density")
    parser.add_argument("runs", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    density = load(arguments.density)
    assert isinstance(density, NeLLoC)
    train, calibration, test = (read_profiles(arguments.runs / part) for part in ("train", "calibration", "test"))
    attacked = attacked_rows(density, arguments.photographs, arguments.limit, arguments.cache)
    rows = []
    for name, (detector, seen) in variants(density, train).items():
        detector.fit_profiles(seen(calibration), origins(calibration))
        rows.append({"variant": name, **tested(detector, seen, test, attacked)})
        print(rows[-1], flush=True)
    OUT.write_text(
        json.dumps({"attacks": list(ATTACKS), "limit": arguments.limit, "rows": rows}, indent=2) + os.linesep
    )


def variants(density: NeLLoC, train: Rows) -> dict[str, tuple[PhotoDetector, Callable[[Rows], Array]]]:
    """Returns detectors by what they are, with what each of them sees of images."""
    every = np.ones(train["clean"].shape[1], dtype=bool)
    whole = fitted(train, every, **SMALLER)
    line = linear(train)
    kinds = kinds_of_features()
    made: dict[str, tuple[PhotoDetector, Callable[[Rows], Array]]] = {
        "bits/dim": (Scored(density, whole), lambda rows: np.c_[rows["clean"], rows["bits"]]),
        "surprisal beyond the expected": (
            Scored(density, whole),
            lambda rows: np.c_[rows["clean"], -rows["clean"][:, kinds["surprisal"]].mean(1)],
        ),
        "all features, linear": (Scored(density, whole), lambda rows: np.c_[rows["clean"], line(rows["clean"])]),
    }
    for name, chosen in kinds.items():
        made[f"network, {name} alone"] = (Scored(density, whole), seen_by(fitted(train, chosen, **SMALLER), chosen))
    for name, chosen in kinds.items():
        made[f"network, without {name}"] = (Scored(density, whole), seen_by(fitted(train, ~chosen, **SMALLER), ~chosen))
    quarter = {key: values[::4] for key, values in train.items()}
    fewer = fitted(quarter, every, **SMALLER)
    made["network, a quarter of the images"] = (Scored(density, whole), seen_by(fewer, every))
    made["network, without histories"] = (Pooled(density, whole), lambda rows: rows["clean"].astype(float))
    made["network on all features"] = (PhotoDetector(density, whole), lambda rows: rows["clean"].astype(float))
    made["larger network (the detector)"] = (
        PhotoDetector(density, fitted(train, every)),
        lambda rows: rows["clean"].astype(float),
    )
    return made


def kinds_of_features() -> dict[str, Array]:
    """Returns which features of a profile are of each kind, (F,) bool."""
    kind = np.full((3, profile.STATISTICS, profile.SCALES), "correlations", dtype=object)
    kind[:, 0] = "surprisal"
    kind[:, 1:5] = "moments of residuals"
    kind[:, 12:] = "distances of 0, 1 and 2 levels"
    shares, spectra = 3 * profile.SCALES, 3 * 2 * profile.BLOCK**2
    names = np.r_[kind.ravel(), ["shares of scales"] * shares, ["spectra"] * spectra]
    assert len(names) == profile.size_of_profile(3)
    return {name: names == name for name in dict.fromkeys(names)}


def fitted(train: Rows, chosen: Array, **settings: int) -> LikelihoodRatio:
    """Fits a ratio that sees only some features."""
    copies = [torch.from_numpy(train[f"perturbed{k}"] * chosen) for k in range(COPIES)]
    clean = torch.from_numpy(train["clean"] * chosen)
    return fit_ratio(clean, copies, train["label"], origins(train), NAMES, **settings)


def seen_by(ratio: LikelihoodRatio, chosen: Array) -> Callable[[Rows], Array]:
    """Returns what a detector sees whose score is another ratio, which sees only some features."""

    @torch.no_grad()
    def seen(rows: Rows) -> Array:
        return np.c_[rows["clean"], ratio(torch.from_numpy((rows["clean"] * chosen).astype(np.float32)))[0].numpy()]

    return seen


def linear(train: Rows) -> Callable[[Array], Array]:
    """Returns the log-odds of a logistic regression: perturbed against clean."""
    x = np.concatenate([train["clean"], *(train[f"perturbed{k}"] for k in range(COPIES))])
    scaler = StandardScaler().fit(x)
    y = np.repeat([0, 1], [len(train["clean"]), COPIES * len(train["clean"])])
    model = LogisticRegression(C=0.01, max_iter=300).fit(scaler.transform(x), y)
    return lambda profiles: model.decision_function(scaler.transform(profiles))


def attacked_rows(density: NeLLoC, folder: Path, limit: int, cache: Path | None) -> dict[str, Rows]:
    """Returns what detectors see of successfully attacked images, by attack."""
    classifier = imagenet_classifier("efficientnet-lite0")
    photographs = read_photographs(folder, classifier, limit=limit)
    made = attack_photographs(classifier, photographs, list(ATTACKS), cache=Cache(cache), log=print)
    found = {}
    for attack, result in made.items():
        with torch.no_grad():
            examined = [
                profile.examine(density, image[None])
                for image, succeeded in zip(result.images, result.succeeded, strict=True)
                if succeeded
            ]
        found[attack] = {
            "clean": torch.cat([one.profiles for one in examined]).numpy(),
            "bits": torch.cat([one.bits_per_dim for one in examined]).numpy(),
        }
    return found


def tested(detector: PhotoDetector, seen: Callable[[Rows], Array], test: Rows, attacked: dict[str, Rows]) -> Any:
    """Returns false alarms over all histories, and in the worst of them, and the shares of attacked images flagged."""
    flagged = detector.with_fpr(RATE).judge_profiles(seen(test), origins(test)).is_adversarial
    alarms = [float(flagged[test["label"] == label].mean()) for label in np.unique(test["label"])]
    png = Origin("PNG", 1, lossy=False)
    found = {
        attack: float(detector.judge_profiles(seen(rows), [png] * len(rows["bits"])).is_adversarial.mean())
        for attack, rows in attacked.items()
    }
    return {"false_alarms": float(np.mean(alarms)), "worst_history": max(alarms), "detected": found}


if __name__ == "__main__":
    main()
