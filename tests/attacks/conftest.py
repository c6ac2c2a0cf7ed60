import pytest
import torch
from helpers import Brightness


@pytest.fixture(scope="session")
def near_the_boundary() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (8, 1, 8, 8) uint8 close to the boundary of `Brightness`, and their classes."""
    generator = torch.Generator().manual_seed(0)
    n = 8
    x = torch.randint(100, 150, (n, 1, 8, 8), generator=generator)
    side = torch.arange(n) % 2
    x[side == 1, :, :, :4] += 3
    x[side == 0, :, :, 4:] += 3
    x = x.to(torch.uint8)
    return x, Brightness()(x / 255).argmax(1)
