"""Statistics of the surprisal s_i = -log p(x_i | x_<i) and of what the density expects it to be."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ParameterError
from .evidence import TINY, Evidence


def bits_per_dim(evidence: Evidence) -> Tensor:
    """-log2 p(x) a sub-pixel: thresholding it is thresholding log p(x), as PixelDefend does (Song et al. 2018).

    Returns (N,).
    """
    return evidence.density.in_bits_per_dim(evidence.log_prob, tuple(evidence.x.shape[1:]))


def excess_surprisal(evidence: Evidence) -> Tensor:
    """sum_i (s_i - H_i) / sqrt(sum_i V_i): how much more surprising the image is than the model expected it to be.

    Under the model the terms s_i - H_i are martingale differences, so the score has mean 0 and variance about 1
    whatever the image shows: its complexity, which is most of the spread of bits/dim over clean images, drops out.
    Returns (N,), in standard deviations.
    """
    return _standardised(evidence.excess, evidence.surprisal_variance)


class BandExcess:
    """Excess surprisal over the sites whose predicted entropy lies in [low, high) nats."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,), in standard deviations; 0 for an image without such a site."""
        entropy = evidence.expected_surprisal
        inside = (entropy >= self.low) & (entropy < self.high)
        return _standardised(evidence.excess.where(inside, 0), evidence.surprisal_variance.where(inside, 0))


# Where the model is sure, a small change shows; 0 for an image without such a site. (Entropies of real numbers can be
# negative, and those of a sure site too, by rounding.)
low_entropy_excess_surprisal = BandExcess(-math.inf, 1)


def first_channel_excess_surprisal(evidence: Evidence) -> Tensor:
    """Excess surprisal over the first channel of each pixel, red, which no other one explains; over all
    sites of rows, which have no channels. Returns (N,)."""
    if evidence.x.ndim < 4:
        return excess_surprisal(evidence)
    return _standardised(evidence.excess[:, :1], evidence.surprisal_variance[:, :1])


def later_channels_excess_surprisal(evidence: Evidence) -> Tensor:
    """Excess surprisal over green given red and blue given both: in natural images the channels predict each other
    closely, and an attack that does not know it shows. Returns (N,); 0 for images of one channel, and for rows."""
    if evidence.x.ndim < 4 or evidence.x.shape[1] == 1:
        return evidence.x.new_zeros(len(evidence.x))
    return _standardised(evidence.excess[:, 1:], evidence.surprisal_variance[:, 1:])


def top_surprisal(evidence: Evidence) -> Tensor:
    """Mean of the highest 1 % of (s_i - H_i) / sqrt(V_i), at least one site: for attacks on a few pixels. Returns (N,),
    in standard deviations."""
    values = evidence.standardised.flatten(1)
    return values.topk(max(1, values.shape[1] // 100), 1).values.mean(1)


def top_pixels(evidence: Evidence) -> Tensor:
    """Mean excess surprisal of the three pixels where it is highest, all channels together: for attacks on a handful of
    pixels. Returns (N,), in standard deviations."""
    excess, variance = (t.sum(1) if t.ndim == 4 else t for t in (evidence.excess, evidence.surprisal_variance))
    values = (excess / variance.clamp(min=TINY).sqrt()).flatten(1)
    return values.topk(min(3, values.shape[1]), 1).values.mean(1)


def patch_surprisal(evidence: Evidence) -> Tensor:
    """The highest excess surprisal of any patch of 4 x 4 pixels (of rows: of 16 sites in a row). Returns (N,), in
    standard deviations."""
    excess, variance = (
        t.flatten(1).unsqueeze(1).unsqueeze(1) if t.ndim < 4 else t.sum(1, keepdim=True)
        for t in (evidence.excess, evidence.surprisal_variance)
    )
    size = (min(4, excess.shape[2]), min(16 if evidence.x.ndim < 4 else 4, excess.shape[3]))
    sums = [F.avg_pool2d(t, size, stride=1, divisor_override=1) for t in (excess, variance)]
    return (sums[0] / sums[1].clamp(min=TINY).sqrt()).flatten(1).amax(1)


def mean_entropy(evidence: Evidence) -> Tensor:
    """How complex the image is to the model: the mean of H_i. An attack may raise it; above all it tells other scores
    what to expect. Returns (N,) nats a site."""
    return evidence.expected_surprisal.flatten(1).mean(1)


def compressed_length(evidence: Evidence) -> Tensor:
    """Returns (N,) nats a site: the length of the image as lossless WebP. Raises ParameterError for what is no 8-bit
    image."""
    x = evidence.x
    if x.ndim != 4 or x.shape[1] not in (1, 3) or evidence.density.levels != 256:
        raise ParameterError("compressed lengths are for densities of 8-bit images of 1 or 3 channels")
    images = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    lengths = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "WEBP", lossless=True)
        lengths.append(8 * math.log(2) * len(file.getbuffer()) / image.size)
    return torch.tensor(lengths, dtype=x.dtype, device=x.device)


def _standardised(excess: Tensor, variance: Tensor) -> Tensor:
    return excess.flatten(1).sum(1) / variance.flatten(1).sum(1).clamp(min=TINY).sqrt()
