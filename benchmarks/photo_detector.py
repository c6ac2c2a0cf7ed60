"""Makes the shipped detector of photographs from a trained density, step by step; every step can be resumed.

    python benchmarks/photo_detector.py profiles DENSITY RUNS FOLDER ...   # of training images, clean and perturbed
    python benchmarks/photo_detector.py calibrate DENSITY RUNS FOLDER ...  # profiles of calibration images
    python benchmarks/photo_detector.py release DENSITY RUNS               # fits the ratio, writes the detector

Several processes may share a step: --share 0/2 and --share 1/2.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from release_weights import WEIGHTS, write_card
from torch import Tensor

from pixeldefend.densities import NeLLoC, load
from pixeldefend.detectors import PhotoDetector
from pixeldefend.errors import PixelDefendError
from pixeldefend.images import Origin
from pixeldefend.scores.profile import examine
from pixeldefend.training.perturbations import perturbed
from pixeldefend.training.photographs import NAMES, photographs, with_history
from pixeldefend.training.ratio import fit_ratio

COPIES = 2  # perturbed copies of each training image
HISTORIES = {"train": 4, "calibration": 6}  # of each photograph
MOST_SIDE = 320  # of training images, which are crops of different sizes; calibration images are whole
IMAGES_A_FILE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["profiles", "calibrate", "release"])
    parser.add_argument("density")
    parser.add_argument("runs", type=Path)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--share", default="0/1")
    arguments = parser.parse_args()
    density = load(arguments.density)
    assert isinstance(density, NeLLoC)
    torch.set_num_threads(1)
    if arguments.step == "release":
        release(density, arguments.runs)
        return
    part = "train" if arguments.step == "profiles" else "calibration"
    index, of = map(int, arguments.share.split("/"))
    write_profiles(density, photographs(arguments.folders, part), part, arguments.runs / part, index, of)


def release(density: NeLLoC, runs: Path) -> None:
    """Fits the ratio, calibrates the detector, and writes it with its card."""
    train, held = read_profiles(runs / "train"), read_profiles(runs / "calibration")
    copies = [torch.from_numpy(train[f"perturbed{k}"]) for k in range(COPIES)]
    ratio = fit_ratio(torch.from_numpy(train["clean"]), copies, train["label"], origins(train), NAMES)
    detector = PhotoDetector(density, ratio).fit_profiles(held["clean"].astype(float), origins(held))
    path = WEIGHTS / "photo-detector.safetensors"
    detector.save(path)
    write_card(path)


def read_profiles(folder: Path) -> dict[str, np.ndarray]:
    files = [np.load(file) for file in sorted(folder.glob("?????.npz"))]
    return {name: np.concatenate([file[name] for file in files]) for name in files[0].files}


def origins(profiles: dict[str, np.ndarray]) -> list[Origin | None]:
    read = map(json.loads, profiles["origin"])
    return [None if origin is None else Origin(**origin) for origin in read]


def write_profiles(density: NeLLoC, paths: list[Path], part: str, out: Path, index: int, of: int) -> None:
    """Writes the profiles of photographs with histories, a file for every few photographs."""
    out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(paths))
    for number, start in enumerate(range(0, len(order), IMAGES_A_FILE // HISTORIES[part])):
        file = out / f"{number:05d}.npz"
        if number % of != index or file.exists():
            continue
        found: dict[str, list[Any]] = {"clean": [], "label": [], "origin": [], "photograph": []}
        copies: list[list[np.ndarray]] = [[] for _ in range(COPIES if part == "train" else 0)]
        for place in order[start : start + IMAGES_A_FILE // HISTORIES[part]]:
            for label, image, origin, seed in images_of(paths[place], int(place), part):
                found["clean"].append(profile_of(density, image))
                found["label"].append(label)
                found["origin"].append(json.dumps(None if origin is None else asdict(origin)))
                found["photograph"].append(int(place))
                for k, copy in enumerate(copies):
                    copy.append(profile_of(density, perturbed(image, seed=seed + k)))
        arrays = {name: np.array(values) for name, values in found.items()}
        arrays |= {f"perturbed{k}": np.array(copy) for k, copy in enumerate(copies)}
        np.savez(file.with_suffix(".tmp.npz"), **arrays)
        file.with_suffix(".tmp.npz").rename(file)


def images_of(path: Path, place: int, part: str) -> Iterator[tuple[int, Tensor, Origin | None, int]]:
    """Yields a photograph after different histories: the history, uint8 (1, 3, H, W), its origin, and a seed."""
    rng = np.random.default_rng([place, len(part)])
    for label in rng.choice(len(NAMES), HISTORIES[part], replace=False):
        seed = int(rng.integers(2**31))
        try:
            image, origin = with_history(path, NAMES[label], seed=seed)
        except (PixelDefendError, OSError):
            continue
        if part == "train":
            sides = [min(length, int(rng.integers(96, MOST_SIDE))) for length in image.shape[:2]]
            top, left = (int(rng.integers(length - side + 1)) for length, side in zip(image.shape, sides, strict=False))
            image = image[top : top + sides[0], left : left + sides[1]]
        if min(image.shape[:2]) >= 64:
            yield int(label), torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], origin, seed


@torch.no_grad()
def profile_of(density: NeLLoC, image: Tensor) -> np.ndarray:
    return examine(density, image).profiles[0].numpy()


if __name__ == "__main__":
    main()
