"""The devices that models run on."""

from __future__ import annotations

import torch
from torch import nn

from .errors import ParameterError


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of a module's weights, the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


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
