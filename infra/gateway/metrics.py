"""Metrics of the gateway for Prometheus, by model, version and role."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from infra.gateway.answer_log import AnswerLog

BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
ARM = ("model", "version", "role")


class Metrics:
    """Counters of one gateway. `arm` caches what one version in one role counts, because looking up labels takes time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "perennial_gateway_requests", "Requests by HTTP status.", ("model", "status"), registry=self.registry
        )
        self._rows = Counter("perennial_gateway_rows", "Rows predicted.", ARM, registry=self.registry)
        self._refused = Counter(
            "perennial_gateway_refused_rows", "Rows that a version could not read.", ARM, registry=self.registry
        )
        self._errors = Counter(
            "perennial_gateway_failed_rows", "Rows that a version failed to predict.", ARM, registry=self.registry
        )
        self.shed_rows = Counter(
            "perennial_gateway_shed_rows",
            "Rows that a shadow was too slow to predict.",
            ("model", "version"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "perennial_gateway_prediction_seconds",
            "Seconds in which a version predicts the rows of one request.",
            ARM,
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._pending = Gauge(
            "perennial_gateway_unwritten_rows", "Answers not on disk yet.", ("model",), registry=self.registry
        )
        self._fault = Gauge(
            "perennial_gateway_log_fault", "1 if the log cannot be written.", ("model",), registry=self.registry
        )
        self.request = lru_cache(maxsize=1024)(self._requests.labels)
        self.arm = lru_cache(maxsize=1024)(self._arm)

    def _arm(self, *labels: str) -> "Arm":
        counters = (self._rows, self._refused, self._errors, self._seconds)
        return Arm(*(metric.labels(*labels) for metric in counters))

    def text(self, logs: Mapping[str, AnswerLog]) -> bytes:
        """Render the metrics in Prometheus' text format."""
        for name, log in logs.items():
            self._pending.labels(name).set(log.pending)
            self._fault.labels(name).set(log.fault is not None)
        rendered: bytes = generate_latest(self.registry)
        return rendered


class Arm(NamedTuple):
    """What one version in one role counts."""

    rows: Counter
    refused: Counter
    failed: Counter
    seconds: Histogram
