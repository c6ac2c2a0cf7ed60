"""What several test files use."""

import math
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pixeldefend.densities import DENSITIES, Autoregressive, Density

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples" / "fashion-mnist"
SAMPLE = HERE / "data" / "fashion_mnist_test_500.npz"


def _reads_everything() -> bool:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK)


READS_EVERYTHING = _reads_everything()  # as root does
needs_closed_files = pytest.mark.skipif(READS_EVERYTHING, reason="root can read files whose permissions forbid it")

# name of a density -> small configurations that between them reach every branch; one that is not here is tested with
# its default arguments
SMALL = {
    "fvsbn": [
        dict(event_shape=(1, 4, 5), head="bernoulli"),
        dict(event_shape=(7,), head="categorical", levels=5),
        dict(event_shape=(3, 4, 3), head="logistics", mixtures=2),
    ],
    "nade": [
        dict(event_shape=(1, 5, 6), hidden=12, head="bernoulli"),
        dict(event_shape=(3, 4, 5), hidden=12, head="logistics", mixtures=2),  # more sites than a block of sums
        dict(event_shape=(9,), hidden=12, head="categorical", levels=4),
    ],
    "eonade": [
        dict(event_shape=(1, 5, 6), hidden=48, head="bernoulli"),
        dict(event_shape=(3, 4, 5), hidden=48, head="logistics", mixtures=2, ordering=3),
        dict(event_shape=(9,), hidden=48, layers=2, head="categorical", levels=4, ordering=1),
    ],
    "rnade": [
        dict(event_shape=(9,), hidden=48, mixtures=3),
        dict(event_shape=(9,), hidden=48, head="laplacians", mixtures=2),
        dict(event_shape=(1, 4, 5), hidden=48, mixtures=1),
    ],
    "made": [
        dict(event_shape=(1, 5, 6), hidden=(200,), head="bernoulli"),
        dict(event_shape=(3, 4, 5), hidden=(600, 400), direct=True, head="logistics", mixtures=2),
        dict(event_shape=(9,), hidden=(90, 90, 90), masks=4, order_agnostic=True, head="normals", ordering=2),
    ],
    "rnn": [
        dict(event_shape=(9,), hidden=12, levels=5),
        dict(event_shape=(1, 5, 6), hidden=12, cell="gru", head="bernoulli"),
        dict(event_shape=(3, 4, 5), hidden=12, cell="rnn", layers=2, head="logistics", mixtures=2, dropout=0.1),
    ],
    "row_lstm": [
        dict(event_shape=(1, 5, 6), filters=12, head="bernoulli"),
        dict(event_shape=(3, 4, 5), filters=24, layers=2, head="logistics", mixtures=2),
    ],
    "diagonal_bilstm": [
        dict(event_shape=(1, 5, 6), filters=12, head="bernoulli"),
        dict(event_shape=(3, 4, 5), filters=36, layers=2, head="logistics", mixtures=2),
    ],
    "pixelcnn": [
        dict(event_shape=(1, 5, 6), filters=12, blocks=2, head="bernoulli"),
        dict(event_shape=(3, 4, 5), filters=24, blocks=2, head="logistics", mixtures=2),
        dict(event_shape=(2, 3, 4), filters=12, blocks=1, head="categorical", levels=5),
    ],
    "gated_pixelcnn": [
        dict(event_shape=(1, 5, 6), filters=24, blocks=6, head="bernoulli"),
        dict(event_shape=(3, 4, 5), filters=36, blocks=6, head="logistics", mixtures=2),
        dict(event_shape=(2, 3, 4), filters=24, blocks=4, kernel=5, classes=3, head="categorical", levels=5),
    ],
    "pixelcnnpp": [
        dict(event_shape=(1, 8, 8), filters=4, blocks=1, scales=1, mixtures=2),
        dict(event_shape=(1, 9, 11), filters=4, blocks=1, scales=3, mixtures=2),
        dict(event_shape=(3, 8, 9), filters=4, blocks=1, scales=2, mixtures=2),
        dict(event_shape=(3, 8, 8), filters=4, blocks=1, scales=2, head="categorical"),
        dict(event_shape=(1, 13, 8), filters=4, blocks=2, scales=3, mixtures=1, dropout=0.2),
        dict(event_shape=(3, 8, 9), filters=4, blocks=7, scales=1, streams=1, mixtures=2),
        dict(event_shape=(1, 9, 8), filters=4, blocks=7, scales=1, streams=1, activation="silu", mixtures=2),
    ],
    "nelloc": [
        dict(event_shape=(1, 5, 6), rows=2, columns=2, width=8, layers=1, mixtures=2),
        dict(event_shape=(3, 4, 5), rows=1, columns=3, width=8, layers=2, mixtures=3),
    ],
    "wavenet": [
        dict(event_shape=(9,), residual=8, skip=24, depth=3, stacks=2, levels=5),
        dict(event_shape=(1, 5, 6), residual=8, skip=24, depth=2, stacks=1, head="bernoulli"),
        dict(event_shape=(3, 4, 5), residual=8, skip=24, depth=3, stacks=1, head="logistics", mixtures=2),
    ],
}


def small_configs(name: str) -> list[dict]:
    """The small configurations of a density: those of `SMALL`, or its default arguments on small events."""
    if name in SMALL:
        return SMALL[name]
    density = DENSITIES[name]
    side = max(3, density.min_side)
    shapes = [(1, side, side), (3, side, side)] if "images" in density.events else []
    return [dict(event_shape=shape) for shape in ([(7,)] if "rows" in density.events else []) + shapes]


def slow_if_large(config: dict, name: str) -> object:
    """A parameter of a test that goes through an event site by site, marked as slow if there are many sites."""
    marks = [pytest.mark.slow] if math.prod(config["event_shape"]) > 100 else []
    return pytest.param(config, id=name, marks=marks)


def randomised(density: Density, seed: int = 0, scale: float = 0.3) -> Density:
    """The density with weights large enough that every site depends visibly on those before it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return density.eval()


def values(density: Density, n: int, *, off_grid: bool = False, seed: int = 0) -> torch.Tensor:
    """(n, *event): random events of the kind that the density models."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, *density.event_shape)
    if density.levels is None:
        return torch.randn(shape, generator=generator)
    if off_grid:
        return 0.1 + 0.8 * torch.rand(shape, generator=generator)
    return torch.randint(0, density.levels, shape, generator=generator) / (density.levels - 1)


def site_order(density: Autoregressive) -> torch.Tensor:
    """(*event): the position of each site in the model's order."""
    order = torch.empty(density.event_shape, dtype=torch.long)
    for place, site in enumerate(density.sites(density.event_shape)):
        order[site] = place
    return order


def dependence(density: Autoregressive, x: torch.Tensor, site: tuple[int, ...]) -> torch.Tensor:
    """(*event): |d p(. | before) of one site / d x|, over the whole conditional and not just the value at x."""
    x = x.clone().requires_grad_()
    conditionals = density.conditionals(x)
    if density.levels is None:
        told = torch.stack([conditionals.log_prob(torch.full_like(x, v)) for v in (-0.3, 0.2, 1.7)], -1)
    else:
        told = conditionals.pmf()
    weights = torch.randn(told.shape[-1], generator=torch.Generator().manual_seed(1), dtype=told.dtype)
    (gradient,) = torch.autograd.grad((told[(0, *site)] * weights).sum(), x)
    return gradient[0].abs()


def grid_images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random images on the 8-bit grid."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Random grey images, uint8 (n, 8, 8)."""
    return np.random.RandomState(seed).randint(0, 256, (n, 8, 8), np.uint8)


def clean_images(n: int, seed: int = 0) -> np.ndarray:
    """Smooth grey images, uint8 (n, 8, 8)."""
    random = np.random.RandomState(seed)
    ramps = random.uniform(0, 1, (n, 1, 1)) + random.uniform(-0.05, 0.05, (n, 2, 1)) @ np.ones((1, 8))[None]
    images = ramps[:, :1] + np.arange(8)[None, :, None] * ramps[:, 1:] * 0.05
    return (np.clip(np.broadcast_to(images, (n, 8, 8)), 0, 1) * 255).round().astype(np.uint8)


def sided_images(n: int, seed: int = 0) -> np.ndarray:
    """Smooth grey images, uint8 (n, 8, 8), of which one half is brighter: the left one of every other image."""
    x = np.minimum(clean_images(n, seed), 252)
    x[::2, :, :4] += 3
    x[1::2, :, 4:] += 3
    return x


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


class Gaussian(Density):
    """A standard normal over vectors of any length: what lets scikit-learn's own checks run on the detector."""

    def __init__(self):
        super().__init__(event_shape=None)

    def log_prob(self, x):
        self.check(x)
        return torch.distributions.Normal(0, 1).log_prob(x).sum(1)

    def sample(self, n, *, generator=None):
        raise NotImplementedError
