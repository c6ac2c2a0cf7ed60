"""Simpler detectors to compare with, fitted to clean images.

Each baseline gets the classifier and the data. It returns a function (N, C, H, W) in [0, 1] -> (N,) anomaly scores,
higher = more anomalous, with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor
from torch import Tensor, nn
from torch.nn import functional as F

from ..ambient import modes_kept
from ..data import DataSet, Images
from ..devices import device_of
from ..errors import ParameterError

Baseline = Callable[[nn.Module, DataSet], Callable[[Tensor], Tensor]]

LEARN_FROM = 10_000  # the largest number of training images that a baseline is fitted to
TINY = 1e-3  # added to distances, since a copy of a training image has no dimensionality


def random(classifier: nn.Module, data: DataSet | None) -> Callable[[Tensor], Tensor]:
    """Scores an image by a number that is a hash of its bytes, and so tells nothing about attacks.

    Args:
        classifier: Not used.
        data: Not used.

    Returns:
        A function (N, C, H, W) -> (N,) in [0, 1).
    """

    def score(x: Tensor) -> Tensor:
        values = (255 * x.detach()).round().flatten(1).double()
        weights = torch.rand(values.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return (1e3 * values @ weights.to(values) % 1).to(x) + 0 * x.flatten(1).sum(1)

    return score


def feature_squeezing(classifier: nn.Module, data: DataSet) -> Callable[[Tensor], Tensor]:
    """Scores an image by how much the classifier's probabilities change when the image is simplified.

    The image is simplified twice: to fewer bits (1 for grey images, 5 for colour images), and by a 2 x 2 median filter.
    The score is the larger of the two L1 distances.

    Args:
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        data: The data set, which tells grey images from colour images.

    Returns:
        A function (N, C, H, W) -> (N,).

    Reference:
        Xu, Evans & Qi 2018, "Feature squeezing: detecting adversarial examples in deep neural networks",
        arXiv:1704.01155.
    """
    return squeezing_score(classifier, 1 if data.test.shape[0] == 1 else 5)


def squeezing_score(classifier: nn.Module, bits: int) -> Callable[[Tensor], Tensor]:
    """Returns the score of feature squeezing.

    Args:
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits.
        bits: The number of bits to which the first squeezer reduces the pixels.
    """
    classifier = classifier.eval()
    levels = 2.0**bits - 1

    def score(x: Tensor) -> Tensor:
        fewer = x + ((levels * x).round() / levels - x).detach()
        padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
        windows = torch.stack([padded[..., i : i + x.shape[2], j : j + x.shape[3]] for i in (0, 1) for j in (0, 1)])
        median = windows.sort(0).values[1:3].mean(0)
        p, *others = (classifier(images).softmax(1) for images in (x, fewer, median))
        return torch.stack([(p - q).abs().sum(1) for q in others]).amax(0)

    return score


def autoencoder(classifier: nn.Module, data: DataSet) -> Callable[[Tensor], Tensor]:
    """Scores an image by the mean squared error of its reconstruction by an autoencoder, as a detector of MagNet does.

    Args:
        classifier: Not used.
        data: The data set whose training images the autoencoder, with one narrow layer, is fitted to.

    Returns:
        A function (N, C, H, W) -> (N,).

    Reference:
        Meng & Chen 2017, "MagNet: a two-pronged defense against adversarial examples", arXiv:1705.09064.
    """
    x = data.train.x[:LEARN_FROM].flatten(1).numpy() / 255
    network = MLPRegressor(
        hidden_layer_sizes=(128,), batch_size=128, max_iter=20, tol=0.0, n_iter_no_change=20, random_state=0
    )
    network.fit(x, x)
    (a, b), (c, d) = (list(map(torch.from_numpy, pair)) for pair in (network.coefs_, network.intercepts_))

    def score(x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        made = F.relu(flat @ a.to(flat) + c.to(flat)) @ b.to(flat) + d.to(flat)
        return ((made - flat) ** 2).mean(1)

    return score


def mahalanobis(classifier: nn.Module, data: DataSet) -> Callable[[Tensor], Tensor]:
    """Scores an image by the Mahalanobis distance of the classifier's last features to the nearest class mean.

    All classes share one covariance matrix. Unlike the paper it uses the last layer alone, and adds no noise to the
    input.

    Args:
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits, with a linear layer.
        data: The data set whose labelled training images give the means and the covariance.

    Returns:
        A function (N, C, H, W) -> (N,), the squared distance.

    Raises:
        ParameterError: If the classifier has no linear layer, or the training images have no labels.

    Reference:
        Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
        arXiv:1807.03888.
    """
    features = _last_features(classifier)
    found, y = _learned(classifier, features, data.train)
    means = np.stack([found[y == label].mean(0) for label in np.unique(y)])
    precision = EmpiricalCovariance(assume_centered=True).fit(found - means[np.searchsorted(np.unique(y), y)])
    factor = torch.from_numpy(np.linalg.cholesky(precision.get_precision() + 1e-9 * np.eye(found.shape[1])))
    centres = torch.from_numpy(means)

    def score(x: Tensor) -> Tensor:
        seen = features(x).double()
        from_each = (seen[:, None] - centres.to(seen)) @ factor.to(seen)
        return (from_each**2).sum(2).amin(1)

    return score


def lid(classifier: nn.Module, data: DataSet, k: int = 20) -> Callable[[Tensor], Tensor]:
    """Scores an image by the local intrinsic dimensionality of the classifier's last features.

    The dimensionality is estimated by maximum likelihood from the nearest training images. Unlike the paper it uses one
    layer, and is not fitted to attacks.

    Args:
        classifier: (N, C, H, W) in [0, 1] -> (N, classes) logits, with a linear layer.
        data: The data set whose labelled training images are the neighbours.
        k: The number of nearest neighbours.

    Returns:
        A function (N, C, H, W) -> (N,).

    Raises:
        ParameterError: If the classifier has no linear layer, or the training images have no labels.

    Reference:
        Ma et al. 2018, "Characterizing adversarial subspaces using local intrinsic dimensionality", arXiv:1801.02613.
    """
    features = _last_features(classifier)
    found, _ = _learned(classifier, features, data.train)
    neighbours = NearestNeighbors(n_neighbors=k).fit(found)
    learned = torch.from_numpy(found)

    def score(x: Tensor) -> Tensor:
        seen = features(x).double()
        nearest = torch.from_numpy(neighbours.kneighbors(seen.detach().cpu().numpy(), return_distance=False))
        distances = (seen[:, None] - learned[nearest].to(seen)).norm(dim=2) + TINY
        return -1 / (distances / distances[:, -1:]).log().mean(1).clamp(max=-TINY)

    return score


BASELINES: dict[str, Baseline] = {
    "random": random,
    "feature-squeezing": feature_squeezing,
    "autoencoder": autoencoder,
    "mahalanobis": mahalanobis,
    "lid": lid,
}


def _last_features(classifier: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns a function from images to the input of the classifier's last linear layer, (N, D)."""
    linear = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ParameterError(f"{type(classifier).__name__} has no linear layer, so this baseline finds no features")

    def features(x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any) -> None:
            seen.append(inputs[0])

        hook = linear[-1].register_forward_pre_hook(keep)
        try:
            classifier(x)
        finally:
            hook.remove()
        return seen[0].flatten(1)

    return features


def _learned(
    classifier: nn.Module, features: Callable[[Tensor], Tensor], train: Images
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features, (N, D) float64, and the labels of training images."""
    if train.y is None:
        raise ParameterError("this baseline needs labelled training images")
    chosen = train[:LEARN_FROM]
    assert chosen.y is not None
    with modes_kept(classifier), torch.no_grad():
        found = torch.cat([features((part / 255).to(device_of(classifier))).cpu() for part in chosen.x.split(256)])
    return found.double().numpy(), chosen.y.numpy()
