"""Detectors: outlier estimators for scikit-learn, made of an anomaly score and its calibration."""

from .base import ConformalDetector
from .by_history import HistoryDetector
from .checkpoint import density_of
from .class_conditional import ClassConditional
from .detector import Detector
from .function import FunctionDetector
from .photo import PhotoDetector
from .saved import load
from .verdicts import Verdicts

__all__ = [
    "ClassConditional",
    "ConformalDetector",
    "Detector",
    "FunctionDetector",
    "HistoryDetector",
    "PhotoDetector",
    "Verdicts",
    "density_of",
    "load",
]
