"""Detectors: outlier estimators for scikit-learn, made of an anomaly score and its calibration."""

from .base import ConformalDetector, Verdicts
from .class_conditional import ClassConditional
from .detector import Detector, density_of
from .function import FunctionDetector

__all__ = ["ClassConditional", "ConformalDetector", "Detector", "FunctionDetector", "Verdicts", "density_of"]
