"""What predictions look like: their histogram, confidence, calibration, and those that are no answer."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.evidence.validation import PredictionHistogram
from tasks.policy.monitoring.slices import RESAMPLING
from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Floats
from tasks.policy.statistics.resampling import bootstrap_means

HISTOGRAM_BINS = 10
"""Bins of a version's predictions at validation, of about equal counts; ten are usual for the stability of a score
(Siddiqi 2006, Credit Risk Scorecards)."""


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


def calibration_errors(y_true: Floats, y_pred: Floats, clusters: NDArray[np.generic]) -> Floats:
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
    broken = int(missing_rows(y_pred).sum())
    if broken:
        return f"{broken} of {rows} predictions are not finite numbers"
    if task != "regression" and len(y_pred) and (y_pred.min() < 0 or y_pred.max() > 1):
        return f"predictions range from {y_pred.min():.3g} to {y_pred.max():.3g}, expected probabilities"
    return None


def invalid_rows(y_pred: Floats, task: str) -> NDArray[np.bool_]:
    """Mask (n,) of the predictions that are no answer: not finite, or not probabilities."""
    broken = missing_rows(y_pred)
    if task == "regression" or not len(y_pred):
        return broken
    outside = np.asarray(((y_pred < 0) | (y_pred > 1)).reshape(len(y_pred), -1).any(axis=1), bool)
    return np.asarray(broken | outside, bool)


NOT_A_PROBABILITY = "the prediction is not a probability"
MISSING_PREDICTION = "the prediction is not a finite number"
"""Error of a logged row that a version answered without a usable prediction; every other error is a row that it refused."""


def missing_rows(y_pred: Floats) -> NDArray[np.bool_]:
    """Mask (n,) of the predictions that are not finite."""
    if not len(y_pred):
        return np.zeros(0, bool)
    return np.asarray((~np.isfinite(y_pred)).reshape(len(y_pred), -1).any(axis=1), bool)
