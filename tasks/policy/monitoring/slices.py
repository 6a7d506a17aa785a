"""Compare a metric between groups of rows: by slice of a served window, by protected group at validation.

Only few groups with enough rows are measured: the worst of many small groups is the worst by chance.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.records.reports import MetricValue, SliceValue
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.metrics import Floats, Metric
from tasks.policy.statistics.resampling import Resampling

MAX_GROUPS = 20
"""Largest number of groups measured per column, by size."""
RESAMPLING = Resampling(draws=500)
"""Resampling of the intervals of a window's metrics, overall and by slice."""


def largest_groups(groups: NDArray[np.str_], min_rows: int = 1) -> tuple[str, ...]:
    """Groups to measure, sorted by name: those with at least `min_rows` rows, only the largest if there are many."""
    names, counts = np.unique(groups, return_counts=True)
    enough = [(int(count), str(name)) for name, count in zip(names, counts, strict=True) if count >= min_rows]
    return tuple(sorted(name for _, name in sorted(enough, key=lambda pair: -pair[0])[:MAX_GROUPS]))


def measure_slices(
    metric: Metric, y_true: Floats, y_pred: Floats, slices: Mapping[str, NDArray[np.str_]], min_rows: int
) -> tuple[SliceValue, ...]:
    """The metric with its interval for each large enough group of each column, where it is defined."""
    found = []
    for column, groups in slices.items():
        for name in largest_groups(groups, min_rows):
            rows = groups == name
            if metrics.undefined(metric, y_true[rows], metrics.class_count(y_pred)):
                continue
            value = metrics.compute(metric, y_true[rows], y_pred[rows])
            low, high = intervals.metric_interval(metric, y_true[rows], y_pred[rows], RESAMPLING)
            if math.isfinite(value) and math.isfinite(low):
                known = MetricValue(metric.name, value, low, high, int(rows.sum()), metric.higher_is_better)
                found.append(SliceValue(f"{column}={name}", known))
    return tuple(found)


def worst_slice(slices: Sequence[SliceValue]) -> SliceValue | None:
    """The slice with the worst value; None with fewer than two, since a single one cannot be compared."""
    if len(slices) < 2:
        return None
    return min(slices, key=lambda item: item.value.value if item.value.higher_is_better else -item.value.value)


def describe_worst(slices: Sequence[SliceValue]) -> str | None:
    """Describe the worst slice in a sentence; None with fewer than two."""
    worst = worst_slice(slices)
    if worst is None:
        return None
    value = worst.value
    return (
        f"worst of {len(slices)} slices is {worst.name}: {value.name} {value.value:.4g} "
        f"({value.low:.4g} to {value.high:.4g}) on {value.rows:,} rows"
    )


def describe_fairness(column: str, differences: Sequence[MetricDifference], min_rows: int, slice_margin: float) -> str:
    """Describe the validation result for the groups of a protected column in one sentence."""
    own = [item for item in differences if (item.slice_name or "").startswith(f"{column}=")]
    judged = [item for item in own if item.rows >= min_rows and math.isfinite(item.low) and math.isfinite(item.high)]
    if not judged:
        return f"groups of {column}: not compared, as none has {min_rows} labelled rows that define the metric"
    least = min(judged, key=lambda item: item.gain)
    by_level = sorted(judged, key=lambda item: item.challenger)
    left = f"; {len(own) - len(judged)} more cannot be judged" if len(own) > len(judged) else ""
    return (
        f"groups of {column}: challenger's {least.name} {by_level[0].challenger:.4g} ({by_level[0].slice_name}) to "
        f"{by_level[-1].challenger:.4g} ({by_level[-1].slice_name}) over {len(judged)}; {least.slice_name} gains least, "
        f"{least.gain:+.4g} ({least.low:+.4g} to {least.high:+.4g}) on {least.rows} rows, accepted loss "
        f"{slice_margin:g}{left}"
    )
