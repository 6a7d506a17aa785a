"""Compare what both models lose under one fault of the data: a feature that is missing, or shifted by a standard deviation.

The champion has the same fault, so what no model could answer is not held against the challenger. Losses are in units of
what a constant prediction loses, which makes them comparable between metrics. The worst of many faults is the worst by
chance, so that the interval of each is wider by their number (Bonferroni).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.policy.comparison.differences import difference
from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling

SHOWN = 3
"""Faults that are measured with an interval, the worst ones."""


@dataclass(frozen=True, slots=True)
class FaultScale:
    """The metric, the loss of the best constant prediction in its units, and the resampling of the intervals."""

    metric: Metric
    constant: float
    resampling: Resampling


def loss_of_constant(metric: Metric, pairs: PairedPredictions) -> float:
    """The loss of the best constant prediction on these rows, not negative; NaN if the metric is undefined."""
    constant = metrics.constant_prediction(metric, pairs.y_true, metrics.class_count(pairs.challenger))
    return abs(metrics.as_loss(metric, metrics.compute(metric, pairs.y_true, constant)))


def compare_faults(faults: Mapping[str, PairedPredictions], scale: FaultScale) -> tuple[GateMeasure, ...]:
    """The faults under which the challenger loses most, compared with the champion; `faults` maps their description to pairs."""
    if not math.isfinite(scale.constant) or scale.constant <= 0:
        reason = f"{scale.metric.name} of a constant prediction is {scale.constant:.3g}, which gives no scale"
        return (GateMeasure("robustness", skipped=reason),)
    extra = {name: _extra_loss(scale.metric, pairs) for name, pairs in faults.items()}
    worst = sorted((name for name in faults if math.isfinite(extra[name])), key=lambda name: -extra[name])[:SHOWN]
    if not worst:
        return (GateMeasure("robustness", skipped="no feature can be missing or shifted for both models"),)
    level = 1 - (1 - scale.resampling.confidence) / len(faults)
    resampling = Resampling(level, scale.resampling.draws, scale.resampling.seed)
    return tuple(_measure(name, faults[name], scale, resampling) for name in worst)


def _extra_loss(metric: Metric, pairs: PairedPredictions) -> float:
    old, new = (metrics.compute(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    return old - new if metric.higher_is_better else new - old


def _measure(name: str, pairs: PairedPredictions, scale: FaultScale, resampling: Resampling) -> GateMeasure:
    found = difference(scale.metric, pairs, resampling)
    champion, challenger = (
        abs(metrics.as_loss(scale.metric, value)) / scale.constant for value in (found.champion, found.challenger)
    )
    value, low, high = (-bound / scale.constant for bound in (found.gain, found.high, found.low))
    return GateMeasure("robustness", name, champion, challenger, value, low, high, len(pairs))
