"""Measures what the ratio of two densities, log q(x) - log p(x), owes to its parts.

    python benchmarks/ratio_ablation.py cifar10 --data cifar10 --corruption jpeg-75 --corruption darker-10% \
        --out runs/ratio --cache runs/cache

The first rows ask which density should know benign corruptions: p, of clean images, or q, of perturbed ones. All
densities start from the shipped one. The last rows ask whether one network can be both densities, told by a condition
which one to be. For these, gated PixelCNNs start from nothing, and learn from the same images.

No test image is used. The last validation images are attacked; the other ones count as clean. The table goes to
benchmarks/results/ratio_ablation.json.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from residual_ablation import ATTACKED, BATCH, attack_validation
from torch import Tensor

from pixeldefend.batching import in_batches
from pixeldefend.data import DataSet, Images, load_dataset
from pixeldefend.densities import Autoregressive, GatedPixelCNN
from pixeldefend.eval.detection import detection_rates
from pixeldefend.images import from_uint8
from pixeldefend.images.corruptions import corrupt
from pixeldefend.images.perturbations import perturbed
from pixeldefend.training.models import train_density
from pixeldefend.zoo import load_density

RESULTS = Path(__file__).parent / "results" / "ratio_ablation.json"
CLEAN = 2000  # untouched images
CORRUPTED = 500  # clean images, after each corruption
PLAIN = dict(accelerator="cpu", precision="32-true", progress=False)
LogDensity = Callable[[Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the shipped detector and classifier")
    parser.add_argument("--data", required=True, help="the data set, by name or as a file")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, default=20_000, help="that each density learns from")
    parser.add_argument("--corruption", action="append", required=True, help="that images may have undergone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the folder for the densities")
    parser.add_argument("--cache", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_dataset(arguments.data, arguments.data_dir)
    attacked = attack_validation(arguments, data, data.validation[-ATTACKED:])
    untouched = from_uint8(data.validation.x[:-ATTACKED][:CLEAN])
    benign = {name: corrupt(untouched[:CORRUPTED], name) for name in arguments.corruption}
    images = {"": untouched, **attacked, **benign}
    pairs = {**started(arguments, data), **conditioned(arguments, data)}
    known: dict[int, dict[str, np.ndarray]] = {}
    rows = []
    for name, (p, q) in pairs.items():
        for density in (p, q):
            if id(density) not in known:
                known[id(density)] = {key: values_of(density, x) for key, x in images.items()}
        ratio = {key: known[id(q)][key] - known[id(p)][key] for key in images}
        threshold = float(np.quantile(ratio[""], 0.99))
        detected = {key: detection_rates(ratio[""], ratio[key], {0.01: threshold}) for key in attacked}
        flagged = {key: float((ratio[key] > threshold).mean()) for key in benign}
        rows.append({"variant": name, "detected": detected, "flagged": flagged})
        print(name, {key: (r["auroc"], r["tpr_at_fpr_0.01"]) for key, r in detected.items()}, flagged, flush=True)
    found = {"data": data.name, "images": arguments.images, "attacked": ATTACKED, "rows": rows}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def started(arguments: argparse.Namespace, data: DataSet) -> dict[str, tuple[LogDensity, LogDensity]]:
    """Returns pairs (log p, log q) of densities that start from the shipped one."""
    shipped = load_density(arguments.name)
    found: dict[tuple[bool, bool], LogDensity] = {(False, False): shipped.log_prob}
    for perturb, corruptions in ((True, ()), (False, arguments.corruption), (True, arguments.corruption)):
        words = [word for word, is_said in (("perturbed", perturb), ("corrupted", bool(corruptions))) if is_said]
        density = trained(
            arguments.out / "-".join(words),
            data,
            start=arguments.name,
            perturb=perturb,
            corruptions=corruptions,
            limit=arguments.images,
            epochs=1,
        )
        found[perturb, bool(corruptions)] = density.log_prob
    return {
        "neither knows corruptions": (found[False, False], found[True, False]),
        "p knows corruptions": (found[False, True], found[True, False]),
        "q knows corruptions": (found[False, False], found[True, True]),
        "both know corruptions": (found[False, True], found[True, True]),
    }


def conditioned(arguments: argparse.Namespace, data: DataSet) -> dict[str, tuple[LogDensity, LogDensity]]:
    """Returns pairs (log p, log q) of gated PixelCNNs: two networks of the same size, and one with a condition."""
    clean = data.train[: arguments.images]
    moved = replace(clean, x=perturbed(clean.x, seed=0))
    labels = torch.arange(2).repeat_interleave(len(clean.x))
    both = Images(torch.cat([clean.x, moved.x]), labels, torch.cat([clean.index, moved.index]), clean.levels)
    size = dict(filters=24, blocks=4)

    def made(name: str, images: Images, classes: int) -> GatedPixelCNN:
        validation = replace(data.validation, y=torch.zeros(len(data.validation), dtype=torch.int64))
        parts = replace(data, train=images, validation=validation)
        density = trained(
            arguments.out / name, parts, model="gated_pixelcnn", arguments={**size, "classes": classes}, epochs=2
        )
        assert isinstance(density, GatedPixelCNN)
        return density

    p, q = made("gated-clean", clean, 0), made("gated-perturbed", moved, 0)
    one = made("gated-both", both, 2)
    return {
        "two gated PixelCNNs": (p.log_prob, q.log_prob),
        "one gated PixelCNN with a condition": (one.conditioned(0).log_prob, one.conditioned(1).log_prob),
    }


def trained(out: Path, data: DataSet, **options: Any) -> Autoregressive:
    """Trains a density, or reads it if an interrupted run has trained it."""
    path = out / "density.safetensors"
    if path.exists():
        density = load_density(path)
        assert isinstance(density, Autoregressive)
        return density
    print(f"== {out.name}", flush=True)
    return train_density(data, out, **options, **PLAIN).model


@torch.no_grad()
def values_of(log_density: LogDensity, x: Tensor) -> np.ndarray:
    return torch.cat(list(in_batches(log_density, x, BATCH))).double().numpy()


if __name__ == "__main__":
    main()
