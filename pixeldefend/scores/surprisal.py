"""Statistics of the surprisal s_i = -log p(x_i | x_<i) and of its expectation under the density."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ParameterError
from ..images import to_uint8
from .evidence import MIN_DIVISOR, Evidence


def bits_per_dim(evidence: Evidence) -> Tensor:
    """The negative logarithm of the density per sub-pixel, -log2 p(x) / D.

    A threshold on it is a threshold on log p(x), as in the reference.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in bits.

    Reference:
        Song et al., PixelDefend: Leveraging generative models to understand and defend against adversarial examples,
        2018, arXiv:1710.10766.
    """
    return evidence.density.in_bits_per_dim(evidence.log_prob, tuple(evidence.x.shape[1:]))


def excess_surprisal(evidence: Evidence) -> Tensor:
    """The surprisal of an image in excess of what the model expects, sum_i (s_i - H_i) / sqrt(sum_i V_i).

    Under the model the terms s_i - H_i are martingale differences. The statistic therefore has mean 0 and variance
    about 1 whatever the image shows. The complexity of the image, which causes most of the spread of bits/dim over
    clean images, has no influence.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations.
    """
    return _standardised(evidence.excess, evidence.surprisal_variance)


class BandExcess:
    """The excess surprisal over the sites whose predicted entropy lies in [low, high).

    Args:
        low: The lowest entropy, in nats.
        high: The upper limit of the entropy, in nats.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, evidence: Evidence) -> Tensor:
        """Computes the statistic: (N,), in standard deviations, 0 for an image without such a site."""
        entropy = evidence.expected_surprisal
        inside = (entropy >= self.low) & (entropy < self.high)
        return _standardised(evidence.excess.where(inside, 0), evidence.surprisal_variance.where(inside, 0))


# Small changes show best where the model is certain. The band has no lower end because the entropy can be negative: for
# real numbers, and by rounding where the model is certain.
low_entropy_excess_surprisal = BandExcess(-math.inf, 1)


def first_channel_excess_surprisal(evidence: Evidence) -> Tensor:
    """The excess surprisal over the first channel of each pixel, which is not predicted from other channels.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations. For rows, which have no channels, it is over all sites.
    """
    if evidence.x.ndim < 4:
        return excess_surprisal(evidence)
    return _standardised(evidence.excess[:, :1], evidence.surprisal_variance[:, :1])


def later_channels_excess_surprisal(evidence: Evidence) -> Tensor:
    """The excess surprisal over green given red, and over blue given red and green.

    In natural images the channels predict each other closely, and an attack that ignores this is visible.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations; 0 for images of one channel and for rows.
    """
    if evidence.x.ndim < 4 or evidence.x.shape[1] == 1:
        return evidence.x.new_zeros(len(evidence.x))
    return _standardised(evidence.excess[:, 1:], evidence.surprisal_variance[:, 1:])


def top_surprisal(evidence: Evidence) -> Tensor:
    """The mean of the highest 1 % of (s_i - H_i) / sqrt(V_i), at least one site.

    It is meant for attacks on a few pixels.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations.
    """
    values = evidence.standardised.flatten(1)
    return values.topk(max(1, values.shape[1] // 100), 1).values.mean(1)


def top_pixels(evidence: Evidence) -> Tensor:
    """The mean excess surprisal of the three pixels with the highest excess, over all channels together.

    It is meant for attacks on a handful of pixels.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations.
    """
    excess, variance = (t.sum(1) if t.ndim == 4 else t for t in (evidence.excess, evidence.surprisal_variance))
    values = (excess / variance.clamp(min=MIN_DIVISOR).sqrt()).flatten(1)
    return values.topk(min(3, values.shape[1]), 1).values.mean(1)


def patch_surprisal(evidence: Evidence) -> Tensor:
    """The highest excess surprisal of any patch of 4 x 4 pixels, or of 16 neighbouring sites of a row.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in standard deviations.
    """
    excess, variance = (
        t.flatten(1).unsqueeze(1).unsqueeze(1) if t.ndim < 4 else t.sum(1, keepdim=True)
        for t in (evidence.excess, evidence.surprisal_variance)
    )
    size = (min(4, excess.shape[2]), min(16 if evidence.x.ndim < 4 else 4, excess.shape[3]))
    sums = [F.avg_pool2d(t, size, stride=1, divisor_override=1) for t in (excess, variance)]
    return (sums[0] / sums[1].clamp(min=MIN_DIVISOR).sqrt()).flatten(1).amax(1)


def mean_entropy(evidence: Evidence) -> Tensor:
    """The mean of H_i, the entropy that the model predicts.

    It measures how complex the image is to the model. An attack may raise it; above all, combined statistics use it to
    allow for complexity.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in nats a site.
    """
    return evidence.expected_surprisal.flatten(1).mean(1)


def compressed_length(evidence: Evidence) -> Tensor:
    """The length of the image as a lossless WebP file.

    Args:
        evidence: The evidence about N images.

    Returns:
        (N,), in nats a sub-pixel.

    Raises:
        ParameterError: If the density does not model 8-bit images of 1 or 3 channels.
    """
    x = evidence.x
    if x.ndim != 4 or x.shape[1] not in (1, 3) or evidence.density.levels != 256:
        raise ParameterError("compressed lengths are for densities of 8-bit images of 1 or 3 channels")
    images = to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
    lengths = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "WEBP", lossless=True)
        lengths.append(8 * math.log(2) * len(file.getbuffer()) / image.size)
    return torch.tensor(lengths, dtype=x.dtype, device=x.device)


def _standardised(excess: Tensor, variance: Tensor) -> Tensor:
    return excess.flatten(1).sum(1) / variance.flatten(1).sum(1).clamp(min=MIN_DIVISOR).sqrt()
