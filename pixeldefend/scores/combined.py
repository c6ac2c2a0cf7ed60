"""Several statistics as one, each made standard normal by clean images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.covariance import LedoitWolf
from torch import Tensor

from ..errors import CalibrationError, ModelError
from .evidence import TINY, Evidence, Score
from .learned import LearnedScore

SHARES = np.linspace(0.02, 0.98, 49)  # of clean images, at which quantiles are taken


class Combined(LearnedScore):
    """Several scores, each made standard normal by the distribution of clean images: by its quantiles, and beyond the
    outermost fiftieths ever more slowly, so that what is far counts as far, but one score does not drown all others.

    members: scores that learn nothing, by name. Those that are the same for nearly all clean images (of
    grey ones, those between channels) are left out.
    """

    members_: list[str]
    quantiles_: list[list[float]]

    LEAST_IMAGES = 50  # for the outermost of the quantiles

    def __init__(self, members: Mapping[str, Score]) -> None:
        self.members = dict(members)

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, K): the members."""
        return torch.stack([evidence.once(score).double() for score in self.members.values()], 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Combined:
        """features: (N, K). Learns which members differ, and their quantiles. Raises ValueError if N is below 50,
        or none differs between images."""
        if len(features) < self.LEAST_IMAGES:
            raise CalibrationError(
                f"scores are combined on at least {self.LEAST_IMAGES} clean images to fit on, got {len(features)}: "
                "give more (X_fit), or take one score"
            )
        quantiles = dict(zip(self.members, map(quantiles_of, features.unbind(1)), strict=True))
        differ = {name: values for name, values in quantiles.items() if np.ptp(values) > 0}
        if not differ:
            raise CalibrationError("no score differs between the images to fit on: they are constant, or copies of one")
        self.members_, self.quantiles_ = list(differ), list(differ.values())
        return self

    def normal(self, features: Tensor) -> Tensor:
        """features: (N, K). Returns (N, K'), float64: the members that differ, standard normal over clean images."""
        places = list(self.members)
        columns = [features[:, places.index(name)] for name in self.members_]
        return torch.stack([to_normal(*pair) for pair in zip(columns, self.quantiles_, strict=True)], 1)


class Pooled(Combined):
    """The length of the vector of what is too high, sqrt(sum_k max(z_k, 0)^2); if nothing is, the highest.

    Of independent normal numbers whose means may have moved up, whichever and however far, it is the likelihood-ratio
    statistic (Kudo 1963). It looks one way, unlike the density of states of Morningstar et al. (2021,
    arXiv:2006.09273) or a Mahalanobis distance, for which an image is as odd if it is too smooth.
    """

    def of(self, features: Tensor) -> Tensor:
        return too_high(self.normal(features), 2)


class NoiseContrast(Combined):
    """The direction in which the least noise moves the members together, against how they vary from one clean image to
    the next: Fisher's linear discriminant (1936), w = Sigma^-1 delta.

    delta is the mean shift of the members when half of the sub-pixels of clean images move by -1, 0 or 1 step of 8
    bits, and Sigma their covariance over clean images (shrunk: Ledoit & Wolf 2004): for small shifts that way, the most
    powerful test of normal numbers. Members that noise does not move help nevertheless, by telling how complex an image
    is. No attack is seen: noise in their place is the idea of outlier exposure (Hendrycks et al. 2019,
    arXiv:1812.04606).
    """

    weights_: list[float]

    contrasted = True
    FAR = 3.0  # standard deviations; what lies beyond tells the direction no better, and speaks no louder against it

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> NoiseContrast:
        """features, noisy: (N, K), in the same order. Also learns the weights, which are 0 if noise moves nothing."""
        super().fit(features)
        if noisy is None:
            raise CalibrationError(
                "a contrast is learned from the features of clean images, and of the same with noise"
            )
        clean, moved = (self.normal(part).clamp(-self.FAR, self.FAR).numpy() for part in (features, noisy))
        covariance = LedoitWolf().fit(clean).covariance_
        weights = np.linalg.solve(covariance, (moved - clean).mean(0))
        self.weights_ = (weights / max(math.sqrt(weights @ covariance @ weights), TINY)).tolist()
        return self

    def of(self, features: Tensor) -> Tensor:
        z = self.normal(features)
        weights = z.new_tensor(self.weights_)
        return torch.where(weights < 0, z.clamp(-self.FAR, self.FAR), z) @ weights


class Fused(LearnedScore):
    """Several scores as one, (sum_k max(z_k, 0)^4)^(1/4), each made standard normal by clean images; if none is above
    zero, the highest.

    Little more than the highest of them: a union of tests (Roy 1953), which sees what any one of them sees, at the
    price of the false alarms that all share, and with a gradient that leads away from all. parts: scores
    that are `Combined` or learn nothing, by name. Those that are the same for nearly all clean images are left out.
    """

    quantiles_: dict[str, list[float]]
    contrasted = True

    def __init__(self, parts: Mapping[str, Score]) -> None:
        self.parts = dict(parts)

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, K): what the parts learn from, one after the other."""
        found = []
        for part in self.parts.values():
            score = part.features(evidence) if isinstance(part, Combined) else evidence.once(part)[:, None]
            found.append(score.double())
        return torch.cat(found, 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Fused:
        """features, noisy: (N, K). Learns all that the parts learn, which of them differ, and their quantiles. Raises
        ValueError as they do."""
        if noisy is None:
            raise CalibrationError(
                "fused scores are learned from the features of clean images, and of the same with noise"
            )
        both = (self._split(features), self._split(noisy))
        for name, part in self.parts.items():
            if isinstance(part, LearnedScore):
                part.fit(*(columns[name] for columns in both))
        quantiles = {name: quantiles_of(self._part(name, columns)) for name, columns in both[0].items()}
        self.quantiles_ = {name: values for name, values in quantiles.items() if np.ptp(values) > 0}
        return self

    def of(self, features: Tensor) -> Tensor:
        columns = self._split(features)
        z = [to_normal(self._part(name, columns[name]), quantiles) for name, quantiles in self.quantiles_.items()]
        return too_high(torch.stack(z, 1), 4)

    def learned(self) -> dict[str, Any]:
        parts = {name: part.learned() for name, part in self.parts.items() if isinstance(part, LearnedScore)}
        return {"quantiles_": self.quantiles_, "parts_": parts}

    def recall(self, learned: dict[str, Any]) -> Fused:
        if learned.keys() != {"quantiles_", "parts_"}:
            raise ModelError(f"what its score learned is of another version: {sorted(learned)}")
        for name, values in learned["parts_"].items():
            part = self.parts[name]
            assert isinstance(part, LearnedScore)
            part.recall(values)
        self.quantiles_ = learned["quantiles_"]
        return self

    def _split(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the columns of every part."""
        sizes = [len(part.members) if isinstance(part, Combined) else 1 for part in self.parts.values()]
        return dict(zip(self.parts, features.split(sizes, 1), strict=True))

    def _part(self, name: str, features: Tensor) -> Tensor:
        part = self.parts[name]
        return part.of(features) if isinstance(part, LearnedScore) else features[:, 0]


def too_high(z: Tensor, power: int) -> Tensor:
    """z: (N, K). Returns (N,): the norm (sum_k max(z_k, 0)^power)^(1/power), continued below zero by the highest z_k,
    for the images in which nothing is too high must not all be tied."""
    highest = z.amax(1)
    scale = highest.clamp(min=TINY)
    total = (z / scale[:, None]).clamp(min=0).pow(power).sum(1)
    return torch.where(highest > 0, scale * total.clamp(min=1).pow(1 / power), highest)


def quantiles_of(values: Tensor) -> list[float]:
    """values: (N,), of clean images. Returns their quantiles at `SHARES`."""
    return np.quantile(values.double().cpu().numpy(), SHARES).tolist()


def to_normal(values: Tensor, quantiles: list[float]) -> Tensor:
    """values: (N,). quantiles: of clean images, at `SHARES`. Returns (N,), float64: standard normal numbers if the
    images are clean; linear between the quantiles, logarithmic beyond them."""
    x = values.double()
    q, normal = x.new_tensor(quantiles), torch.from_numpy(norm.ppf(SHARES)).to(x)
    right = torch.searchsorted(q, x.detach().contiguous(), right=True).clamp(1, len(q) - 1)
    left = right - 1
    share = ((x - q[left]) / (q[right] - q[left]).clamp(min=TINY)).clamp(0, 1)
    z = normal[left] + share * (normal[right] - normal[left])
    middle, whole = q[len(q) // 2], q[-1] - q[0]
    for end, beyond in ((-1, x - q[-1]), (0, q[0] - x)):
        reach = (q[end] - middle).abs()
        reach = reach if reach > 0 else whole  # where half of the clean images say the same, the other half tells
        z = torch.where(beyond > 0, normal[end] * (1 + torch.log1p(beyond.clamp(min=0) / reach.clamp(min=TINY))), z)
    return z
