"""Simpler detectors of photographs to compare with.

Each baseline gets the classifier and the clean photographs to learn from. It returns a function (N, 3, H, W) in [0, 1]
-> (N,) anomaly scores, higher = more anomalous.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ...attacks import ATTACKS
from ...errors import ParameterError
from ...extras import extra
from ...imagenet import resized_and_cropped
from ...images import from_uint8, to_uint8
from ..baselines import random as random_of_bytes
from ..baselines import squeezing_score
from ..cache import Cache
from .attacked import attack_photographs
from .data import Photographs, input_size_of
from .features import fourier_magnitudes, spam

Score = Callable[[Tensor], Any]
Baseline = Callable[[nn.Module, Photographs], Score]

TRAINED_ON = "pgd-2"  # the attack that trained baselines learn from, unless another is given as NAME@ATTACK


def random(classifier: nn.Module, photographs: Photographs) -> Score:
    """Scores an image by a number that is a hash of its bytes, and so tells nothing about attacks.

    Args:
        classifier: Not used.
        photographs: Not used.
    """
    return random_of_bytes(classifier, None)


def feature_squeezing(classifier: nn.Module, photographs: Photographs) -> Score:
    """Scores an image by how much the classifier's probabilities change when the image is simplified.

    The image is simplified as `pixeldefend.eval.baselines.feature_squeezing` does for colours: to 5 bits, and by a 2 x
    2 median filter, which are the paper's choice for ImageNet too, but for its third squeezer, non-local means.

    Args:
        classifier: The classifier that is attacked, (N, 3, H, W) in [0, 1] -> (N, classes) logits.
        photographs: Not used.

    Reference:
        Xu, Evans & Qi 2018, arXiv:1704.01155.
    """
    return squeezing_score(classifier, 5)


def webp_lossless(classifier: nn.Module, photographs: Photographs) -> Score:
    """Scores an image by the length of a lossless WebP file, in bits for each sub-pixel.

    Args:
        classifier: Not used.
        photographs: Not used.
    """
    return partial(_code_length, format="WEBP", lossless=True, quality=75, method=4)


def jxl_lossless(classifier: nn.Module, photographs: Photographs) -> Score:
    """Scores an image by the length of a lossless JPEG XL file, in bits for each sub-pixel.

    Args:
        classifier: Not used.
        photographs: Not used.

    Raises:
        MissingExtraError: If the extra "jxl" is not installed.
    """
    with extra("jxl"):
        import pillow_jxl as registered  # noqa: F401
    return partial(_code_length, format="JXL", lossless=True, effort=7)


def spectral(
    classifier: nn.Module, photographs: Photographs, attack: str = TRAINED_ON, cache: Cache | None = None
) -> Score:
    """Scores an image by a logistic regression on the magnitudes of its Fourier transform, trained on an attack.

    Images that differ in size from the classifier's input are resized and cropped to it.

    Args:
        classifier: The classifier that is attacked.
        photographs: The clean photographs that the regression learns, with their attacked counterparts.
        attack: A key of `ATTACKS`, the attack to learn. As in the paper, it is one that is detected later.
        cache: Where attacked images are kept.

    Reference:
        Harder et al. 2021, arXiv:2103.03000, InputMFS.
    """
    size = input_size_of(classifier)

    def features(x: Tensor) -> Tensor:
        return fourier_magnitudes(x if tuple(x.shape[2:]) == (size, size) else resized_and_cropped(x, size))

    return _trained(features, _scaled(LogisticRegression(max_iter=200)), classifier, photographs, attack, cache)


def steganalysis(
    classifier: nn.Module, photographs: Photographs, attack: str = TRAINED_ON, cache: Cache | None = None
) -> Score:
    """Scores an image by Fisher's linear discriminant of its SPAM features, trained on an attack.

    One discriminant with a shrunk covariance matrix takes the place of the paper's ensemble.

    Args:
        classifier: The classifier that is attacked.
        photographs: The clean photographs that the discriminant learns, with their attacked counterparts.
        attack: A key of `ATTACKS`, the attack to learn. As in the paper, it is one that is detected later.
        cache: Where attacked images are kept.

    Reference:
        Liu et al. 2019, "Detection based defense against adversarial examples from the steganalysis point of view",
        arXiv:1806.09186.
    """
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return _trained(spam, _scaled(discriminant), classifier, photographs, attack, cache)


PHOTO_BASELINES: dict[str, Baseline] = {
    "random": random,
    "feature-squeezing": feature_squeezing,
    "webp-lossless": webp_lossless,
    "jxl-lossless": jxl_lossless,
    "spectral": spectral,
    "steganalysis": steganalysis,
}
TRAINED = ("spectral", "steganalysis")  # those that learn from an attack, and take NAME@ATTACK


def is_baseline(name: str) -> bool:
    """Returns whether a name is that of a baseline, with or without an attack."""
    return name.partition("@")[0] in PHOTO_BASELINES


def baseline(name: str, classifier: nn.Module, photographs: Photographs | None, cache: Cache | None = None) -> Score:
    """Fits a baseline.

    Args:
        name: A key of `PHOTO_BASELINES`; for those that learn from an attack, also NAME@ATTACK.
        classifier: The classifier that is attacked.
        photographs: The clean photographs to learn from; None if there are none.
        cache: Where attacked images are kept that baselines learn from.

    Returns:
        A function (N, 3, H, W) in [0, 1] -> (N,) anomaly scores.

    Raises:
        ParameterError: If there is no such baseline or attack, or there are no photographs.
        MissingExtraError: If the baseline needs a package that is not installed.
    """
    kind, at, attack = name.partition("@")
    if kind not in PHOTO_BASELINES or (at and kind not in TRAINED):
        raise ParameterError(f"there is no baseline {name!r}; there are: {', '.join(PHOTO_BASELINES)}")
    if at and attack not in ATTACKS:
        raise ParameterError(f"unknown attack {attack!r} in {name!r}; there are: {', '.join(ATTACKS)}")
    if photographs is None:
        raise ParameterError(
            f"{name} must be calibrated on clean photographs that are not attacked: name their folder with --learn"
        )
    chosen: Any = PHOTO_BASELINES[kind]
    options = {"attack": attack or TRAINED_ON, "cache": cache} if kind in TRAINED else {}
    score: Score = chosen(classifier, photographs, **options)

    def of_grey_too(x: Tensor) -> Any:
        return score(x.expand(-1, 3, -1, -1))

    return of_grey_too


def _code_length(x: Tensor, *, format: str, **options: Any) -> np.ndarray:
    """Returns (N,), the bits for each sub-pixel of lossless files of images (N, C, H, W) in [0, 1]."""
    bits = []
    for image in to_uint8(x.detach().cpu()):
        buffer = io.BytesIO()
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, format, **options)
        bits.append(8 * buffer.tell() / image.numel())
    return np.array(bits)


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def _trained(
    features: Callable[[Tensor], Tensor],
    model: Any,
    classifier: nn.Module,
    photographs: Photographs,
    attack: str,
    cache: Cache | None,
) -> Score:
    """Fits a linear model to features of clean photographs and of those that an attack succeeded on."""
    result = attack_photographs(classifier, photographs, [attack], cache=cache)[attack]
    places = result.succeeded.nonzero()[:, 0].tolist()
    if len(places) < 2:
        raise ParameterError(
            f"{attack} succeeds on {len(places)} of {len(photographs)} photographs, too few to learn from: give more "
            "photographs, or another attack"
        )

    def of(image: Tensor) -> np.ndarray:
        found: np.ndarray = features(from_uint8(image[None]))[0].double().cpu().numpy()
        return found

    clean, attacked = ([of(x[i]) for i in places] for x in (photographs.x, result.images))
    model.fit(np.stack([*clean, *attacked]), np.r_[np.zeros(len(clean)), np.ones(len(attacked))])

    def score(x: Tensor) -> np.ndarray:
        if x.requires_grad:
            raise TypeError("no gradient")
        found: np.ndarray = model.decision_function(features(x).double().cpu().numpy())
        return found

    return score
