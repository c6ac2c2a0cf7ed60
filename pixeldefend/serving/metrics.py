"""The metrics of the service for Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..calibration import ConformalMartingale
from ..screening import Record
from .log_lines import log_line

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
P_VALUES = (0.0001, 0.001, 0.01, *(i / 20 for i in range(1, 21)))
INTERNAL = "internal"  # the `error_kind` of a record that a bug left without a verdict


class Metrics:
    """The counters, histograms and gauges of one service.

    Labels have few values, because what clients send must not make new time series.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def of(kind: Any, name: str, what: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(f"pixeldefend_{name}", what, labels, registry=registry, **options)

        self._verdicts = of(Counter, "verdicts", "Verdicts", ("verdict", "detector"))
        self._errors = of(Counter, "errors", "Images without a verdict, by the kind of error", ("kind",))
        self._internal_errors = of(Counter, "internal_errors", "Bugs: failed requests, and images without a verdict")
        self._requests = of(Counter, "requests", "Requests", ("route", "status"))
        self._latency = of(Histogram, "request_seconds", "Time from request to answer", ("route",), buckets=SECONDS)
        self._batches = of(Histogram, "batch_images", "Images scored at once", buckets=[2**i for i in range(11)])
        self._waits = of(Histogram, "wait_seconds", "Time that an image waits for its batch", buckets=SECONDS)
        self._scoring = of(Histogram, "scoring_seconds", "Time to score and log a batch", buckets=SECONDS)
        self._depth = of(Gauge, "queue_images", "Waiting images")
        self._p = of(
            Histogram, "p_value", "P-values of images; uniform if all images are clean", ("detector",), buckets=P_VALUES
        )
        self._wealth = of(Gauge, "martingale", "Wealth of the bets against clean traffic", ("detector", "bet"))
        self._bound = of(
            Gauge,
            "drift_false_alarm_bound",
            "Bound on the probability of an alarm in a sequence of clean images",
        )
        self._alarms = of(Counter, "drift_alarms", "Alarms of the martingales", ("detector", "bet"))
        self._query_attacks = of(Counter, "query_attack_images", "Images that resemble several earlier images")

    def verdict(self, record: Record, query_attack: bool) -> None:
        """Counts one record.

        Args:
            record: The record of an image.
            query_attack: Whether the image resembles several of the client's last images.
        """
        name = record.detector or "none"
        self._verdicts.labels(record.verdict, name).inc()
        if record.p_value is not None:
            self._p.labels(name).observe(record.p_value)
        if record.error is not None:
            self._errors.labels(record.error_kind or "other").inc()
        if query_attack:
            self._query_attacks.inc()

    def internal_error(self, **fields: Any) -> None:
        """Counts an internal error, and logs it.

        Args:
            **fields: For the line in the log: the id of the request, and the error or its traceback.
        """
        self._internal_errors.inc()
        log_line("internal error", **fields)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts one request.

        Args:
            route: The path of the route, with placeholders.
            status: The HTTP status of the answer.
            seconds: The time from the request to the end of the answer.
        """
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def batch(self, size: int, waits: list[float], took: float) -> None:
        """Counts one batch.

        Args:
            size: The number of its images.
            waits: The seconds that each of them waited.
            took: The seconds that scoring and logging took.
        """
        self._batches.observe(size)
        self._scoring.observe(took)
        for wait in waits:
            self._waits.observe(wait)

    def depth(self, images: int) -> None:
        """Sets the number of waiting images."""
        self._depth.set(images)

    def drift(self, detector: str, martingale: ConformalMartingale, bound: float) -> None:
        """Sets the wealth of a detector's martingales, and the probability that bounds their false alarms."""
        self._bound.set(bound)
        for bet, wealth in martingale.wealth_.items():
            self._wealth.labels(detector, bet).set(wealth)

    def alarm(self, detector: str, bet: str, bound: float) -> None:
        """Counts and logs an alarm of one of a detector's martingales."""
        self._alarms.labels(detector, bet).inc()
        log_line("drift alarm", detector=detector, bet=bet, false_alarm_bound=bound)

    def text(self) -> bytes:
        """Returns the metrics in the format of Prometheus."""
        return generate_latest(self.registry)
