"""The histogram of an image: stretched contrast leaves gaps in it, which a perturbation fills.

A camera or a program that stretches the contrast of an 8-bit image maps 200 values, say, to 256. Then some values never
occur. If contrast shrinks, some occur too often. Few perturbations respect this. A density that predicts a pixel from
its neighbours cannot see it, since it is a property of the whole image.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..densities.distributions import BYTE_LEVELS


def histogram_of(values: Tensor) -> Tensor:
    """Counts the values of images.

    Args:
        values: (N, C, H, W) in [0, 255]. A value between two grey levels counts for both in proportion, so that the
            counts have a gradient.

    Returns:
        (N, C, 256).
    """
    flat = values.flatten(2)
    low = flat.detach().floor().clamp(0, BYTE_LEVELS - 2)
    share = flat - low
    counts = flat.new_zeros(*flat.shape[:2], BYTE_LEVELS)
    return counts.scatter_add(2, low.long(), 1 - share).scatter_add(2, low.long() + 1, share)


class HistogramNetwork(nn.Module):
    """A network that describes the fine structure of images' histograms.

    Args:
        channels: The number C of channels of an image.
        filters: The number of filters of each convolution.
        layers: The number of convolutions.

    Reference:
        Stamm & Liu 2010, "Forensic detection of image manipulation using statistical intrinsic fingerprints",
        https://doi.org/10.1109/TIFS.2010.2053202, whose detector of such gaps is the histogram's spectrum.
    """

    WIDTH = 9  # neighbouring values that a convolution sees

    def __init__(self, channels: int, *, filters: int = 32, layers: int = 3) -> None:
        super().__init__()
        sizes = [2 * channels, *[filters] * layers]
        self.layers = nn.ModuleList(
            nn.Conv1d(inputs, outputs, self.WIDTH, padding=self.WIDTH // 2)
            for inputs, outputs in itertools.pairwise(sizes)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Describes images.

        Args:
            values: (N, C, H, W) in [0, 255].

        Returns:
            (N, 2 * filters): means and highest values of the filters.
        """
        counts = histogram_of(values)[..., 1:-1]  # black and white are often clipped: they say nothing about gaps
        first, *others = self.layers
        h = F.silu(first(torch.cat([1 - torch.exp(-2 * counts), torch.log1p(counts)], 1)))
        for layer in others:
            h = h + F.silu(layer(h))
        return torch.cat([h.mean(2), h.amax(2)], 1)
