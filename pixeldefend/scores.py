"""From p(x) to suspicion: numbers that are higher the less an image looks like the clean ones.

A score is a function of `Evidence`, which computes what it is asked for, once: `bits_per_dim(Evidence(density, x))`.
`SCORES` names them; those in `OF_CLASSIFIER` also ask the classifier. One that learns something from clean images first
is a class with a `fit`. Those in `DEAR` take further passes of the density, or a gradient.
"""

from __future__ import annotations

import copy
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import norm
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.nn import functional as F

from .densities import Autoregressive, Density, OrderEnsemble
from .densities.base import SiteDistribution
from .densities.solve import most_probable_within
from .transformations import blur

TINY = 1e-12  # a model that is certain of every site expects no variance at all


class Evidence:
    """What a density says about a batch of images, each part computed when first asked for.

    density: any Density; the parts by site need an Autoregressive one. x: (N, *event), as `density.observe` gives it.
    classifier: for the scores in `OF_CLASSIFIER`, (N, C, H, W) in [0, 1] -> logits. fast: the density on another
    backend (`backends.on_backend`), which is asked for conditionals in its place.
    """

    def __init__(
        self, density: Density, x: Tensor, classifier: nn.Module | None = None, fast: Density | None = None
    ) -> None:
        self.density = density
        self.x = x
        self.classifier = classifier
        self.fast = fast
        self._computed: dict[Any, Tensor] = {}

    def once(self, function: Callable[[Evidence], Tensor]) -> Tensor:
        """Returns function(self), computed when first asked for: scores that are fused need not be computed again."""
        if function not in self._computed:
            self._computed[function] = function(self)
        return self._computed[function]

    @cached_property
    def conditionals(self) -> SiteDistribution:
        """The distribution of every site given those before it. Raises ValueError if the density has none."""
        if not isinstance(self.density, Autoregressive):
            kind = type(self.density).__name__
            raise ValueError(
                f"this score needs a density with conditionals; {kind} has only bits_per_dim and typicality"
            )
        return (self.fast or self.density).conditionals(self.x)  # type: ignore[operator]

    @cached_property
    def surprisal(self) -> Tensor:
        """(N, *sites) nats: s_i = -log p(x_i | x_<i)."""
        if isinstance(self.density, OrderEnsemble):
            return -self.density.log_prob_map(self.x)
        return -self.conditionals.log_prob(self.x)

    @cached_property
    def log_prob(self) -> Tensor:
        """(N,) nats."""
        if isinstance(self.density, Autoregressive):
            return -self.surprisal.flatten(1).sum(1)
        return self.density.log_prob(self.x)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self.conditionals.surprisal_moments()

    @cached_property
    def expected_surprisal(self) -> Tensor:
        """(N, *sites) nats: H_i, the entropy of p(. | x_<i), which is what the model expects s_i to be."""
        return self._moments[0]

    @cached_property
    def surprisal_variance(self) -> Tensor:
        """(N, *sites) nats squared: V_i, the variance of s_i under p(. | x_<i)."""
        return self._moments[1]

    @cached_property
    def excess(self) -> Tensor:
        """(N, *sites) nats: s_i - H_i, how much more surprising each site is than the model expected."""
        return self.surprisal - self.expected_surprisal

    @cached_property
    def standardised(self) -> Tensor:
        """(N, *sites): (s_i - H_i) / sqrt(V_i), of mean 0 and variance 1 under the model."""
        return self.excess / self.surprisal_variance.clamp(min=TINY).sqrt()

    @cached_property
    def pit(self) -> Tensor:
        """(N, *sites) in (0, 1): the randomised probability integral transform P(v < x_i) + u_i p(x_i), independent and
        uniform under the model (Rosenblatt 1952; for discrete values Brockwell 2007).

        u, uniform noise, is one fixed pattern for all images: a score must not depend on chance or on the batch.
        """
        generator = torch.Generator().manual_seed(0)
        u = torch.rand(self.x.shape[1:], generator=generator).to(self.x)
        if self.density.levels is None:
            return self.conditionals.below(self.x)
        return self.conditionals.below(self.x) + u * torch.exp(-self.surprisal)

    @cached_property
    def residuals(self) -> Tensor:
        """(N, *sites): the randomised PIT as standard normal numbers."""
        return torch.special.ndtri(self.pit.clamp(1e-6, 1 - 1e-6))


def bits_per_dim(evidence: Evidence) -> Tensor:
    """-log2 p(x) a sub-pixel: thresholding it is thresholding log p(x), as PixelDefend does (Song et al. 2018).

    Returns (N,).
    """
    return evidence.density.in_bits_per_dim(evidence.log_prob, tuple(evidence.x.shape[1:]))


def excess_surprisal(evidence: Evidence) -> Tensor:
    """sum_i (s_i - H_i) / sqrt(sum_i V_i): how much more surprising the image is than the model expected it to be.

    Under the model the terms s_i - H_i are martingale differences, so the score has mean 0 and variance about 1
    whatever the image shows: its complexity, which is most of the spread of bits/dim over clean images, drops out.
    Returns (N,), in standard deviations.
    """
    return _standardised(evidence.excess, evidence.surprisal_variance)


class BandExcess:
    """Excess surprisal over the sites whose predicted entropy lies in [low, high) nats."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,), in standard deviations; 0 for an image without such a site."""
        entropy = evidence.expected_surprisal
        inside = (entropy >= self.low) & (entropy < self.high)
        return _standardised(evidence.excess.where(inside, 0), evidence.surprisal_variance.where(inside, 0))


# Where the model is sure, a small change shows; 0 for an image without such a site. (Entropies of real numbers can be
# negative, and those of a sure site too, by rounding.)
low_entropy_excess_surprisal = BandExcess(-math.inf, 1)


def first_channel_excess_surprisal(evidence: Evidence) -> Tensor:
    """Excess surprisal over the first channel of each pixel, red, which no other one explains; over all
    sites of rows, which have no channels. Returns (N,)."""
    if evidence.x.ndim < 4:
        return excess_surprisal(evidence)
    return _standardised(evidence.excess[:, :1], evidence.surprisal_variance[:, :1])


def later_channels_excess_surprisal(evidence: Evidence) -> Tensor:
    """Excess surprisal over green given red and blue given both: in natural images the channels predict each other
    closely, and an attack that does not know it shows. Returns (N,); 0 for images of one channel, and for rows."""
    if evidence.x.ndim < 4 or evidence.x.shape[1] == 1:
        return evidence.x.new_zeros(len(evidence.x))
    return _standardised(evidence.excess[:, 1:], evidence.surprisal_variance[:, 1:])


def top_surprisal(evidence: Evidence) -> Tensor:
    """Mean of the highest 1 % of (s_i - H_i) / sqrt(V_i), at least one site: for attacks on a few pixels. Returns (N,),
    in standard deviations."""
    values = evidence.standardised.flatten(1)
    return values.topk(max(1, values.shape[1] // 100), 1).values.mean(1)


def top_pixels(evidence: Evidence) -> Tensor:
    """Mean excess surprisal of the three pixels where it is highest, all channels together: for attacks on a handful of
    pixels. Returns (N,), in standard deviations."""
    excess, variance = (t.sum(1) if t.ndim == 4 else t for t in (evidence.excess, evidence.surprisal_variance))
    values = (excess / variance.clamp(min=TINY).sqrt()).flatten(1)
    return values.topk(min(3, values.shape[1]), 1).values.mean(1)


def patch_surprisal(evidence: Evidence) -> Tensor:
    """The highest excess surprisal of any patch of 4 x 4 pixels (of rows: of 16 sites in a row). Returns (N,), in
    standard deviations."""
    excess, variance = (
        t.flatten(1).unsqueeze(1).unsqueeze(1) if t.ndim < 4 else t.sum(1, keepdim=True)
        for t in (evidence.excess, evidence.surprisal_variance)
    )
    size = (min(4, excess.shape[2]), min(16 if evidence.x.ndim < 4 else 4, excess.shape[3]))
    sums = [F.avg_pool2d(t, size, stride=1, divisor_override=1) for t in (excess, variance)]
    return (sums[0] / sums[1].clamp(min=TINY).sqrt()).flatten(1).amax(1)


def pit_uniformity(evidence: Evidence) -> Tensor:
    """The Kolmogorov-Smirnov distance of the randomised PIT from uniform, times sqrt(sites). Returns (N,)."""
    u = evidence.pit.flatten(1).sort(1).values
    d = u.shape[1]
    steps = torch.arange(d, device=u.device, dtype=u.dtype) / d
    return torch.maximum((u - steps).amax(1), (steps + 1 / d - u).amax(1)) * math.sqrt(d)


def pit_tails(evidence: Evidence) -> Tensor:
    """The share of sites whose randomised PIT lies in the outer hundredths: more than 0.02 if the image has values that
    the model took for nearly impossible. Returns (N,)."""
    return ((evidence.pit - 0.5).abs() > 0.49).flatten(1).to(evidence.x.dtype).mean(1)


class PitLag:
    """Minus the correlation of the PIT's normal residuals with those of a site so many channels, rows and columns
    before.

    Under the model there is none (Rosenblatt 1952); under a model that misses some structure of clean images the
    residuals of these are faintly correlated, and those of noise are not. columns below 0: to the right, in rows above.
    """

    def __init__(self, *, channels: int = 0, rows: int = 0, columns: int = 0) -> None:
        self.lags = (channels, rows, columns)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,), minus a correlation; 0 if no two sites lie so."""
        z = evidence.residuals if evidence.x.ndim == 4 else evidence.residuals.flatten(1)[:, None, None]
        if any(size <= abs(lag) for size, lag in zip(z.shape[1:], self.lags, strict=True)):
            return z.new_zeros(len(z))
        a = b = z
        for axis, lag in enumerate(self.lags, start=1):
            size = z.shape[axis] - abs(lag)
            a, b = a.narrow(axis, max(lag, 0), size), b.narrow(axis, max(-lag, 0), size)
        a, b = a.flatten(1), b.flatten(1)
        return -F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)


def smoothing_gain(evidence: Evidence) -> Tensor:
    """How many bits/dim a 3 x 3 median filter takes off: a clean image, which is smooth already, gains little. Two
    passes of the density. Returns (N,). Raises ValueError for rows and for densities of real numbers."""
    if evidence.x.ndim != 4 or evidence.density.levels is None:
        raise ValueError("smoothing_gain is for densities of images of 8 or fewer bits")
    n, c, h, w = evidence.x.shape
    patches = F.unfold(F.pad(evidence.x, (1, 1, 1, 1), mode="replicate"), 3).reshape(n, c, 9, h, w)
    return _gain(evidence, patches.median(2).values)


def likeliest_gain(evidence: Evidence) -> Tensor:
    """How many bits/dim it takes off to move every sub-pixel to its most probable value within 8/255, given the
    others as they are: one sweep of purification (PixelDefend, Song et al. 2018). Two passes of the density, which must
    model 8-bit images. Returns (N,)."""
    if evidence.x.ndim != 4 or evidence.density.levels != 256:
        raise ValueError("likeliest_gain is for densities of 8-bit images")
    distribution = evidence.conditionals
    value, best = evidence.x, torch.full_like(evidence.x, -math.inf)
    for step in range(-8, 9):
        moved = (evidence.x + step / 255).clamp(0, 1)
        log_prob = distribution.log_prob(moved)
        value, best = torch.where(log_prob > best, moved, value), torch.maximum(log_prob, best)
    return _gain(evidence, value)


def gradient_norm(evidence: Evidence) -> Tensor:
    """L2 norm of the gradient of log p(x) over x, in nats a unit of [0, 1]: away from the data log p is steep. One pass
    forward and one back. Returns (N,). Raises ValueError for densities of two levels, which are not smooth."""
    if evidence.density.levels == 2:
        raise ValueError("gradient_norm needs a density that is smooth between its levels, this one has two")
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
        """Returns (N,). Raises ValueError without a classifier, or if the density does not model 8-bit images."""
        density, x = evidence.density, evidence.x
        if evidence.classifier is None:
            raise ValueError("purified_disagreement asks the classifier: Detector(density, classifier=...)")
        if not isinstance(density, Autoregressive) or x.ndim != 4 or density.levels != 256:
            raise ValueError("purified_disagreement is for autoregressive densities of 8-bit images")
        with torch.no_grad():
            grid = (255 * x).round() / 255
            others = [most_probable_within(density, grid, eps) for eps in self.eps]
            others.append(blur(x, torch.Generator(), sigma=0.4))
            before, *after = (evidence.classifier(image).float().softmax(1) for image in (x, *others))
        return torch.stack([(before - read).norm(dim=1) for read in after]).mean(0)


class LearnedScore(ABC):
    """A score that learns something from clean images, which must not be those that calibrate it. What it learns are
    plain JSON values, in attributes that end in an underscore.

    contrasted: it also learns from the same images `with_noise`.
    """

    contrasted = False

    @abstractmethod
    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,) or (N, K): what `fit` learns from."""

    @abstractmethod
    def fit(self, features: Tensor, noisy: Tensor | None = None) -> LearnedScore:
        """features: of clean images. noisy: of the same with noise, if it is contrasted."""

    @abstractmethod
    def of(self, features: Tensor) -> Tensor:
        """Returns (N,): the score of images with these features."""

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,)."""
        return self.of(self.features(evidence))

    def learned(self) -> dict[str, Any]:
        """Returns what it has learned: plain JSON values by the names of their attributes."""
        return {name: value for name, value in vars(self).items() if name.endswith("_")}

    def recall(self, learned: dict[str, Any]) -> LearnedScore:
        """Takes over what `learned` returned. Raises ValueError if that was a score that learned something else."""
        wanted = {
            name for kind in type(self).__mro__ for name in vars(kind).get("__annotations__", {}) if name[-1] == "_"
        }
        if learned.keys() != wanted:
            raise ValueError(f"what its score learned is of another version: {sorted(learned)}, not {sorted(wanted)}")
        vars(self).update(learned)
        return self


def teach(score: LearnedScore, features: Callable[[Tensor], Tensor], x: Tensor) -> LearnedScore:
    """Fits a score on clean images. features: x -> those of the score. x: (N, *event), as they came."""
    return score.fit(*map(features, [x, with_noise(x)] if score.contrasted else [x]))


def with_noise(x: Tensor) -> Tensor:
    """x: (N, C, H, W) in [0, 1]. Returns the same with a random half of all sub-pixels moved by -1, 0 or 1 step of 8
    bits; the same noise for the same x. Rows, which may be of any unit, are returned as they are."""
    if x.ndim != 4:
        return x
    generator = torch.Generator().manual_seed(0)
    step = torch.randint(-1, 2, x.shape, generator=generator) * torch.randint(2, x.shape, generator=generator)
    return (x + step.to(x) / 255).clamp(0, 1)


class Typicality(LearnedScore):
    """| bits/dim - its mean over clean images |: an image can also be too probable (Nalisnick et al. 2019, for a batch
    of one)."""

    center_: float

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,): bits/dim."""
        return bits_per_dim(evidence)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Typicality:
        """features: (N,). Learns `center_`, their mean."""
        self.center_ = features.double().mean().item()
        return self

    def of(self, features: Tensor) -> Tensor:
        return (features - self.center_).abs()


class SurprisalGiven(LearnedScore):
    """What is left of an image's mean surprisal after regression on a predictor of its complexity, over clean images,
    by least squares; positive if it surprises more than others as complex.

    With slope 1 and intercept 0, and the length of a lossless code as predictor, it would be the score S of Serra et
    al. (2020, arXiv:1909.11480).
    """

    slope_: float
    intercept_: float

    def __init__(self, predictor: Callable[[Evidence], Tensor]) -> None:
        self.predictor = predictor

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, 2): nats a site, and the predictor."""
        return torch.stack([evidence.surprisal.flatten(1).mean(1), self.predictor(evidence)], 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> SurprisalGiven:
        """features: (N, 2). Learns `slope_` and `intercept_`."""
        y, x = features.double().numpy().T
        line = LinearRegression().fit(x[:, None], y)
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def of(self, features: Tensor) -> Tensor:
        y, x = features.unbind(1)
        return y - self.slope_ * x - self.intercept_


class Combined(LearnedScore):
    """Several scores, each made standard normal by the distribution of clean images: by its quantiles, and beyond the
    outermost fiftieths ever more slowly, so that what is far counts as far, but one score does not drown all others.

    members: names in `SCORES` of scores that learn nothing. Those that are the same for nearly all clean images (of
    grey ones, those between channels) are left out.
    """

    members_: list[str]
    quantiles_: list[list[float]]

    LEAST_IMAGES = 50  # for the outermost of the quantiles

    def __init__(self, members: Sequence[str]) -> None:
        self.members = members

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, K): the members."""
        return torch.stack([evidence.once(make_score(name)).double() for name in self.members], 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Combined:
        """features: (N, K). Learns which members differ, and their quantiles. Raises ValueError if N is below 50,
        or none differs between images."""
        if len(features) < self.LEAST_IMAGES:
            raise ValueError(
                f"scores are combined on at least {self.LEAST_IMAGES} clean images to fit on, got {len(features)}: "
                "give more (X_fit), or take one score"
            )
        quantiles = dict(zip(self.members, map(quantiles_of, features.unbind(1)), strict=True))
        differ = {name: values for name, values in quantiles.items() if np.ptp(values) > 0}
        if not differ:
            raise ValueError("no score differs between the images to fit on: they are constant, or copies of one")
        self.members_, self.quantiles_ = list(differ), list(differ.values())
        return self

    def normal(self, features: Tensor) -> Tensor:
        """features: (N, K). Returns (N, K'), float64: the members that differ, standard normal over clean images."""
        columns = [features[:, self.members.index(name)] for name in self.members_]
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
            raise ValueError("a contrast is learned from the features of clean images, and of the same with noise")
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
    price of the false alarms that all share, and with a gradient that leads away from all. parts: names in `SCORES`
    of scores that are `Combined` or learn nothing. Those that are the same for nearly all clean images are left out.
    """

    quantiles_: dict[str, list[float]]
    contrasted = True

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = {name: make_score(name) for name in parts}

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, K): what the parts learn from, one after the other."""
        found = []
        for name, part in self.parts.items():
            score = part.features(evidence) if isinstance(part, Combined) else evidence.once(make_score(name))[:, None]
            found.append(score.double())
        return torch.cat(found, 1)

    def fit(self, features: Tensor, noisy: Tensor | None = None) -> Fused:
        """features, noisy: (N, K). Learns all that the parts learn, which of them differ, and their quantiles. Raises
        ValueError as they do."""
        if noisy is None:
            raise ValueError("fused scores are learned from the features of clean images, and of the same with noise")
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
            raise ValueError(f"what its score learned is of another version: {sorted(learned)}")
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


SHARES = np.linspace(0.02, 0.98, 49)


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


def mean_entropy(evidence: Evidence) -> Tensor:
    """How complex the image is to the model: the mean of H_i. An attack may raise it; above all it tells other scores
    what to expect. Returns (N,) nats a site."""
    return evidence.expected_surprisal.flatten(1).mean(1)


def compressed_length(evidence: Evidence) -> Tensor:
    """Returns (N,) nats a site: the length of the image as lossless WebP. Raises ValueError for what is no 8-bit
    image."""
    x = evidence.x
    if x.ndim != 4 or x.shape[1] not in (1, 3) or evidence.density.levels != 256:
        raise ValueError("compressed lengths are for densities of 8-bit images of 1 or 3 channels")
    images = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    lengths = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "WEBP", lossless=True)
        lengths.append(8 * math.log(2) * len(file.getbuffer()) / image.size)
    return torch.tensor(lengths, dtype=x.dtype, device=x.device)


Score = Callable[[Evidence], Tensor]


def make_score(name: str) -> Score:
    """name: a key of `SCORES` or `OF_CLASSIFIER`. Returns the score, yet to be fitted if it learns. Raises ValueError
    if unknown."""
    there = SCORES | OF_CLASSIFIER
    if name not in there:
        raise ValueError(f"unknown score {name!r}; there are: {', '.join(there)}")
    score = there[name]
    return copy.deepcopy(score) if isinstance(score, LearnedScore) else score


OF_CLASSIFIER: dict[str, Score] = {}  # those that look at the classifier that is to be protected
SCORES: dict[str, Score] = {
    "bits_per_dim": bits_per_dim,
    "typicality": Typicality(),
    "surprisal_given_entropy": SurprisalGiven(mean_entropy),
    "surprisal_given_length": SurprisalGiven(compressed_length),
    "excess_surprisal": excess_surprisal,
    "low_entropy_excess_surprisal": low_entropy_excess_surprisal,
    "excess_surprisal_1_2": BandExcess(1, 2),
    "excess_surprisal_2_2.75": BandExcess(2, 2.75),
    "excess_surprisal_2.75_3.5": BandExcess(2.75, 3.5),
    "excess_surprisal_3.5": BandExcess(3.5, math.inf),
    "first_channel_excess_surprisal": first_channel_excess_surprisal,
    "later_channels_excess_surprisal": later_channels_excess_surprisal,
    "top_surprisal": top_surprisal,
    "top_pixels": top_pixels,
    "patch_surprisal": patch_surprisal,
    "pit_uniformity": pit_uniformity,
    "pit_tails": pit_tails,
    "pit_lag_channels": PitLag(channels=1),
    # named by what they run along: along columns is one row before
    "pit_lag_columns": PitLag(rows=1),
    "pit_lag_rows": PitLag(columns=1),
    "pit_lag_diagonal": PitLag(rows=1, columns=1),
    "pit_lag_antidiagonal": PitLag(rows=1, columns=-1),
    "pit_lag_2_columns": PitLag(rows=2),
    "pit_lag_2_rows": PitLag(columns=2),
    "mean_entropy": mean_entropy,
}
SCORES["noise_contrast"] = NoiseContrast(
    [name for name, score in SCORES.items() if name != "bits_per_dim" and not isinstance(score, LearnedScore)]
)
SCORES["pooled"] = Pooled(
    [
        "low_entropy_excess_surprisal",
        "excess_surprisal_1_2",
        "excess_surprisal_2_2.75",
        "later_channels_excess_surprisal",
        "top_surprisal",
        "pit_lag_columns",
        "pit_lag_rows",
    ]
)
# a little of everything, changed as noise changes it; much of something; all of it in a few pixels
PARTS = ["noise_contrast", "pooled", "top_pixels"]
SCORES["fused"] = Fused(PARTS)
DEAR: dict[str, Score] = {
    "smoothing_gain": smoothing_gain,
    "likeliest_gain": likeliest_gain,
    "gradient_norm": gradient_norm,
}
SCORES |= DEAR
OF_CLASSIFIER["purified_disagreement"] = PurifiedDisagreement(4, 8)
OF_CLASSIFIER["fused_with_classifier"] = Fused([*PARTS, "purified_disagreement"])


def _gain(evidence: Evidence, x: Tensor) -> Tensor:
    """x: (N, C, H, W) images in place of the evidence's. Returns (N,): how many bits/dim fewer they have."""
    moved = Evidence(evidence.density, (x * 255).round() / 255, fast=evidence.fast)
    return bits_per_dim(evidence) - bits_per_dim(moved)


def _standardised(excess: Tensor, variance: Tensor) -> Tensor:
    return excess.flatten(1).sum(1) / variance.flatten(1).sum(1).clamp(min=TINY).sqrt()
