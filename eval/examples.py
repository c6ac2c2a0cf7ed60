"""Attacked images to look at: what changed, what the detector sees, and what purification makes of them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..attacks import Attacked
from ..data import Images
from ..densities import Autoregressive
from ..detectors import Detector
from ..purification import purify

PURIFIED_WITHIN = 16
# of named data sets, in the order of their labels
CLASSES = {
    "fashion-mnist": ("T-shirt", "trouser", "jumper", "dress", "coat", "sandal", "shirt", "trainer", "bag", "boot"),
    "cifar10": ("aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"),
}


def gallery(
    detector: Detector, classifier: nn.Module, images: Images, attacked: dict[str, Attacked], most: int = 12
) -> list[dict[str, Any]]:
    """attacked: what each attack made of `images`. Returns for up to `most` attacks the first image that succeeded, and
    that no attack before shows if there is one: attack, index, label, labels read before, after the attack and after
    purification, p_value before and after, and pictures as data URIs: image, attacked, difference (times 10, grey is
    none), surprisal (bright is improbable) and purified; the last two are None for detectors that have no density."""
    assert images.y is not None
    shown: list[dict[str, Any]] = []
    taken: set[int] = set()
    by_site = isinstance(detector.density, Autoregressive) and detector.density.levels == 256
    for name, result in list(attacked.items())[:most]:
        places = result.succeeded.nonzero()[:, 0]
        if not len(places):
            continue
        i = next((int(place) for place in places if int(place) not in taken), int(places[0]))
        taken.add(i)
        pair = torch.stack([images.x[i], result.images[i]])
        difference = 128 + 10 * (pair[1].int() - pair[0].int())
        verdicts = detector.judge(pair, maps=by_site)
        read = _labels(classifier, pair)
        item: dict[str, Any] = dict(attack=name, index=int(images.index[i]), label=int(images.y[i]))
        item |= dict(read=read[0], read_attacked=read[1], read_purified=None)
        item |= dict(p_value=float(verdicts.p_value[0]), p_value_attacked=float(verdicts.p_value[1]))
        item |= dict(image=_png(pair[0]), attacked=_png(pair[1]), surprisal=None, purified=None)
        item["difference"] = _png(difference.clamp(0, 255).to(torch.uint8))
        if by_site:
            assert verdicts.surprisal_map is not None
            assert detector.density is not None
            item["surprisal"] = _heat(verdicts.surprisal_map[1], verdicts.surprisal_map.max())
            purified = purify(pair[1:], PURIFIED_WITHIN, detector.density)
            item["purified"], item["read_purified"] = _png(purified[0]), _labels(classifier, purified)[0]
        shown.append(item)
    return shown


def _labels(classifier: nn.Module, x: Tensor) -> list[int]:
    device = next((p.device for p in classifier.parameters()), torch.device("cpu"))
    with torch.no_grad():
        labels: list[int] = classifier(x.to(device) / 255).argmax(1).tolist()
    return labels


def _png(x: Tensor) -> str:
    """x: (C, H, W) uint8. Returns a data URI."""
    array = x.permute(1, 2, 0).numpy()
    return _uri(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array))


def _heat(surprisal: np.ndarray, most: float) -> str:
    from matplotlib import colormaps

    colours = colormaps["magma"](np.clip(surprisal / max(most, 1e-9), 0, 1), bytes=True)
    return _uri(Image.fromarray(colours[..., :3]))


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
