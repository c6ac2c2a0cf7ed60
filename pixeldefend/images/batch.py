"""Images of any kind as a batch of tensors, and the 8-bit grid on which their pixels lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import ImageError
from .decoding import read_image, to_array

if TYPE_CHECKING:
    from torch import Tensor

ACCEPTED_INPUTS = (
    "a path, a PIL image, a numpy array (H, W), (H, W, 3), (N, H, W) or (N, H, W, C), or a torch tensor (C, H, W) or "
    "(N, C, H, W), with C = 1 or 3; uint8, or floating point in [0, 1]"
)


def to_batch(x: Any) -> tuple[Tensor, bool]:
    """Converts an image or several of one size to a batch.

    Args:
        x: A path, the bytes of an image file, a PIL image, a numpy array (H, W), (H, W, 3), (N, H, W) or (N, H, W, C),
            or a torch tensor (C, H, W) or (N, C, H, W), with C = 1 or 3; uint8, or floating point in [0, 1]. A numpy
            array (A, B, 3) is one RGB image; any other array with three axes is a batch of grey images.

    Returns:
        The images, float32 (N, C, H, W) in [0, 1], each pixel rounded to the 8-bit grid; and whether x was one image.

    Raises:
        ImageError: If x is of another type, shape, dtype or range, or a file that cannot be decoded. The message says
            what x is and what is expected.
        OSError: If a file cannot be read.
    """
    import torch

    if isinstance(x, (str, os.PathLike, bytes)):
        x = read_image(x)
    elif isinstance(x, Image.Image):
        x = to_array(x)
    if isinstance(x, np.ndarray):
        tensor, single = _from_numpy(x)
    elif isinstance(x, torch.Tensor):
        tensor, single = _from_torch(x)
    else:
        raise ImageError(f"got {type(x).__module__}.{type(x).__qualname__}; wanted {ACCEPTED_INPUTS}")
    if tensor.dtype == torch.uint8:
        return from_uint8(tensor), single
    if not tensor.is_floating_point():
        raise ImageError(f"got dtype {tensor.dtype}; wanted uint8, or floating point in [0, 1]", "mode")
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if not torch.isfinite(tensor).all():
        raise ImageError("got NaN or infinite pixels; wanted floating point in [0, 1]", "range")
    tensor = tensor.float()
    _check_range(tensor)
    return quantize(tensor), single


def match_channels(x: Tensor, channels: int) -> Tensor:
    """Converts images between grey and RGB where no colour is lost.

    Args:
        x: (N, 1 or 3, H, W).
        channels: 1 or 3.

    Returns:
        (N, channels, H, W) with the same colours: grey images as RGB, or RGB images whose channels are equal as grey.

    Raises:
        ImageError: If an image is in colour and channels is 1.
    """
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    if not (x[:, :1] == x).all():
        raise ImageError(
            "the image is in colour, but the detector models grey images; convert the image as your classifier does",
            "size",
        )
    return x[:, :1]


def to_uint8(x: Tensor) -> Tensor:
    """Rounds values to 8 bits.

    Args:
        x: Floating point in [0, 1], of any shape. Values outside are clipped.

    Returns:
        uint8 in [0, 255], of the same shape.
    """
    import torch

    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """Converts 8-bit values to floating point.

    Args:
        x: uint8, of any shape.

    Returns:
        float32 in [0, 1], of the same shape.
    """
    return x.float().div_(255)  # a quotient of whole numbers would have torch's default type


def quantize(x: Tensor) -> Tensor:
    """Rounds values to the 8-bit grid {0, 1/255, ..., 1}.

    Args:
        x: Floating point, of any shape. Values outside [0, 1] are not clipped.

    Returns:
        The nearest multiples of 1/255, of the same shape and dtype.
    """
    return (255 * x).round() / 255


def _check_range(x: Tensor) -> None:
    if not x.numel():
        return
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        hint = ""
        if low >= -0.01 and high <= 1.01:
            hint = "; clip what rounding left over"
        elif low >= 0 and high <= 255:
            hint = "; divide by 255 or pass uint8"
        raise ImageError(
            f"got floating point pixels from {_digits(low)} to {_digits(high)}; wanted [0, 1]{hint}", "range"
        )


def _digits(value: float) -> str:
    """Returns a float32 with as many digits as distinguish it from its neighbours."""
    return str(np.float32(value)).removesuffix(".0")


def _from_numpy(x: np.ndarray) -> tuple[Tensor, bool]:
    import torch

    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ImageError(f"got a numpy array of dtype {x.dtype}; wanted uint8, or floating point in [0, 1]", "mode")
    if x.ndim == 2:
        batch, single = x[None, None], True
    elif x.ndim == 3 and x.shape[2] == 3:
        batch, single = x.transpose(2, 0, 1)[None], True
    elif x.ndim == 3:
        batch, single = x[:, None], False
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        batch, single = x.transpose(0, 3, 1, 2), False
    else:
        raise ImageError(
            f"got a numpy array of shape {x.shape}; wanted (H, W), (H, W, 3), (N, H, W) or (N, H, W, 1 or 3)"
        )
    if batch.dtype.byteorder not in ("=", "|", "<") or batch.dtype.itemsize > 8 or batch.dtype == np.float16:
        batch = batch.astype(np.float64)
    return torch.from_numpy(np.array(batch, order="C")), single


def _from_torch(x: Tensor) -> tuple[Tensor, bool]:
    if x.is_meta:
        raise ImageError("got a torch tensor on the device 'meta', which has no values")
    if x.ndim == 3 and x.shape[0] in (1, 3):
        return x.unsqueeze(0), True
    if x.ndim == 4 and x.shape[1] in (1, 3):
        return x, False
    raise ImageError(f"got a torch tensor of shape {tuple(x.shape)}; wanted (1 or 3, H, W) or (N, 1 or 3, H, W)")
