"""Compares the models of likelihoods as detectors on Fashion-MNIST: which detects attacks best.

    OMP_NUM_THREADS=1 python benchmarks/likelihoods/run.py DATA --keep RUNS --only fashion/fvsbn --only fashion/nade ...
    python benchmarks/compare_densities.py DATA RUNS

Every RUNS/fashion-NAME/density.safetensors is calibrated and measured on the same attacked images (the first 200 test
images, attacked through the shipped classifier). comparison.json and .md go to eval/results/family, and a grid of
samples of each to docs/samples.png.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from likelihoods import EXPERIMENTS
from matplotlib.figure import Figure

from pixeldefend import Detector, load_classifier
from pixeldefend.data import load_dataset
from pixeldefend.densities import Autoregressive, Density, load
from pixeldefend.eval import compare, write_comparison

ROOT = Path(__file__).parent.parent
ATTACKS = ["fgsm-2", "fgsm-8", "bim-2", "pgd-2", "pgd-8", "deepfool-linf", "deepfool-l2", "cw-l2"]
STATISTICS = ["bits_per_dim", "excess_surprisal", "low_entropy_excess_surprisal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--calibration", type=int, default=1000, help="clean images that calibrate each")
    arguments = parser.parse_args()

    models = {}
    for name, experiment in EXPERIMENTS.items():
        file = arguments.runs / name.replace("/", "-") / "density.safetensors"
        if name.startswith("fashion/") and file.is_file():
            models[next(iter(experiment.rows))] = load(file)
    data = load_dataset("fashion-mnist", arguments.data)
    data = dataclasses.replace(data, calibration=data.calibration[: arguments.calibration])
    detectors = {
        title: Detector(density, statistic="excess_surprisal").fit(data.calibration.x)
        for title, density in models.items()
    }
    results = compare(
        detectors,
        load_classifier("fashion-mnist"),
        data,
        attacks=arguments.attacks.split(","),
        statistics=STATISTICS,
        limit=arguments.limit,
        clean=1000,
        log=lambda line: print(line, flush=True),
    )
    write_comparison(results, ROOT / "eval" / "results" / "family")
    draw(models, ROOT / "docs" / "samples.png")


def draw(models: dict[str, Density], path: Path) -> None:
    """Draws sixteen samples of each model, one panel for each."""
    columns = 5
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, density) in zip(panels, models.items(), strict=False):
        assert isinstance(density, Autoregressive)
        x = density.sample(16, generator=torch.Generator().manual_seed(0)).clamp(0, 1)
        grid = torch.nn.functional.pad(x[:, 0], (1, 1, 1, 1), value=1).unflatten(0, (4, 4))
        panel.imshow(grid.permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray", vmin=0, vmax=1)
        panel.set_title(title, fontsize=9)
        print(f"sampled {title}", flush=True)
    for panel in panels:
        panel.set_axis_off()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
