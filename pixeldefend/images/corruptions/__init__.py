"""What happens to clean images on their way: single corruptions of batches, and whole histories of photographs.

Neither is an attack, but detectors may flag both.
"""

from .batches import (
    CORRUPTIONS,
    Corruption,
    blur,
    brightness,
    check_corruption,
    corrupt,
    jpeg,
    noise,
    rescale,
    tone,
    webp,
)
from .histories import HISTORIES, History, through_history

__all__ = [
    "CORRUPTIONS",
    "HISTORIES",
    "Corruption",
    "History",
    "blur",
    "brightness",
    "check_corruption",
    "corrupt",
    "jpeg",
    "noise",
    "rescale",
    "through_history",
    "tone",
    "webp",
]
