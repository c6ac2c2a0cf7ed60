"""Detectors: an anomaly score and its calibration, as scikit-learn outlier estimators."""

from .detector import ClassConditional, Detector, Verdicts, density_of, is_out_of_memory

__all__ = ["ClassConditional", "Detector", "Verdicts", "density_of", "is_out_of_memory"]
