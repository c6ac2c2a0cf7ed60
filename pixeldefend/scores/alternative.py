"""Statistics that compare the density with an alternative, a density of perturbed images.

By Neyman and Pearson no test of "perturbed" against "clean" is more powerful than the likelihood ratio of the two
densities. What an image shows has nearly the same probability under both, and cancels.
"""

from __future__ import annotations

from torch import Tensor

from ..densities import Autoregressive, Density
from ..errors import ParameterError
from .evidence import Evidence


def likelihood_ratio(evidence: Evidence) -> Tensor:
    """The log likelihood ratio log q(x) - log p(x) of an alternative q, a density of perturbed images.

    `pixeldefend train density --start P --perturb` makes the alternative of a density.

    Args:
        evidence: The evidence about N images.

    Returns:
        (N,), in nats.

    Raises:
        ParameterError: If there is no alternative.

    Reference:
        Neyman & Pearson 1933, "On the problem of the most efficient tests of statistical hypotheses"; compare Ren et
        al. 2019, "Likelihood ratios for out-of-distribution detection", arXiv:1906.02845.
    """
    q = _alternative(evidence, "likelihood_ratio")
    if isinstance(q, Autoregressive):  # on a faster backend it has conditionals only
        return q.conditionals(evidence.x).log_prob(evidence.x).flatten(1).sum(1) - evidence.log_prob
    return q.log_prob(evidence.x) - evidence.log_prob


def likelihood_ratio_map(evidence: Evidence) -> Tensor:
    """The log likelihood ratio of every sub-pixel given those before it; their sum is `likelihood_ratio`.

    `Detector.evaluate({"map": likelihood_ratio_map}, X)` gives it for images, if the detector has no preprocessor.

    Args:
        evidence: The evidence about N images.

    Returns:
        (N, *sites), of images (N, C, H, W), in nats.

    Raises:
        ParameterError: If there is no alternative, or if either density has no conditionals.
    """
    q = _alternative(evidence, "likelihood_ratio_map")
    for density in (evidence.density, q):
        if not isinstance(density, Autoregressive):
            kind = type(density).__name__
            raise ParameterError(f"likelihood_ratio_map needs densities with conditionals, and {kind} has none")
    return q.conditionals(evidence.x).log_prob(evidence.x) + evidence.surprisal  # type: ignore[operator]


def _alternative(evidence: Evidence, statistic: str) -> Density:
    if evidence.alternative is None:
        raise ParameterError(f"{statistic} needs a density of perturbed images: Detector(density, alternative=...)")
    return evidence.alternative
