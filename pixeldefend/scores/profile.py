"""The profile of an image: what a local density says about it, summed up in a few hundred numbers.

An attack moves sub-pixels by a step or a few, almost at random. In a photograph this shows: residuals are too large
where the density is sure of itself, they do not vary with brightness as sensor noise does, and neither their spectrum
nor their correlations are those of any history of clean photographs. A profile holds means of such quantities, for each
channel and each scale of the prediction. It hardly depends on what the image shows, or on its size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..densities import NeLLoC, kernels
from ..densities.distributions import BYTE_LEVELS
from ..densities.logistic_mixture import LEAST, DiscretizedLogisticMixture
from ..densities.nelloc import Place

T = TypeVar("T")

# predicted standard deviations of 1/2, 1, 2, 4, 8 and 16 grey levels; a site in between counts for both neighbours
SCALES = 6
STATISTICS = 15  # of each site, whose means the profile holds
BLOCK = 8  # side of the blocks whose spectra are taken, those of JPEG
FAR = 4.0  # residuals are clipped here, so that a few outliers do not decide
PRIOR = 20.0  # sites by which the means of rare scales are shrunk to zero
GOLDEN = (math.sqrt(5) - 1) / 2
TILES_AT_MOST = 256  # that are profiled, 4 megapixels
EXPECTED = 2 - math.log(math.pi / math.sqrt(3))  # minus the mean of what `residuals` calls relative, for one logistic


def size_of_profile(channels: int) -> int:
    """Returns the number of features in a profile of an image with so many channels."""
    return channels * (SCALES * (STATISTICS + 1) + 2 * BLOCK**2)


def without_spectra(profiles: Tensor, channels: int) -> Tensor:
    """Returns the features of profiles, (N, F), that are means over sites and not spectra.

    Args:
        profiles: (N, `size_of_profile(channels)`).
        channels: The number of channels of the images.

    Returns:
        (N, channels * SCALES * (STATISTICS + 1)).
    """
    return profiles[:, : channels * SCALES * (STATISTICS + 1)]


@dataclass
class Examined:
    """What a local density says about N images of one size.

    Attributes:
        profiles: (N, F), F = `size_of_profile(C)`.
        bits_per_dim: (N,) -log2 p(x) for each sub-pixel of the tiles that were profiled.
        excess_map: (N, H, W), how much more surprising each pixel is than the density expects, in nats; None if it was
            not asked for.
    """

    profiles: Tensor
    bits_per_dim: Tensor
    excess_map: Tensor | None = None


def examine(density: NeLLoC, x: Tensor, *, maps: bool = False) -> Examined:
    """Computes the profiles of images, tile by tile, so that memory does not grow with the image.

    Of images with more than `TILES_AT_MOST` tiles, so many are profiled, evenly spread.

    Args:
        density: A local density of 8-bit images.
        x: (N, C, H, W) in [0, 1], or uint8, with sides of at least 8. A gradient reaches x if it is asked for.
        maps: Whether to compute `Examined.excess_map`, which needs all tiles.

    Returns:
        The profiles and, if asked for, the maps.
    """
    places = density.places(x.shape)
    if not places:
        empty = torch.zeros(0, device=density.device)
        profiles = empty.new_zeros(0, size_of_profile(x.shape[1]))
        return Examined(profiles, empty, empty.new_zeros(0, *x.shape[2:]) if maps else None)
    by_images: dict[int, list[Place]] = {}
    for place in places:
        by_images.setdefault(place[0].start, []).append(place)
    chosen = [place for group in by_images.values() for place in _spread(group, TILES_AT_MOST)]
    profiled = {id(place) for place in chosen}
    found = torch.zeros(len(x), *x.shape[2:], device=density.device) if maps else None

    def sums_of(place: Place, conditionals: DiscretizedLogisticMixture, tile: Tensor) -> list[Tensor] | None:
        residual, deviation, relative = residuals(conditionals, tile)
        if found is not None:
            found[place[0], place[2], place[3]] = -(relative + EXPECTED).sum(1)
        return _sums(residual, deviation, relative) if id(place) in profiled else None

    if not maps:
        places = chosen
    sums: dict[int, list[Tensor]] = {}
    for place, new in zip(places, density.for_each(x, places, sums_of), strict=True):
        if new is not None:
            old = sums.get(place[0].start)
            sums[place[0].start] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
    joined = [torch.cat(parts) for parts in zip(*sums.values(), strict=True)]
    bits = joined[-1] / (joined[0].sum((1, 2)) * math.log(2))
    return Examined(_profiles(joined), bits, found)


def profile_of(residual: Tensor, deviation: Tensor, relative: Tensor) -> Tensor:
    """Computes the profiles of whole images from the three results of `residuals`.

    Args:
        residual: (N, C, H, W), with sides of at least 8.
        deviation: (N, C, H, W).
        relative: (N, C, H, W).

    Returns:
        (N, F).
    """
    return _profiles(_sums(residual, deviation, relative))


def residuals(conditionals: DiscretizedLogisticMixture, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compares sites with their predictions.

    Args:
        conditionals: The conditionals of x.
        x: (N, C, H, W) in [0, 1].

    Returns:
        Three (N, C, H, W): the residuals in grey levels; the predicted standard deviations in grey levels; and log p
        of each site relative to a uniform distribution as wide as one standard deviation.
    """
    mean, deviation = conditionals.mean_and_deviation()
    levels = BYTE_LEVELS - 1
    return levels * (x - mean), levels * deviation, conditionals.log_prob(x) + torch.log(levels * deviation)


def _spread(places: list[T], most: int) -> list[T]:
    """Returns at most so many of some places, evenly spread over rows and columns."""
    if len(places) <= most:
        return places
    # one of every few; the same one each time would be in the same few columns
    starts = [i * len(places) // most for i in range(most + 1)]
    return [places[a + int(i * GOLDEN % 1 * (b - a))] for i, (a, b) in enumerate(itertools.pairwise(starts))]


def _profiles(sums: list[Tensor]) -> Tensor:
    """Returns the profiles, (N, F), of images whose `_sums` these are."""
    mass, moments, spectra, blocks, _ = sums
    means = moments / (mass.unsqueeze(2) + PRIOR)
    shares = torch.log(mass / mass.sum(2, keepdim=True) + 1e-3)
    spectra = torch.log(spectra / blocks.clamp(min=1) + 0.02)
    return torch.cat([part.flatten(1) for part in (means, shares, spectra)], 1)


def _sums(residual: Tensor, deviation: Tensor, relative: Tensor) -> list[Tensor]:
    """Sums over the sites of a tile: (N, C, B), (N, C, S, B), (N, C, 2, 8, 8), (N, 1, 1, 1, 1) and (N,)."""
    z = (residual / deviation).clamp(-FAR, FAR)
    spectra = torch.stack([_spectrum(values) for values in (z, residual.clamp(-FAR, FAR))], 2)
    blocks = torch.full((len(z), 1, 1, 1, 1), (z.shape[2] // BLOCK) * (z.shape[3] // BLOCK), device=z.device)
    if kernels.can_run(residual, deviation, relative):
        from .profile_sums import sums

        mass, moments, surprisal = sums(residual, deviation, relative, FAR, SCALES)
        return [mass, moments, spectra, blocks, surprisal]
    position = torch.log2(deviation).clamp(-1, SCALES - 2) + 1
    scales = torch.arange(SCALES, device=z.device).reshape(-1, 1, 1)
    share = (1 - (position.unsqueeze(2) - scales).abs()).clamp(min=0).flatten(3)  # (N, C, B, sites)
    square = z.square()
    statistics = torch.stack(
        [
            relative.clamp(min=-12),
            z,
            z.abs(),
            square,
            square.square() / 9,
            # correlations with neighbours, and with the channels before
            *(z * _moved(z, down, right) for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))),
            *(z * F.pad(z, (0, 0, 0, 0, channels, 0))[:, : z.shape[1]] for channels in (1, 2)),
            # whether a site lies 0, 1 or 2 grey levels from its prediction
            *(torch.exp((-2 * (residual.abs() - levels).square()).clamp(min=LEAST)) for levels in (0, 1, 2)),
        ],
        2,
    )
    moments = torch.einsum("ncsp,ncbp->ncsb", statistics.flatten(3), share)
    surprisal = (torch.log(deviation) - relative).flatten(1).sum(1)
    return [share.sum(3), moments, spectra, blocks, surprisal]


def _moved(z: Tensor, down: int, right: int) -> Tensor:
    """Moves images down and to the right, with zeros in the place that they leave."""
    return F.pad(z, (right, 0, down, 0))[..., : z.shape[2], : z.shape[3]]


def _spectrum(values: Tensor) -> Tensor:
    """Sums the squares of the cosine transforms of all blocks: (N, C, H, W) -> (N, C, 8, 8)."""
    n, c, h, w = values.shape
    h, w = h // BLOCK, w // BLOCK
    blocks = values[..., : BLOCK * h, : BLOCK * w].reshape(n, c, h, BLOCK, w, BLOCK).transpose(3, 4)
    place = torch.arange(BLOCK, device=values.device, dtype=values.dtype)
    frequency = place[:, None]
    cosines = torch.cos(math.pi * frequency * (2 * place + 1) / (2 * BLOCK)) / 2
    cosines[0] *= math.sqrt(0.5)
    return (cosines @ blocks @ cosines.T).square().sum((2, 3))
