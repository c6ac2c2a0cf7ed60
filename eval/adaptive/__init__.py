"""Measures attacks that know the detector."""

from .checks import check_summary, detector_aware_rows, failed_checks
from .presets import ADAPTIVE, AdaptiveAttack
from .runner import checked_arguments, run_adaptive

__all__ = [
    "ADAPTIVE",
    "AdaptiveAttack",
    "check_summary",
    "checked_arguments",
    "detector_aware_rows",
    "failed_checks",
    "run_adaptive",
]
