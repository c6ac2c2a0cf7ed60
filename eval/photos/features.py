"""Features of images from the literature, which baselines are trained on."""

from __future__ import annotations

import torch
from torch import Tensor

TRUNCATED = 3  # differences of neighbours are cut off here, in 8-bit steps
STATES = 2 * TRUNCATED + 1
# one step to the right, down, and along both diagonals; the opposite directions have the same counts, mirrored
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def spam(x: Tensor) -> Tensor:
    """Computes the 686 second-order SPAM features of images, a model of steganalysis for differences of neighbours.

    A feature is the probability that the difference of two neighbouring pixels is u, given that the two differences
    before it are v and w: a transition of a Markov chain. Differences are cut off at 3 8-bit steps. The transitions are
    averaged over the directions along rows and columns, and over the diagonal ones. Counts are added up over channels.

    Args:
        x: (N, C, H, W) in [0, 1], at least 4 pixels high and wide.

    Returns:
        (N, 686) float32.

    Reference:
        Pevný, Bas & Fridrich 2010, "Steganalysis by subtractive pixel adjacency matrix", IEEE Transactions on
        Information Forensics and Security 5. Used on adversarial examples by Liu et al. 2019, arXiv:1806.09186.
    """
    pixels = (255 * x).round().to(torch.int16)
    height, width = pixels.shape[2:]
    found = []
    for down, right in DIRECTIONS:
        # the pixels of a path of four, in this direction
        left, last = max(0, -3 * right), max(0, 3 * right)
        path = [
            pixels[..., step * down : height - (3 - step) * down, left + step * right : width - last + step * right]
            for step in range(4)
        ]
        w, v, u = ((path[i] - path[i + 1]).clamp(-TRUNCATED, TRUNCATED) + TRUNCATED for i in range(3))
        state = (STATES * (STATES * u.int() + v) + w).flatten(1).long()
        counts = torch.zeros(len(x), STATES**3, dtype=torch.float32).to(x.device)
        counts.scatter_add_(1, state, torch.ones_like(state, dtype=torch.float32))
        there = counts.reshape(-1, STATES, STATES, STATES)
        back = there.flip(1, 2, 3).transpose(1, 3)
        found += [each / each.sum(1, keepdim=True).clamp(min=1) for each in (there, back)]
    straight, diagonal = (torch.stack(found[start : start + 4]).mean(0).flatten(1) for start in (0, 4))
    return torch.cat([straight, diagonal], 1)


def fourier_magnitudes(x: Tensor) -> Tensor:
    """Computes the magnitudes of the two-dimensional Fourier transform of images, for each channel.

    Half of the spectrum of real values says all.

    Args:
        x: (N, C, H, W).

    Returns:
        (N, C x H x (W // 2 + 1)).

    Reference:
        Harder, Pfreundt, Keuper & Keuper 2021, "SpectralDefense: detecting adversarial attacks on CNNs in the Fourier
        domain", arXiv:2103.03000, InputMFS.
    """
    return torch.fft.rfft2(x).abs().flatten(1)
