"""Attacks that know the detector, measured."""

from .runner import ADAPTIVE, check_summary, detector_aware_rows, failed_checks, resolve_attacks, run_adaptive

__all__ = ["ADAPTIVE", "detector_aware_rows", "failed_checks", "resolve_attacks", "run_adaptive", "check_summary"]
