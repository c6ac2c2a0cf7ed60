"""Makes the shipped detector of photographs from a trained density, step by step; every step can be resumed.

    python benchmarks/photo_detector.py profiles DENSITY RUNS FOLDER ...   # of training images, clean and perturbed
    python benchmarks/photo_detector.py calibrate DENSITY RUNS FOLDER ...  # profiles of calibration images
    python benchmarks/photo_detector.py release DENSITY RUNS               # fits the ratio, writes the detector
    python benchmarks/photo_detector.py test DENSITY RUNS FOLDER ...       # profiles of photographs of other sets
    python benchmarks/photo_detector.py measure DENSITY RUNS               # how many of these the detector flags

Several processes may share a step: --share 0/2 and --share 1/2.
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from release_weights import WEIGHTS, write_card
from torch import Tensor

from pixeldefend.densities import NeLLoC, load
from pixeldefend.detectors import PhotoDetector
from pixeldefend.detectors.by_history import UNKNOWN
from pixeldefend.detectors.photo import MIN_SIDE
from pixeldefend.errors import PixelDefendError
from pixeldefend.images import Origin
from pixeldefend.images.perturbations import perturbed
from pixeldefend.scores.profile import examine
from pixeldefend.training.photographs import AS_IT_CAME, NAMES, photographs, with_history
from pixeldefend.training.ratio import fit_ratio
from pixeldefend.zoo import load_detector, recipe_of

COPIES = 1  # perturbed copies of each training image
ORIGINALS = 8  # further crops of a photograph whose EXIF names its camera: such files are few, and differ most
HISTORIES = {"train": 4, "calibration": len(NAMES), "test": len(NAMES)}  # of each photograph, drawn at once
ROUNDS = {"train": 2, "calibration": 1, "test": 1}  # how often they are drawn
SIDES = {"train": (72, 320), "calibration": (64, 512), "test": (64, 640)}  # of the crops, whose logarithms are uniform
# each photograph calibrates this history twice, since images with it are often taken for others, which leaves few
OFTEN_MISTAKEN = "sharpened"
GRID = 16  # crops begin on the grid of JPEG, as the images of files do
# these are shown in examples/, so nothing is fitted on them
EXAMPLES = {"Nokia 3110c (Mobile Phone).jpg", "Sony DCR-PC110E (2).jpg"}
IMAGES_A_FILE = 64
RATES = (0.001, 0.01, 0.05)
RESULTS = Path(__file__).parent / "results" / "photo_false_alarms.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["profiles", "calibrate", "release", "test", "measure"])
    parser.add_argument("density")
    parser.add_argument("runs", type=Path)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--share", default="0/1")
    arguments = parser.parse_args()
    density = load(arguments.density)
    assert isinstance(density, NeLLoC)
    torch.set_num_threads(1)
    if arguments.step == "release":
        release(density, arguments.density, arguments.runs)
        return
    if arguments.step == "measure":
        measure(arguments.runs)
        return
    part = {"profiles": "train", "calibrate": "calibration", "test": "test"}[arguments.step]
    index, of = map(int, arguments.share.split("/"))
    paths = [path for path in photographs(arguments.folders, part) if path.name not in EXAMPLES]
    write_profiles(density, paths, part, arguments.runs / part, index, of)


def release(density: NeLLoC, density_path: str, runs: Path) -> None:
    """Fits the ratio, calibrates the detector, and writes it with its card."""
    train, held = read_profiles(runs / "train"), read_profiles(runs / "calibration")
    copies = [torch.from_numpy(train[f"perturbed{k}"]) for k in range(COPIES)]
    ratio = fit_ratio(torch.from_numpy(train["clean"]), copies, train["label"], origins(train), NAMES)
    detector = PhotoDetector(density, ratio).fit_profiles(held["clean"].astype(float), origins(held))
    metrics = {"held_out_images": len(held["bits"]), "held_out_bits_per_dim": float(held["bits"].mean())}
    recipe = {
        "torch": torch.__version__,
        **recipe_of(density_path),
        "data": "photographs",
        "profiles_of_clean_images": len(train["clean"]),
        "profiles_of_perturbed_images": COPIES * len(train["clean"]),
    }
    path = WEIGHTS / "photo-detector.safetensors"
    detector.save(path, data="photographs", calibration={"images": len(held["clean"])}, metrics=metrics, recipe=recipe)
    write_card(path)


def measure(runs: Path) -> None:
    """Writes how many clean photographs of other sets the shipped detector flags, by history."""
    test = read_profiles(runs / "test")
    detector = load_detector("photo")
    assert isinstance(detector, PhotoDetector)
    profiles, files = test["clean"].astype(float), origins(test)
    flagged = {fpr: detector.with_fpr(fpr).judge_profiles(profiles, files) for fpr in RATES}
    estimated = np.array(flagged[RATES[0]].history)
    rows = []
    for label, name in enumerate(NAMES):
        here = test["label"] == label
        rates = {f"flagged_at_{fpr}": float(verdicts.is_adversarial[here].mean()) for fpr, verdicts in flagged.items()}
        right, unknown = (float((estimated[here] == what).mean()) for what in (name, UNKNOWN))
        rows.append({"history": name, "images": int(here.sum()), **rates, "named": right, "unknown": unknown})
    found = {
        "photographs": len(np.unique(test["photograph"])),
        "bits_per_dim": float(test["bits"].mean()),
        "rows": rows,
        "by_estimated_history": [
            {
                "history": name,
                "images": int((estimated == name).sum()),
                **{f"flagged_at_{f}": float(v.is_adversarial[estimated == name].mean()) for f, v in flagged.items()},
            }
            for name in (*NAMES, UNKNOWN)
            if (estimated == name).any()
        ],
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    for row in rows:
        print(row)


def read_profiles(folder: Path) -> dict[str, np.ndarray]:
    files = [np.load(file) for file in sorted(folder.glob("?????.npz"))]
    return {name: np.concatenate([file[name] for file in files]) for name in files[0].files}


def origins(profiles: dict[str, np.ndarray]) -> list[Origin | None]:
    read = map(json.loads, profiles["origin"])
    return [None if one is None else Origin(one["format"], one["lossy"], one["quality"]) for one in read]


def write_profiles(density: NeLLoC, paths: list[Path], part: str, out: Path, index: int, of: int) -> None:
    """Writes the profiles of photographs with histories, a file for every few photographs."""
    out.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(0).permutation(len(paths))
    for number, start in enumerate(range(0, len(order), IMAGES_A_FILE // HISTORIES[part])):
        file = out / f"{number:05d}.npz"
        if number % of != index or file.exists():
            continue
        found: dict[str, list[Any]] = {"clean": [], "bits": [], "label": [], "origin": [], "photograph": []}
        copies: list[list[np.ndarray]] = [[] for _ in range(COPIES if part == "train" else 0)]
        for place in order[start : start + IMAGES_A_FILE // HISTORIES[part]]:
            for label, image, origin, seed in images_of(paths[place], int(place), part):
                profile, bits = profile_of(density, image)
                found["clean"].append(profile)
                found["bits"].append(bits)
                found["label"].append(label)
                found["origin"].append(json.dumps(None if origin is None else asdict(origin)))
                found["photograph"].append(int(place))
                for k, copy in enumerate(copies):
                    copy.append(profile_of(density, perturbed(image, seed=seed + k))[0])
        arrays = {name: np.array(values) for name, values in found.items()}
        arrays |= {f"perturbed{k}": np.array(copy) for k, copy in enumerate(copies)}
        np.savez(file.with_suffix(".tmp.npz"), **arrays)
        file.with_suffix(".tmp.npz").rename(file)


def images_of(path: Path, place: int, part: str) -> Iterator[tuple[int, Tensor, Origin | None, int]]:
    """Yields a photograph after different histories: the history, uint8 (1, 3, H, W), its origin, and a seed."""
    for number in range(ROUNDS[part]):
        rng = np.random.default_rng([place, len(part), number] if number else [place, len(part)])
        yield from with_histories(path, rng.choice(len(NAMES), HISTORIES[part], replace=False).tolist(), part, rng)
    if part != "test" and names_a_camera(path):
        rng = np.random.default_rng([place, len(part), ORIGINALS])
        yield from with_histories(path, [NAMES.index(AS_IT_CAME)] * ORIGINALS, part, rng)
    if part == "calibration":
        rng = np.random.default_rng([place, len(part), 1])
        yield from with_histories(path, [NAMES.index(OFTEN_MISTAKEN)], part, rng)


def with_histories(
    path: Path, labels: list[int], part: str, rng: np.random.Generator
) -> Iterator[tuple[int, Tensor, Origin | None, int]]:
    """Yields what `images_of` does, for these histories."""
    for label in labels:
        seed = int(rng.integers(2**31))
        try:
            image, origin = with_history(path, NAMES[label], seed=seed)
        except (PixelDefendError, OSError):
            continue
        image = cropped(image, SIDES[part], rng)
        if min(image.shape[:2]) >= MIN_SIDE:
            yield int(label), torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], origin, seed


def names_a_camera(path: Path) -> bool:
    """Returns whether the EXIF of a photograph names the maker of a camera."""
    try:
        with Image.open(path) as image:
            return bool(image.getexif().get(ExifTags.Base.Make))
    except (OSError, ValueError, SyntaxError):  # Pillow raises all three for damaged EXIF
        return False


def cropped(image: np.ndarray, sides: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Returns a random crop of an image, (H, W, 3), which is smaller if the image is."""
    height, width = (min(length, round(math.exp(rng.uniform(*np.log(sides))))) for length in image.shape[:2])
    top = GRID * int(rng.integers((image.shape[0] - height) // GRID + 1))
    left = GRID * int(rng.integers((image.shape[1] - width) // GRID + 1))
    return image[top : top + height, left : left + width]


@torch.no_grad()
def profile_of(density: NeLLoC, image: Tensor) -> tuple[np.ndarray, float]:
    examined = examine(density, image)
    return examined.profiles[0].numpy(), examined.bits_per_dim.item()


if __name__ == "__main__":
    main()
