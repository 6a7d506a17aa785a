"""Compare champion and challenger on the same rows: the difference of the primary metric, overall and per slice.

Predictions are made on the given rows; no stored metric is used. A positive gain is better, whatever the metric's
direction.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.records.evidence import MetricDifference
from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.metrics import Floats

DRAWS = 2000


def difference(
    metric: str,
    truth: ArrayLike,
    champion: ArrayLike,
    challenger: ArrayLike,
    confidence: float,
    seed: int,
    quantile: float = 0.5,
    slice_name: str | None = None,
) -> MetricDifference:
    """The paired difference on these rows; NaN if the metric is undefined. McNemar's p-value for classes."""
    if metrics.undefined(metric, truth, _classes(challenger)):
        nan = float("nan")
        return MetricDifference(metric, nan, nan, nan, nan, nan, len(np.asarray(truth)), None, slice_name)
    old, new = (metrics.compute(metric, truth, predicted, quantile) for predicted in (champion, challenger))
    gain = intervals.paired_bootstrap(champion, challenger, truth, metric, confidence, DRAWS, seed, quantile)
    is_class = metric in metrics.CLASS_METRICS
    return MetricDifference(
        name=metric,
        champion=old,
        challenger=new,
        gain=gain.gain,
        low=gain.low,
        high=gain.high,
        rows=len(np.asarray(truth)),
        p_value=intervals.mcnemar_exact(truth, champion, challenger) if is_class else None,
        slice_name=slice_name,
    )


def against_constant(
    metric: str,
    truth: Floats,
    predicted: Floats,
    confidence: float,
    seed: int,
    quantile: float = 0.5,
    prior: Floats | None = None,
) -> MetricDifference | None:
    """A model compared with the best constant prediction, as champion, on the same rows; None without rows.

    For metrics of probabilities the constant is the `prior`, the class shares in training, if known. A constant with
    the shares of later days would beat sound models whenever a season changes them.
    """
    if not len(truth):
        return None
    constant = metrics.constant_prediction(metric, truth, _classes(predicted), quantile)
    if prior is not None and metric in ("log_loss", "brier"):
        shares = np.append(prior, np.zeros(max(0, _classes(predicted) - len(prior))))  # classes unseen in training
        constant = np.full(len(truth), shares[1]) if predicted.ndim == 1 else np.tile(shares, (len(truth), 1))
    found = difference(metric, truth, constant, predicted, confidence, seed, quantile)
    finite = all(np.isfinite([found.champion, found.challenger, found.gain, found.low, found.high]))
    return found if finite else None


def _classes(predicted: ArrayLike) -> int:
    shape = np.shape(predicted)
    return 2 if len(shape) == 1 else shape[1]


def slice_differences(
    metric: str,
    truth: Floats,
    champion: Floats,
    challenger: Floats,
    slices: Mapping[str, NDArray[np.str_]],
    confidence: float,
    seed: int,
    quantile: float = 0.5,
) -> tuple[MetricDifference, ...]:
    """One difference per value of each slice column, named `origin=JFK`, in order of columns and values."""
    found = []
    for column, values in slices.items():
        for value in np.unique(values):
            chosen = values == value
            found.append(
                difference(
                    metric,
                    truth[chosen],
                    champion[chosen],
                    challenger[chosen],
                    confidence,
                    seed,
                    quantile,
                    slice_name=f"{column}={value}",
                )
            )
    return tuple(found)


def own_value(
    metric: str, truth: ArrayLike, predicted: ArrayLike, confidence: float, seed: int, quantile: float = 0.5
) -> MetricValue:
    """A model's own value with its interval, for the first model, which has no champion to compare with."""
    interval = intervals.metric_interval(metric, truth, predicted, confidence, DRAWS, seed, quantile)
    return MetricValue(
        name=metric,
        value=metrics.compute(metric, truth, predicted, quantile),
        low=interval.low,
        high=interval.high,
        rows=len(np.asarray(truth)),
        higher_is_better=metrics.HIGHER_IS_BETTER[metric],
        confidence=confidence,
    )


def prediction_fault(predicted: Floats, rows: int, task: str) -> str | None:
    """Describe invalid predictions: not one per row, not finite, or not probabilities; None if they are valid."""
    if len(predicted) != rows:
        return f"{len(predicted)} predictions for {rows} rows"
    if not rows:
        return None  # too few rows is the verdict's own reason
    broken = int((~np.isfinite(predicted)).reshape(len(predicted), -1).any(axis=1).sum())
    if broken:
        return f"{broken} of {rows} predictions are not finite numbers"
    if task != "regression" and len(predicted) and (predicted.min() < 0 or predicted.max() > 1):
        return f"predictions range from {predicted.min():.3g} to {predicted.max():.3g}, expected probabilities"
    return None
