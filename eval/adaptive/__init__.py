"""Measures attacks that know the detector."""

from .checks import check_summary, detector_aware_rows, failed_checks
from .presets import ADAPTIVE, AdaptiveAttack, resolve_attacks
from .runner import run_adaptive

__all__ = [
    "ADAPTIVE",
    "AdaptiveAttack",
    "check_summary",
    "detector_aware_rows",
    "failed_checks",
    "resolve_attacks",
    "run_adaptive",
]
