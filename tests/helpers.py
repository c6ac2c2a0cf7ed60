"""What several test files use."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pixeldefend.densities import Density

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SAMPLE = HERE / "data" / "fashion_mnist_test_500.npz"


def randomised(density: Density, seed: int = 0, scale: float = 0.3) -> Density:
    """The density with weights large enough that every site depends visibly on those before it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return density.eval()


def grid_images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random images on the 8-bit grid."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def clean_images(n: int, seed: int = 0) -> np.ndarray:
    """Smooth grey images, uint8 (n, 8, 8)."""
    random = np.random.RandomState(seed)
    ramps = random.uniform(0, 1, (n, 1, 1)) + random.uniform(-0.05, 0.05, (n, 2, 1)) @ np.ones((1, 8))[None]
    images = ramps[:, :1] + np.arange(8)[None, :, None] * ramps[:, 1:] * 0.05
    return (np.clip(np.broadcast_to(images, (n, 8, 8)), 0, 1) * 255).round().astype(np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be width x height."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


class Brightness(nn.Module):
    """Class 1 if the image's left half is brighter than its right half: linear, so that attacks must succeed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        difference = x[..., : x.shape[3] // 2].mean((1, 2, 3)) - x[..., x.shape[3] // 2 :].mean((1, 2, 3))
        return torch.stack([-difference, difference], 1) * self.scale
