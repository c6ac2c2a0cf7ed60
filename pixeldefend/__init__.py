"""pixeldefend: adversarial images are improbable; this finds them by p(x).

from pixeldefend import is_adversarial, load_detector

is_adversarial("shirt.png")                 # bool: flagged at a false-alarm rate of 1 %
detector = load_detector("fashion-mnist")   # a scikit-learn outlier detector; detector.density is the model
detector.p_value(images)                    # (N,)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# threads that wait for one another sleep, after a moment: spinning, they take a busy machine's cores from those that
# they wait for; asleep at once, they are late on an idle one. It holds where torch is imported after this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    import numpy as np

    from .detectors import ClassConditional as ClassConditional
    from .detectors import Detector as Detector
    from .purification import PixelDefend as PixelDefend
    from .zoo import load_classifier as load_classifier
    from .zoo import load_detector as load_detector

__version__ = "0.1.0"
__all__ = ["ClassConditional", "Detector", "PixelDefend", "is_adversarial", "load_classifier", "load_detector"]


def is_adversarial(x: Any, detector: str | Detector | None = None) -> bool | np.ndarray:
    """x: one image or a batch, as `pixeldefend.images.to_batch` takes them: a path, a PIL image, a numpy array or a
    torch tensor, uint8 or floating point in [0, 1]. detector: a `Detector`, the name of a shipped one, the path of a
    saved one, or None for the shipped one that fits the image's shape.

    Returns a bool for one image, an (N,) bool array for a batch. Raises ValueError if x is none of these, or if no
    detector fits its shape (the message lists those that exist). A named detector is loaded once a process.
    """
    from .images import to_batch
    from .zoo import cached_detector, detector_for

    batch, single = to_batch(x)
    if detector is None:
        detector = detector_for(tuple(batch.shape[1:]))
    if isinstance(detector, str | os.PathLike):
        detector = cached_detector(str(detector))
    flagged = detector.is_adversarial(batch)
    return bool(flagged[0]) if single else flagged


def __getattr__(name: str) -> Any:  # torch takes seconds to import: only when it is needed
    if name in ("Detector", "ClassConditional"):
        from . import detectors as detector

        return getattr(detector, name)
    if name == "PixelDefend":
        from .purification import PixelDefend

        return PixelDefend
    if name in ("load_detector", "load_classifier"):
        from . import zoo

        return getattr(zoo, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
