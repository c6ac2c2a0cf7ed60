"""Adversarial images are improbable: pixeldefend finds them by p(x), at a known rate of false alarms.

from pixeldefend import is_adversarial, load_detector

is_adversarial("shirt.png")                 # bool: flagged at a false-alarm rate of 1 %
detector = load_detector("fashion-mnist")   # a scikit-learn outlier detector; detector.density is the model
detector.p_value(images)                    # (N,)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import numpy as np

    from .images import to_batch
    from .zoo import DetectorSet, cached_set

    chosen = cached_set(None if detector is None else str(detector)) if _is_name(detector) else DetectorSet(detector)
    several = isinstance(x, list | tuple)
    batch, single = (x, False) if several else to_batch(x)
    flagged = np.zeros(len(batch), dtype=bool)
    if detector is not None:
        flagged[:] = chosen[chosen.names[0]].is_adversarial(batch) if len(batch) else False
    else:  # images in one array have one size
        names = [chosen.choose(image) for image in (batch if several else batch[:1])]
        for name in dict.fromkeys(names):
            of = [place for place, other in enumerate(names) if other == name] if several else range(len(batch))
            flagged[list(of)] = chosen[name].is_adversarial([batch[place] for place in of] if several else batch)
    return bool(flagged[0]) if single else flagged


def _is_name(detector: Any) -> bool:
    return detector is None or isinstance(detector, str) or hasattr(detector, "__fspath__")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
