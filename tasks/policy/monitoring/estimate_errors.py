"""What estimates without labels are worth: how far earlier ones lay from what the labels showed later.

An estimate assumes that the concept stands still, so its own interval says too little. What it was wrong by before is
shown beside it and widens it.
"""

import math
from dataclasses import replace

import numpy as np
from scipy import stats

from tasks.policy.monitoring.performance import closed_values
from tasks.policy.records.evidence import History
from tasks.policy.records.reports import EstimateError, MetricValue

MEASURED_FROM = 3
"""Closed windows from which the measured error widens the interval; it is shown from the first."""


def past_error(history: History, metric: str) -> EstimateError | None:
    """How far earlier estimates of the metric lay from what it came to; None while no estimated window has closed."""
    realised = {report.window: closed_values([report], metric) for report in history.performances}
    pairs = [
        (value, realised[window][0].value)
        for window, value in history.estimates
        if value.name == metric and realised.get(window)
    ]
    if not pairs:
        return None
    gaps = np.array([came - estimate.value for estimate, came in pairs])
    within = sum(estimate.low <= came <= estimate.high for estimate, came in pairs)
    return EstimateError(len(pairs), float(np.abs(gaps).mean()), float(gaps.mean()), within)


def widened(estimate: MetricValue, error: EstimateError | None) -> MetricValue:
    """The estimate with an interval that is at least as wide as its measured error says it must be.

    A normal error of standard deviation s has mean absolute value s·√(2/π); Student's t, as few windows tell it.
    """
    if error is None or error.windows < MEASURED_FROM:
        return estimate
    quantile = float(stats.t.ppf((1 + estimate.confidence) / 2, error.windows))
    half = quantile * error.mean_absolute * math.sqrt(math.pi / 2)
    return replace(
        estimate, low=min(estimate.low, estimate.value - half), high=max(estimate.high, estimate.value + half)
    )


def is_poor(error: EstimateError, confidence: float = 0.95) -> bool:
    """Whether realised values lay outside their intervals more often than those allow, beyond chance (binomial)."""
    return float(stats.binom.cdf(error.within, error.windows, confidence)) <= 0.05


def describe_error(error: EstimateError | None) -> str:
    """How wrong such estimates were, in words."""
    if error is None:
        return "error not measured yet: no estimated window has closed"
    windows = f"{error.windows} closed window{'s' if error.windows > 1 else ''}"
    text = f"mean absolute error {error.mean_absolute:.3g} over {windows}, {error.within} within the interval"
    return f"{text}: wrong more often than that allows" if is_poor(error) else text


def possible(estimate: MetricValue) -> MetricValue:
    """The same with its interval cut to values that the metric can have, as people are shown it."""
    most = 1.0 if estimate.higher_is_better else math.inf
    return replace(estimate, low=max(0.0, estimate.low), high=min(most, estimate.high))


def describe_estimate(estimate: MetricValue, error: EstimateError | None) -> str:
    """An estimate with its interval and its measured error, in words."""
    shown = possible(estimate)
    return (
        f"{estimate.name} is estimated without labels at {estimate.value:.4g} "
        f"({estimate.confidence:.0%} interval {shown.low:.4g} to {shown.high:.4g}; {describe_error(error)})"
    )
