"""Detectors: an anomaly score and its calibration, as scikit-learn outlier estimators."""

from .base import ConformalDetector, Verdicts
from .class_conditional import ClassConditional
from .detector import Detector, density_of
from .function import FunctionDetector

__all__ = ["ClassConditional", "ConformalDetector", "Detector", "FunctionDetector", "Verdicts", "density_of"]
