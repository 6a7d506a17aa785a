"""Metrics of the gateway for Prometheus, by model, version and role.

What every request counts is plain numbers, collected when Prometheus asks: the locks of the client library's counters take
as long as a small model. Each of these numbers is written by one thread.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from infra.gateway.answer_log import AnswerLog

BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, float("inf"))
ARM = ("model", "version", "role")


@dataclass(slots=True)
class Arm:
    """What one version in one role counts: rows, and the seconds of each prediction."""

    rows: int = 0
    refused: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS_S))

    def observe(self, seconds: float) -> None:
        """Count a prediction that took these seconds."""
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1


class Metrics(Collector):
    """Counters of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.shed_rows = Counter(
            "perennial_gateway_shed_rows",
            "Rows that a shadow was too slow to predict.",
            ("model", "version"),
            registry=self.registry,
        )
        self._pending = Gauge(
            "perennial_gateway_unwritten_rows", "Answers not on disk yet.", ("model",), registry=self.registry
        )
        self._fault = Gauge(
            "perennial_gateway_log_fault", "1 if the log cannot be written.", ("model",), registry=self.registry
        )
        self._requests: dict[tuple[str, int], int] = {}
        self._arms: dict[tuple[str, str, str], Arm] = {}

    def count_request(self, model: str, status: int) -> None:
        """Count a request that was answered with this HTTP status."""
        self._requests[model, status] = self._requests.get((model, status), 0) + 1

    def arm(self, model: str, version: str, role: str) -> Arm:
        """Return what this version counts in this role."""
        found = self._arms.get((model, version, role))
        return found if found is not None else self._arms.setdefault((model, version, role), Arm())

    def collect(self) -> Iterator[Metric]:
        """Yield what requests and predictions have counted; the registry calls it."""
        requests = CounterMetricFamily(
            "perennial_gateway_requests", "Requests by HTTP status.", labels=("model", "status")
        )
        for (model, status), count in self._requests.copy().items():
            requests.add_metric((model, str(status)), count)
        rows = CounterMetricFamily("perennial_gateway_rows", "Rows predicted.", labels=ARM)
        refused = CounterMetricFamily(
            "perennial_gateway_refused_rows", "Rows that a version could not read.", labels=ARM
        )
        failed = CounterMetricFamily(
            "perennial_gateway_failed_rows", "Rows that a version failed to predict.", labels=ARM
        )
        seconds = HistogramMetricFamily(
            "perennial_gateway_prediction_seconds",
            "Seconds in which a version predicts the rows of one request.",
            labels=ARM,
        )
        for labels, arm in self._arms.copy().items():
            rows.add_metric(labels, arm.rows)
            refused.add_metric(labels, arm.refused)
            failed.add_metric(labels, arm.failed)
            below, bounds = 0, []
            for bound, count in zip(BUCKETS_S, arm.buckets, strict=True):
                below += count
                bounds.append((floatToGoString(bound), below))
            seconds.add_metric(labels, bounds, arm.seconds)
        yield from (requests, rows, refused, failed, seconds)

    def text(self, logs: Mapping[str, AnswerLog]) -> bytes:
        """Render the metrics in Prometheus' text format."""
        for name, log in logs.items():
            self._pending.labels(name).set(log.pending)
            self._fault.labels(name).set(log.fault is not None)
        rendered: bytes = generate_latest(self.registry)
        return rendered
