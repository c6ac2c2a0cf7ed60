"""Calibration: anomaly scores as p-values and thresholds with a guarantee, and as alarms for streams."""

from .drift import ConformalMartingale

__all__ = ["ConformalMartingale"]
