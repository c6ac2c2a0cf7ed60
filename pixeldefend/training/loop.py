"""Training by Lightning: densities by maximum likelihood, classifiers by cross-entropy.

The dependency is the extra `train`: pip install "pixeldefend[train]".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, SequentialSampler

from ..data import DataSet, Images
from ..densities import DENSITIES, Autoregressive, Density, build
from ..errors import ParameterError

OF_ROWS = ("fvsbn", "nade", "eonade", "rnade", "made", "rnn", "wavenet")  # those that model more than images


def build_for(data: DataSet, model: str, /, **arguments: Any) -> Autoregressive:
    """data: what is to be modelled. Returns the untrained density for events of its shape, with the conditionals that
    suit its values, unless `arguments` name a `head`: a Bernoulli for 2 levels, a discretized mixture of logistics for
    256, a categorical distribution for text and other numbers of levels, a mixture of normals for real numbers and for
    RNADE.

    A model of two levels may be had for 8-bit images, which it sees binarised, and one of real numbers, which sees them
    dequantised (`Density.to_support`). Raises ParameterError as `build` does, and if the head has other values than the data.
    """
    levels, shape = data.train.levels, data.train.shape
    for name in ("model", "event_shape"):
        if name in arguments:
            raise ParameterError(f"{name} is given by the data and --model, it cannot be set to {arguments[name]!r}")
    if len(shape) != 3 and model in DENSITIES and model not in OF_ROWS:
        raise ParameterError(f"{model} models images, {data.name} holds rows of {shape[0]}: take {', '.join(OF_ROWS)}")
    if model == "pixelcnnpp" and levels != 256:
        raise ParameterError(
            f"pixelcnnpp models 8-bit images, {data.name} holds images of {levels} levels: take pixelcnn"
        )
    suited = {2: "bernoulli", 256: "logistics", None: "normals"}.get(levels, "categorical")
    if data.vocabulary is not None:  # characters have no order, however many they are
        suited = "categorical"
    elif model == "rnade":
        suited = "normals"
    arguments = {"head": suited, **arguments}
    if arguments["head"] == "categorical" and levels not in (None, 256):
        arguments.setdefault("levels", levels)
    if data.vocabulary is not None and model in ("rnn", "wavenet"):
        arguments["vocabulary"] = data.vocabulary
    density = build({"model": model, "event_shape": shape, **arguments})
    assert isinstance(density, Autoregressive)
    if getattr(density, "classes", 0) and data.train.y is None:
        raise ParameterError(f"{data.name} has no labels, from which {model} could learn classes")
    if density.levels == levels or (len(shape) == 3 and levels == 256 and density.levels in (2, None)):
        return density
    holds, models = ("real numbers" if n is None else f"{n} levels" for n in (levels, density.levels))
    raise ParameterError(f"{data.name} holds {holds}, but the head {arguments['head']!r} models {models}")


class Task(lightning.LightningModule):
    """What both trainings share: a linear warm-up, then a cosine down to nothing.

    best: the metric that tells how good the model is, and whether that is its "min" or its "max".
    """

    best: tuple[str, str]

    def __init__(self, model: nn.Module, learning_rate: float, warmup: int) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.warmup = warmup

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            return 0.5 * (1 + math.cos(math.pi * min(1, (step - self.warmup) / max(1, steps - self.warmup))))

        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer(self) -> torch.optim.Optimizer:
        raise NotImplementedError


class MaximumLikelihood(Task):
    """Minimises -log p(x), or what the model's `objective` puts in its place, a site and in bits. A model of classes
    learns from the labels too."""

    model: Density
    best = ("nll", "min")

    def __init__(self, model: Density, learning_rate: float, warmup: int, weight_decay: float = 0.0) -> None:
        super().__init__(model, learning_rate, warmup)
        self.weight_decay = weight_decay

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        x = self.model.to_support(batch[0], noise=torch.rand_like(batch[0]))
        labelled = len(batch) > 1 and getattr(self.model, "classes", 0) > 0
        nats = self.model.objective(x, batch[1]) if labelled else self.model.objective(x)  # type: ignore[call-arg]
        self.log("train_nll", nats.mean(), prog_bar=True)
        return nats.mean() / (x[0].numel() * math.log(2))

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        x = self.model.to_support(batch[0])
        log_prob = self.model.log_prob(x)
        self.log("nll", -log_prob.mean(), prog_bar=True, sync_dist=True)
        shape = tuple(x.shape[1:])
        if self.model.has_bits(shape):
            bits = self.model.in_bits_per_dim(log_prob, shape)
            self.log("bits_per_dim", bits.mean(), prog_bar=True, sync_dist=True)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=self.weight_decay)


class Classification(Task):
    """Minimises cross-entropy on images that are mirrored, and moved by up to `shift` pixels, at random; with
    `adversarial`, on the worst that projected gradient descent finds within so many 8-bit steps of each."""

    best = ("accuracy", "max")

    def __init__(
        self, model: nn.Module, learning_rate: float, warmup: int, shift: int = 0, adversarial: int = 0
    ) -> None:
        super().__init__(model.to(memory_format=torch.channels_last), learning_rate, warmup)
        self.shift, self.adversarial = shift, adversarial

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        x = shifted(mirrored(x), self.shift)
        if self.adversarial:
            x = worst_within(self.model, x, y, self.adversarial / 255)
        loss = F.cross_entropy(self.model(x), y, label_smoothing=0.05)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, y = batch
        accuracy = (self.model(x).argmax(1) == y).float().mean()
        self.log("accuracy", accuracy, prog_bar=True, sync_dist=True)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def worst_within(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 3) -> Tensor:
    """x: (N, C, H, W) in [0, 1]. y: (N,) the right classes. Returns images within eps of x, in Linf, with a higher
    cross-entropy: by projected gradient descent from a random start (Madry et al. 2018), in a few long steps."""
    moved = x + eps * (2 * torch.rand_like(x) - 1)
    for _ in range(steps):
        moved = moved.clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = x + (moved.detach() + 2 * eps / steps * gradient.sign() - x).clamp(-eps, eps)
    return moved.clamp(0, 1).detach()


def mirrored(x: Tensor) -> Tensor:
    """x: (N, C, H, W). Returns it with each image mirrored left to right, or not, at random."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def shifted(x: Tensor, most: int) -> Tensor:
    """x: (N, C, H, W). Returns it with each image moved by up to `most` pixels up or down and left or right, at random;
    zeros come in."""
    if not most:
        return x
    n, _, h, w = x.shape
    padded = F.pad(x, (most, most, most, most))
    rows, columns = (torch.randint(2 * most + 1, (n, 1), device=x.device) for _ in range(2))
    rows, columns = rows + torch.arange(h, device=x.device), columns + torch.arange(w, device=x.device)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


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
    """Trains `task.model` in place and returns the last metrics on `validation`.

    out: folder for metrics.csv and the checkpoint last.ckpt, from which `resume` goes on: the order of the images
    depends on seed and epoch alone. ema: decay of the weights' moving average, which becomes the model (0: none).
    clip: largest gradient norm. precision, accelerator, devices: as Lightning's Trainer takes them ("bf16-mixed",
    "gpu", 2 ...); nodes: machines, each with so many devices, on which the same command runs; more than one device or
    node trains by DDP. patience: epochs without a better `task.best` on `validation`
    after which to stop; the best weights are kept then (0: all epochs and the last weights). Raises FileNotFoundError
    if `resume` is missing, ValueError if it is no checkpoint or has had all its epochs, if there is no such
    accelerator, or if the images are too few. The metrics before a resumption are kept as metrics.1.csv ...
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
    if resume is not None and metrics.exists():  # the logger would delete what was measured before
        metrics.rename(out / f"metrics.{len(list(out.glob('metrics*.csv')))}.csv")
    lightning.seed_everything(seed, verbose=False)
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
    except MisconfigurationException as error:  # no such accelerator, or not so many
        raise ParameterError(str(error)) from None
    rank: dict[str, Any] = {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
    rows, held = _Rows(images), _Rows(validation)
    order: DistributedSampler[Any] = DistributedSampler(rows, seed=seed, drop_last=True, **rank)
    watched: DistributedSampler[Any] = DistributedSampler(held, shuffle=False, **rank)
    batches = DataLoader(rows, None, sampler=_Epochs(order, batch_size))
    held_out = DataLoader(held, None, sampler=BatchSampler(watched, 4 * batch_size, drop_last=False))
    trainer.fit(task, batches, held_out, ckpt_path=resume, weights_only=True)
    if not trainer.callback_metrics:
        raise ParameterError(f"{resume} has already been trained for {epochs} epochs; ask for more to go on")
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
    """An exponential one, over fewer steps at first: a short run must not keep its untrained weights."""

    def average(averaged: Tensor, weight: Tensor, steps: Tensor | int) -> Tensor:
        return torch.lerp(averaged, weight, max(1 - decay, 9 / (10 + int(steps))))

    return average


def _check_checkpoint(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        whole = "state_dict" in torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises what its readers happen to run into
        whole = False
    if not whole:
        raise ParameterError(f"{path} is no checkpoint of a training: --resume wants OUT/last.ckpt")


class _Rows(Dataset[tuple[Tensor, ...]]):
    """Whole batches of (events, labels), or of (events,) where there are no labels, by their positions."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: list[int]) -> tuple[Tensor, ...]:
        batch = self.images[torch.tensor(which)]
        return (batch.float(),) if batch.y is None else (batch.float(), batch.y)


class _Epochs(BatchSampler):
    """Whole batches; hands the number of the epoch on, which shuffles."""

    def __init__(self, order: DistributedSampler[Any], batch_size: int) -> None:
        super().__init__(order, batch_size, drop_last=True)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)  # type: ignore[union-attr]
