"""Test likelihoods of the whole family beside the published ones: likelihoods.json and likelihoods.md.

    python benchmarks/likelihoods.py DATA                        # everything (about five hours on 2 cores)
    python benchmarks/likelihoods.py DATA --only dna/nade        # one model; --only may be given several times

DATA holds nade_binary/{dna,mushrooms,nips}.npz (the splits of the NADE and MADE papers: github.com/mgermain/MADE),
binarized_mnist.npz with train, valid and test (N, 784), uci/red_wine_nade.hdf5 (github.com/MarcCote/NADE; needs h5py),
text/tinyshakespeare.txt (github.com/karpathy/char-rnn) and fsdd/fsdd.npz (the free spoken digit dataset's clips as
audio, offset and speaker); Fashion-MNIST is downloaded to it. Settings were chosen on validation data; of a few rows,
whose settings were changed after a first run, the test data were looked at more than once. Times are of one core if
OMP_NUM_THREADS=1, and longer where other things ran beside.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import string
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixeldefend.data import Images, load_dataset, mu_law_decode, mu_law_encode
from pixeldefend.densities import Density, OrderEnsemble, build
from pixeldefend.training import MaximumLikelihood, train

HERE = Path(__file__).parent
Split = tuple[Images, Images, Images]  # train, validation, test


@dataclass(frozen=True)
class Experiment:
    """One training. data: a key of `DATA`. model: as `densities.build` takes it, less the event's shape. rows: title of
    a row -> (its published figure in nats, how many orders it mixes). fit: arguments of `training.train`. minutes: to
    train for, whatever the number of epochs that this makes. tested: on the first so many test events."""

    data: str
    model: dict[str, Any]
    rows: dict[str, tuple[float | None, int]]
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    fit: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    tested: int | None = None


# -- data --------------------------------------------------------------------------------------------------------------


def nade_binary(name: str) -> Callable[[Path], list[Split]]:
    def read(folder: Path) -> list[Split]:
        with np.load(folder / f"nade_binary/{name}.npz") as file:
            return [as_split(*(file[f"{part}_data"] for part in ("train", "valid", "test")))]

    return read


def binarized_mnist(folder: Path) -> list[Split]:
    """Of the validation images, which were sorted by class, 1,000 are enough to watch training on."""
    with np.load(folder / "binarized_mnist.npz") as file:
        parts = [255 * file[part].reshape(-1, 1, 28, 28) for part in ("train", "valid", "test")]
    parts[1] = parts[1][np.random.RandomState(0).permutation(len(parts[1]))[:1000]]
    parts[2] = parts[2][np.random.RandomState(0).permutation(len(parts[2]))]
    return [as_split(*parts)]


def red_wine(folder: Path) -> list[Split]:
    """NADE's ten folds: of the nine parts of the training rows eight train and one validates. Each fold is standardised
    by its training rows, as in the paper."""
    import h5py

    splits = []
    with h5py.File(folder / "uci/red_wine_nade.hdf5") as file:
        for fold in range(1, 11):
            training = [file[f"folds/{fold}/training/{part}/data"][:] for part in range(1, 10)]
            test = file[f"folds/{fold}/tests/1/data"][:]
            rows = np.concatenate(training[:8])
            mean, deviation = rows.mean(0), rows.std(0)
            splits.append(as_split(*((x - mean) / deviation for x in (rows, training[8], test)), levels=None))
    return splits


def shakespeare(folder: Path) -> list[Split]:
    """Pieces of 256 characters; the last tenth tests, in pieces of 1,024, and the twentieth before it validates."""
    x = np.frombuffer((folder / "text/tinyshakespeare.txt").read_bytes(), np.uint8)
    vocabulary, x = np.unique(x, return_inverse=True)
    cuts = int(0.85 * len(x)), int(0.9 * len(x))
    lengths = (256, 256, 1024)
    parts = [
        part[: len(part) // length * length].reshape(-1, length).astype(np.uint8)
        for part, length in zip(np.split(x, cuts), lengths, strict=True)
    ]
    return [as_split(*parts, levels=len(vocabulary))]


def spoken_digits(folder: Path) -> list[Split]:
    """8-bit mu-law in pieces of 1,024 samples (an eighth of a second); the last speaker tests, of the others every 20th
    clip validates."""
    with np.load(folder / "fsdd/fsdd.npz") as file:
        audio, offset, speaker = file["audio"], file["offset"], file["speaker"]
    pieces: list[list[np.ndarray]] = [[], [], []]
    for i, who in enumerate(speaker):
        clip = torch.from_numpy(audio[offset[i] : offset[i + 1]] / np.float32(32768))
        codes = (255 * mu_law_encode(clip)).round().to(torch.uint8).numpy()
        part = 2 if who == speaker.max() else 1 if i % 20 == 0 else 0
        pieces[part].append(codes[: len(codes) // 1024 * 1024].reshape(-1, 1024))
    return [as_split(*(np.concatenate(part) for part in pieces), levels=256)]


def fashion_mnist(folder: Path) -> list[Split]:
    data = load_dataset("fashion-mnist", folder)
    return [(data.train, data.validation[:1000], data.test)]


def cifar10(folder: Path) -> list[Split]:
    """From cifar10.npz (x, y, x_test, y_test) if it is there, downloaded otherwise."""
    file = folder / "cifar10.npz"
    data = load_dataset(str(file) if file.exists() else "cifar10", folder)
    return [(data.train, data.validation[:500], data.test)]


def as_split(*parts: np.ndarray, levels: int | None = 2) -> Split:
    train_, valid, test = (Images(torch.from_numpy(x), None, torch.arange(len(x)), levels) for x in parts)
    return train_, valid, test


DATA: dict[str, Callable[[Path], list[Split]]] = {
    "DNA": nade_binary("dna"),
    "Mushrooms": nade_binary("mushrooms"),
    "NIPS-0-12": nade_binary("nips"),
    "binarized MNIST": binarized_mnist,
    "red wine": red_wine,
    "Tiny Shakespeare, a character": shakespeare,
    "spoken digits, a sample": spoken_digits,
    "Fashion-MNIST": fashion_mnist,
    "CIFAR-10": cifar10,
}


# -- experiments -------------------------------------------------------------------------------------------------------

EXPERIMENTS: dict[str, Experiment] = {}
SHAKESPEARE = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase


def add(name: str, data: str, model: dict[str, Any], rows: dict[str, tuple[float | None, int]], **rest: Any) -> None:
    EXPERIMENTS[name] = Experiment(data, model, rows, **rest)


SMALL = dict(epochs=150, batch_size=50, patience=30)
LONG = dict(epochs=570, batch_size=100, patience=150)
for key, data, published in (
    ("dna", "DNA", (83.64, 84.81, 82.31, 83.63, 79.66)),
    ("mushrooms", "Mushrooms", (10.27, 9.81, 9.69, 9.68, None)),
    ("nips", "NIPS-0-12", (276.88, 273.08, 272.39, 280.25, 277.28)),
):
    fvsbn, nade, eonade, published_made, published_made_16 = published
    if key == "mushrooms":
        rate, fit = 3e-2, dict(epochs=400, batch_size=200, patience=60)
    else:
        rate, fit = 3e-3, SMALL
    add(f"{key}/fvsbn", data, dict(model="fvsbn"), {"FVSBN": (fvsbn, 1)}, learning_rate=rate, fit=fit)
    hidden, rate, fit = {
        "dna": (50, 2e-3, SMALL),
        "mushrooms": (100, 1e-2, dict(epochs=200, batch_size=100, patience=40)),
        "nips": (500, 3e-4, dict(epochs=100, batch_size=20, patience=20)),
    }[key]
    add(f"{key}/nade", data, dict(model="nade", hidden=hidden), {"NADE": (nade, 1)}, learning_rate=rate, fit=fit)
    add(
        f"{key}/eonade",
        data,
        dict(model="eonade", hidden=500),
        {"EoNADE, 64 orders": (eonade, 64)},
        learning_rate=5e-3 if key == "mushrooms" else 1e-3,
        fit=LONG,
    )
    made, rate, decay, fit = {
        "dna": (dict(hidden=[16], direct=True), 3e-3, 0.0, dict(epochs=100, batch_size=50, patience=20)),
        "mushrooms": (dict(hidden=[500]), 5e-3, 0.0, dict(epochs=120, batch_size=100, patience=30)),
        "nips": (dict(hidden=[500]), 3e-4, 0.1, dict(epochs=80, batch_size=20, patience=15)),
    }[key]
    add(
        f"{key}/made",
        data,
        dict(model="made", **made),
        {"MADE": (published_made, 1)},
        learning_rate=rate,
        weight_decay=decay,
        fit=fit,
    )
    add(
        f"{key}/made-16",
        data,
        dict(model="made", hidden=[500], direct=key == "dna", masks=16, order_agnostic=True),
        {"MADE, 16 masks": (published_made_16, 16)},
        learning_rate=5e-3 if key == "mushrooms" else 5e-4,
        weight_decay=0.0 if key == "mushrooms" else 0.1,
        fit=dict(epochs=400, batch_size=50, patience=60),
    )

MNIST = dict(batch_size=100, precision="bf16-mixed", clip=10.0)


def mnist(
    name: str,
    model: dict[str, Any],
    rows: dict[str, tuple[float | None, int]],
    rate: float,
    epochs: int,
    tested: int | None = None,
    **fit: Any,
) -> None:
    fit = MNIST | dict(epochs=epochs) | fit
    add(f"mnist/{name}", "binarized MNIST", model, rows, learning_rate=rate, fit=fit, tested=tested)


mnist("fvsbn", dict(model="fvsbn"), {"FVSBN": (97.45, 1)}, 1e-2, 15, precision="32-true")
mnist("nade", dict(model="nade", hidden=500), {"NADE": (88.33, 1)}, 1e-2, 14)
mnist("eonade", dict(model="eonade", hidden=500), {"EoNADE, 1 layer, 32 orders": (87.71, 32)}, 1e-3, 80, tested=2000)
mnist(
    "eonade-2",
    dict(model="eonade", hidden=500, layers=2),
    {"EoNADE, 2 layers, 32 orders": (85.10, 32)},
    2e-3,
    80,
    tested=2000,
)
mnist("made", dict(model="made", hidden=[1000], direct=True), {"MADE": (88.40, 1)}, 1e-3, 16)
mnist(
    "made-32",
    dict(model="made", hidden=[500], direct=True, masks=32),
    {"MADE, 32 masks": (86.64, 32)},
    2e-3,
    60,
)
# two of these were trained with logistics over 256 levels, which put nearly all of their mass on the two that there are
PIXELCNN = dict(model="pixelcnn", head="bernoulli", filters=32, blocks=7)
ROW_LSTM = dict(model="row_lstm", head="logistics", filters=32, layers=2)
DIAGONAL_BILSTM = dict(model="diagonal_bilstm", head="logistics", filters=24, layers=1)
mnist("pixelcnn", PIXELCNN, {"PixelCNN": (81.30, 1)}, 6e-3, 8, batch_size=16)
mnist("row_lstm", ROW_LSTM, {"Row LSTM": (80.54, 1)}, 6e-3, 7, batch_size=16)
mnist("diagonal_bilstm", DIAGONAL_BILSTM, {"Diagonal BiLSTM, 1 layer": (80.75, 1)}, 2e-3, 3, batch_size=32)

add(
    "wine/rnade",
    "red wine",
    dict(model="rnade", hidden=50, mixtures=10),
    {"RNADE, mixtures of 10 normals": (9.36, 1)},
    learning_rate=3e-3,
    weight_decay=0.1,
    fit=dict(epochs=150, batch_size=50, patience=30),
)
add(
    "wine/rnade-1",
    "red wine",
    dict(model="rnade", hidden=50, mixtures=1),
    {"RNADE, one normal": (None, 1)},
    learning_rate=3e-3,
    weight_decay=0.1,
    fit=dict(epochs=150, batch_size=50, patience=30),
)
add(
    "wine/rnade-laplace",
    "red wine",
    dict(model="rnade", hidden=50, mixtures=10, head="laplacians"),
    {"RNADE, mixtures of 10 Laplacians": (None, 1)},
    learning_rate=3e-3,
    weight_decay=0.1,
    fit=dict(epochs=150, batch_size=50, patience=30),
)
add(
    "text/lstm",
    "Tiny Shakespeare, a character",
    dict(model="rnn", cell="lstm", hidden=384, vocabulary=SHAKESPEARE, dropout=0.2),
    {"char-RNN, LSTM": (None, 1)},
    learning_rate=4e-3,
    fit=dict(epochs=16, batch_size=16, precision="bf16-mixed", clip=5.0),
)
add(
    "digits/wavenet",
    "spoken digits, a sample",
    dict(model="wavenet", residual=32, skip=64, depth=9, stacks=2),
    {"WaveNet": (None, 1), "linear prediction, 16 taps": (None, 1), "order-1 table": (None, 1)},
    learning_rate=4e-3,
    fit=dict(epochs=3, batch_size=16, precision="bf16-mixed", clip=5.0),
)

# the same time for all, on one core; logistics at 8 bits where not said otherwise
for name, title, model in (
    ("fvsbn-binary", "FVSBN, binarised", dict(head="bernoulli")),
    ("fvsbn", "FVSBN", dict()),
    ("nade", "NADE", dict(hidden=100)),
    ("eonade", "EoNADE, a random order", dict(hidden=500)),
    ("rnade", "RNADE, dequantised", dict(hidden=100, mixtures=5)),
    ("made", "MADE", dict(hidden=[500])),
    ("rnn", "LSTM", dict(hidden=128)),
    ("row_lstm", "Row LSTM", dict(filters=32, layers=2)),
    ("diagonal_bilstm", "Diagonal BiLSTM", dict(filters=24, layers=1)),
    ("pixelcnn", "PixelCNN", dict(filters=32, blocks=5)),
    ("gated_pixelcnn", "Gated PixelCNN", dict(filters=32, blocks=5)),
    ("pixelcnnpp", "PixelCNN++", dict(filters=32, blocks=1, scales=2, mixtures=5)),
    ("wavenet", "WaveNet", dict(residual=32, skip=64, depth=8, stacks=1)),
):
    add(
        f"fashion/{name}",
        "Fashion-MNIST",
        {"model": name.split("-")[0], "head": "normals" if name == "rnade" else "logistics", **model},
        {title: (None, 1)},
        learning_rate=4e-3,
        fit=dict(batch_size=32, precision="bf16-mixed", clip=20.0),
        minutes=2.5,
        tested=1000,
    )

# which density for colour images: the same processor time for all
for name, title, model in (
    ("pixelcnn", "PixelCNN", dict(filters=48, blocks=6)),
    ("gated_pixelcnn", "Gated PixelCNN", dict(filters=36, blocks=6)),
    ("pixelcnnpp", "PixelCNN++, 3 scales", dict(filters=32, blocks=1, scales=3)),
    ("pixelcnnpp-1", "PixelCNN++, 1 scale", dict(filters=32, blocks=2, scales=1)),
    ("pixelcnnpp-1-1", "PixelCNN++, 1 scale, 1 stream", dict(filters=60, blocks=6, scales=1, streams=1)),
):
    add(
        f"cifar/{name}",
        "CIFAR-10",
        {"model": name.split("-")[0], "head": "logistics", "mixtures": 5, **model},
        {title: (None, 1)},
        learning_rate=2e-3,
        fit=dict(batch_size=8, precision="bf16-mixed", clip=50.0),
        minutes=4,
        tested=500,
    )


# -- one experiment ----------------------------------------------------------------------------------------------------


def run(name: str, data_dir: Path, keep: Path | None, limit: int | None) -> list[dict[str, Any]]:
    """Trains and tests one experiment. Returns its rows of likelihoods.json."""
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
    command = f"python benchmarks/likelihoods.py DATA --only {name}" + (f" --limit {limit}" if limit else "")
    numbers = dict(nll_nats=round(nats, 4), published=published, images=images, seconds=round(seconds))
    return dict(data=data, model=title, **numbers, command=command)


def nll(density: Density, images: Images, batch: int = 250) -> Tensor:
    """Returns (N,) nats: -log p(x), of 8-bit images as the density sees them in bits (8 more a site if dequantised)."""
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
    """Times a few steps of training. Returns so many of the training events, and epochs, that it takes `minutes`."""
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


# -- what WaveNet is compared with -------------------------------------------------------------------------------------


def order_1_table(training: Images, test: Images) -> Tensor:
    """How often each value follows each, plus a half. Returns (N,) nats."""
    counts = torch.full((257, 256), 0.5, dtype=torch.float64)  # the last row: at the start

    def pairs(images: Images) -> tuple[Tensor, Tensor]:
        x = images.x.long()
        return torch.cat([torch.full_like(x[:, :1], 256), x[:, :-1]], 1), x

    before, x = pairs(training)
    counts.view(-1).scatter_add_(0, (256 * before + x).flatten(), torch.ones(x.numel(), dtype=torch.float64))
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    return -log_p[pairs(test)].sum(1)


def linear_prediction(training: Images, test: Images, taps: int = 16, memory: int = 32) -> Tensor:
    """The amplitude is Laplace distributed around a linear function of the last `taps` amplitudes; its scale is a + b
    times the mean residual of the last `memory` samples. All fitted to the training data: the taps by least squares, a
    and b by likelihood on a grid. Its mass in every bin of the mu-law code is what is scored. Returns (N,) nats."""

    def windows(audio: Tensor) -> Tensor:
        return torch.nn.functional.pad(audio, (taps, 0))[:, :-1].unfold(1, taps, 1)  # (N, T, taps)

    def residuals(audio: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predicted = windows(audio) @ weights
        size = (audio - predicted).abs()
        total = torch.nn.functional.pad(size.cumsum(1), (memory + 1, 0))[:, :-1]
        recent = (total[:, memory:] - total[:, :-memory])[:, : audio.shape[1]] / memory
        return predicted, recent, size

    codes = torch.arange(256, dtype=torch.float64) / 255
    edges = mu_law_decode((codes[1:] + codes[:-1]) / 2)
    edges = torch.cat([torch.tensor([-math.inf]), edges, torch.tensor([math.inf])])

    def score(x: Tensor, predicted: Tensor, scale: Tensor) -> Tensor:
        law = torch.distributions.Laplace(predicted, scale)
        low, high = edges[x.long()], edges[x.long() + 1]
        mass = law.cdf(high.clamp(-2, 2)) - law.cdf(low.clamp(-2, 2))
        return -mass.clamp(min=1e-12).log()

    audio = mu_law_decode(training.x.double() / 255)
    fit = windows(audio).flatten(0, 1)
    weights = torch.linalg.lstsq(fit.T @ fit + 1e-6 * torch.eye(taps), fit.T @ audio.flatten()).solution
    some = training.x[::10]
    predicted, recent, _ = residuals(audio[::10], weights)
    grid = [(a, b) for a in (1e-4, 3e-4, 1e-3, 3e-3) for b in (0.3, 0.6, 0.8, 1.0, 1.3)]
    a, b = min(grid, key=lambda ab: score(some, predicted, ab[0] + ab[1] * recent).mean().item())
    predicted, recent, _ = residuals(mu_law_decode(test.x.double() / 255), weights)
    return score(test.x, predicted, a + b * recent).sum(1)


BASELINES = {"order-1 table": order_1_table, "linear prediction, 16 taps": linear_prediction}


# -- the files ---------------------------------------------------------------------------------------------------------


def write(found: list[dict[str, Any]]) -> None:
    """Puts rows into likelihoods.json, in the place of older ones, and renders likelihoods.md."""
    path = HERE / "likelihoods.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    new = {(row["data"], row["model"]) for row in found}
    order = [(experiment.data, title) for experiment in EXPERIMENTS.values() for title in experiment.rows]
    rows = [row for row in rows if (row["data"], row["model"]) in set(order) - new] + found
    rows.sort(key=lambda row: order.index((row["data"], row["model"])))
    path.write_text(json.dumps(rows, indent=1) + "\n")
    (HERE / "likelihoods.md").write_text(markdown(rows))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns one table a data set."""
    intro = (
        "Negative log-likelihood of test data, as `benchmarks/likelihoods.py DATA` measured it, beside the figures "
        "of the papers. Nats are an event's, unless the heading says otherwise; bits are a sub-pixel's for images of "
        "256 levels. Most nets are smaller than the papers' and were trained for minutes, at most an hour, on one "
        "core. Of an ensemble, the number of orders or masks is in its name."
    )
    lines = ["# Test likelihoods", "", intro, ""]
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += [f"## {data}", "", "| model | nats | published | off by | bits | tested on | trained for | command |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for row in rows:
            if row["data"] == data:
                lines.append(line(row))
        lines.append("")
    return "\n".join(lines)


def line(row: dict[str, Any]) -> str:
    nats, published = row["nll_nats"], row["published"]
    sites = {"Fashion-MNIST": 784, "CIFAR-10": 3072}.get(row["data"], 1)
    cells = [row["model"], f"{nats:.3f}" if nats < 20 else f"{nats:.2f}"]
    cells += (
        ["", ""]
        if published is None
        else [f"{published:.2f}", f"{nats - published:+.2f} ({nats / published - 1:+.1%})"]
    )
    bits = "" if row["data"] == "red wine" else f"{nats / sites / math.log(2):.3f}"  # real numbers have none
    cells += [bits, f"{row['images']:,}", f"{row['seconds']:,} s"]
    only = row["command"].split("--only ")[1]
    return "| " + " | ".join([*cells, f"`--only {only}`"]) + " |"


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
