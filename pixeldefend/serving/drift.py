"""Tests whether the traffic of the service still looks like the calibration images of its detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..calibration import ConformalMartingale
from ..detectors import ConformalDetector
from .metrics import Metrics

LEVEL = 0.01  # the probability of any false alarm on clean traffic within a stretch
STRETCH = 100_000  # images; then a new stretch begins, which bounds the memory


class DriftMonitors:
    """The tests of all detectors of whether their images still look like the calibration images.

    A detector that is calibrated for corruptions has no monitor, because its joined scores match no single kind
    of traffic.

    Args:
        detectors: Detectors by their names in metrics and reports.
        metrics: The metrics, which get every change and every alarm.
    """

    def __init__(self, detectors: Mapping[str, ConformalDetector], metrics: Metrics) -> None:
        self.detectors, self.metrics = detectors, metrics
        self._martingales: dict[str, ConformalMartingale] = {}
        self._images: dict[str, int] = {}
        for name in detectors:
            self._begin_stretch(name)

    def update(self, name: str, score: float, history: str | None = None) -> None:
        """Adds one image to the stream of a detector.

        Args:
            name: The name of the detector that judged it.
            score: Its anomaly score.
            history: Its history, if the detector gives images one.
        """
        martingale = self._martingales.get(name)
        if martingale is None:
            return
        before = martingale.alarms(LEVEL)
        martingale.update(np.array([score]), [history])
        self._images[name] += 1
        self.metrics.drift(name, martingale, LEVEL)
        for bet, alarm in martingale.alarms(LEVEL).items():
            if alarm and not before[bet]:
                self.metrics.alarm(name, bet, LEVEL)
        if self._images[name] >= STRETCH:
            self._begin_stretch(name)

    def report(self) -> dict[str, Any]:
        """Returns the wealth of each detector's martingales, and whether one of them has raised an alarm."""
        return {
            name: {
                "images": self._images[name],
                "wealth": martingale.wealth_,
                "highest": martingale.highest_,
                "alarm_from": 2 / LEVEL,
                "alarms": martingale.alarms(LEVEL),
                "false_alarm_bound": LEVEL,
            }
            for name, martingale in self._martingales.items()
        }

    def _begin_stretch(self, name: str) -> None:
        detector = self.detectors[name]
        if not detector.corruptions_:
            self._images[name] = 0
            self._martingales[name] = detector.drift_monitor()
            self.metrics.drift(name, self._martingales[name], LEVEL)
