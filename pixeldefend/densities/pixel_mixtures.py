"""The conditionals of whole pixels, by a compiled kernel (numba, of the extra `fast`).

torch computes `PixelLogisticMixtureHead` in about sixty operations, and each of them reads and writes all components of
all sub-pixels. The kernel takes a few pixels at a time, whose numbers stay in the CPU's nearest cache.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .distributions import BYTE_LEVELS
from .kernels import LOG2, compiled, in_parts

BLOCK = 128  # pixels that are computed together
LAST = np.float32(BYTE_LEVELS - 1)
HALF, ONE, TWO = np.float32(0.5), np.float32(1), np.float32(2)
LOG2_E, LOG_2 = np.float32(1 / math.log(2)), np.float32(math.log(2))
LOG_TWO_BINS = np.float32(math.log(2 / (BYTE_LEVELS - 1)))
LEAST, MOST = np.float32(-80), np.float32(80)  # exponents are clamped here
LARGEST_LOG_SCALE = np.float32(7)
WIDTH = np.float32((1 - 1e-4) / (BYTE_LEVELS - 1))  # from the ends, within which bins reach to infinity
# of exp(x) for x in [-log(2) / 2, log(2) / 2]; of cosh(h) and of sinh(h) / h as polynomials of h squared, for h up to 5
EXP = np.array([1 / math.factorial(k) for k in range(7)], np.float32)
COSH = np.array([1 / math.factorial(2 * k) for k in range(13)], np.float32)
SINHC = np.array([1 / math.factorial(2 * k + 1) for k in range(13)], np.float32)


def pixel_mixtures(parameters: Tensor, x: Tensor, mixtures: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes the mixtures of all sub-pixels.

    Args:
        parameters: (N, P, H, W), as `PixelLogisticMixtureHead.forward` takes them; `kernels.can_run` is true.
        x: (N, C, H, W).
        mixtures: K.

    Returns:
        Four (N, C, H, W, K): normalised logits, means, clamped log-scales, and the log of the mass that each component
        puts on the bin around x.
    """
    n, channels, height, width = x.shape
    planes, values = (t.detach().movedim(1, 0).contiguous().flatten(1).numpy() for t in (parameters, x))
    found = np.empty((4, channels, mixtures, values.shape[1]), np.float32)

    def run(part: slice) -> None:  # with whole arrays: for each layout in memory there would be another compilation
        _pixel_mixtures(planes, values, *found, part.start, part.stop)

    in_parts(run, values.shape[1])
    tensors = torch.from_numpy(found).unflatten(3, (n, height, width)).permute(0, 3, 1, 4, 5, 2)
    logits, means, log_scales, masses = tensors
    return logits, means, log_scales, masses


# -- compiled ----------------------------------------------------------------------------------------------------------


@compiled
def exp(x: np.float32) -> np.float32:
    """exp(x) for x in [LEAST, MOST], with arithmetic only, so that several are computed by one instruction."""
    whole = np.int32(np.floor(x * LOG2_E + HALF))
    y = x - np.float32(whole) * LOG_2
    power = ((EXP[6] * y + EXP[5]) * y + EXP[4]) * y + EXP[3]
    power = ((power * y + EXP[2]) * y + EXP[1]) * y + EXP[0]
    return power * np.int32((whole + 127) << 23).view(np.float32)


@compiled
def log(x: np.float32) -> np.float32:
    """log(x) for a positive, finite x; of NaN and infinity it is some number."""
    bits = np.float32(x).view(np.int32)
    y = np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32) - ONE
    power = ((LOG2[8] * y + LOG2[7]) * y + LOG2[6]) * y + LOG2[5]
    power = ((power * y + LOG2[4]) * y + LOG2[3]) * y + LOG2[2]
    power = (power * y + LOG2[1]) * y + LOG2[0]
    return (np.float32((bits >> 23) - 127) + power * y) * LOG_2


@compiled
def _tanh(x: np.float32) -> np.float32:
    x = TWO * x
    x = MOST if x > MOST else x
    return ONE - TWO / (exp(LEAST if x < LEAST else x) + ONE)


@compiled
def _log_softmax(logits: np.ndarray, top: np.ndarray, total: np.ndarray, out: np.ndarray) -> None:
    """(K, n) -> (K, n), which it writes; `top` and `total` are (n,)."""
    top[:] = logits[0]
    for k in range(1, len(logits)):
        row = logits[k]
        for i in range(len(top)):
            top[i] = row[i] if row[i] > top[i] else top[i]
    total[:] = 0
    for k in range(len(logits)):
        row = logits[k]
        for i in range(len(top)):
            away = row[i] - top[i]
            total[i] += exp(LEAST if away < LEAST else away)
    for i in range(len(top)):
        total[i] = top[i] + log(total[i])
    for k in range(len(logits)):
        row, target = logits[k], out[k]
        for i in range(len(top)):
            target[i] = row[i] - total[i]


@compiled
def _log_masses(value: np.ndarray, mean: np.ndarray, log_scale: np.ndarray, out: np.ndarray) -> None:
    """(n,) thrice -> (n,), which it writes: the log of the mass in bins between two others."""
    for i in range(len(out)):
        per_scale = exp(-log_scale[i])
        away = abs((TWO * value[i] - ONE - mean[i]) * per_scale)
        small = exp(LEAST if away > MOST else -away)
        # the mass is sinh(h) / (cosh(z) + cosh(h)), z and half the bin's width h in scales; h / sinh(h) does not cancel
        square = (per_scale / LAST) ** 2
        sinhc, cosh = SINHC[12], COSH[12]
        for power in range(11, -1, -1):
            sinhc = sinhc * square + SINHC[power]
            cosh = cosh * square + COSH[power]
        out[i] = LOG_TWO_BINS - log_scale[i] - away + log(sinhc / (ONE + small * (small + TWO * cosh)))


@compiled
def _open_ends(value: np.ndarray, mean: np.ndarray, log_scale: np.ndarray, out: np.ndarray) -> None:
    """Adds to (n,) log masses what lies beyond bins at the ends of the range; see `logistic_mixture.log_masses`."""
    for i in range(len(out)):
        lower = value[i] < HALF
        distance = value[i] if lower else ONE - value[i]
        openness = ONE - distance / WIDTH
        if openness > 0:
            per_scale = math.exp(-log_scale[i])
            z = (2 * value[i] - 1 - mean[i]) * per_scale
            u = (z if lower else -z) - per_scale / LAST
            beyond = min(u, 0.0) - math.log1p(math.exp(-abs(u))) + math.log(openness)
            top = max(out[i], beyond)
            out[i] = top + math.log1p(math.exp(-abs(out[i] - beyond)))


@compiled
def _pixel_mixtures(
    planes: np.ndarray,
    values: np.ndarray,
    logits: np.ndarray,
    means: np.ndarray,
    log_scales: np.ndarray,
    masses: np.ndarray,
    first: int,
    last: int,
) -> None:
    """(P, M) and (C, M) -> four (C, K, M), of which it writes some pixels; see `PixelLogisticMixtureHead.forward`."""
    channels, mixtures, _ = logits.shape
    weights = np.empty((mixtures, BLOCK), np.float32)
    top, total = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(first, last, BLOCK):
        stop = min(start + BLOCK, last)
        n = stop - start
        weight = weights[:, :n]
        weight[:] = planes[:mixtures, start:stop]
        for c in range(channels):
            value = values[c, start:stop]
            at_end = False
            for i in range(n):
                at_end = at_end or value[i] < WIDTH or value[i] > ONE - WIDTH
            _log_softmax(weight, top[:n], total[:n], logits[c, :, start:stop])
            for k in range(mixtures):
                mean, log_scale, mass = means[c, k, start:stop], log_scales[c, k, start:stop], masses[c, k, start:stop]
                mean[:] = planes[mixtures * (1 + c) + k, start:stop]
                for before in range(c):
                    pair = 1 + 2 * channels + c * (c - 1) // 2 + before
                    coefficient, seen = planes[mixtures * pair + k, start:stop], values[before, start:stop]
                    for i in range(n):
                        mean[i] += _tanh(coefficient[i]) * (TWO * seen[i] - ONE)
                given = planes[mixtures * (1 + channels + c) + k, start:stop]
                for i in range(n):
                    s = given[i]
                    s = LARGEST_LOG_SCALE if s > LARGEST_LOG_SCALE else s
                    log_scale[i] = -LARGEST_LOG_SCALE if s < -LARGEST_LOG_SCALE else s
                _log_masses(value, mean, log_scale, mass)
                if at_end:
                    _open_ends(value, mean, log_scale, mass)
                row = weight[k]
                for i in range(n):
                    row[i] += mass[i]
