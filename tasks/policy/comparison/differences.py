"""Compare champion and challenger on the same rows: the difference of the primary metric, overall and per slice.

Predictions are made on the given rows; no stored metric is used. A positive gain is better, whatever the metric's
direction.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, Metric
from tasks.policy.statistics.resampling import Resampling

DRAWS = 2000
"""Bootstrap draws of a validation's intervals."""


def difference(
    metric: Metric, pairs: PairedPredictions, resampling: Resampling, slice_name: str | None = None
) -> MetricDifference:
    """The paired difference on these rows; NaN if the metric is undefined. McNemar's p-value for classes."""
    if metrics.undefined(metric, pairs.y_true, metrics.class_count(pairs.challenger)):
        nan = float("nan")
        return MetricDifference(metric.name, nan, nan, nan, nan, nan, len(pairs), None, slice_name)
    gain = intervals.paired_bootstrap(metric, pairs, resampling)
    return MetricDifference(
        name=metric.name,
        champion=metrics.compute(metric, pairs.y_true, pairs.champion),
        challenger=metrics.compute(metric, pairs.y_true, pairs.challenger),
        gain=gain.gain,
        low=gain.low,
        high=gain.high,
        rows=len(pairs),
        p_value=intervals.mcnemar_exact(pairs) if metric.name in metrics.CLASS_METRICS else None,
        slice_name=slice_name,
    )


def against_constant(
    metric: Metric, y_true: Floats, y_pred: Floats, resampling: Resampling, prior: Floats | None = None
) -> MetricDifference | None:
    """A model compared with the best constant prediction, as champion, on the same rows; None without rows.

    For metrics of probabilities the constant is the `prior`, the class shares in training, if known. A constant with
    the shares of later days would beat sound models whenever a season changes them.
    """
    if not len(y_true):
        return None
    classes = metrics.class_count(y_pred)
    constant = metrics.constant_prediction(metric, y_true, classes)
    if prior is not None and metric.name in ("log_loss", "brier"):
        shares = np.append(prior, np.zeros(max(0, classes - len(prior))))  # classes unseen in training
        constant = np.full(len(y_true), shares[1]) if y_pred.ndim == 1 else np.tile(shares, (len(y_true), 1))
    found = difference(metric, PairedPredictions(y_true, champion=constant, challenger=y_pred), resampling)
    finite = all(np.isfinite([found.champion, found.challenger, found.gain, found.low, found.high]))
    return found if finite else None


def slice_differences(
    metric: Metric, pairs: PairedPredictions, slices: Mapping[str, NDArray[np.str_]], resampling: Resampling
) -> tuple[MetricDifference, ...]:
    """One difference per value of each slice column, named `origin=JFK`, in order of columns and values."""
    return tuple(
        difference(metric, pairs.where(values == value), resampling, f"{column}={value}")
        for column, values in slices.items()
        for value in np.unique(values)
    )


def own_value(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike, resampling: Resampling) -> MetricValue:
    """A model's own value with its interval, for the first model, which has no champion to compare with."""
    interval = intervals.metric_interval(metric, y_true, y_pred, resampling)
    return MetricValue(
        name=metric.name,
        value=metrics.compute(metric, y_true, y_pred),
        low=interval.low,
        high=interval.high,
        rows=len(np.asarray(y_true)),
        higher_is_better=metric.higher_is_better,
        confidence=resampling.confidence,
    )
