"""A classifier and images -> attacked 8-bit images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ParameterError
from ..images import to_batch, to_uint8
from .presets import ATTACKS, Attack

STRETCHES = (1.1, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Attacked:
    """What `craft` made of N images.

    images: (N, C, H, W) uint8; rounding keeps an Linf budget of k/255, and may add a little to an L2 one.
    attempted: (N,) bool, the classifier reads the original rightly.
    succeeded: (N,) bool, attempted, and the 8-bit image is read wrongly (for a control: attempted).
    linf, l2: (N,) distance from the original, in units of [0, 1].
    model_calls: images that went through the classifier.
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
    """Attacks a torch classifier, and judges success on the image rounded to 8 bits.

    Of an attack without a budget, which looks for the least perturbation, the least multiple of it in `STRETCHES`
    counts that still succeeds when rounded.

    classifier: a module, (N, C, H, W) -> (N, classes) logits. images: a batch on the 8-bit grid, as
    `pixeldefend.images.to_batch` takes it. labels: (N,) the right classes. attack: a key of `ATTACKS`, or an `Attack`.
    bounds: the range that the classifier expects its images in. preprocessing: foolbox's, applied within it, such as
    {"mean": [...], "std": [...], "axis": -3}. seed: of random starts; the outcome depends on batch_size too.
    Raises ParameterError if the attack is unknown or labels do not match images.
    """
    from foolbox.models.pytorch import PyTorchModel

    if isinstance(attack, str):
        if attack not in ATTACKS:
            raise ParameterError(f"unknown attack {attack!r}; there are: {', '.join(ATTACKS)}")
        attack = ATTACKS[attack]
    x = to_batch(images)[0].detach().cpu()
    y = torch.as_tensor(labels).cpu()
    if not len(x):
        raise ParameterError("there are no images to attack")
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise ParameterError(f"labels must be {len(x)} whole numbers, got {y.dtype} of shape {tuple(y.shape)}")
    device = next((p.device for p in classifier.parameters()), torch.device("cpu"))
    counted = _Counted(classifier)
    # gradients of the weights are not needed, and foolbox would add them up
    trainable = [p for p in classifier.parameters() if p.requires_grad]
    modes = {module: module.training for module in classifier.modules()}
    crafted = []
    try:
        counted.eval()
        for p in trainable:
            p.requires_grad_(False)
        model = PyTorchModel(counted, bounds, device, preprocessing).transform_bounds((0, 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for clean, label in progress(list(zip(x.split(batch_size), y.split(batch_size), strict=True))):
                crafted.append(_craft(model, attack, clean.to(device), label.to(device)))
    finally:
        for module, training in modes.items():
            module.training = training
        for p in trainable:
            p.requires_grad_(True)
    adversarial, attempted, succeeded = (torch.cat(parts).cpu() for parts in zip(*crafted, strict=True))
    distance = (adversarial / 255 - x).flatten(1)
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
    adversarial = to_uint8(raw)
    fooled = model(adversarial / 255).argmax(1) != label
    if attack.eps is None:
        # a least perturbation ends at the boundary, and rounding may take it back: the least multiple that stays
        for factor in STRETCHES:
            again = (attempted & ~fooled).nonzero()[:, 0]
            if not len(again):
                break
            stretched = to_uint8((clean[again] + factor * (raw[again] - clean[again])).clamp(0, 1))
            now = model(stretched / 255).argmax(1) != label[again]
            adversarial[again[now]], fooled[again[now]] = stretched[now], True
    return adversarial, attempted, attempted & (fooled | attack.control)


class _Counted(nn.Module):
    """The classifier, counting the images that go through it."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        logits: Tensor = self.classifier(x)
        return logits
