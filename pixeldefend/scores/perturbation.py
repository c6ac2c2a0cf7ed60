"""Statistics of how the density or the classifier responds to small changes of an image.

Each takes further passes of the density, or a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ambient import torch_defaults
from ..densities import Autoregressive, most_probable_within
from ..devices import device_of, dtype_of
from ..errors import ParameterError
from ..images import quantize
from ..images.corruptions import blur
from .evidence import Evidence
from .surprisal import bits_per_dim


def smoothing_gain(evidence: Evidence) -> Tensor:
    """The number of bits/dim that a 3 x 3 median filter saves.

    A clean image is smooth already and gains little. It takes two passes of the density.

    Args:
        evidence: The evidence about N images.

    Returns:
        (N,), in bits.

    Raises:
        ParameterError: If the density models rows or real numbers.
    """
    if evidence.x.ndim != 4 or evidence.density.levels is None:
        raise ParameterError("smoothing_gain is for densities of images of 8 or fewer bits")
    n, c, h, w = evidence.x.shape
    patches = F.unfold(F.pad(evidence.x, (1, 1, 1, 1), mode="replicate"), 3).reshape(n, c, 9, h, w)
    return _gain(evidence, patches.median(2).values)


def likeliest_gain(evidence: Evidence) -> Tensor:
    """The number of bits/dim saved by moving every sub-pixel to its most probable value within 8/255.

    Each value is predicted from the original values of the other sub-pixels, so this is one sweep of purification. It
    takes two passes of the density.

    Args:
        evidence: The evidence about N images.

    Returns:
        (N,), in bits.

    Raises:
        ParameterError: If the density does not model 8-bit images.

    Reference:
        Song et al., PixelDefend: Leveraging generative models to understand and defend against adversarial examples,
        2018, arXiv:1710.10766.
    """
    if evidence.x.ndim != 4 or evidence.density.levels != 256:
        raise ParameterError("likeliest_gain is for densities of 8-bit images")
    distribution = evidence.conditionals
    value, best = evidence.x, torch.full_like(evidence.x, -math.inf)
    for step in range(-8, 9):
        moved = (evidence.x + step / 255).clamp(0, 1)
        log_prob = distribution.log_prob(moved)
        value, best = torch.where(log_prob > best, moved, value), torch.maximum(log_prob, best)
    return _gain(evidence, value)


def gradient_norm(evidence: Evidence) -> Tensor:
    """The L2 norm of the gradient of log p(x) with respect to x.

    Far from the data log p is steep. It takes one forward and one backward pass of the density.

    Args:
        evidence: The evidence about N images or rows.

    Returns:
        (N,), in nats a unit of [0, 1].

    Raises:
        ParameterError: If the density has two levels, between which it is not smooth.
    """
    if evidence.density.levels == 2:
        raise ParameterError(
            "gradient_norm needs a density that is smooth between its levels, but this density has two levels"
        )
    with torch_defaults(), torch.enable_grad():
        x = evidence.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(evidence.density.log_prob(x).sum(), x)
    return gradient.flatten(1).norm(dim=1)


class PurifiedDisagreement:
    """The change of the classifier's output when an image is purified or lightly smoothed.

    It is the mean Euclidean distance of the classifier's softmax between the image and several copies that should give
    the same output: one purified within each of `eps`, and one blurred by a Gaussian of 0.4 pixels. These copies undo
    the attacks that look for the smallest perturbation. The statistic is feature squeezing with PixelDefend as a
    squeezer. It is a mean over several copies because, for any single copy, the output changes for some clean images.

    Args:
        *eps: How far each purification may move a sub-pixel, in 8-bit steps.

    Reference:
        Xu, Evans & Qi, Feature squeezing: Detecting adversarial examples in deep neural networks, 2018,
        arXiv:1704.01155; Song et al., PixelDefend, 2018, arXiv:1710.10766.
    """

    def __init__(self, *eps: int) -> None:
        self.eps = eps

    def __call__(self, evidence: Evidence) -> Tensor:
        """Computes the statistic: (N,) in [0, sqrt 2].

        Raises:
            ParameterError: If there is no classifier, or the density is not an autoregressive one of 8-bit images.
        """
        density, x = evidence.density, evidence.x
        classifier = evidence.classifier
        if classifier is None:
            raise ParameterError("purified_disagreement needs the classifier: Detector(density, classifier=...)")
        if not isinstance(density, Autoregressive) or x.ndim != 4 or density.levels != 256:
            raise ParameterError("purified_disagreement is for autoregressive densities of 8-bit images")
        with torch.no_grad():
            others = [most_probable_within(density, quantize(x), eps) for eps in self.eps]
            others.append(blur(x, torch.Generator(), sigma=0.4))
            inputs = [image.to(device_of(classifier), dtype_of(classifier)) for image in (x, *others)]
            before, *after = (classifier(image).float().softmax(1) for image in inputs)
        return torch.stack([(before - other).norm(dim=1) for other in after]).mean(0).to(x.device)


def _gain(evidence: Evidence, x: Tensor) -> Tensor:
    """Returns how many bits/dim the images x have less than the images of the evidence."""
    moved = Evidence(evidence.density, quantize(x), fast=evidence.fast)
    return bits_per_dim(evidence) - bits_per_dim(moved)
