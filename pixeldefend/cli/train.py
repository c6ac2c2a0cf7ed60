"""pixeldefend train: trains a density or a classifier."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ParameterError
from .options import Data, DataDir
from .output import say

Out = Annotated[Path, typer.Option(help="The folder for the model, metrics.csv and checkpoints.")]
Epochs = Annotated[int, typer.Option(min=1, help="The number of passes over the training events.")]
TrainingBatch = Annotated[int, typer.Option(min=1, help="The number of events in a batch, on each device.")]
LearningRate = Annotated[float, typer.Option(help="The highest learning rate.")]
Warmup = Annotated[
    int, typer.Option(min=0, help="The number of steps over which the learning rate rises to its highest value.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="The number of training events to use. The default is all.")]
Resume = Annotated[
    Path | None,
    typer.Option(help="The checkpoint from which to continue: last.ckpt in the --out folder of an earlier run."),
]
Precision = Annotated[
    str, typer.Option(help="The precision of the computation, as Lightning's Trainer takes it: 32-true, bf16-mixed ...")
]
Accelerator = Annotated[
    str, typer.Option(help="The kind of device, as Lightning's Trainer takes it: auto, cpu, gpu and so on.")
]
Devices = Annotated[
    int, typer.Option(min=1, help="The number of devices on this machine. Several devices train by DDP.")
]
Nodes = Annotated[
    int,
    typer.Option(
        min=1,
        help="The number of machines that run this command at the same time. The environment variables MASTER_ADDR, "
        "MASTER_PORT and NODE_RANK identify the machines.",
    ),
]
Seed = Annotated[int, typer.Option(help="The seed of all random numbers.")]


def train_density(
    data: Data,
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="The density: {densities}. By default pixelcnnpp, or that of --start.")
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="An argument of the density as NAME=VALUE, such as filters=32. The option may be repeated.",
        ),
    ] = [],  # noqa: B006
    start: Annotated[
        str | None,
        typer.Option(
            help="The density with whose weights training starts: a shipped detector ({detectors}), or the file of a "
            "density or a detector. --model and --set are then left out."
        ),
    ] = None,
    perturb: Annotated[
        bool,
        typer.Option(
            "--perturb",
            help="Learn from images with random synthetic perturbations instead of clean ones, for the statistic "
            "likelihood_ratio.",
        ),
    ] = False,
    corruption: Annotated[
        list[str],
        typer.Option(
            help="A benign corruption in your own pipeline: {corruptions}. 60 % of the training images go through one "
            "of these. The option may be repeated."
        ),
    ] = [],  # noqa: B006
    data_dir: DataDir = Path("data"),
    epochs: Epochs = 8,
    batch_size: TrainingBatch = 32,
    learning_rate: LearningRate = 1e-3,
    warmup: Warmup = 200,
    ema: Annotated[
        float, typer.Option(min=0, max=1, help="The decay of the moving average of the weights; 0 for no average.")
    ] = 0.999,
    clip: Annotated[float, typer.Option(min=0, help="The largest norm of the gradient.")] = 5.0,
    weight_decay: Annotated[float, typer.Option(min=0, help="The weight decay of AdamW.")] = 0.0,
    patience: Annotated[
        int,
        typer.Option(
            min=0,
            help="The number of epochs without a better validation loss after which training stops. The best weights "
            "are then saved. With 0, training runs for all epochs and saves the last weights.",
        ),
    ] = 0,
    length: Annotated[
        int, typer.Option(min=1, help="For text and audio: the number of characters or samples in one event.")
    ] = 256,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    seed: Seed = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a density on clean images by maximum likelihood.

    It writes OUT/density.safetensors.
    """
    from .. import training

    made = training.train_density(
        data,
        out,
        model=model,
        arguments=dict(assignment(item) for item in set_),
        start=start,
        perturb=perturb,
        corruptions=corruption,
        data_dir=data_dir,
        length=length,
        limit=limit,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        ema=ema,
        clip=clip,
        patience=patience,
        precision=precision,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        resume=resume,
        progress=sys.stderr.isatty(),
    )
    bits = made.metrics.get("bits_per_dim")
    figure = f"-log p(x) {made.metrics['nll']:.3f} nats" if bits is None else f"{bits:.3f} bits/dim"
    what = "images" if len(made.model.event_shape) == 3 else "events"
    say(f"{made.path}: {figure} on {made.held_out} held-out {what}")


def train_classifier(
    data: Data,
    out: Out,
    data_dir: DataDir = Path("data"),
    width: Annotated[int, typer.Option(min=1, help="The number of channels of the first stage.")] = 32,
    blocks: Annotated[int, typer.Option(min=1, help="The number of residual blocks in each of the three stages.")] = 1,
    epochs: Epochs = 8,
    batch_size: TrainingBatch = 128,
    learning_rate: LearningRate = 0.1,
    warmup: Warmup = 200,
    shift: Annotated[int, typer.Option(min=0, help="The largest random shift of a training image, in pixels.")] = 0,
    adversarial: Annotated[
        int,
        typer.Option(
            min=0,
            max=255,
            help="The radius of adversarial training, in 8-bit steps (Linf). The classifier is trained on attacked "
            "images within this radius. With 0, it is trained on the images themselves.",
        ),
    ] = 0,
    precision: Precision = "bf16-mixed",
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    seed: Seed = 0,
    limit: Limit = None,
    resume: Resume = None,
) -> None:
    """Train a residual network on labelled images.

    It writes OUT/classifier.safetensors.
    """
    from .. import training

    made = training.train_classifier(
        data,
        out,
        width=width,
        blocks=blocks,
        data_dir=data_dir,
        limit=limit,
        learning_rate=learning_rate,
        warmup=warmup,
        shift=shift,
        adversarial=adversarial,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        precision=precision,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        resume=resume,
        progress=sys.stderr.isatty(),
    )
    say(f"{made.path}: accuracy {made.metrics['accuracy']:.4f} on {made.held_out} held-out images")


def assignment(item: str) -> tuple[str, Any]:
    """Returns the name and the value of NAME=VALUE, where the value is JSON or a plain word."""
    name, equals, value = item.partition("=")
    if not equals:
        raise ParameterError(f"--set must be NAME=VALUE, got {item!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
