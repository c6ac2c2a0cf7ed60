"""The losses of training: -log p(x) of a density, or the cross-entropy of a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..densities import Density
from ..images import from_uint8, to_uint8
from ..images.corruptions import corrupt
from ..images.perturbations import perturbed

CORRUPTED = 0.6  # the share of images that a benign corruption changes, if there are any


class Task(lightning.LightningModule):
    """The base of both tasks, with a linear warm-up of the learning rate and a cosine decay to zero.

    Args:
        model: The model to train.
        learning_rate: The highest learning rate.
        warmup: The number of steps of the warm-up.

    Attributes:
        best: The metric that tells how good the model is, and "min" or "max", which of its values is best.
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
    """Minimises the density's `objective`, which is -log p(x) by default, in bits a site.

    A density that can be conditioned on classes learns from the labels too.

    Args:
        model: The density.
        learning_rate: The highest learning rate.
        warmup: The number of steps of the warm-up.
        weight_decay: The weight decay of AdamW.
        perturb: Whether the density learns from images with random synthetic perturbations instead of clean ones.
        corruptions: Keys of `pixeldefend.images.corruptions.CORRUPTIONS`, one of which changes each of a share
            `CORRUPTED` of the images.
    """

    model: Density
    best = ("nll", "min")

    def __init__(
        self,
        model: Density,
        learning_rate: float,
        warmup: int,
        weight_decay: float = 0.0,
        *,
        perturb: bool = False,
        corruptions: Sequence[str] = (),
    ) -> None:
        super().__init__(model, learning_rate, warmup)
        self.weight_decay, self.perturb, self.corruptions = weight_decay, perturb, tuple(corruptions)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        events = changed(batch[0], self.perturb, self.corruptions)
        x = self.model.to_support(events, noise=torch.rand_like(events))
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
    """Minimises cross-entropy on images that are mirrored and shifted at random.

    Args:
        model: The classifier, which maps images (N, C, H, W) in [0, 1] to logits.
        learning_rate: The highest learning rate.
        warmup: The number of steps of the warm-up.
        shift: The largest shift, in pixels.
        adversarial: The radius of adversarial training, in 8-bit steps (Linf): the model learns from the worst images
            that projected gradient descent finds within it. 0 for none.
    """

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


def changed(x: Tensor, perturb: bool, corruptions: Sequence[str] = ()) -> Tensor:
    """Changes each event of a batch in a way of its own, by torch's global random numbers.

    Args:
        x: (N, C, H, W) in [0, 1], or events of another shape if nothing changes them.
        perturb: Whether images get synthetic perturbations.
        corruptions: Keys of `pixeldefend.images.corruptions.CORRUPTIONS`.

    Returns:
        The events, in the same shape, of 8 bits if something changes them.
    """
    if not perturb and not corruptions:
        return x
    images = []
    for image in x.split(1):
        if corruptions and torch.rand(()) < CORRUPTED:
            name = corruptions[int(torch.randint(len(corruptions), ()))]
            image = corrupt(image, name, seed=int(torch.randint(2**31, ())))
        if perturb:
            image = from_uint8(perturbed(to_uint8(image).cpu(), seed=int(torch.randint(2**31, ())))).to(x)
        images.append(image)
    return torch.cat(images)


def worst_within(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int = 3) -> Tensor:
    """Finds images of high cross-entropy by projected gradient descent, in a few long steps from a random start.

    Args:
        model: The classifier.
        x: Images, (N, C, H, W) in [0, 1].
        y: Their classes, (N,).
        eps: The largest change of a sub-pixel (Linf), in units of [0, 1].
        steps: The number of steps.

    Returns:
        Images within eps of x, (N, C, H, W) in [0, 1].

    Reference:
        Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv:1706.06083.
    """
    moved = x + eps * (2 * torch.rand_like(x) - 1)
    for _ in range(steps):
        moved = moved.clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
        moved = x + (moved.detach() + 2 * eps / steps * gradient.sign() - x).clamp(-eps, eps)
    return moved.clamp(0, 1).detach()


def mirrored(x: Tensor) -> Tensor:
    """Mirrors each image of a batch, (N, C, H, W), left to right with probability one half."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def shifted(x: Tensor, most: int) -> Tensor:
    """Shifts each image by a random number of pixels along both axes, and fills the gap with zeros.

    Args:
        x: Images, (N, C, H, W).
        most: The largest shift along an axis, in pixels.

    Returns:
        The shifted images, (N, C, H, W).
    """
    if not most:
        return x
    n, _, h, w = x.shape
    padded = F.pad(x, (most, most, most, most))
    rows, columns = (torch.randint(2 * most + 1, (n, 1), device=x.device) for _ in range(2))
    rows, columns = rows + torch.arange(h, device=x.device), columns + torch.arange(w, device=x.device)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
