"""The devices that models run on."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from .errors import ParameterError


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of a module's weights or, if it has none, of its buffers; else the CPU."""
    return next((t.device for t in chain(module.parameters(), module.buffers())), torch.device("cpu"))


def dtype_of(module: nn.Module) -> torch.dtype:
    """Returns the type of a module's floating point weights or, if it has none, of its buffers; else float32."""
    tensors = chain(module.parameters(), module.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def check_device(name: str | torch.device) -> torch.device:
    """Returns a device after checking that it can be used.

    Args:
        name: A name of torch, such as "cpu", "cuda" or "cuda:1".

    Returns:
        The device.

    Raises:
        ParameterError: If torch does not know the name, or this machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"device {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
