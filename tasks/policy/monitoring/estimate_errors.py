"""Accuracy of estimates without labels: the error of earlier estimates against realised values.

An estimate assumes an unchanged concept, so its own interval is too narrow. The past error is shown with it and widens
the interval.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from tasks.policy.evidence.monitoring import History
from tasks.policy.monitoring.performance import closed_values
from tasks.policy.records.reports import EstimateError, MetricValue

MEASURED_FROM = 3
"""Closed windows from which the measured error widens the interval; it is reported from the first."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric estimated without the window's labels, and the error of earlier estimates; None while unknown."""

    value: MetricValue
    error: EstimateError | None = None


def past_error(history: History, metric: str) -> EstimateError | None:
    """Error of earlier estimates of the metric; None while no estimated window has closed."""
    realised = {report.window: closed_values([report], metric) for report in history.performances}
    pairs = [
        (value, realised[window][0].value)
        for window, value in history.estimates
        if value.name == metric and realised.get(window)
    ]
    if not pairs:
        return None
    gaps = np.array([observed - estimate.value for estimate, observed in pairs])
    within = sum(estimate.low <= observed <= estimate.high for estimate, observed in pairs)
    return EstimateError(len(pairs), float(np.abs(gaps).mean()), float(gaps.mean()), within)


def widened(estimate: MetricValue, error: EstimateError | None) -> MetricValue:
    """Widen the estimate's interval to what its measured error requires, at least.

    A normal error of standard deviation s has mean absolute value s·√(2/π); Student's t accounts for few windows.
    """
    if error is None or error.windows < MEASURED_FROM:
        return estimate
    quantile = float(stats.t.ppf((1 + estimate.confidence) / 2, error.windows))
    half = quantile * error.mean_absolute * math.sqrt(math.pi / 2)
    return replace(
        estimate, low=min(estimate.low, estimate.value - half), high=max(estimate.high, estimate.value + half)
    )


def is_poor(error: EstimateError, confidence: float = 0.95) -> bool:
    """Whether realised values were outside their intervals significantly too often (binomial test, level 0.05)."""
    return float(stats.binom.cdf(error.within, error.windows, confidence)) <= 0.05


def describe_error(error: EstimateError | None) -> str:
    """Describe the error of earlier estimates."""
    if error is None:
        return "error not measured yet: no estimated window has closed"
    windows = f"{error.windows} closed window{'s' if error.windows > 1 else ''}"
    text = f"mean absolute error {error.mean_absolute:.3g} over {windows}, {error.within} within the interval"
    return f"{text}: wrong more often than its confidence level allows" if is_poor(error) else text


def possible(estimate: MetricValue) -> MetricValue:
    """The estimate with its interval clipped to possible values of the metric, for display."""
    most = 1.0 if estimate.higher_is_better else math.inf
    return replace(estimate, low=max(0.0, estimate.low), high=min(most, estimate.high))


def describe_estimate(estimate: Estimate) -> str:
    """Describe an estimate with its interval and its measured error."""
    shown = possible(estimate.value)
    return (
        f"{shown.name} is estimated without labels at {shown.value:.4g} "
        f"({shown.confidence:.0%} interval {shown.low:.4g} to {shown.high:.4g}; {describe_error(estimate.error)})"
    )
