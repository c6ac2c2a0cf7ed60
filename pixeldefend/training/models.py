"""Trains a density or a classifier on a data set, and writes it to a file with its recipe and metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from ..classifier import ResNet
from ..data import DataSet, load_dataset
from ..densities import Autoregressive
from ..errors import DataError, ParameterError
from ..images.corruptions import check_corruption
from ..zoo import load_density, recipe_of
from .build import build_for
from .loop import train
from .tasks import Classification, MaximumLikelihood

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """The result of a training.

    Attributes:
        model: The trained model, in evaluation mode.
        path: The file that holds it.
        metrics: The metrics on the validation events, by name.
        recipe: The recipe in the file, from which the model can be trained again.
        held_out: The number of validation events.
    """

    model: Model
    path: Path
    metrics: dict[str, float]
    recipe: dict[str, Any]
    held_out: int


@torch.random.fork_rng(devices=[])  # whatever the caller draws on the CPU afterwards does not depend on the training
def train_density(
    data: str | DataSet,
    out: str | os.PathLike[str],
    *,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    start: str | os.PathLike[str] | None = None,
    perturb: bool = False,
    corruptions: Sequence[str] = (),
    data_dir: str | Path = "data",
    length: int = 256,
    limit: int | None = None,
    learning_rate: float = 1e-3,
    warmup: int = 200,
    weight_decay: float = 0.0,
    epochs: int = 8,
    batch_size: int = 32,
    seed: int = 0,
    ema: float = 0.999,
    clip: float = 5.0,
    patience: int = 0,
    precision: str = "bf16-mixed",
    **place: Any,
) -> Trained[Autoregressive]:
    """Trains a density on clean images by maximum likelihood and writes OUT/density.safetensors.

    Args:
        data: A data set, or its name as `load_dataset` takes it.
        out: The folder for the density, metrics.csv and checkpoints.
        model: A key of `pixeldefend.densities.DENSITIES`; None for "pixelcnnpp", or for the density of `start`.
        arguments: Arguments of the density, as `build_for` takes them.
        start: The density with whose weights training starts: the name of a shipped detector, or a file of a density or
            a detector. `model` and `arguments` are then left out. None for new weights.
        perturb: Whether the density learns from images with random synthetic perturbations (`images.perturbations`)
            instead of clean ones.
        corruptions: Keys of `pixeldefend.images.corruptions.CORRUPTIONS`, one of which changes each of 60 % of the
            training images, before any perturbation.
        data_dir: Where named data sets are kept.
        length: The number of characters of an event of text, or of samples of an event of audio.
        limit: Train on the first so many training events only.
        learning_rate: The highest learning rate.
        warmup: The number of steps over which the learning rate rises to it.
        weight_decay: The weight decay of AdamW.
        epochs: As `train` takes it.
        batch_size: As `train` takes it.
        seed: The seed of the first weights, and as `train` takes it.
        ema: As `train` takes it.
        clip: As `train` takes it.
        patience: As `train` takes it.
        precision: As `train` takes it.
        **place: Where and how it runs: accelerator, devices, nodes, resume and progress of `train`.

    Returns:
        The trained density. Its metrics on clean events are "nll" (nats) and, if it has bits, "bits_per_dim".

    Raises:
        DataError: If the data set cannot be read.
        ModelError: If `start` is damaged.
        ParameterError: If the density does not suit the data, or as `train` raises it.
        FileNotFoundError: If the checkpoint to resume from is missing.
    """
    events = load_dataset(data, data_dir, length=length) if isinstance(data, str) else data
    for corruption in corruptions:
        check_corruption(corruption)
    if (perturb or corruptions) and (len(events.train.shape) != 3 or events.train.levels != 256):
        raise ParameterError(f"only 8-bit images can be perturbed or corrupted, but {events.name} holds others")
    torch.manual_seed(seed)
    if start is None:
        density = build_for(events, model or "pixelcnnpp", **(arguments or {}))
    else:
        density = _started(start, [*([] if model is None else ["model"]), *(arguments or {})], events)
    schedule: dict[str, Any] = dict(
        epochs=epochs, batch_size=batch_size, seed=seed, ema=ema, clip=clip, patience=patience, precision=precision
    )
    task = MaximumLikelihood(density, learning_rate, warmup, weight_decay, perturb=perturb, corruptions=corruptions)
    metrics = train(task, events.train[:limit], events.validation, out=Path(out), **schedule, **place)
    recipe = dict(
        data=data if isinstance(data, str) else data.name,
        train_sha256=events.train.digest(),
        images=len(events.train[:limit]),
        length=length,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        **schedule,
    )
    if start is not None:
        recipe |= {"start": str(start), "recipe_of_start": recipe_of(start)}
    if perturb or corruptions:
        recipe |= {"perturb": perturb, "corruptions": list(corruptions)}
    path = Path(out) / "density.safetensors"
    density.save(path, recipe=recipe, metrics=metrics)
    return Trained(density, path, metrics, recipe, len(events.validation))


def _started(start: str | os.PathLike[str], given: list[str], events: DataSet) -> Autoregressive:
    """Returns the density with whose weights training starts; nothing else may be given to determine it."""
    if given:
        raise ParameterError(f"the weights to start with determine the density: leave out {', '.join(given)}")
    density = load_density(start)
    if not isinstance(density, Autoregressive) or not density.fits(events.train.shape):
        raise ParameterError(f"{start} models events of shape {density.event_shape}, {events.name} has others")
    return density.train()


@torch.random.fork_rng(devices=[])
def train_classifier(
    data: str | DataSet,
    out: str | os.PathLike[str],
    *,
    width: int = 32,
    blocks: int = 1,
    data_dir: str | Path = "data",
    limit: int | None = None,
    learning_rate: float = 0.1,
    warmup: int = 200,
    shift: int = 0,
    adversarial: int = 0,
    epochs: int = 8,
    batch_size: int = 128,
    seed: int = 0,
    precision: str = "bf16-mixed",
    **place: Any,
) -> Trained[ResNet]:
    """Trains a residual network on labelled images and writes OUT/classifier.safetensors.

    Args:
        data: A data set, or its name as `load_dataset` takes it.
        out: The folder for the classifier, metrics.csv and checkpoints.
        width: The number of channels of the first stage.
        blocks: The number of residual blocks in each of the three stages.
        data_dir: Where named data sets are kept.
        limit: Train on the first so many training images only.
        learning_rate: The highest learning rate.
        warmup: The number of steps over which the learning rate rises to it.
        shift: The largest random shift of a training image, in pixels.
        adversarial: The radius of adversarial training, in 8-bit steps (Linf); 0 for none.
        epochs: As `train` takes it.
        batch_size: As `train` takes it.
        seed: The seed of the first weights, and as `train` takes it.
        precision: As `train` takes it.
        **place: Where and how it runs: accelerator, devices, nodes, resume and progress of `train`.

    Returns:
        The trained classifier, with its metric "accuracy".

    Raises:
        DataError: If the data set cannot be read, or holds no labelled images.
        ParameterError: As `train` raises it.
        FileNotFoundError: If the checkpoint to resume from is missing.
    """
    images = load_dataset(data, data_dir) if isinstance(data, str) else data
    if images.train.y is None or len(images.train.shape) != 3:
        raise DataError(f"{images.name} has no labels, which a classifier needs")
    torch.manual_seed(seed)
    c, h, w = images.train.shape
    classifier = ResNet((c, h, w), classes=int(images.train.y.max()) + 1, width=width, blocks=blocks)
    schedule: dict[str, Any] = dict(epochs=epochs, batch_size=batch_size, seed=seed, precision=precision)
    task = Classification(classifier, learning_rate, warmup, shift, adversarial)
    metrics = train(task, images.train[:limit], images.validation, out=Path(out), **schedule, **place)
    recipe = dict(
        data=data if isinstance(data, str) else data.name,
        images=len(images.train[:limit]),
        learning_rate=learning_rate,
        warmup=warmup,
        shift=shift,
        adversarial=adversarial,
        **schedule,
    )
    path = Path(out) / "classifier.safetensors"
    classifier.save(path, recipe=recipe, metrics=metrics)
    return Trained(classifier, path, metrics, recipe, len(images.validation))
