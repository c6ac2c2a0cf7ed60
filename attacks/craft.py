"""Makes attacked 8-bit images of a classifier and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..ambient import modes_kept, ordinary, torch_defaults, weights_frozen
from ..classifier import whole_numbers
from ..devices import device_of, dtype_of
from ..errors import ParameterError
from ..extras import extra
from ..images import from_uint8, to_batch, to_uint8
from .attack import Attack
from .presets import ATTACKS

# factors of the smallest perturbation that are tried if rounding to 8 bits undid it
ROUNDING_FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Attacked:
    """The result of an attack on N images.

    Attributes:
        images: (N, C, H, W) uint8. Rounding keeps within an Linf budget of k/255, but may exceed an L2 budget a little.
        attempted: (N,) bool, whether the classifier classifies the original correctly.
        succeeded: (N,) bool, whether the image was attempted and the 8-bit image is misclassified; for a control,
            whether it was attempted.
        linf: (N,) Linf distance from the original, in units of [0, 1].
        l2: (N,) L2 distance from the original, in units of [0, 1].
        model_calls: The number of images that went through the classifier.
    """

    images: Tensor
    attempted: Tensor
    succeeded: Tensor
    linf: Tensor
    l2: Tensor
    model_calls: int


def craft(
    classifier: nn.Module,
    images: Any,
    labels: Any,
    attack: str | Attack,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    preprocessing: dict[str, Any] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda batches: batches,
) -> Attacked:
    """Attacks a classifier, and judges success on the image rounded to 8 bits.

    An attack without a budget looks for the smallest perturbation. If rounding undoes it, it is multiplied by the
    smallest of `ROUNDING_FACTORS` with which the rounded image succeeds.

    Args:
        classifier: (N, C, H, W) -> (N, classes) logits, of any type of floating point numbers.
        images: N images on the 8-bit grid, as `pixeldefend.images.to_batch` takes them.
        labels: (N,) whole numbers of any type, the true classes.
        attack: A key of `ATTACKS`, or an `Attack`.
        bounds: The range that the classifier expects its images in.
        preprocessing: foolbox's preprocessing, applied within the bounds, such as {"mean": [...], "std": [...], "axis":
            -3}.
        batch_size: The number of images at once, at least 1. The outcome depends on it.
        seed: Seed of what the attack draws from torch, whose default generator is left alone.
        progress: Wraps the list of batches, to show a progress bar.

    Returns:
        The attacked images and the outcome for each.

    Raises:
        ParameterError: If the attack is unknown, the labels do not match the images, a label is not the number of a
            class, or batch_size is below 1.
        MissingExtraError: If foolbox is not installed.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size must be at least 1, got {batch_size}")
    if isinstance(attack, str):
        if attack not in ATTACKS:
            raise ParameterError(f"unknown attack {attack!r}; there are: {', '.join(ATTACKS)}")
        attack = ATTACKS[attack]
    with extra("attacks"):
        from foolbox.models.pytorch import PyTorchModel
    device = device_of(classifier)
    crafted = []
    with torch_defaults(seed), torch.enable_grad(), modes_kept(classifier), weights_frozen(classifier):
        x = to_batch(images)[0].detach().cpu()
        if not len(x):
            raise ParameterError("there are no images to attack")
        y = whole_numbers(labels, len(x))
        counted = _Counted(classifier).eval()
        model = PyTorchModel(counted, bounds, device, preprocessing).transform_bounds((0, 1))
        y = whole_numbers(y, len(x), model(x[:1].to(device)).shape[1])
        counted.calls = 0
        for clean, label in progress(list(zip(x.split(batch_size), y.split(batch_size), strict=True))):
            crafted.append(_craft(model, attack, clean.to(device), label.to(device)))
    adversarial, attempted, succeeded = (torch.cat(parts).cpu() for parts in zip(*crafted, strict=True))
    distance = (from_uint8(adversarial) - x).flatten(1)
    return Attacked(
        images=adversarial,
        attempted=attempted,
        succeeded=succeeded,
        linf=distance.abs().amax(1),
        l2=distance.norm(dim=1),
        model_calls=counted.calls,
    )


def _craft(model: Any, attack: Attack, clean: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attempted = model(clean).argmax(1) == label
    _, raw, _ = attack.make()(model, clean, label, epsilons=attack.eps)
    raw = torch.where(torch.isfinite(raw), raw, clean)  # DeepFool divides by a gradient that may vanish
    # C&W and EAD return a black image where they find nothing
    raw = torch.where((raw == 0).flatten(1).all(1)[:, None, None, None], clean, raw)
    adversarial = to_uint8(raw)
    misclassified = model(from_uint8(adversarial)).argmax(1) != label
    if attack.eps is None:
        # the smallest perturbation ends at the decision boundary, so rounding may undo it
        for factor in ROUNDING_FACTORS:
            again = (attempted & ~misclassified).nonzero()[:, 0]
            if not len(again):
                break
            stretched = to_uint8((clean[again] + factor * (raw[again] - clean[again])).clamp(0, 1))
            now = model(from_uint8(stretched)).argmax(1) != label[again]
            adversarial[again[now]], misclassified[again[now]] = stretched[now], True
    return adversarial, attempted, attempted & (misclassified | attack.is_control)


class _Counted(nn.Module):
    """A classifier of float32 images that counts the images that go through it.

    Args:
        classifier: The classifier, of any type of floating point numbers.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.dtype = dtype_of(classifier)
        tensors = (*classifier.named_parameters(), *classifier.named_buffers())
        self.copies = {name: ordinary(tensor.detach()) for name, tensor in tensors if tensor.is_inference()}
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        x, dtype = x.to(self.dtype), x.dtype
        logits: Tensor = functional_call(self.classifier, self.copies, x) if self.copies else self.classifier(x)
        return logits.to(dtype)
