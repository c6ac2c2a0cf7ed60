"""Pictures that explain a verdict: the surprisal of pixels, and the purified image."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ..classifier import predict_labels
from ..detectors import ConformalDetector, PhotoDetector
from ..errors import PixelDefendError
from ..images import from_uint8, match_channels, to_batch
from ..purification import purify
from ..screening.figures import BRIGHTEST, BRIGHTEST_EXCESS, heat_map, overlay

MAPPED_AT_MOST = 2**22  # pixels of an image whose surprisal is drawn: it takes several seconds
PURIFIED_AT_MOST = 2**14  # pixels of an image that is purified, which takes several seconds too
SHOWN_AT_MOST = 1024  # pixels of the longer side of a picture


def explain(
    image: np.ndarray, detector: ConformalDetector, classifier: nn.Module | None, eps: int
) -> dict[str, Any] | None:
    """Draws an image and, unless it is too large for somebody who waits, its surprisal and the purified image.

    Args:
        image: (H, W) or (H, W, 3), uint8.
        detector: A detector that accepts the image.
        classifier: (N, C, H, W) in [0, 1] -> logits, or None. It gives labels if it takes images of this shape.
        eps: How far purification may move a sub-pixel, in steps of the 8-bit grid, 0 to 255.

    Returns:
        The fields of `schemas.Pictures`, or None if the detector has no density.
    """
    if getattr(detector, "density", None) is None:
        return None
    small = image.shape[0] * image.shape[1] <= MAPPED_AT_MOST
    maps = detector.judge([image], maps=True).surprisal_map if small else None
    if small and maps is None:
        return None
    photograph = isinstance(detector, PhotoDetector)
    pictures: dict[str, Any] = {
        "image": _data_uri(image),
        "surprisal": None if maps is None else _data_uri(overlay(image, maps[0]) if photograph else heat_map(maps[0])),
        "brightest": BRIGHTEST_EXCESS if photograph else BRIGHTEST,
        "label_before": _label(classifier, to_batch(image)[0]) if small and classifier is not None else None,
        **dict.fromkeys(("purified", "difference", "p_value_purified", "label_after")),
    }
    purified = _purified(image, detector, eps)
    if purified is not None:
        x = match_channels(to_batch(image)[0], purified.shape[1])
        change = (purified.float() - 255 * x)[0].permute(1, 2, 0).numpy()
        pictures |= {
            "purified": _data_uri(purified[0].permute(1, 2, 0).numpy()),
            "difference": _data_uri(np.clip(127.5 + 4 * change, 0, 255).astype(np.uint8)),
            "p_value_purified": float(detector.p_value(purified)[0]),
            "label_before": _label(classifier, x),
            "label_after": _label(classifier, from_uint8(purified)),
        }
    return pictures


def _purified(image: np.ndarray, detector: ConformalDetector, eps: int) -> Tensor | None:
    """Returns uint8 (1, C, H, W), or None for an image that is too large or that the density cannot purify."""
    if image.shape[0] * image.shape[1] > PURIFIED_AT_MOST:
        return None
    try:
        return purify(to_batch(image)[0], eps, detector)
    except PixelDefendError:
        return None


def _label(classifier: nn.Module | None, x: Tensor) -> int | None:
    """Returns the label of an image, or None if there is no classifier for it."""
    if classifier is None or getattr(classifier, "image_shape", x.shape[1:]) != x.shape[1:]:
        return None
    return int(predict_labels(classifier, x)[0])


def _data_uri(image: np.ndarray) -> str:
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    picture.thumbnail((SHOWN_AT_MOST, SHOWN_AT_MOST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
