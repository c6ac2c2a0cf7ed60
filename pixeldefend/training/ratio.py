"""Fits the likelihood ratio of profiles: perturbed against clean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ambient import torch_defaults
from ..errors import ParameterError
from ..images import Origin
from ..scores.likelihood_ratio import FILE_KINDS, LikelihoodRatio, file_kind

BATCH = 128  # clean profiles, and as many perturbed ones
DROPPED_FEATURES, DROPPED_UNITS = 0.1, 0.3
STRANGE = 1e-3  # the share of clean training images whose history would count as unknown
HISTORY_WEIGHT = 0.1  # of the loss of the histories, which must not cost power


@torch_defaults(seed=0)
def fit_ratio(
    clean: Tensor,
    perturbed: Sequence[Tensor],
    labels: np.ndarray,
    origins: Sequence[Origin | None],
    histories: Sequence[str],
    *,
    width: int = 384,
    steps: int = 12000,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.03,
    seed: int = 0,
) -> LikelihoodRatio:
    """Fits a likelihood ratio to the profiles of clean images and of the same images with synthetic perturbations.

    Args:
        clean: (N, F), the profiles of clean images.
        perturbed: At least one (N, F): the profiles of these images with different perturbations.
        labels: (N,) the histories of the images, indices of `histories`.
        origins: What the file of each image says of itself.
        histories: The names of the histories.
        width: The number of hidden units.
        steps: The number of steps of AdamW, whose learning rate falls to zero.
        learning_rate: Its first learning rate.
        weight_decay: Its weight decay.
        seed: The seed of all random numbers.

    Returns:
        The ratio, in evaluation mode.

    Raises:
        ParameterError: If the sizes do not match.
    """
    sizes = {len(clean), len(labels), len(origins), *(len(copy) for copy in perturbed)}
    if len(sizes) != 1 or not len(clean) or not perturbed:
        raise ParameterError(f"profiles, labels and origins must be of the same images, at least one, got {sizes}")
    torch.manual_seed(seed)
    ratio = LikelihoodRatio(clean.shape[1], histories, width=width)
    everything = torch.cat([clean, *perturbed])
    ratio.mean.copy_(everything.mean(0))
    ratio.deviation.copy_(everything.std(0) + 1e-3)
    ratio.file_kinds.copy_(_kinds_given_histories(labels, origins, len(histories)))
    ratio.strange.copy_(torch.quantile(ratio.strangeness(clean), 1 - STRANGE))
    clean, *perturbed = (ratio.standardised(copy) for copy in (clean, *perturbed))
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    drop_features, drop_units = nn.Dropout(DROPPED_FEATURES), nn.Dropout(DROPPED_UNITS)
    optimizer = torch.optim.AdamW(ratio.parameters(), learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    is_perturbed = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
    for _ in range(steps):
        chosen = torch.randint(len(clean), (BATCH,))
        copy = perturbed[int(torch.randint(len(perturbed), ()))]
        hidden = F.silu(ratio.hidden(drop_features(torch.cat([clean[chosen], copy[chosen]]))))
        found = ratio.last(drop_units(hidden))
        loss = F.binary_cross_entropy_with_logits(found[:, 0], is_perturbed)
        loss = loss + HISTORY_WEIGHT * F.cross_entropy(found[:, 1:], target[chosen].repeat(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return ratio.eval()


def _kinds_given_histories(labels: np.ndarray, origins: Sequence[Origin | None], histories: int) -> Tensor:
    """Returns (H, kinds of files): log P(kind | history), estimated with one more image of each kind."""
    counts = torch.ones(histories, len(FILE_KINDS))
    for label, origin in zip(labels, origins, strict=True):
        kind = file_kind(origin)
        if kind is not None:
            counts[int(label), FILE_KINDS.index(kind)] += 1
    return torch.log(counts / counts.sum(1, keepdim=True))
