"""Statistics compute anomaly scores from a density p(x): the less an image looks like clean ones, the higher its score.

A statistic is a function of `Evidence`, for example `bits_per_dim(Evidence(density, x))`. `SCORES` lists them by name.
To add one, write a function and add a line there: help, docs and contract tests follow.
"""

from __future__ import annotations

import copy
import math

from ..errors import ParameterError
from .alternative import likelihood_ratio, likelihood_ratio_map
from .combined import Combined, Fused, NoiseContrast, Pooled
from .evidence import Evidence, Score
from .learned import LearnedScore, SurprisalGiven, Typicality, with_noise
from .perturbation import PurifiedDisagreement, gradient_norm, likeliest_gain, smoothing_gain
from .pit import PitLag, pit_tails, pit_uniformity
from .ratio_and_excess import RatioAndExcess
from .residual_ratio import ResidualRatio
from .surprisal import (
    BandExcess,
    bits_per_dim,
    compressed_length,
    excess_surprisal,
    first_channel_excess_surprisal,
    later_channels_excess_surprisal,
    low_entropy_excess_surprisal,
    mean_entropy,
    patch_surprisal,
    top_pixels,
    top_surprisal,
)

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
    # the name is the direction of the lag: the earlier site along a column is one row above
    "pit_lag_columns": PitLag(rows=1),
    "pit_lag_rows": PitLag(columns=1),
    "pit_lag_diagonal": PitLag(rows=1, columns=1),
    "pit_lag_antidiagonal": PitLag(rows=1, columns=-1),
    "pit_lag_2_columns": PitLag(rows=2),
    "pit_lag_2_rows": PitLag(columns=2),
    "mean_entropy": mean_entropy,
}

# The members are listed: a new statistic in SCORES must not change the shipped detectors.
NOISE_CONTRAST_MEMBERS = (
    "excess_surprisal",
    "low_entropy_excess_surprisal",
    "excess_surprisal_1_2",
    "excess_surprisal_2_2.75",
    "excess_surprisal_2.75_3.5",
    "excess_surprisal_3.5",
    "first_channel_excess_surprisal",
    "later_channels_excess_surprisal",
    "top_surprisal",
    "top_pixels",
    "patch_surprisal",
    "pit_uniformity",
    "pit_tails",
    "pit_lag_channels",
    "pit_lag_columns",
    "pit_lag_rows",
    "pit_lag_diagonal",
    "pit_lag_antidiagonal",
    "pit_lag_2_columns",
    "pit_lag_2_rows",
    "mean_entropy",
)
POOLED_MEMBERS = (
    "low_entropy_excess_surprisal",
    "excess_surprisal_1_2",
    "excess_surprisal_2_2.75",
    "later_channels_excess_surprisal",
    "top_surprisal",
    "pit_lag_columns",
    "pit_lag_rows",
)
SCORES["noise_contrast"] = NoiseContrast({name: SCORES[name] for name in NOISE_CONTRAST_MEMBERS})
SCORES["pooled"] = Pooled({name: SCORES[name] for name in POOLED_MEMBERS})
# in this order: for a faint change of all pixels, for a clear change of some, for a change of very few
FUSED_PARTS = {name: SCORES[name] for name in ("noise_contrast", "pooled", "top_pixels")}
SCORES["fused"] = Fused(FUSED_PARTS)

# statistics that take further passes of the density, or a gradient, or learn for minutes
EXPENSIVE: dict[str, Score] = {
    "smoothing_gain": smoothing_gain,
    "likeliest_gain": likeliest_gain,
    "gradient_norm": gradient_norm,
    "residual_ratio": ResidualRatio(),
    "ratio_and_excess": RatioAndExcess(),
}
SCORES |= EXPENSIVE

# statistics that also need the classifier that is to be protected
CLASSIFIER_SCORES: dict[str, Score] = {"purified_disagreement": PurifiedDisagreement(4, 8)}
CLASSIFIER_SCORES["fused_with_classifier"] = Fused({**FUSED_PARTS, **CLASSIFIER_SCORES})

# statistics that also need an alternative, a density of perturbed images
ALTERNATIVE_SCORES: dict[str, Score] = {"likelihood_ratio": likelihood_ratio}


def make_score(name: str) -> Score:
    """Returns a statistic by its name.

    Args:
        name: A key of `SCORES`, `CLASSIFIER_SCORES` or `ALTERNATIVE_SCORES`.

    Returns:
        The statistic. If it learns, it is a new copy that is not fitted yet.

    Raises:
        ParameterError: If there is no statistic of this name.
    """
    statistics = SCORES | CLASSIFIER_SCORES | ALTERNATIVE_SCORES
    if name not in statistics:
        raise ParameterError(f"unknown statistic {name!r}; there are: {', '.join(statistics)}")
    score = statistics[name]
    return copy.deepcopy(score) if isinstance(score, LearnedScore) else score


__all__ = [
    "ALTERNATIVE_SCORES",
    "CLASSIFIER_SCORES",
    "EXPENSIVE",
    "SCORES",
    "Combined",
    "Evidence",
    "Fused",
    "LearnedScore",
    "NoiseContrast",
    "Pooled",
    "RatioAndExcess",
    "ResidualRatio",
    "Score",
    "bits_per_dim",
    "likelihood_ratio_map",
    "make_score",
    "with_noise",
]
