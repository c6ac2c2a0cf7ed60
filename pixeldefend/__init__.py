"""Adversarial images are improbable: pixeldefend finds them by p(x), at a known rate of false alarms.

from pixeldefend import is_adversarial, load_detector

is_adversarial("shirt.png")                 # bool: flagged at a false-alarm rate of 1 %
detector = load_detector("fashion-mnist")   # a scikit-learn outlier detector; detector.density is the model
detector.p_value(images)                    # (N,)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .lazy import names_from

if TYPE_CHECKING:
    import os

    import numpy as np

    from .detectors import ClassConditional as ClassConditional
    from .detectors import ConformalDetector as ConformalDetector
    from .detectors import Detector as Detector
    from .detectors import FunctionDetector as FunctionDetector
    from .purification import PixelDefend as PixelDefend
    from .zoo import load_classifier as load_classifier
    from .zoo import load_detector as load_detector

__version__ = "0.2.0"

_MODULES = {
    "ClassConditional": "detectors",
    "ConformalDetector": "detectors",
    "Detector": "detectors",
    "FunctionDetector": "detectors",
    "PixelDefend": "purification",
    "load_classifier": "zoo",
    "load_detector": "zoo",
}
__all__ = [
    "ClassConditional",
    "ConformalDetector",
    "Detector",
    "FunctionDetector",
    "PixelDefend",
    "is_adversarial",
    "load_classifier",
    "load_detector",
]


def is_adversarial(x: Any, detector: str | os.PathLike[str] | ConformalDetector | None = None) -> bool | np.ndarray:
    """Tells whether images are flagged.

    Args:
        x: One image or a batch, as `pixeldefend.images.to_batch` takes them: a path, a PIL image, a numpy array or a
            torch tensor, uint8 or floating point in [0, 1]. A list of images may hold several sizes.
        detector: A detector, the name of a shipped one, or the path of a saved one. It is loaded once per process. None
            for the shipped detector that takes the image.

    Returns:
        A bool for one image, an (N,) bool array for a batch or a list.

    Raises:
        ImageError: If x holds no images.
        NoDetectorError: If no detector takes an image; the message names the images that detectors take.
        OSError: If a file cannot be read.
    """
    import numpy as np

    from .images import to_batch
    from .zoo import DetectorSet, cached_set

    if isinstance(x, str | bytes) or hasattr(x, "__fspath__"):  # what the file says of itself counts
        return bool(np.all(is_adversarial([x], detector)))

    named = detector is None or isinstance(detector, str) or hasattr(detector, "__fspath__")
    there = cached_set(None if detector is None else str(detector)) if named else DetectorSet(detector)
    several = isinstance(x, list | tuple)
    batch, single = (x, False) if several else to_batch(x)
    flagged = np.zeros(len(batch), dtype=bool)
    if detector is not None:
        names = there.names * len(batch)
    else:  # all images in one array have one size
        names = (
            [there.choose(image) for image in batch]
            if several
            else [there.choose(image) for image in batch[:1]] * len(batch)
        )
    for name in dict.fromkeys(names):
        of = [place for place, other in enumerate(names) if other == name]
        flagged[of] = there[name].is_adversarial([batch[place] for place in of] if several else batch)
    return bool(flagged[0]) if single else flagged


__getattr__ = names_from(__name__, _MODULES)
