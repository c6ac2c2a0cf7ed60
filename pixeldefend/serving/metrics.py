"""What Prometheus sees of the service, and its log: one line of JSON an event, on standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..calibration import ConformalMartingale
from ..screening import Record

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def log_line(event: str, **fields: Any) -> None:
    """Writes {"time": seconds since 1970, "event": ..., ...} to standard error."""
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n")


class Metrics:
    """Counters of one service. text: what /metrics answers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def of(kind: Any, name: str, what: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(f"pixeldefend_{name}", what, labels, registry=registry, **options)

        self._verdicts = of(Counter, "verdicts", "Verdicts", ("verdict", "detector"))
        self._errors = of(Counter, "errors", "Images without a verdict, by what was wrong", ("kind",))
        self._requests = of(Counter, "requests", "Requests", ("route", "status"))
        self._latency = of(Histogram, "request_seconds", "From request to answer", ("route",), buckets=SECONDS)
        self._batches = of(Histogram, "batch_images", "Images scored at once", buckets=[2**i for i in range(11)])
        self._waits = of(Histogram, "wait_seconds", "An image's wait for its batch", buckets=SECONDS)
        self._scoring = of(Histogram, "scoring_seconds", "A batch's scoring and logging", buckets=SECONDS)
        self._depth = of(Gauge, "queue_images", "Images that wait")
        p_values = [0.0001, 0.001, 0.01, *(i / 20 for i in range(1, 21))]
        self._p = of(Histogram, "p_value", "Of images; uniform if all are clean", ("detector",), buckets=p_values)
        self._wealth = of(Gauge, "martingale", "Wealth that bets against clean traffic", ("detector", "bet"))
        self._bound = of(
            Gauge,
            "drift_false_alarm_bound",
            "Probability, at most, that clean traffic sets off an alarm, a stretch of images",
        )
        self._alarms = of(Counter, "drift_alarms", "Alarms of the martingales", ("detector", "bet"))
        self._query_attacks = of(Counter, "query_attack_images", "Images that resemble several before them")

    def verdict(self, record: Record, query_attack: bool) -> None:
        name = record.detector or "none"
        self._verdicts.labels(record.verdict, name).inc()
        if record.p_value is not None:
            self._p.labels(name).to_support(record.p_value)
        if record.error is not None:
            self._errors.labels(_kind(record.error)).inc()
        if query_attack:
            self._query_attacks.inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).to_support(seconds)

    def batch(self, size: int, waits: list[float], took: float) -> None:
        self._batches.to_support(size)
        self._scoring.to_support(took)
        for wait in waits:
            self._waits.to_support(wait)

    def depth(self, images: int) -> None:
        self._depth.set(images)

    def drift(self, detector: str, martingale: ConformalMartingale, bound: float) -> None:
        self._bound.set(bound)
        for bet, wealth in martingale.wealth_.items():
            self._wealth.labels(detector, bet).set(wealth)

    def alarm(self, detector: str, bet: str, bound: float) -> None:
        self._alarms.labels(detector, bet).inc()
        log_line("drift alarm", detector=detector, bet=bet, false_alarm_bound=bound)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def _kind(error: str) -> str:
    """A few kinds: what somebody sends must not make new time series."""
    kinds = {
        "no shipped detector": "size",
        "the detector models": "size",
        "the detectors here model": "size",
        "save it as a plain JPEG": "format",
        "pixels that are decoded": "too many pixels",
        "decompression bomb": "too many pixels",
        "is not a": "format",
        "not a PNG": "format",
        "truncated or damaged": "damaged",
        "empty": "empty",
        "not screened": "mode",
        "animated": "mode",
        "translucent": "mode",
    }
    return next((kind for words, kind in kinds.items() if words in error), "other")
