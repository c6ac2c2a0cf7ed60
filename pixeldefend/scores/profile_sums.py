"""The sums over the sites of a tile of which profiles are made, by a compiled kernel (numba, of the extra `fast`).

torch computes fifteen statistics of each site, one after another, and then weighs all of them for each scale, though a
site counts for two scales only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..densities.kernels import compiled, in_parts
from ..densities.pixel_mixtures import LEAST, LOG2_E, ONE, TWO, exp, log

LANES = 16  # of the statistics of a site, of which the last is a one
ZERO, NINE = np.float32(0), np.float32(9)
LEAST_RELATIVE = np.float32(-12)


def sums(residual: Tensor, deviation: Tensor, relative: Tensor, far: float, scales: int) -> tuple[Tensor, ...]:
    """Sums over sites.

    Args:
        residual: (N, C, H, W), as `profile.residuals` returns them; `kernels.can_run` is true.
        deviation: (N, C, H, W).
        relative: (N, C, H, W).
        far: Where standardised residuals are clipped.
        scales: B.

    Returns:
        (N, C, B), the sums of the shares by which sites count for each scale; (N, C, 15, B), those of the statistics;
        and (N,), the sums of the surprisal.
    """
    planes = [t.detach().contiguous().numpy() for t in (residual, deviation, relative)]
    found = np.zeros((*residual.shape[:2], scales, LANES))
    surprisal = np.zeros(len(residual))

    def run(images: slice) -> None:
        for image in range(*images.indices(len(residual))):
            surprisal[image] = _sums(*(plane[image] for plane in planes), np.float32(far), found[image])

    in_parts(run, len(residual), least=1)
    moments = torch.from_numpy(found).to(residual.dtype)
    return moments[..., -1], moments[..., :-1].mT, torch.from_numpy(surprisal).to(residual.dtype)


@compiled
def _sums(
    residual: np.ndarray, deviation: np.ndarray, relative: np.ndarray, far: np.float32, found: np.ndarray
) -> float:
    """(C, H, W) thrice -> (C, B, LANES), to which it adds, and the sum of the surprisal."""
    channels, height, width = residual.shape
    last = np.float32(found.shape[1] - 1)
    z = np.zeros((channels, 3, 2 + width), np.float32)  # of this row and the two above, with two columns of zeros
    position = np.empty(width, np.float32)
    near = np.empty((3, width), np.float32)  # whether a site lies 0, 1 or 2 grey levels from its prediction
    statistics = np.zeros(LANES, np.float32)
    statistics[LANES - 1] = ONE
    surprisal = 0.0
    for y in range(height):
        for c in range(channels):
            here, above, two_above = z[c, y % 3], z[c, (y + 2) % 3], z[c, (y + 1) % 3]
            r, d, rel = residual[c, y], deviation[c, y], relative[c, y]
            for x in range(width):
                value = r[x] / d[x]
                value = far if value > far else value
                here[2 + x] = -far if value < -far else value
            total = ZERO
            for x in range(width):
                logarithm = log(d[x])
                total += logarithm - rel[x]
                place = logarithm * LOG2_E + ONE
                place = last if place > last else place
                position[x] = place if place > ZERO else ZERO  # an index, below
            surprisal += float(total)
            for level in range(3):
                row = near[level]
                for x in range(width):
                    away = abs(r[x]) - np.float32(level)
                    exponent = -TWO * away * away
                    row[x] = exp(LEAST if exponent < LEAST else exponent)
            for x in range(width):
                value = here[2 + x]
                square = value * value
                statistics[0] = LEAST_RELATIVE if rel[x] < LEAST_RELATIVE else rel[x]
                statistics[1] = value
                statistics[2] = abs(value)
                statistics[3] = square
                statistics[4] = square * square / NINE
                statistics[5] = value * here[1 + x]
                statistics[6] = value * above[2 + x]
                statistics[7] = value * above[1 + x]
                statistics[8] = value * here[x]
                statistics[9] = value * two_above[2 + x]
                statistics[10] = value * z[c - 1, y % 3, 2 + x] if c > 0 else ZERO
                statistics[11] = value * z[c - 2, y % 3, 2 + x] if c > 1 else ZERO
                statistics[12] = near[0, x]
                statistics[13] = near[1, x]
                statistics[14] = near[2, x]
                scale = min(int(position[x]), found.shape[1] - 2)
                upper = position[x] - np.float32(scale)
                for lane in range(LANES):
                    found[c, scale, lane] += (ONE - upper) * statistics[lane]
                    found[c, scale + 1, lane] += upper * statistics[lane]
    return surprisal
