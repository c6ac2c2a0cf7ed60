"""Examples of attacked images, with the changed pixels, their surprisal, and the purified image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..classifier import predict_labels
from ..densities import Autoregressive
from ..extras import extra
from ..purification import purify
from ..screening.figures import heat_map

PURIFIED_WITHIN = 16  # 8-bit steps
LARGEST = 256  # pixels of a side that are shown
AMPLIFIED = 10  # the factor by which a difference is shown
# names of classes by data set, in the order of the labels
CLASSES = {
    "fashion-mnist": ("T-shirt", "trouser", "jumper", "dress", "coat", "sandal", "shirt", "trainer", "bag", "boot"),
    "cifar10": ("aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"),
}


def examples(
    detector: Any,
    classifier: nn.Module,
    images: Any,
    attacked: Mapping[str, Any],
    most: int = 12,
    *,
    by_site: bool = True,
) -> list[dict[str, Any]]:
    """Chooses one example for each attack: the first successful image, if possible one that is not shown yet.

    Args:
        detector: A fitted detector.
        classifier: The classifier that was attacked.
        images: Labelled images, `Images` or `Photographs`.
        attacked: The results of the attacks on these images, by attack.
        most: The largest number of attacks.
        by_site: Whether to show surprisal and purified images, which takes long for photographs.

    Returns:
        For each attack: attack, index, label; predicted, predicted_attacked and predicted_purified labels; p_value and
        p_value_attacked; and pictures as data URIs: image, attacked, difference (times 10; grey is no change),
        surprisal (bright is improbable) and purified. Without a density, surprisal and purified are None.
    """
    shown: list[dict[str, Any]] = []
    taken: set[int] = set()
    density = getattr(detector, "density", None)
    by_site = by_site and isinstance(density, Autoregressive) and density.levels == 256
    for name, result in list(attacked.items())[:most]:
        places = result.succeeded.nonzero()[:, 0]
        if not len(places):
            continue
        i = next((int(place) for place in places if int(place) not in taken), int(places[0]))
        taken.add(i)
        pair = torch.stack([images.x[i], result.images[i]])
        difference = 128 + AMPLIFIED * (pair[1].int() - pair[0].int())
        verdicts = detector.judge(pair, maps=by_site)
        predicted = predict_labels(classifier, pair).tolist()
        item: dict[str, Any] = dict(attack=name, index=int(images.index[i]), label=int(images.y[i]))
        item |= dict(predicted=predicted[0], predicted_attacked=predicted[1], predicted_purified=None)
        item |= dict(p_value=float(verdicts.p_value[0]), p_value_attacked=float(verdicts.p_value[1]))
        item |= dict(image=_png(pair[0]), attacked=_png(pair[1]), surprisal=None, purified=None)
        item["difference"] = _png(difference.clamp(0, 255).to(torch.uint8))
        if by_site:
            assert verdicts.surprisal_map is not None
            with extra("eval"):
                item["surprisal"] = _uri(heat_map(verdicts.surprisal_map[1]))
            purified = purify(pair[1:], PURIFIED_WITHIN, density)
            item["purified"] = _png(purified[0])
            item["predicted_purified"] = predict_labels(classifier, purified).tolist()[0]
        shown.append(item)
    return shown


def _png(x: Tensor) -> str:
    """Returns an image, (C, H, W) uint8, as a data URI; of a large image the middle."""
    height, width = (min(side, LARGEST) for side in x.shape[1:])
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    array = x[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()
    return _uri(array[..., 0] if array.shape[2] == 1 else array)


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
