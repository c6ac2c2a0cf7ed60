"""Drafts of samples and purified images, by a compiled kernel (numba, of the extra `fast`).

`sampling.solve` computes one sub-pixel after another. For a few images, nearly all of that time is the overhead of
calling torch for each layer of each pixel. The kernel runs the net with one stream, its mixture of logistics and the
rule, pixel after pixel. It rounds differently than torch, so `solve` checks a draft by passes of the whole net. These
nearly always find nothing to change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .distributions import BYTE_LEVELS
from .kernels import compiled
from .layers import ShiftedConv2d

if TYPE_CHECKING:
    from .pixelcnnpp import OneStreamNet

LAST = BYTE_LEVELS - 1
ROWS, COLUMNS = 2, 3  # of the kernels of the blocks, which see one row above, and one column on either side
NONE = -1e300  # less than any logarithm


def draft(
    net: OneStreamNet,
    low: Tensor,
    high: Tensor,
    u: Tensor | None = None,
    progress: Callable[[list[Any]], Iterable[Any]] = lambda images: images,
) -> Tensor:
    """Computes images whose sub-pixels are, one after another, the most probable or random values.

    Args:
        net: A net whose head is a mixture of logistics over whole pixels, in float32 on the CPU.
        low: (N, C, H, W), the lowest allowed value of each sub-pixel, on the 8-bit grid in [0, 1].
        high: (N, C, H, W), the highest one.
        u: (N, C, H, W) in [0, 1). Each sub-pixel becomes the quantile of its conditional at u, or the nearest allowed
            value. None for the most probable allowed value.
        progress: Wraps the list of images, as tqdm does.

    Returns:
        (N, C, H, W), on the 8-bit grid in [0, 1].
    """
    lowest, highest = ((LAST * t).round().to(torch.uint8).contiguous().numpy() for t in (low, high))
    drawn = np.zeros((len(low), 1, 1, 1)) if u is None else u.double().contiguous().numpy()
    found = np.zeros(lowest.shape, np.uint8)
    channels, height, width = lowest.shape[1:]
    mixtures = len(net.last.weight) // (1 + 2 * channels + channels * (channels - 1) // 2)
    left, right, top, _ = net.first.pads
    weights = _weights(net)

    def run(image: int) -> None:
        seen = np.zeros((top + height, left + width + max(0, right), channels + 1), np.float32)
        filters = net.first.out_channels
        hidden = np.zeros((2 * len(net.blocks), height + ROWS - 1, width + COLUMNS - 1, filters), np.float32)
        bounds = lowest[image], highest[image], drawn[image], u is not None
        sizes = top, left, *net.first.kernel_size, mixtures
        _draft(found[image], *bounds, seen, hidden, *sizes, net.activation is F.silu, *weights)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for future in progress([pool.submit(run, image) for image in range(len(low))]):
            future.result()
    return torch.from_numpy(found) / LAST


def _weights(net: OneStreamNet) -> tuple[np.ndarray, ...]:
    """Returns the weights as `_draft` takes them."""
    pairs = [(block.first, block.second) for block in net.blocks]
    stacked = [
        np.stack([made(conv) for conv in convs]) for convs in zip(*pairs, strict=True) for made in (_matrix, _bias)
    ]
    return _matrix(net.first), _bias(net.first), *stacked, _matrix(net.last), _bias(net.last), _matrix(net.direct)


def _matrix(conv: nn.Conv2d) -> np.ndarray:
    """Returns the weight, (kh kw C, C')."""
    kernel = conv.kernel() if isinstance(conv, ShiftedConv2d) else conv.weight
    return kernel.detach().permute(2, 3, 1, 0).reshape(-1, conv.out_channels).contiguous().numpy()


def _bias(conv: nn.Conv2d) -> np.ndarray:
    assert conv.bias is not None
    return conv.bias.detach().numpy()


# -- compiled ----------------------------------------------------------------------------------------------------------


@compiled
def _activation(x: float, is_silu: bool) -> Any:
    if is_silu:
        return x / (np.float32(1) + math.exp(-x))
    return x if x > 0 else np.float32(math.exp(x)) - np.float32(1)


@compiled
def _convolve(
    seen: np.ndarray, row: int, column: int, size: tuple[int, int], matrix: np.ndarray, out: np.ndarray
) -> None:
    """Adds to `out`, (C',), the output of a convolution whose window begins at a pixel of `seen`, (H, W, C)."""
    line = 0
    for i in range(size[0]):
        for j in range(size[1]):
            piece = seen[row + i, column + j]
            for k in range(len(piece)):
                weights, value = matrix[line], piece[k]
                line += 1
                for c in range(len(out)):
                    out[c] += value * weights[c]


@compiled
def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


@compiled
def _log_mass(value: int, mean: float, log_scale: float) -> float:
    """The log of the mass that a logistic puts on a value; see `logistic_mixture.log_masses`."""
    per_scale = math.exp(-log_scale)
    half = per_scale / LAST
    z = (2 * value / LAST - 1 - mean) * per_scale
    if value == 0:
        return _log_sigmoid(z + half)
    if value == LAST:
        return _log_sigmoid(half - z)
    away, rise = abs(z), math.expm1(half)
    fall, small = rise / (1 + rise), math.exp(-away)
    return math.log(rise + fall) - away - math.log(1 + small * (small + (2 + rise - fall)))


@compiled
def _quantile(u: float, logits: np.ndarray, means: np.ndarray, log_scales: np.ndarray) -> int:
    """The highest value below which there is at most u."""
    low, high = 0, LAST
    while low < high:
        value = (low + high + 1) // 2
        below = 0.0
        for k in range(len(logits)):
            z = (2 * value / LAST - 1 - 1 / LAST - means[k]) * math.exp(-log_scales[k])
            below += math.exp(logits[k]) / (1 + math.exp(-z))
        if below <= u:
            low = value
        else:
            high = value - 1
    return low


@compiled
def _most_probable(low: int, high: int, logits: np.ndarray, means: np.ndarray, log_scales: np.ndarray) -> int:
    """The most probable of the values from low to high, the lowest of several."""
    best, highest = low, NONE
    for value in range(low, high + 1):
        top, total = NONE, 0.0
        for k in range(len(logits)):
            log = logits[k] + _log_mass(value, means[k], log_scales[k])
            if log > top:
                top, total = log, total * math.exp(top - log) + 1
            else:
                total += math.exp(log - top)
        log = top + math.log(total)
        if log > highest:
            best, highest = value, log
    return best


@compiled
def _draft(
    found: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    u: np.ndarray,
    is_random: bool,
    seen: np.ndarray,
    hidden: np.ndarray,
    top: int,
    left: int,
    kernel_rows: int,
    kernel_columns: int,
    mixtures: int,
    is_silu: bool,
    first_matrix: np.ndarray,
    first_bias: np.ndarray,
    inner_matrix: np.ndarray,
    inner_bias: np.ndarray,
    outer_matrix: np.ndarray,
    outer_bias: np.ndarray,
    last_matrix: np.ndarray,
    last_bias: np.ndarray,
    direct_matrix: np.ndarray,
) -> None:
    """Writes one image to `found`, (C, H, W); see `OneStreamNet.forward` and `PixelLogisticMixtureHead.by_channel`.

    `seen` and `hidden` hold the inputs of the first convolution and of those of the blocks, with their padding.
    """
    channels, height, width = found.shape
    filters = len(first_bias)
    x, residual = np.empty(filters, np.float32), np.empty(filters, np.float32)
    gated = np.empty(2 * filters, np.float32)
    parameters = np.empty(len(last_bias), np.float32)
    logits, means, log_scales = np.empty(mixtures), np.empty(mixtures), np.empty(mixtures)
    one = np.float32(1)
    for i in range(height):
        for j in range(width):
            residual[:] = first_bias
            _convolve(seen, i, j, (kernel_rows, kernel_columns), first_matrix, residual)
            parameters[:] = last_bias
            for c in range(filters):
                for k in range(len(parameters)):
                    parameters[k] += residual[c] * direct_matrix[c, k]
            for block in range(len(inner_matrix)):
                for half in range(2):
                    here = hidden[2 * block + half, i + ROWS - 1, j + COLUMNS // 2]
                    source = x if half else residual
                    for c in range(filters):
                        here[c] = _activation(source[c], is_silu)
                    if half:
                        gated[:] = outer_bias[block]
                        _convolve(hidden[2 * block + 1], i, j, (ROWS, COLUMNS), outer_matrix[block], gated)
                    else:
                        x[:] = inner_bias[block]
                        _convolve(hidden[2 * block], i, j, (ROWS, COLUMNS), inner_matrix[block], x)
                for c in range(filters):
                    residual[c] += gated[c] / (one + math.exp(-gated[c + filters]))
            for c in range(filters):
                value = _activation(residual[c], is_silu)
                for k in range(len(parameters)):
                    parameters[k] += value * last_matrix[c, k]
            logits[:] = parameters[:mixtures]
            for channel in range(channels):
                total = 0.0
                highest = logits.max()
                for k in range(mixtures):
                    total += math.exp(logits[k] - highest)
                logits -= highest + math.log(total)
                for k in range(mixtures):
                    means[k] = parameters[mixtures * (1 + channel) + k]
                    for before in range(channel):
                        pair = 1 + 2 * channels + channel * (channel - 1) // 2 + before
                        coefficient = math.tanh(parameters[mixtures * pair + k])
                        means[k] += coefficient * (2 * found[before, i, j] / LAST - 1)
                    log_scales[k] = min(7.0, max(-7.0, parameters[mixtures * (1 + channels + channel) + k]))
                lowest, most = int(low[channel, i, j]), int(high[channel, i, j])
                if lowest == most:
                    chosen = lowest
                elif is_random:
                    chosen = min(most, max(lowest, _quantile(u[channel, i, j], logits, means, log_scales)))
                else:
                    chosen = _most_probable(lowest, most, logits, means, log_scales)
                found[channel, i, j] = chosen
                seen[i + top, j + left, channel] = 2 * chosen / LAST - 1
                for k in range(mixtures):
                    logits[k] += _log_mass(chosen, means[k], log_scales[k])
            seen[i + top, j + left, channels] = 1
