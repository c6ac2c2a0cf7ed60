"""A learned likelihood ratio, which a small network reads off an image's residuals under a density.

By Neyman and Pearson no test of "perturbed" against "clean" is more powerful than the likelihood ratio. A network that
is trained to tell the two apart, half and half, approximates its logarithm: the log-odds of the classes. It has never
seen an attack: the perturbations are synthetic (`images.perturbations`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ambient import torch_defaults
from ..batching import in_batches
from ..densities.distributions import BYTE_LEVELS
from ..densities.logistic_mixture import DiscretizedLogisticMixture
from ..errors import CalibrationError, ModelError, ParameterError
from ..images import from_uint8, to_uint8
from ..images.perturbations import FAINT_SIZES, LARGE_SIZES, SQUARES, perturbed, with_extreme_pixels
from .evidence import Evidence
from .histograms import HistogramNetwork
from .learned import LearnedScore, check_state
from .profile import BLOCK, EXPECTED, profile_of, residuals, size_of_profile, without_spectra

# the share of clean images beyond the guard's limit; with K corruptions it is divided by K + 1, since all of these
# images may be of one kind
RARE = 3e-3
FOLDS = 5  # new images are further from the mean than those it was computed from, so the limit is that of held-out ones
FURTHEST = 10  # directions: an image of another kind is far from clean ones in some, not in all
CLIPPED = 4.0  # standardised features, so that a rare outlier does not decide
STEEP = 100.0  # nats for each unit beyond the guard's limit: what is much stranger is flagged, whatever the ratio
BATCH = 64  # clean images, and as many perturbed ones
STEPS = 5000  # of training; fewer if there are few images
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.02
IMAGES_AT_ONCE = 256
GUARD = ("center_", "deviation_", "whitening_", "limit_")


class Dropout(nn.Module):
    """Sets random features to zero in training.

    `nn.Dropout` would draw from torch's default generator, which is the user's.

    Args:
        share: The share of features that are set to zero, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, (N, F), of the same mean."""
        return x * (torch.rand(x.shape, device=x.device) >= self.share) / (1 - self.share) if self.training else x


class ResidualNetwork(nn.Module):
    """A network that computes the log likelihood ratio, perturbed against clean, of images given their residuals.

    Convolutions find local patterns. Their means, root mean squares and highest values over the image, the image's
    profile (`scores.profile`) and what another network finds in its histogram (`scores.histograms`) go to a layer that
    is the same for images of all sizes.

    Args:
        channels: The number C of channels of an image.
        filters: The number of filters of each convolution.
        layers: The number of convolutions.
        hidden: The number of units of the last but one layer.

    Attributes:
        mean: (F,), of the profiles of clean and perturbed training images.
        deviation: (F,), their standard deviations.
    """

    mean: Tensor
    deviation: Tensor
    HIGHEST = 8  # values of a filter's map, whose mean counts
    FAR = 6.0  # standardised profiles are clipped here

    def __init__(self, channels: int, *, filters: int = 32, layers: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.channels, features = channels, size_of_profile(channels)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.first = nn.Conv2d(5 * channels, filters, 3, padding=1)
        self.others = nn.ModuleList(nn.Conv2d(filters, filters, 3, padding=1) for _ in range(layers - 1))
        self.histogram = HistogramNetwork(channels, filters=filters)
        self.norm = nn.BatchNorm1d(5 * filters)
        self.drop_profile, self.drop_hidden = Dropout(0.1), Dropout(0.3)
        self.hidden = nn.Linear(5 * filters + features, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, planes: Tensor, profiles: Tensor) -> Tensor:
        """Evaluates images.

        Args:
            planes: (N, 4C, H, W), as `ResidualRatio.features` returns them.
            profiles: (N, F), the profiles of the images.

        Returns:
            (N,), the log likelihood ratio in nats.
        """
        *predictions, values = planes.chunk(4, 1)
        h = F.silu(self.first(_inputs(*predictions)))
        for layer in self.others:
            h = h + F.silu(layer(h))
        highest = h.flatten(2).topk(min(self.HIGHEST, h.shape[2] * h.shape[3])).values.mean(2)
        root_mean_square = (h.square().mean((2, 3)) + 1e-4).sqrt()
        pooled = torch.cat([h.mean((2, 3)), root_mean_square, highest, self.histogram(values)], 1)
        together = torch.cat([self.norm(pooled), self.drop_profile(self.standardised(profiles))], 1)
        found: Tensor = self.last(self.drop_hidden(F.silu(self.hidden(together))))
        return found[:, 0]

    def standardised(self, profiles: Tensor) -> Tensor:
        """Returns profiles, (N, F), of mean 0 and variance 1 over the training images, clipped."""
        return ((profiles - self.mean) / self.deviation).clamp(-self.FAR, self.FAR)


def _perturbed(x: Tensor, **options: Any) -> Tensor:
    return from_uint8(perturbed(to_uint8(x).cpu(), **options)).to(x)


def _with_extreme_pixels(x: Tensor, **options: Any) -> Tensor:
    return from_uint8(with_extreme_pixels(to_uint8(x).cpu(), **options)).to(x)


class ResidualRatio(LearnedScore):
    """The learned log likelihood ratio of an image's residuals, perturbed against clean, with a guard.

    A network learns the ratio from clean images and synthetically perturbed ones. It says little about images unlike
    both, such as noise, or flat images, which are too probable. The guard raises the score of an image whose profile
    is further from those of clean images than nearly all of them are: in the directions in which it is furthest away,
    each in units of the standard deviation of clean images, as in Mahalanobis's distance.

    Attributes:
        network_: The network.
        center_: (G,), the mean of the profiles of clean images, without spectra.
        deviation_: (G,), their standard deviation.
        whitening_: (G, G), which makes the covariance of these standardised features the identity.
        limit_: The distance above which the guard raises the score.

    Reference:
        Sugiyama, Suzuki & Kanamori 2012, "Density ratio estimation in machine learning", chapter 4; Mahalanobis 1936,
        "On the generalised distance in statistics".
    """

    network_: ResidualNetwork
    center_: Tensor
    deviation_: Tensor
    whitening_: Tensor
    limit_: Tensor

    LEAST_IMAGES = 50
    learns_corruptions = True
    copies = (
        partial(_perturbed, seed=1),
        partial(_perturbed, seed=2),
        partial(_perturbed, seed=3, sizes=FAINT_SIZES),  # the smallest ones are the hardest to find
        partial(_perturbed, seed=5, sizes=LARGE_SIZES, patterns=SQUARES),
        partial(_with_extreme_pixels, seed=4),
    )

    def features(self, evidence: Evidence) -> Tensor:
        """Computes the residuals, predicted deviations and relative log-probabilities of all sites, and their values.

        Args:
            evidence: The evidence about N images.

        Returns:
            (N, 4C, H, W): what `profile.residuals` returns, and the grey levels of the images, in [0, 255]. `fit`
            needs images of one size.

        Raises:
            ParameterError: If the density is not one of 8-bit images with sides of at least 8 whose sites are mixtures
                of logistics.
        """
        x = evidence.x
        if x.ndim != 4 or min(x.shape[2:]) < BLOCK or not isinstance(evidence.conditionals, DiscretizedLogisticMixture):
            raise ParameterError(
                f"residual_ratio is for densities of images with sides of at least {BLOCK} whose sub-pixels are "
                "discretized mixtures of logistics"
            )
        return torch.cat([*residuals(evidence.conditionals, x), (BYTE_LEVELS - 1) * x], 1)

    def fit(self, features: Tensor, *copies: Tensor) -> ResidualRatio:
        """Learns the ratio, and what clean images are like.

        Args:
            features: (M, 4C, H, W), the features of N clean images; if they are corrupted too, then M = 2N, and the
                second half are those of the corrupted images.
            *copies: (N, 4C, H, W), the features of `copies` of these images before any corruption.

        Returns:
            Itself.

        Raises:
            CalibrationError: If N is below `LEAST_IMAGES`.
            ParameterError: If copies are missing.
        """
        if len(copies) != len(self.copies):
            raise ParameterError(f"residual_ratio needs the features of {len(self.copies)} copies, got {len(copies)}")
        if len(copies[0]) < self.LEAST_IMAGES:
            raise CalibrationError(
                f"residual_ratio learns from at least {self.LEAST_IMAGES} clean images, got {len(copies[0])}: give "
                "more (X_fit), or use another statistic"
            )
        with torch.inference_mode(False), torch.enable_grad():
            planes = [part.clone().float() if part.is_inference() else part.float() for part in (features, *copies)]
            profiles = [_profiles(part) for part in planes]
            self.network_ = _trained(planes, profiles)
            clean = without_spectra(profiles[0], self.network_.channels).cpu()
            self.center_, self.deviation_, self.whitening_ = _guard(clean)
            # the corruptions take turns: a fold holds whole turns, so that all have the same corruptions
            fold = torch.arange(len(clean)) % len(planes[-1]) // max(1, self.corruptions) % FOLDS
            held_out = [_distance(clean[fold == k], *_guard(clean[fold != k])) for k in range(FOLDS)]
            self.limit_ = torch.quantile(torch.cat(held_out), 1 - RARE / (1 + self.corruptions))
        return self

    @torch_defaults()
    def evaluate(self, features: Tensor) -> Tensor:
        """Computes the statistic from (N, 4C, H, W) features: (N,), in nats."""
        network = self.network_
        if network.mean.device != features.device:  # and not always: other threads may use it
            network.to(features.device)
        planes = features.to(network.mean.dtype)
        profiles = profile_of(*planes.chunk(4, 1)[:3])
        *guard, limit = (getattr(self, name).to(profiles) for name in GUARD)
        beyond = (_distance(without_spectra(profiles, network.channels), *guard) - limit).clamp(min=0)
        ratio: Tensor = network(planes, profiles)
        return ratio + STEEP * beyond

    def state(self) -> dict[str, Any]:
        """Returns the learned values, tensors by name."""
        weights = {f"network_.{name}": tensor for name, tensor in self.network_.state_dict().items()}
        return {**weights, **{name: getattr(self, name) for name in GUARD}}

    def restore(self, state: dict[str, Any]) -> ResidualRatio:
        """Takes over the learned values of another statistic.

        Args:
            state: The learned values, as `state` returns them.

        Returns:
            Itself.

        Raises:
            ModelError: If it is the state of another type or version.
        """
        prefix = "network_."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        # copies, not views of a file: whoever overwrites it would end the process
        rest = {name: value.clone() for name, value in state.items() if name in GUARD and isinstance(value, Tensor)}
        check_state(rest, set(GUARD))
        try:
            filters, inputs = weights["first.weight"].shape[:2]
            layers = 1 + sum(name.startswith("others.") and name.endswith("weight") for name in weights)
            shape = {"filters": filters, "layers": layers, "hidden": len(weights["hidden.bias"])}
            network = ResidualNetwork(inputs // 5, **shape)
            network.load_state_dict(weights)
        except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"the network of residual_ratio is damaged or of another version ({error})") from None
        size = without_spectra(network.mean[None], network.channels).shape[1]
        if [tuple(rest[name].shape) for name in GUARD] != [(size,), (size,), (size, size), ()]:
            raise ModelError("the guard of residual_ratio is damaged or of another version")
        self.network_ = network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        vars(self).update(rest)
        return self


def _guard(clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what the guard learns from (N, G) features of clean images: center, deviation and whitening."""
    center, deviation = clean.mean(0), clean.std(0) + 1e-3
    from sklearn.covariance import LedoitWolf  # slow to import

    covariance = LedoitWolf(assume_centered=True).fit(_standardised(clean, center, deviation).numpy()).covariance_
    values, vectors = np.linalg.eigh(covariance)
    return center, deviation, torch.from_numpy(vectors / np.sqrt(values)).float()


def _standardised(features: Tensor, center: Tensor, deviation: Tensor) -> Tensor:
    return ((features - center) / deviation).clamp(-CLIPPED, CLIPPED)


def _distance(features: Tensor, center: Tensor, deviation: Tensor, whitening: Tensor) -> Tensor:
    """Returns (N,): how far (N, G) features are from those of clean images, where they are furthest."""
    away = (_standardised(features, center, deviation) @ whitening).abs()
    return away.topk(FURTHEST).values.mean(1)


def _inputs(residual: Tensor, deviation: Tensor, relative: Tensor) -> Tensor:
    """Returns (N, 5C, H, W), what the convolutions see, of about unit variance."""
    z = residual / deviation
    return torch.cat(
        [
            z.clamp(-4, 4),
            z.abs().clamp(max=8) - 0.8,
            residual.clamp(-4, 4),
            (torch.log(deviation) - 1.5) / 1.5,
            -(relative + EXPECTED).clamp(-6, 3),
        ],
        1,
    )


@torch.no_grad()
def _profiles(planes: Tensor) -> Tensor:
    return torch.cat(list(in_batches(lambda part: profile_of(*part.chunk(4, 1)[:3]), planes, IMAGES_AT_ONCE)))


@torch_defaults(seed=0)
def _trained(planes: list[Tensor], profiles: list[Tensor]) -> ResidualNetwork:
    """Trains a network to tell clean images, the first of both lists, from perturbed ones, the others.

    It compares images with perturbed copies of the same images. Clean images may be corrupted, perturbed ones are not.
    """

    def drawn(parts: list[Tensor]) -> Tensor:
        copies = [parts[copy][image] for copy, image in zip(kinds.tolist(), (chosen % n).tolist(), strict=True)]
        return torch.cat([parts[0][chosen], torch.stack(copies)])

    network = ResidualNetwork(planes[0].shape[1] // 4).to(memory_format=torch.channels_last)
    everything = torch.cat(profiles)
    network.mean.copy_(everything.mean(0))
    network.deviation.copy_(everything.std(0) + 1e-3)
    n = len(planes[-1])
    steps = min(STEPS, n)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    is_perturbed = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
    for _ in range(steps):
        chosen = torch.randint(len(planes[0]), (BATCH,))
        kinds = torch.randint(1, len(planes), (BATCH,))  # mixed: batch normalisation would reveal a batch of one kind
        found = network(drawn(planes), drawn(profiles))
        loss = F.binary_cross_entropy_with_logits(found, is_perturbed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)
