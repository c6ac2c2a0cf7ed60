"""Statistics of what happens to an image when it is changed a little: each takes further passes, or a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..densities import Autoregressive, most_probable_within
from ..errors import ParameterError
from ..images.corruptions import blur
from .evidence import Evidence
from .surprisal import bits_per_dim


def smoothing_gain(evidence: Evidence) -> Tensor:
    """How many bits/dim a 3 x 3 median filter takes off: a clean image, which is smooth already, gains little. Two
    passes of the density. Returns (N,). Raises ParameterError for rows and for densities of real numbers."""
    if evidence.x.ndim != 4 or evidence.density.levels is None:
        raise ParameterError("smoothing_gain is for densities of images of 8 or fewer bits")
    n, c, h, w = evidence.x.shape
    patches = F.unfold(F.pad(evidence.x, (1, 1, 1, 1), mode="replicate"), 3).reshape(n, c, 9, h, w)
    return _gain(evidence, patches.median(2).values)


def likeliest_gain(evidence: Evidence) -> Tensor:
    """How many bits/dim it takes off to move every sub-pixel to its most probable value within 8/255, given the
    others as they are: one sweep of purification (PixelDefend, Song et al. 2018). Two passes of the density, which must
    model 8-bit images. Returns (N,)."""
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
    """L2 norm of the gradient of log p(x) over x, in nats a unit of [0, 1]: away from the data log p is steep. One pass
    forward and one back. Returns (N,). Raises ParameterError for densities of two levels, which are not smooth."""
    if evidence.density.levels == 2:
        raise ParameterError("gradient_norm needs a density that is smooth between its levels, this one has two")
    with torch.inference_mode(False), torch.enable_grad():
        x = evidence.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(evidence.density.log_prob(x).sum(), x)
    return gradient.flatten(1).norm(dim=1)


class PurifiedDisagreement:
    """How differently the classifier reads the image and what should look the same to it: purified within each of eps,
    in 8-bit steps, and lightly smoothed (a Gaussian of 0.4 pixels). The mean Euclidean distance of its softmax, in
    [0, sqrt 2].

    Least perturbations, which pixels show the least, are undone by it. Feature squeezing (Xu, Evans & Qi 2018) with
    PixelDefend as a squeezer, and the mean over several: to each of them some clean photograph looks different, to all
    few do. It looks at the classifier, as no score in `SCORES` does.
    """

    def __init__(self, *eps: int) -> None:
        self.eps = eps

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,). Raises ParameterError without a classifier, or if the density does not model 8-bit images."""
        density, x = evidence.density, evidence.x
        if evidence.classifier is None:
            raise ParameterError("purified_disagreement asks the classifier: Detector(density, classifier=...)")
        if not isinstance(density, Autoregressive) or x.ndim != 4 or density.levels != 256:
            raise ParameterError("purified_disagreement is for autoregressive densities of 8-bit images")
        with torch.no_grad():
            grid = (255 * x).round() / 255
            others = [most_probable_within(density, grid, eps) for eps in self.eps]
            others.append(blur(x, torch.Generator(), sigma=0.4))
            before, *after = (evidence.classifier(image).float().softmax(1) for image in (x, *others))
        return torch.stack([(before - read).norm(dim=1) for read in after]).mean(0)


def _gain(evidence: Evidence, x: Tensor) -> Tensor:
    """x: (N, C, H, W) images in place of the evidence's. Returns (N,): how many bits/dim fewer they have."""
    moved = Evidence(evidence.density, (x * 255).round() / 255, fast=evidence.fast)
    return bits_per_dim(evidence) - bits_per_dim(moved)
