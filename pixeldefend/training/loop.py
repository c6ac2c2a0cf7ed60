"""The training loop, by Lightning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, SequentialSampler

from ..data import Images
from ..errors import ParameterError
from .tasks import Task


def train(
    task: Task,
    images: Images,
    validation: Images,
    *,
    out: Path,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    ema: float = 0.0,
    clip: float | None = None,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    patience: int = 0,
    resume: Path | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Trains `task.model` in place.

    The order of batches depends only on the seed and the epoch, so that a resumed run sees the same batches. With more
    than one device or node, training is distributed (DDP). When a run is resumed, the earlier metrics are kept as
    metrics.1.csv and so on.

    Args:
        task: The model and the loss.
        images: The training events.
        validation: The events on which the metrics are measured.
        out: The folder for metrics.csv and the checkpoint last.ckpt.
        epochs: The number of passes over the training events.
        batch_size: The number of events in a batch on each device.
        seed: The seed of the order of the events and of all other random numbers in training.
        ema: The decay of the moving average of the weights, which becomes the model; 0 for no average.
        clip: The largest norm of the gradient, or None.
        precision: The precision of the computation, as Lightning's Trainer takes it: "32-true", "bf16-mixed" ...
        accelerator: The kind of device, as Lightning's Trainer takes it: "auto", "cpu", "gpu" ...
        devices: The number of devices on this machine.
        nodes: The number of machines on which the same command runs.
        patience: The number of epochs without a better `task.best` after which training stops and the best weights are
            kept; 0 to train for all epochs and keep the last weights.
        resume: The checkpoint to continue from, or None.
        progress: Whether to show a progress bar.

    Returns:
        The metrics of the kept weights on `validation`, by name, and of the last steps of training if these weights
        are the last ones.

    Raises:
        ParameterError: If `resume` is no checkpoint or is of a finished run, if there is no such accelerator, or if
            there are too few training events.
        FileNotFoundError: If `resume` is missing.
    """
    if resume is not None:
        _check_checkpoint(resume)
    batch_size = min(batch_size, len(images))
    steps = epochs * (len(images) // (batch_size * devices * nodes))
    if steps < 1:
        raise ParameterError(
            f"{len(images)} training images are too few for {devices * nodes} devices and batches of {batch_size}"
        )
    task.warmup = min(task.warmup, steps // 5)
    metrics = out / "metrics.csv"
    if resume is not None and metrics.exists():  # the logger would delete the earlier metrics
        metrics.rename(out / f"metrics.{len(list(out.glob('metrics*.csv')))}.csv")
    torch.manual_seed(seed)  # nothing else is drawn from, so the random numbers of numpy and Python stay as they were
    callbacks: list[lightning.Callback] = [ModelCheckpoint(out, "last", enable_version_counter=False)]
    if ema:
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=_moving_average(ema)))
    monitor, mode = task.best
    if patience:
        best = ModelCheckpoint(out, "best", monitor, mode=mode, enable_version_counter=False)
        callbacks += [best, EarlyStopping(monitor, patience=patience, mode=mode)]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    try:
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=precision,  # type: ignore[arg-type]
            gradient_clip_val=clip,
            use_distributed_sampler=False,
            callbacks=callbacks,
            logger=CSVLogger(out, name=None, version=""),
            enable_progress_bar=progress,
            enable_model_summary=False,
            log_every_n_steps=50,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ValueError) as error:  # no such accelerator or precision, or too few devices
        raise ParameterError(str(error)) from None
    rank: dict[str, Any] = {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
    rows, held = _Rows(images), _Rows(validation)
    order: DistributedSampler[Any] = DistributedSampler(rows, seed=seed, drop_last=True, **rank)
    watched: DistributedSampler[Any] = DistributedSampler(held, shuffle=False, **rank)
    batches = DataLoader(rows, None, sampler=_Epochs(order, batch_size))
    held_out = DataLoader(held, None, sampler=BatchSampler(watched, 4 * batch_size, drop_last=False))
    trainer.fit(task, batches, held_out, ckpt_path=resume, weights_only=True)
    if not trainer.callback_metrics:
        raise ParameterError(
            f"{resume} has already been trained for {epochs} epochs; set a larger number of epochs to continue"
        )
    if not trainer.is_global_zero:  # the other processes of DDP hold the same model, and have nothing left to do
        raise SystemExit(0)
    task.model.eval()
    if patience:
        task.load_state_dict(torch.load(out / "best.ckpt", weights_only=True)["state_dict"])
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        everything = BatchSampler(SequentialSampler(held), 4 * batch_size, drop_last=False)
        return dict(trainer.validate(task, DataLoader(held, None, sampler=everything), verbose=False)[0])
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Returns an exponential average, over fewer steps at first: a short run must not keep its initial weights."""

    def average(averaged: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        return torch.lerp(averaged, weight, max(1 - decay, 9 / (10 + int(steps))))

    return average


def _check_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        whole = "state_dict" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises errors of many types
        whole = False
    if not whole:
        raise ParameterError(f"{path} is not a training checkpoint: --resume must be OUT/last.ckpt")


class _Rows(Dataset[tuple[Tensor, ...]]):
    """A data set of whole batches of (events, labels), or of (events,) without labels, indexed by their positions."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: list[int]) -> tuple[Tensor, ...]:
        batch = self.images[torch.tensor(which)]
        return (batch.float(),) if batch.y is None else (batch.float(), batch.y)


class _Epochs(BatchSampler):
    """Yields whole batches, in an order that depends on the number of the epoch."""

    def __init__(self, order: DistributedSampler[Any], batch_size: int) -> None:
        super().__init__(order, batch_size, drop_last=True)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)  # type: ignore[union-attr]
