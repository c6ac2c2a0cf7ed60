"""Training of densities by maximum likelihood, and of classifiers (needs the extra `train`)."""

from .loop import Classification, MaximumLikelihood, build_for, train

__all__ = ["Classification", "MaximumLikelihood", "build_for", "train"]
