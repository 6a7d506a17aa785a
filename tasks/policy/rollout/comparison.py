"""Compare champion and challenger on the same rows: the difference of the primary metric, overall and per slice.

Predictions are made on the given rows; no stored metric is used. A positive gain is better, whatever the metric's
direction.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.monitoring.slices import RESAMPLING
from tasks.policy.records.evidence import MetricDifference, PredictionHistogram
from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, Metric
from tasks.policy.statistics.resampling import Resampling, bootstrap_means

DRAWS = 2000
"""Bootstrap draws of a validation's intervals."""
HISTOGRAM_BINS = 10
"""Bins of a version's predictions at validation, of about equal counts; ten are usual for the stability of a score
(Siddiqi 2006, Credit Risk Scorecards)."""


def difference(
    metric: Metric, pairs: PairedPredictions, resampling: Resampling, slice_name: str | None = None
) -> MetricDifference:
    """The paired difference on these rows; NaN if the metric is undefined. McNemar's p-value for classes."""
    if metrics.undefined(metric.name, pairs.y_true, metrics.class_count(pairs.challenger)):
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


def prediction_histogram(version: str, y_pred: Floats) -> PredictionHistogram | None:
    """Count finite predictions, (n,) or (n, classes), in ten bins of about equal counts; None without rows.

    Equal predictions share a bin, so there are fewer bins where many are equal. Edges lie midway between neighbouring
    predictions, where rounding in another batch or process moves no prediction across.
    """
    if not len(y_pred):
        return None
    edges = _edges(confidences(y_pred))
    return PredictionHistogram(version, tuple(edges.tolist()), shares_in(edges, y_pred), len(y_pred))


def shares_in(edges: ArrayLike, y_pred: Floats) -> tuple[float, ...]:
    """Return the share of finite predictions, (n,) or (n, classes), in each bin; empty without rows."""
    if not len(y_pred):
        return ()
    inner = np.asarray(edges, float)
    counts = np.bincount(np.searchsorted(inner, confidences(y_pred)), minlength=len(inner) + 1)
    return tuple((counts / len(y_pred)).tolist())


def confidences(y_pred: Floats) -> Floats:
    """The number (n,) that stands for each prediction: the largest of several probabilities, else the prediction."""
    largest: Floats = y_pred if y_pred.ndim == 1 else y_pred.max(axis=1)
    return largest


def _edges(values: Floats) -> Floats:
    distinct, counts = np.unique(values, return_counts=True)
    ends = np.searchsorted(np.cumsum(counts), np.arange(1, HISTOGRAM_BINS) / HISTOGRAM_BINS * len(values))
    ends = np.unique(ends[ends < len(distinct) - 1])
    edges: Floats = distinct[ends] + (distinct[ends + 1] - distinct[ends]) / 2
    return edges


def calibration_residuals(y_true: Floats, y_pred: Floats) -> Floats:
    """Each row's outcome less its predicted probability, in the column of its bin: (n, bins).

    The absolute means of the columns sum to the expected calibration error (Guo et al. 2017, "On calibration of modern
    neural networks"), over ten bins of about equal counts. With more than two classes it is that of the most probable.

    >>> residuals = calibration_residuals(np.array([1.0, 0.0]), np.array([0.9, 0.2]))
    >>> round(float(np.abs(residuals.mean(axis=0)).sum()), 2)
    0.15
    """
    outcomes = y_true if y_pred.ndim == 1 else (metrics.predicted_codes(y_pred) == y_true).astype(float)
    values = confidences(y_pred)
    edges = _edges(values)
    residuals = np.zeros((len(values), len(edges) + 1))
    residuals[np.arange(len(values)), np.searchsorted(edges, values)] = outcomes - values
    return residuals


def calibration_errors(y_true: Floats, y_pred: Floats, clusters: NDArray[np.str_]) -> Floats:
    """The expected calibration error of these rows, then those of resamples of their clusters: (1 + draws,).

    Equal clusters are drawn equally, so the errors of two models on the same rows stay paired.
    """
    columns = np.column_stack([calibration_residuals(y_true, y_pred), np.ones(len(y_true))])
    names, codes = np.unique(clusters, return_inverse=True)
    sums = np.column_stack([np.bincount(codes, column, len(names)) for column in columns.T])
    means = np.vstack([sums.mean(axis=0), bootstrap_means(sums, RESAMPLING)])
    errors: Floats = np.abs(means[:, :-1]).sum(axis=1) / means[:, -1]
    return errors


def prediction_fault(y_pred: Floats, rows: int, task: str) -> str | None:
    """Describe invalid predictions: not one per row, not finite, or not probabilities; None if they are valid."""
    if len(y_pred) != rows:
        return f"{len(y_pred)} predictions for {rows} rows"
    if not rows:
        return None  # the verdict itself reports too few rows
    broken = int(_not_finite(y_pred).sum())
    if broken:
        return f"{broken} of {rows} predictions are not finite numbers"
    if task != "regression" and len(y_pred) and (y_pred.min() < 0 or y_pred.max() > 1):
        return f"predictions range from {y_pred.min():.3g} to {y_pred.max():.3g}, expected probabilities"
    return None


def invalid_rows(y_pred: Floats, task: str) -> NDArray[np.bool_]:
    """Mask (n,) of the predictions that are no answer: not finite, or not probabilities."""
    broken = _not_finite(y_pred)
    if task == "regression" or not len(y_pred):
        return broken
    outside = np.asarray(((y_pred < 0) | (y_pred > 1)).reshape(len(y_pred), -1).any(axis=1), bool)
    return np.asarray(broken | outside, bool)


def _not_finite(y_pred: Floats) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (
        (~np.isfinite(y_pred)).reshape(len(y_pred), -1).any(axis=1) if len(y_pred) else np.zeros(0, bool)
    )
    return found
