"""The compiled moments of the mixture of logistics, and how kernels are compiled, by numba (the extra `fast`).

torch computes the moments of the surprisal from tables of 256 numbers a sub-pixel, in several passes over memory. The
kernel computes one sub-pixel after another in the CPU's registers and nearest cache. It also skips values at which the
distribution function of a component is flat.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distributions import BYTE_LEVELS

LANES = 16  # values that are computed together
FLAT = 18.0  # in scales: beyond, a logistic distribution function is 0 or 1 up to 2e-8
SITES_A_THREAD = 4096  # below, a further thread does not pay
LEAST_MASS = np.float32(1e-30)
STEP = np.float32(2 / (BYTE_LEVELS - 1))  # between neighbouring values, in [-1, 1]
LOG_2 = np.float32(math.log(2))
# log2(1 + y) = y * polynomial(y) for y in [0, 1), with an error below 1e-7
_nodes = np.polynomial.chebyshev.chebpts1(400) / 2 + 0.5
LOG2 = np.polynomial.polynomial.polyfit(_nodes, np.log2(1 + _nodes) / _nodes, 8).astype(np.float32)
# the flags of `fastmath` that do not assume that numbers are finite
FAST = {"reassoc", "nsz", "arcp", "contract", "afn"}


def can_run(*parameters: Tensor) -> bool:
    """Returns whether the kernel can compute with these tensors: float32 on the CPU, without gradients, with numba."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in parameters):
        return False
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in parameters) and has_numba()


@functools.cache
def has_numba() -> bool:
    """Returns whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def surprisal_moments(logits: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the mean and the variance of the surprisal of a mixture of logistics.

    Args:
        logits: (M, K), normalised log-weights; for these three, `can_run` is true.
        means: (M, K).
        log_scales: (M, K), in [-7, 7].

    Returns:
        (M,), in nats; and (M,), in nats squared.
    """
    parameters = [t.detach().contiguous().numpy() for t in (logits, means, log_scales)]
    sites = len(logits)
    found = np.empty((2, sites), np.float32)
    kernel = _kernel()

    def run(part: slice) -> None:
        kernel(*(array[part] for array in parameters), found[0, part], found[1, part])

    in_parts(run, sites)
    mean, variance = torch.from_numpy(found)
    return mean, variance


def in_parts(function: Callable[[slice], None], n: int, *, least: int | None = None) -> None:
    """Calls a function for all of n sites or images, in as many threads as torch uses.

    Args:
        function: Takes a part of them. It releases Python's lock, as `compiled` functions do.
        n: Their number.
        least: The fewest for which a thread pays; None for `SITES_A_THREAD`.
    """
    threads = max(1, min(torch.get_num_threads(), n // (least or SITES_A_THREAD)))
    bounds = [n * k // threads for k in range(threads + 1)]
    parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
    if threads == 1:
        function(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(function, parts))


@functools.cache
def _kernel() -> Callable[..., None]:
    return compiled(_surprisal_moments)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function when it is first called, which takes seconds; numba keeps the result in a file if it can.

    Args:
        function: A function that numba can compile.
    """
    import numba

    options: dict[str, Any] = dict(fastmath=FAST, error_model="numpy", nogil=True)
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder that can be written to
        return numba.njit(**options)(function)


def _surprisal_moments(
    logits: np.ndarray, means: np.ndarray, log_scales: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> None:
    """(M, K) thrice -> (M,) twice, which it writes. It is compiled."""
    cdf = np.empty(BYTE_LEVELS + LANES, np.float32)  # up to and including a value
    mass = np.empty(BYTE_LEVELS, np.float32)
    mantissa = np.empty(BYTE_LEVELS, np.float32)
    bits = mantissa.view(np.int32)
    exponent = np.empty(BYTE_LEVELS, np.float32)
    powers = np.empty(LANES, np.float32)
    one = np.float32(1)
    last = BYTE_LEVELS - 1
    components = means.shape[1]
    weight = np.empty(components, np.float32)
    first, step = np.empty(components), np.empty(components)  # z at the edge above value 0, and its growth by an edge
    low, high = np.empty(components, np.int64), np.empty(components, np.int64)  # between them z is in [-FLAT, FLAT]
    for site in range(len(means)):
        known = True
        start, stop = last, 0
        for k in range(components):
            weight[k] = math.exp(logits[site, k])
            center, log_scale = means[site, k], log_scales[site, k]
            known = known and not (math.isnan(weight[k]) or math.isnan(center) or math.isnan(log_scale))
            if not known:
                break
            per_scale = math.exp(-log_scale)
            step[k] = STEP * per_scale
            first[k] = (STEP / 2 - one - center) * per_scale
            low[k] = math.floor(min(float(last), max(0.0, (-FLAT - first[k]) / step[k])))
            high[k] = math.ceil(min(float(last), max(0.0, (FLAT - first[k]) / step[k])))
            if weight[k] > 0:
                start, stop = min(start, low[k]), max(stop, high[k])
        if not known:
            mean[site] = variance[site] = np.nan
            continue
        # the masses of values outside start ... stop are zero; below, positions count from start
        stop = min(last, stop + 1)
        n = stop + 1 - start
        cdf[:n] = 0
        for k in range(components):
            share, value = weight[k], low[k]
            if share == 0:
                continue
            if value < high[k]:
                # the distribution function is 1 / (1 + exp(-z)), and exp(-z) falls by the same factor from edge to edge
                factor, power = np.float32(math.exp(-step[k])), one
                for lane in range(LANES):
                    powers[lane] = power
                    power *= factor
                small = np.float32(math.exp(-(first[k] + value * step[k])))
                while value < high[k]:
                    piece = cdf[value - start : value - start + LANES]
                    for lane in range(LANES):
                        piece[lane] += share / (one + small * powers[lane])
                    small *= power
                    value += LANES
            piece = cdf[value - start : max(n, value - start)]
            for i in range(len(piece)):
                piece[i] += share
        mass[0] = cdf[0]
        for i in range(1, n):
            mass[i] = cdf[i] - cdf[i - 1]
        if stop == last:
            mass[n - 1] = one - cdf[n - 2] if n > 1 else one
        for i in range(n):
            mantissa[i] = mass[i] = max(mass[i], LEAST_MASS)
        for i in range(n):
            exponent[i] = np.float32((bits[i] >> 23) - 127)
            bits[i] = (bits[i] & 0x7FFFFF) | 0x3F800000
        total = squares = np.float32(0)
        for i in range(n):
            y = mantissa[i] - one
            polynomial = LOG2[8]
            for power_of_y in range(7, -1, -1):
                polynomial = polynomial * y + LOG2[power_of_y]
            log = (exponent[i] + polynomial * y) * LOG_2
            total += mass[i] * log
            squares += mass[i] * log * log
        mean[site] = -total
        variance[site] = max(squares - total * total, np.float32(0))
