"""Pictures that explain a verdict: the surprisal of pixels, and the purified image."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..classifier import predict_labels
from ..detectors import ConformalDetector, PhotoDetector
from ..errors import PixelDefendError
from ..images import from_uint8, match_channels, to_batch
from ..purification import purify
from ..screening.figures import heat_map, overlay


def explain(
    image: np.ndarray, detector: ConformalDetector, classifier: nn.Module | None, eps: int
) -> dict[str, Any] | None:
    """Draws the surprisal of an image and the purified image.

    Args:
        image: (H, W) or (H, W, 3), uint8.
        detector: A detector that accepts the image.
        classifier: (N, C, H, W) in [0, 1] -> logits, or None. It gives labels if it takes images of this shape.
        eps: How far purification may move a sub-pixel, in steps of the 8-bit grid, 0 to 255.

    Returns:
        The fields of `schemas.Pictures`, or None if the detector has no density that can purify such an image.
    """
    x = to_batch(image)[0]
    try:
        purified = purify(x, eps, detector)
    except PixelDefendError:
        return None
    x = match_channels(x, purified.shape[1])
    change = (purified.float() - 255 * x)[0].permute(1, 2, 0).numpy()
    before, after = _labels(classifier, torch.cat([x, from_uint8(purified)]))
    return {
        "image": _data_uri(image),
        "surprisal": _data_uri(_map(image, detector)),
        "purified": _data_uri(purified[0].permute(1, 2, 0).numpy()),
        "difference": _data_uri(np.clip(127.5 + 4 * change, 0, 255).astype(np.uint8)),
        "p_value_purified": float(detector.p_value(purified)[0]),
        "label_before": before,
        "label_after": after,
    }


def _map(image: np.ndarray, detector: ConformalDetector) -> np.ndarray:
    surprisal = detector.judge([image], maps=True).surprisal_map[0]
    return overlay(image, surprisal) if isinstance(detector, PhotoDetector) else heat_map(surprisal)


def _labels(classifier: nn.Module | None, x: Tensor) -> list[int] | list[None]:
    """Returns the label of each image, or None for each if there is no classifier for them."""
    if classifier is None or getattr(classifier, "image_shape", x.shape[1:]) != x.shape[1:]:
        return [None] * len(x)
    labels: list[int] = predict_labels(classifier, x).tolist()
    return labels


def _data_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
