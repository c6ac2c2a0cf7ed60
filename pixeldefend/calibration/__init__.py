"""Calibration: p-values and thresholds with a guarantee, and alarms for streams, from anomaly scores."""

from .drift import ConformalMartingale

__all__ = ["ConformalMartingale"]
