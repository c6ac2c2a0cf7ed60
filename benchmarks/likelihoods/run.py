"""Test likelihoods of the whole family beside the published ones: likelihoods.json and likelihoods.md in results.

    python benchmarks/likelihoods/run.py DATA                    # everything (about five hours on 2 cores)
    python benchmarks/likelihoods/run.py DATA --only dna/nade    # one model; --only may be given several times

DATA holds nade_binary/{dna,mushrooms,nips}.npz (the splits of the NADE and MADE papers: github.com/mgermain/MADE),
binarized_mnist.npz with train, valid and test (N, 784), uci/red_wine_nade.hdf5 (github.com/MarcCote/NADE; needs h5py),
text/tinyshakespeare.txt (github.com/karpathy/char-rnn) and fsdd/fsdd.npz (the free spoken digit dataset's clips as
audio, offset and speaker); Fashion-MNIST is downloaded to it. The settings were chosen on validation data. The settings
of a few rows were changed after a first run, so their test data were looked at more than once. Times are of one core if
OMP_NUM_THREADS=1, and longer where other things ran beside.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from baselines import BASELINES
from data import DATA
from experiments import EXPERIMENTS
from torch import Tensor

from pixeldefend.data import Images
from pixeldefend.densities import Density, OrderEnsemble, build
from pixeldefend.markdown import table
from pixeldefend.training import MaximumLikelihood, train

RESULTS = Path(__file__).parent.parent / "results"


def run(name: str, data_dir: Path, keep: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """Trains and tests one experiment.

    Args:
        name: A key of `EXPERIMENTS`.
        data_dir: Where the data are.
        keep: Folder to keep the trained models in.
        limit: To test on the first so many events only.

    Returns:
        Its rows of likelihoods.json.
    """
    experiment = EXPERIMENTS[name]
    totals = dict.fromkeys(experiment.rows, 0.0)
    tested, seconds = 0, 0.0
    for training, validation, test in DATA[experiment.data](data_dir):
        torch.manual_seed(0)
        density = build({"event_shape": training.shape, **experiment.model})
        if training.levels == 2 and density.levels != 2 and "head" not in experiment.model:
            raise ValueError(f"{name} models {density.levels} levels, its data have 2")
        task = MaximumLikelihood(density, experiment.learning_rate, warmup=100, weight_decay=experiment.weight_decay)
        fit = dict(experiment.fit)
        start = time.perf_counter()
        if experiment.minutes is not None:
            training, fit["epochs"] = in_time(density, training, experiment.minutes, fit)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) if keep is None else keep / name.replace("/", "-")
            metrics = train(task, training, validation, out=out, progress=False, accelerator="cpu", **fit)
            density.save(out / "density.safetensors", metrics=metrics)
        seconds += time.perf_counter() - start
        print(f"{name}: validation {metrics['nll']:.2f} nats after {seconds:.0f} s", flush=True)
        test = test[: limit or experiment.tested]
        tested += len(test)
        for title, (_, orderings) in experiment.rows.items():
            if title in BASELINES:
                totals[title] += BASELINES[title](training, test).sum().item()
                continue
            model = OrderEnsemble(density, orderings) if orderings > 1 else density  # type: ignore[arg-type]
            totals[title] += nll(model, test).sum().item()
    sites = test.shape[0] if experiment.data.endswith(("a character", "a sample")) else 1
    return [
        row(name, experiment.data, title, totals[title] / tested / sites, published, tested, seconds, limit)
        for title, (published, _) in experiment.rows.items()
    ]


def row(
    name: str,
    data: str,
    title: str,
    nats: float,
    published: float | None,
    images: int,
    seconds: float,
    limit: int | None,
) -> dict[str, Any]:
    command = f"python benchmarks/likelihoods/run.py DATA --only {name}" + (f" --limit {limit}" if limit else "")
    numbers = dict(nll_nats=round(nats, 4), published=published, images=images, seconds=round(seconds))
    return dict(data=data, model=title, **numbers, command=command)


def nll(density: Density, images: Images, batch: int = 250) -> Tensor:
    """Computes -log p(x), (N,) nats; of images from their bits/dim, which count 8 bits more if dequantised."""
    density.eval()
    values = []
    with torch.inference_mode():
        for first in range(0, len(images), batch):
            x = density.to_support(images[first : first + batch].float())
            if x.ndim == 4:
                values.append(density.bits_per_dim(x) * x[0].numel() * math.log(2))
            else:
                values.append(-density.log_prob(x))
    return torch.cat(values).double()


def in_time(density: Density, training: Images, minutes: float, fit: dict[str, Any]) -> tuple[Images, int]:
    """Times a few steps of training. Returns as many training events and epochs as take so many minutes."""
    batch = training[: fit["batch_size"]].float()
    optimizer = torch.optim.AdamW(density.parameters(), 0.0)
    for step in range(8):
        if step == 3:
            start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=fit.get("precision") == "bf16-mixed"):
            loss = density.objective(density.to_support(batch, torch.rand_like(batch))).mean()
        loss.backward()
        optimizer.step()
    events = 60 * minutes * len(batch) * 5 / (time.perf_counter() - start)
    epochs = math.ceil(events / len(training))
    return training[: int(events / epochs)], epochs


# -- the files ---------------------------------------------------------------------------------------------------------


def write(found: list[dict[str, Any]]) -> None:
    """Puts rows into likelihoods.json, in the place of older ones, and renders likelihoods.md."""
    path = RESULTS / "likelihoods.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    new = {(row["data"], row["model"]) for row in found}
    order = [(experiment.data, title) for experiment in EXPERIMENTS.values() for title in experiment.rows]
    rows = [row for row in rows if (row["data"], row["model"]) in set(order) - new] + found
    rows.sort(key=lambda row: order.index((row["data"], row["model"])))
    path.write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "likelihoods.md").write_text(markdown(rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns one table for each data set."""
    intro = (
        "The tables compare the mean of -log p(x) over test data with the figures of the papers. "
        "`benchmarks/likelihoods/run.py DATA` made the measurements. Nats are per event, unless the heading says "
        "otherwise. Bits are per sub-pixel for images of 256 levels, and otherwise as the nats. Most nets are smaller "
        "than those of the papers, and were trained for minutes, at most an hour, on one core. The name of an ensemble "
        "gives its number of orders or masks."
    )
    header = ["model", "nats", "published", "off by", "bits", "tested on", "trained for", "command"]
    text = f"# Test likelihoods\n\n{intro}\n"
    for data in dict.fromkeys(row["data"] for row in rows):
        text += f"\n## {data}\n\n" + table(header, [cells(row) for row in rows if row["data"] == data])
    return text


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a row of the table."""
    nats, published = row["nll_nats"], row["published"]
    sites = {"Fashion-MNIST": 784, "CIFAR-10": 3072}.get(row["data"], 1)
    bits = "" if row["data"] == "red wine" else f"{nats / sites / math.log(2):.3f}"  # real numbers have none
    return [
        row["model"],
        f"{nats:.3f}" if nats < 20 else f"{nats:.2f}",
        "" if published is None else f"{published:.2f}",
        "" if published is None else f"{nats - published:+.2f} ({nats / published - 1:+.1%})",
        bits,
        f"{row['images']:,}",
        f"{row['seconds']:,} s",
        f"`--only {row['command'].split('--only ')[1]}`",
    ]


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
