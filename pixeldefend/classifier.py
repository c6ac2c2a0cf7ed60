"""The image classifier that is attacked and protected, and the labels that any classifier gives to images."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ambient import modes_kept, ordinary, torch_defaults
from .devices import device_of, dtype_of
from .errors import ModelError, ParameterError
from .serialization import load_tensors, save_tensors


class ResNet(nn.Module):
    """A small residual network, (N, C, H, W) in [0, 1] -> (N, classes) logits.

    It has three stages of residual blocks, of `width`, 2 `width` and 4 `width` channels, each at half the resolution of
    the one before. The network normalises its inputs itself.

    Args:
        image_shape: (C, H, W).
        classes: The number of classes.
        width: The number of channels of the first stage.
        blocks: The number of residual blocks of each stage.

    Reference:
        He et al., Identity mappings in deep residual networks, 2016, arXiv:1603.05027.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], *, classes: int = 10, width: int = 32, blocks: int = 1
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.config: dict[str, Any] = dict(image_shape=list(image_shape), classes=classes, width=width, blocks=blocks)
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, width << stage, stride))
                channels = width << stage
        self.features = nn.Sequential(*layers)
        self.logits = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes (N, classes) logits of images (N, C, H, W) in [0, 1]."""
        return self.logits(F.relu(self.features(4 * x - 2)).mean((2, 3)))

    def save(self, path: str | os.PathLike[str], **notes: Any) -> None:
        """Writes the classifier to a safetensors file.

        Args:
            path: The file to write.
            **notes: Plain JSON values that are stored in the file too, such as the recipe and the metrics.

        Raises:
            OSError: If the file cannot be written.
        """
        save_tensors(path, self.state_dict(), {"kind": "classifier", "classifier": self.config, **notes})

    @classmethod
    @torch_defaults(seed=0)
    def load(cls, path: str | os.PathLike[str]) -> ResNet:
        """Reads a classifier that `save` wrote.

        Args:
            path: The file.

        Returns:
            The classifier, in evaluation mode, on the CPU.

        Raises:
            ModelError: If the file is damaged or holds something else.
            FileNotFoundError: If there is no such file.
        """
        tensors, meta = load_tensors(path)
        if meta.get("kind") != "classifier":
            raise ModelError(f"{path} holds a {meta.get('kind')}, not a classifier")
        model = cls(**meta["classifier"]).float()
        model.load_state_dict(tensors)
        return model.eval()


class ResidualBlock(nn.Module):
    """A residual block with pre-activation, x + conv(relu(bn(conv(relu(bn(x)))))).

    Args:
        channels: The number of input channels.
        outputs: The number of output channels.
        stride: The stride of the first convolution.
    """

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and channels == outputs
        self.shortcut = None if same else nn.Conv2d(channels, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, channels, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


@torch_defaults()
def predict_labels(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Returns the classes that a classifier gives to images.

    Args:
        model: (N, C, H, W) in [0, 1] -> (N, classes) logits. It is put into evaluation mode for the call.
        x: (N, C, H, W), uint8, or floating point in [0, 1].
        batch_size: The number of images at once.

    Returns:
        (N,) int64, on the CPU.
    """
    device, dtype = device_of(model), dtype_of(model)
    with modes_kept(model), torch.no_grad():  # not inference mode, whose tensors cannot take part in gradients later
        labels = [torch.zeros(0, dtype=torch.long, device="cpu")]
        for part in x.split(batch_size) if len(x) else ():
            images = part.to(device)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            labels.append(model(images.to(dtype)).argmax(1).cpu())
        return torch.cat(labels)


def whole_numbers(labels: Any, n: int, classes: int | None = None) -> Tensor:
    """Returns the labels of images as int64.

    Args:
        labels: (n,) whole numbers or bools: a list, an array or a tensor of any such type, on any device.
        n: The number of images.
        classes: The number of classes, if it is known.

    Returns:
        (n,) int64, on the CPU.

    Raises:
        ParameterError: If labels is something else, or a label is not the number of a class.
    """
    given = labels if isinstance(labels, Tensor) else np.asarray(labels)
    if isinstance(given, Tensor):
        whole = not (given.is_floating_point() or given.is_complex())
    else:
        whole = given.dtype.kind in "iub"
    given = given.reshape(1) if given.ndim == 0 else given
    if not whole or tuple(given.shape) != (n,):
        raise ParameterError(f"labels must be {n} whole numbers, got {given.dtype} of shape {tuple(given.shape)}")
    found = torch.from_numpy(given.astype(np.int64)) if isinstance(given, np.ndarray) else given.detach().cpu().long()
    found = ordinary(found)
    if classes is not None and n and not 0 <= int(found.min()) <= int(found.max()) < classes:
        wrong = found[(found < 0) | (found >= classes)][0]
        raise ParameterError(f"the classifier has {classes} classes, 0 to {classes - 1}, got the label {int(wrong)}")
    return found
