"""From anomaly scores to p-values and thresholds with a guarantee, and to alarms for streams."""

from .drift import ConformalMartingale

__all__ = ["ConformalMartingale"]
