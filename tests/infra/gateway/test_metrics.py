"""Metrics that are plain numbers until Prometheus asks are what the client library's own would have been."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from infra.gateway.metrics import ARM, BUCKETS_S, Metrics

SECONDS = (0.00005, 0.00007, 0.0009, 0.0009, 0.3, 7.0)
LABELS = ("churn", "2", "challenger")


def samples(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text({}).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_the_histogram_is_the_librarys():
    metrics, registry = Metrics(), CollectorRegistry()
    ours, theirs = metrics.arm(*LABELS), Histogram("seconds", "", ARM, buckets=BUCKETS_S, registry=registry)
    for seconds in SECONDS:
        ours.observe(seconds)
        theirs.labels(*LABELS).observe(seconds)
    found = samples(metrics)
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                name = sample.name.replace("seconds", "perennial_gateway_prediction_seconds")
                assert found[name][tuple(sorted(sample.labels.items()))] == sample.value


def test_counters_are_the_librarys():
    metrics, registry = Metrics(), CollectorRegistry()
    theirs = Counter("perennial_gateway_requests", "", ("model", "status"), registry=registry)
    for status in (200, 200, 400):
        metrics.count_request("churn", status)
        theirs.labels("churn", str(status)).inc()
    metrics.arm(*LABELS).failed += 3
    assert metrics.arm(*LABELS).failed == 3
    found = samples(metrics)
    (family,) = registry.collect()
    counted = {
        tuple(sorted(each.labels.items())): each.value for each in family.samples if each.name.endswith("_total")
    }
    assert found["perennial_gateway_requests_total"] == counted
    assert list(found["perennial_gateway_failed_rows_total"].values()) == [3.0]
