"""Test likelihoods of the whole family against the published ones: likelihoods.json and likelihoods.md.

    python benchmarks/likelihoods.py DATA                        # everything (about a day on 2 cores)
    python benchmarks/likelihoods.py DATA --only dna/nade        # one row, or several: --only dna/nade --only dna/made

DATA holds nade_binary/{dna,mushrooms,nips}.npz (the splits of the NADE and MADE papers: github.com/mgermain/MADE),
binarized_mnist.npz with train, valid and test (N, 784), uci/red_wine_nade.hdf5 (github.com/MarcCote/NADE),
text/tinyshakespeare.txt (github.com/karpathy/char-rnn) and fsdd/fsdd.npz (the free spoken digit dataset's clips as audio,
offset, digit and speaker). Models are chosen on validation data; the test data are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixeldefend.datasets import Images
from pixeldefend.densities import Density, OrderEnsemble, build
from pixeldefend.training import MaximumLikelihood, train

HERE = Path(__file__).parent


Split = tuple[Images, Images, Images]  # train, validation, test


@dataclass(frozen=True)
class Experiment:
    """One training. data: a key of `DATA`. model: as `densities.build` takes it, less the event's shape. fit: arguments
    of `training.train`. rows: title of a row -> (its published figure in nats, how many orders it mixes)."""

    data: str
    model: dict[str, Any]
    rows: dict[str, tuple[float | None, int]]
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    fit: dict[str, Any] = field(default_factory=dict)


def nade_binary(name: str) -> Callable[[Path], Split]:
    def read(folder: Path) -> Split:
        with np.load(folder / f"nade_binary/{name}.npz") as file:
            return as_split(*(file[f"{part}_data"] for part in ("train", "valid", "test")))

    return read


def binarized_mnist(folder: Path) -> Split:
    """Of the validation images 2,000, which were sorted by class, are enough to watch training on."""
    with np.load(folder / "binarized_mnist.npz") as file:
        parts = [file[part].reshape(-1, 1, 28, 28) for part in ("train", "valid", "test")]
    parts[1] = parts[1][np.random.RandomState(0).permutation(len(parts[1]))[:2000]]
    parts[2] = parts[2][np.random.RandomState(0).permutation(len(parts[2]))]
    return as_split(*parts)


def red_wine(fold: int) -> Callable[[Path], Split]:
    """One of NADE's ten folds, standardised by its own training rows."""

    def read(folder: Path) -> Split:
        import h5py

        raise NotImplementedError(h5py)

    return read


def as_split(*parts: np.ndarray, levels: int | None = 2) -> Split:
    train_, valid, test = (Images(torch.from_numpy(x), None, torch.arange(len(x)), levels) for x in parts)
    return train_, valid, test


DATA: dict[str, Callable[[Path], Split]] = {
    "DNA": nade_binary("dna"),
    "Mushrooms": nade_binary("mushrooms"),
    "NIPS-0-12": nade_binary("nips"),
    "binarized MNIST": binarized_mnist,
}

SMALL = dict(epochs=150, batch_size=50, patience=30)
LONG = dict(epochs=1500, batch_size=50, patience=400)
MNIST = dict(batch_size=100, precision="bf16-mixed", clip=10.0)

EXPERIMENTS: dict[str, Experiment] = {
    "dna/fvsbn": Experiment("DNA", dict(model="fvsbn"), {"FVSBN": (83.64, 1)}, 3e-3, fit=SMALL),
    "mnist/fvsbn": Experiment(
        "binarized MNIST", dict(model="fvsbn"), {"FVSBN": (97.45, 1)}, 1e-3, fit=MNIST | dict(epochs=10)
    ),
    "mnist/nade": Experiment(
        "binarized MNIST", dict(model="nade", hidden=500), {"NADE": (88.33, 1)}, 1e-2, fit=MNIST | dict(epochs=14)
    ),
    "mnist/eonade": Experiment(
        "binarized MNIST",
        dict(model="eonade", hidden=500),
        {"EoNADE, 1 layer": (87.71, 128)},
        fit=MNIST | dict(epochs=120),
    ),
    "mnist/eonade-2": Experiment(
        "binarized MNIST",
        dict(model="eonade", hidden=500, layers=2),
        {"EoNADE, 2 layers": (85.10, 128)},
        fit=MNIST | dict(epochs=120),
    ),
    "mnist/made": Experiment(
        "binarized MNIST", dict(model="made", hidden=[2000]), {"MADE": (88.40, 1)}, fit=MNIST | dict(epochs=40)
    ),
    "mnist/made-32": Experiment(
        "binarized MNIST",
        dict(model="made", hidden=[2000, 2000], masks=32, order_agnostic=False),
        {"MADE, 32 masks": (86.64, 32)},
        fit=MNIST | dict(epochs=60),
    ),
}


def run(name: str, data_dir: Path, keep: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """Trains and tests one experiment. Returns its rows of likelihoods.json."""
    experiment = EXPERIMENTS[name]
    training, validation, test = DATA[experiment.data](data_dir)
    torch.manual_seed(0)
    density = build({"event_shape": training.shape, **experiment.model})
    start = time.perf_counter()
    task = MaximumLikelihood(density, experiment.learning_rate, warmup=100, weight_decay=experiment.weight_decay)
    with tempfile.TemporaryDirectory() as scratch:
        out = keep / name.replace("/", "-") if keep is not None else Path(scratch)
        metrics = train(task, training, validation, out=out, progress=False, accelerator="cpu", **experiment.fit)
        density.save(out / "density.safetensors", metrics=metrics)
    seconds = time.perf_counter() - start
    print(f"{name}: validation {metrics['nll']:.2f} nats after {seconds:.0f} s", flush=True)
    test = test[:limit]
    found = []
    for title, (published, orderings) in experiment.rows.items():
        model = OrderEnsemble(density, orderings) if orderings > 1 else density  # type: ignore[arg-type]
        found.append(
            dict(
                data=experiment.data,
                model=title,
                nll_nats=round(mean_nll(model, test), 3),
                published=published,
                images=len(test),
                seconds=round(seconds),
                command=f"python benchmarks/likelihoods.py DATA --only {name}" + (f" --limit {limit}" if limit else ""),
            )
        )
    return found


def mean_nll(density: Density, images: Images, batch: int = 250) -> float:
    """Returns nats an event."""
    density.eval()
    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(images), batch):
            total -= density.log_prob(images[first : first + batch].float()).double().sum().item()
    return total / len(images)


def write(found: list[dict[str, Any]]) -> None:
    """Puts rows into likelihoods.json, in the place of older ones, and renders likelihoods.md."""
    path = HERE / "likelihoods.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    new = {(row["data"], row["model"]) for row in found}
    rows = sorted([row for row in rows if (row["data"], row["model"]) not in new] + found, key=place)
    path.write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["# Test likelihoods", ""]
    (HERE / "likelihoods.md").write_text("\n".join(lines) + "\n")


def place(row: dict[str, Any]) -> tuple[int, int]:
    """Where a row belongs in the table: as in `EXPERIMENTS`."""
    order = [(experiment.data, title) for experiment in EXPERIMENTS.values() for title in experiment.rows]
    return (order.index((row["data"], row["model"])), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="by default all, one after another")
    parser.add_argument("--keep", type=Path, help="folder to keep the trained models in")
    parser.add_argument("--limit", type=int, help="test on the first N events only")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in arguments.only or EXPERIMENTS:
        write(run(name, arguments.data, arguments.keep, arguments.limit))


if __name__ == "__main__":
    main()
