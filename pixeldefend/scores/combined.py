"""Combinations of several statistics, each transformed to be standard normal over clean images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from ..errors import CalibrationError, ModelError, ParameterError
from .evidence import MIN_DIVISOR, Evidence, Score
from .learned import LearnedScore, check_state, with_noise

QUANTILE_LEVELS = np.linspace(0.02, 0.98, 49)  # shares of the clean images


class Combined(LearnedScore):
    """A combination of several statistics, each transformed to standard normal by its quantiles over clean images.

    Beyond the outermost quantiles the transformed values grow logarithmically, so that an extreme value counts as
    extreme, but does not drown all other statistics. Members that are equal for nearly all clean images are left out,
    such as those between channels for grey images.

    Args:
        members: Statistics that learn nothing, by name.
    """

    members_: list[str]
    quantiles_: list[list[float]]

    LEAST_IMAGES = 50  # for the outermost of the quantiles

    def __init__(self, members: Mapping[str, Score]) -> None:
        self.members = dict(members)

    def features(self, evidence: Evidence) -> Tensor:
        """Computes the K members: (N, K), float64."""
        return torch.stack([evidence.once(score).double() for score in self.members.values()], 1)

    def fit(self, features: Tensor, *copies: Tensor) -> Combined:
        """Learns which members differ between clean images, and their quantiles.

        Args:
            features: (N, K), the members for clean images.
            *copies: None.

        Returns:
            Itself.

        Raises:
            CalibrationError: If N is below `LEAST_IMAGES`, or no member differs between images.
        """
        if len(features) < self.LEAST_IMAGES:
            raise CalibrationError(
                f"combined statistics need at least {self.LEAST_IMAGES} clean images to fit on, got {len(features)}: "
                "give more (X_fit), or use a single statistic"
            )
        quantiles = dict(zip(self.members, map(clean_quantiles, features.unbind(1)), strict=True))
        differ = {name: values for name, values in quantiles.items() if np.ptp(values) > 0}
        if not differ:
            raise CalibrationError(
                "no statistic differs between the images to fit on: the images are constant or copies of one image"
            )
        self.members_, self.quantiles_ = list(differ), list(differ.values())
        return self

    def standardise(self, features: Tensor) -> Tensor:
        """Transforms the members to standard normal over clean images.

        Args:
            features: (N, K), as `features` returns them.

        Returns:
            (N, K'), float64: the K' members that differ between clean images.
        """
        places = list(self.members)
        columns = [features[:, places.index(name)] for name in self.members_]
        return torch.stack([to_standard_normal(*pair) for pair in zip(columns, self.quantiles_, strict=True)], 1)


class Pooled(Combined):
    """The length of the vector of all members above zero, sqrt(sum_k max(z_k, 0)^2).

    If no member z_k is above zero, it is the highest member. It is the likelihood-ratio statistic for independent
    normal variables whose means may have moved up in unknown proportions. It is one-sided, unlike the density of states
    (Morningstar et al. 2021, arXiv:2006.09273) or a Mahalanobis distance, which also react to images that are too
    smooth.

    Args:
        members: Statistics that learn nothing, by name.

    Reference:
        Kudo, A multivariate analogue of the one-sided test, 1963.
    """

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from (N, K) features: (N,), float64."""
        return norm_of_positive_part(self.standardise(features), 2)


class NoiseContrast(Combined):
    """Fisher's linear discriminant between clean images and the same images with noise of one step, w = Sigma^-1 delta.

    delta is the mean shift of the members when half of the sub-pixels of clean images move by -1, 0 or 1 step of 8
    bits. Sigma is their covariance over clean images, shrunk as by Ledoit & Wolf (2004). For normal variables it is the
    most powerful test of small shifts in that direction. Members that noise does not move help as well, because they
    measure how complex an image is. Noise takes the place of attacks, as in outlier exposure.

    Args:
        members: Statistics that learn nothing, by name.

    Reference:
        Fisher, The use of multiple measurements in taxonomic problems, 1936; Hendrycks et al., Deep anomaly detection
        with outlier exposure, 2019, arXiv:1812.04606.
    """

    weights_: list[float]

    copies = (with_noise,)
    # standard deviations; values beyond it count no more, neither for the direction nor against an alarm
    CLIP_AT = 3.0

    def fit(self, features: Tensor, *copies: Tensor) -> NoiseContrast:
        """Learns the quantiles of the members, and their weights.

        Args:
            features: (N, K), the members for clean images.
            *copies: (N, K), the members for the same images with noise, in the same order.

        Returns:
            Itself. The weights are 0 if noise moves no member.

        Raises:
            CalibrationError: If N is below `LEAST_IMAGES`, or no member differs between images.
            ParameterError: If the images with noise are missing.
        """
        super().fit(features)
        if len(copies) != 1:
            raise ParameterError("noise_contrast needs the features of clean images and of the same images with noise")
        clean, moved = (
            self.standardise(part).clamp(-self.CLIP_AT, self.CLIP_AT).numpy() for part in (features, *copies)
        )
        from sklearn.covariance import LedoitWolf  # slow to import

        covariance = LedoitWolf().fit(clean).covariance_
        weights = np.linalg.solve(covariance, (moved - clean).mean(0))
        self.weights_ = (weights / max(math.sqrt(weights @ covariance @ weights), MIN_DIVISOR)).tolist()
        return self

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from (N, K) features: (N,), float64, of variance 1 over clean images."""
        z = self.standardise(features)
        weights = z.new_tensor(self.weights_)
        return torch.where(weights < 0, z.clamp(-self.CLIP_AT, self.CLIP_AT), z) @ weights


class Fused(LearnedScore):
    """Several statistics as one, (sum_k max(z_k, 0)^4)^(1/4), each transformed to standard normal over clean images.

    If no z_k is above zero, it is the highest z_k. It is little more than the maximum, so it detects what any part
    detects, at the price of the false alarms of all parts. Unlike the maximum it has a gradient that leads away from
    all parts at once. Parts that are equal for nearly all clean images are left out.

    Args:
        parts: Statistics by name, each of which is a `Combined` or learns nothing.

    Reference:
        Roy, On a heuristic method of test construction and its use in multivariate analysis, 1953.
    """

    quantiles_: dict[str, list[float]]
    copies = (with_noise,)

    def __init__(self, parts: Mapping[str, Score]) -> None:
        self.parts = dict(parts)

    def features(self, evidence: Evidence) -> Tensor:
        """Computes the features of all parts, one after the other: (N, K), float64."""
        found = []
        for part in self.parts.values():
            score = part.features(evidence) if isinstance(part, Combined) else evidence.once(part)[:, None]
            found.append(score.double())
        return torch.cat(found, 1)

    def fit(self, features: Tensor, *copies: Tensor) -> Fused:
        """Fits the parts, and learns which of them differ between clean images, and their quantiles.

        Args:
            features: (N, K), the features of clean images.
            *copies: (N, K), the features of the same images with noise, in the same order.

        Returns:
            Itself.

        Raises:
            CalibrationError: If N is below `Combined.LEAST_IMAGES`, or no member of a part differs between images.
            ParameterError: If the images with noise are missing.
        """
        if len(copies) != 1:
            raise ParameterError("fused statistics need the features of clean images and of the same images with noise")
        clean, noisy = self._split(features), self._split(copies[0])
        for name, part in self.parts.items():
            if isinstance(part, LearnedScore):
                part.fit(clean[name], *([noisy[name]] if part.copies else []))
        quantiles = {name: clean_quantiles(self._part(name, columns)) for name, columns in clean.items()}
        self.quantiles_ = {name: values for name, values in quantiles.items() if np.ptp(values) > 0}
        return self

    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from (N, K) features: (N,), float64."""
        columns = self._split(features)
        z = [
            to_standard_normal(self._part(name, columns[name]), quantiles)
            for name, quantiles in self.quantiles_.items()
        ]
        return norm_of_positive_part(torch.stack(z, 1), 4)

    def state(self) -> dict[str, Any]:
        """Returns the learned values of the statistic and its parts, as plain JSON values."""
        parts = {name: part.state() for name, part in self.parts.items() if isinstance(part, LearnedScore)}
        return {"quantiles_": self.quantiles_, "parts_": parts}

    def restore(self, state: dict[str, Any]) -> Fused:
        """Takes over the learned values of another `Fused` with the same parts.

        Args:
            state: The learned values, as `state` returns them.

        Returns:
            Itself.

        Raises:
            ModelError: If it is the state of other parts, or of another version.
        """
        check_state(state, {"quantiles_", "parts_"})
        learners = {name: part for name, part in self.parts.items() if isinstance(part, LearnedScore)}
        check_state(state["parts_"], set(learners))
        if not state["quantiles_"].keys() <= self.parts.keys():
            raise ModelError(f"the statistic has no parts {sorted(state['quantiles_'].keys() - self.parts.keys())}")
        for name, part in learners.items():
            part.restore(state["parts_"][name])
        self.quantiles_ = state["quantiles_"]
        return self

    def _split(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the columns of every part."""
        sizes = [len(part.members) if isinstance(part, Combined) else 1 for part in self.parts.values()]
        return dict(zip(self.parts, features.split(sizes, 1), strict=True))

    def _part(self, name: str, features: Tensor) -> Tensor:
        part = self.parts[name]
        return part.evaluate(features) if isinstance(part, LearnedScore) else features[:, 0]


def norm_of_positive_part(z: Tensor, power: int) -> Tensor:
    """Computes the norm (sum_k max(z_k, 0)^power)^(1/power), or the highest z_k if none is above zero.

    Without the second case all images without a positive z_k would be tied.

    Args:
        z: (N, K).
        power: At least 1.

    Returns:
        (N,).
    """
    highest = z.amax(1)
    scale = highest.clamp(min=MIN_DIVISOR)
    total = (z / scale[:, None]).clamp(min=0).pow(power).sum(1)
    return torch.where(highest > 0, scale * total.clamp(min=1).pow(1 / power), highest)


def clean_quantiles(values: Tensor) -> list[float]:
    """Computes the quantiles of a statistic over clean images.

    Args:
        values: (N,), the statistic of clean images.

    Returns:
        The quantiles at `QUANTILE_LEVELS`.
    """
    return np.quantile(values.double().cpu().numpy(), QUANTILE_LEVELS).tolist()


def to_standard_normal(values: Tensor, quantiles: list[float]) -> Tensor:
    """Transforms a statistic so that it is standard normal over clean images.

    The transform is linear between the quantiles and logarithmic beyond them.

    Args:
        values: (N,), the statistic of any images.
        quantiles: Its quantiles over clean images, as `clean_quantiles` returns them.

    Returns:
        (N,), float64.
    """
    x = values.double()
    q, normal = x.new_tensor(quantiles), torch.from_numpy(norm.ppf(QUANTILE_LEVELS)).to(x)
    right = torch.searchsorted(q, x.detach().contiguous(), right=True).clamp(1, len(q) - 1)
    left = right - 1
    share = ((x - q[left]) / (q[right] - q[left]).clamp(min=MIN_DIVISOR)).clamp(0, 1)
    z = normal[left] + share * (normal[right] - normal[left])
    middle, whole = q[len(q) // 2], q[-1] - q[0]
    for end, beyond in ((-1, x - q[-1]), (0, q[0] - x)):
        reach = (q[end] - middle).abs()
        reach = reach if reach > 0 else whole  # half of the clean images are tied: the other half gives the scale
        z = torch.where(
            beyond > 0, normal[end] * (1 + torch.log1p(beyond.clamp(min=0) / reach.clamp(min=MIN_DIVISOR))), z
        )
    return z
