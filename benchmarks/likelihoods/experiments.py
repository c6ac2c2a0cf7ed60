"""What the likelihood benchmark trains: models, data and settings, beside the published figures."""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One training.

    Attributes:
        data: A key of `DATA`.
        model: As `densities.build` takes it, without the event's shape.
        rows: The title of a row -> its published figure in nats, and how many orders it mixes.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        fit: Arguments of `training.train`.
        minutes: How long to train, whatever the number of epochs that this makes; None to train for `fit`'s epochs.
        tested: Number of test events; None for all.
    """

    data: str
    model: dict[str, Any]
    rows: dict[str, tuple[float | None, int]]
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    fit: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    tested: int | None = None


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
