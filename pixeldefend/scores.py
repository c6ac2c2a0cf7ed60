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
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.nn import functional as F

from .densities import Autoregressive, Density, OrderEnsemble
from .densities.base import SiteDistribution
from .densities.solve import most_probable_within

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
    """Minus the correlation of the PIT's normal residuals with those of the neighbouring site along an axis.

    Under the model there is none; under a model that misses some structure of clean images the residuals of these are
    faintly correlated, and those of noise are not. axis: 1 channels, 2 columns (with the pixel above), 3 rows (with the
    pixel to the left).
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,), minus a correlation; 0 if the axis has one site, or is not there."""
        z = evidence.residuals if evidence.x.ndim == 4 else evidence.residuals.flatten(1)[:, None, None]
        n = z.shape[self.axis]
        if n < 2:
            return z.new_zeros(len(z))
        a, b = z.narrow(self.axis, 0, n - 1).flatten(1), z.narrow(self.axis, 1, n - 1).flatten(1)
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
    """How far apart the classifier's softmax is on the image and on the image purified by up to eps 8-bit steps: the L1
    distance, in [0, 2].

    Least perturbations, which pixels show the least, are undone by it. Feature squeezing (Xu, Evans & Qi 2018) with
    PixelDefend as the squeezer; of a median filter classifiers think something else on many clean photographs. It looks
    at the classifier, as no score in `SCORES` does.
    """

    def __init__(self, eps: int) -> None:
        self.eps = eps

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,). Raises ValueError without a classifier, or if the density does not model 8-bit images."""
        density, x = evidence.density, evidence.x
        if evidence.classifier is None:
            raise ValueError("purified_disagreement asks the classifier: Detector(density, classifier=...)")
        if not isinstance(density, Autoregressive) or x.ndim != 4 or density.levels != 256:
            raise ValueError("purified_disagreement is for autoregressive densities of 8-bit images")
        with torch.no_grad():
            purified = most_probable_within(density, (255 * x).round() / 255, self.eps)
            before, after = (evidence.classifier(image).float().softmax(1) for image in (x, purified))
        return (before - after).abs().sum(1)


class LearnedScore(ABC):
    """A score that learns something from clean images, which must not be those that calibrate it. What it learns are
    plain JSON values, in attributes that end in an underscore."""

    @abstractmethod
    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,) or (N, K): what `fit` learns from."""

    @abstractmethod
    def fit(self, features: Tensor) -> LearnedScore:
        """features: of clean images."""

    @abstractmethod
    def of(self, features: Tensor) -> Tensor:
        """Returns (N,): the score of images with these features."""

    def __call__(self, evidence: Evidence) -> Tensor:
        """Returns (N,)."""
        return self.of(self.features(evidence))


class Typicality(LearnedScore):
    """| bits/dim - its mean over clean images |: an image can also be too probable (Nalisnick et al. 2019, for a batch
    of one)."""

    center_: float

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N,): bits/dim."""
        return bits_per_dim(evidence)

    def fit(self, features: Tensor) -> Typicality:
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

    def fit(self, features: Tensor) -> SurprisalGiven:
        """features: (N, 2). Learns `slope_` and `intercept_`."""
        y, x = features.double().numpy().T
        line = LinearRegression().fit(x[:, None], y)
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def of(self, features: Tensor) -> Tensor:
        y, x = features.unbind(1)
        return y - self.slope_ * x - self.intercept_


class Fused(LearnedScore):
    """Several scores as one: the length of the vector of what is too high among them.

    Each member is made standard normal by the distribution of clean images: by its quantiles, and above the highest
    fiftieth linearly, so that what is far above all clean images counts as far. The score is
    sqrt(sum_k max(z_k, 0)^2): of independent normal numbers whose means may have moved up, whichever and however far,
    it is the likelihood-ratio statistic (Kudo 1963). It looks one way, unlike the density of states of Morningstar et
    al. (2021, arXiv:2006.09273) or a Mahalanobis distance, for which an image is as odd if it is too smooth.

    members: names in `SCORES` of scores that learn nothing. Those that are the same for nearly all clean images (of
    grey ones, those between channels) are left out.
    """

    members_: list[str]
    quantiles_: list[list[float]]

    SHARES = np.linspace(0.02, 0.98, 49)
    LEAST = 50  # images, for the outermost of these

    def __init__(self, members: Sequence[str]) -> None:
        self.members = members

    def features(self, evidence: Evidence) -> Tensor:
        """Returns (N, K): the members."""
        return torch.stack([evidence.once(make_score(name)).double() for name in self.members], 1)

    def fit(self, features: Tensor) -> Fused:
        """features: (N, K). Learns which members differ, and their quantiles. Raises ValueError if N is below 50,
        or none differs between images."""
        if len(features) < self.LEAST:
            raise ValueError(
                f"scores are fused on at least {self.LEAST} clean images to fit on, got {len(features)}: give more "
                "(X_fit), or take one score"
            )
        quantiles = dict(zip(self.members, np.quantile(features.numpy(), self.SHARES, axis=0).T, strict=True))
        differ = {name: values.tolist() for name, values in quantiles.items() if np.ptp(values) > 0}
        if not differ:
            raise ValueError("no score differs between the images to fit on: they are constant, or copies of one")
        self.members_, self.quantiles_ = list(differ), list(differ.values())
        return self

    def of(self, features: Tensor) -> Tensor:
        total = torch.zeros(len(features), dtype=torch.float64, device=features.device)
        for name, quantiles in zip(self.members_, self.quantiles_, strict=True):
            x = features[:, self.members.index(name)].double()
            total = total + self._normal(x, torch.tensor(quantiles, dtype=x.dtype, device=x.device)).clamp(min=0) ** 2
        return torch.where(total > 0, total.clamp(min=TINY).sqrt(), 0)  # whose gradient at 0 is 0, and not infinite

    def _normal(self, x: Tensor, quantiles: Tensor) -> Tensor:
        """(N,) values of a member -> standard normal numbers: linear between the quantiles, and beyond the highest."""
        normal = torch.from_numpy(norm.ppf(self.SHARES)).to(x)
        right = torch.searchsorted(quantiles, x.detach().contiguous(), right=True).clamp(1, len(quantiles) - 1)
        left = right - 1
        width = quantiles[right] - quantiles[left]
        share = ((x - quantiles[left]) / width.clamp(min=TINY)).clamp(0, 1)
        z = normal[left] + share * (normal[right] - normal[left])
        # where half of the clean images say the same, the other half tells what is far
        reach = quantiles[-1] - quantiles[len(quantiles) // 2]
        reach = reach if reach > 0 else quantiles[-1] - quantiles[0]
        return torch.where(x > quantiles[-1], normal[-1] * (1 + (x - quantiles[-1]) / reach), z)


def learned(score: Score) -> dict[str, Any]:
    """Returns what a score has learned: plain JSON values by the names of their attributes."""
    return {name: value for name, value in vars(score).items() if name.endswith("_")}


def mean_entropy(evidence: Evidence) -> Tensor:
    """Returns (N,) nats a site: the mean of H_i."""
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
    "patch_surprisal": patch_surprisal,
    "pit_uniformity": pit_uniformity,
    "pit_tails": pit_tails,
    "pit_lag_channels": PitLag(1),
    "pit_lag_columns": PitLag(2),
    "pit_lag_rows": PitLag(3),
}
SCORES["fused"] = Fused(
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
DEAR: dict[str, Score] = {
    "smoothing_gain": smoothing_gain,
    "likeliest_gain": likeliest_gain,
    "gradient_norm": gradient_norm,
}
SCORES |= DEAR
# those that look at the classifier that is to be protected
OF_CLASSIFIER: dict[str, Score] = {"purified_disagreement": PurifiedDisagreement(eps=4)}
OF_CLASSIFIER["fused_with_classifier"] = Fused([*SCORES["fused"].members, "purified_disagreement"])  # type: ignore[attr-defined]


def make_score(name: str) -> Score:
    """name: a key of `SCORES` or `OF_CLASSIFIER`. Returns the score, yet to be fitted if it learns. Raises ValueError
    if unknown."""
    there = SCORES | OF_CLASSIFIER
    if name not in there:
        raise ValueError(f"unknown score {name!r}; there are: {', '.join(there)}")
    score = there[name]
    return copy.deepcopy(score) if isinstance(score, LearnedScore) else score


def _gain(evidence: Evidence, x: Tensor) -> Tensor:
    """x: (N, C, H, W) images in place of the evidence's. Returns (N,): how many bits/dim fewer they have."""
    moved = Evidence(evidence.density, (x * 255).round() / 255, fast=evidence.fast)
    return bits_per_dim(evidence) - bits_per_dim(moved)


def _standardised(excess: Tensor, variance: Tensor) -> Tensor:
    return excess.flatten(1).sum(1) / variance.flatten(1).sum(1).clamp(min=TINY).sqrt()
