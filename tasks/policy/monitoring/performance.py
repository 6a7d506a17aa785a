"""Maturity of a window, the best past level of the model, and tests for a shift from that level.

The baseline is the best past level, not the latest. A model that was retrained on mostly old rows right after an abrupt
change is poor, and must not become its own reference. A level is the mean of three consecutive closed windows, because
a single good window may be luck.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import scipy  # its parts load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike

from tasks.policy.records.reports import Maturity, MetricValue, PerformanceReport
from tasks.policy.statistics.intervals import two_proportion_test
from tasks.policy.statistics.metrics import class_count
from tasks.policy.statistics.power import minimum_detectable_drop

LEVEL_WINDOWS = 3
"""Consecutive closed windows that make a level."""
FRESH_WINDOWS = 5
"""First closed windows of a version, during which it counts as fresh."""
NOISE_WINDOWS = 4
"""Closed windows from which the noise of windows is estimated."""
ROBUST_FROM, NORMAL_MEDIAN, CAUTION, CAUTION_OF_FEW = 8, 1.4826, 1.25, 1.5
"""Number of differences from which their median is reliable; scale of the median to a normal σ; and the factors that
allow for a median that is too small, from that number on and below it. With these, 1 to 3 % of stable windows reach p =
0.01 (simulated, 4 to 15 past windows)."""
COLLAPSE = 6.0
"""A window that falls below the best level before it by this multiple of the noise indicates a change, not noise."""
HISTOGRAM_BINS = 10
POWER = 0.8
"""Power of the smallest shift that a window is reported to be able to show."""


def decide_maturity(rows: int, labelled_rows: int, all_due: bool, maturing_at: float, closed_at: float) -> Maturity:
    """Closed if enough labels have arrived or no more are due (cancelled flights get none); else by completeness."""
    completeness = labelled_rows / rows if rows else 0.0
    if rows and (completeness >= closed_at or all_due):
        return "closed"
    return "maturing" if completeness >= maturing_at else "open"


def confidence_histogram(y_pred: ArrayLike) -> tuple[float, ...]:
    """Shares of rows by the probability of the predicted class: ten equal bins from 1/classes to 1."""
    predictions = np.asarray(y_pred, float)
    if not len(predictions):
        return ()
    certainty = np.maximum(predictions, 1 - predictions) if predictions.ndim == 1 else predictions.max(axis=1)
    classes = class_count(predictions)
    counts, _ = np.histogram(np.clip(certainty, 1 / classes, 1), bins=HISTOGRAM_BINS, range=(1 / classes, 1))
    return tuple(float(share) for share in counts / len(predictions))


def is_worse(value: float, than: float, higher_is_better: bool) -> bool:
    """Whether `value` is strictly worse than `than`, both in units of the metric."""
    return value < than if higher_is_better else value > than


def closed_values(reports: Sequence[PerformanceReport], metric: str, min_labels: int = 1) -> list[MetricValue]:
    """The metric on closed windows with enough labels that can be trusted, in the order given."""
    found = [
        report.metric(metric)
        for report in reports
        if report.maturity == "closed" and report.labelled_rows >= min_labels and report.has_sound_labels
    ]
    return [value for value in found if value is not None and not value.estimated and math.isfinite(value.value)]


def best_past_level(
    reports: Sequence[PerformanceReport], metric: str, min_labels: int = 1
) -> tuple[MetricValue, str] | None:
    """The best mean of three consecutive closed windows, and their range of dates; None with fewer than three.

    Windows of all champions count, since a level that was possible once is the reference. All rows have equal weight.
    The interval treats windows as independent: variance = Σ (rows/total)² · variance.
    """
    closed = [report for report in reports if closed_values([report], metric, min_labels)]
    runs = [closed[start : start + LEVEL_WINDOWS] for start in range(len(closed) - LEVEL_WINDOWS + 1)]
    if not runs:
        return None
    levels = [(_level(closed_values(run, metric)), run) for run in runs]
    sign = -1 if levels[0][0].higher_is_better else 1
    level, run = min(levels, key=lambda pair: sign * pair[0].value)
    return level, f"{run[0].window.start:%Y-%m-%d}..{run[-1].window.end:%Y-%m-%d}"


def fresh_windows(
    reports: Sequence[PerformanceReport], metric: str, min_labels: int = 1
) -> list[tuple[PerformanceReport, MetricValue]]:
    """The first closed windows of each version, oldest first; selected by time to avoid selection bias."""
    served, found = Counter[str](), []
    for report in reports:
        value = closed_values([report], metric, min_labels)
        if value and served[report.model_version] < FRESH_WINDOWS:
            found.append((report, value[0]))
        served[report.model_version] += bool(value)
    return found


def _level(values: Sequence[MetricValue]) -> MetricValue:
    rows = sum(value.rows for value in values)
    mean = sum(value.rows * value.value for value in values) / rows
    variance = sum((value.rows / rows * standard_error(value)) ** 2 for value in values)
    first = values[0]
    half = _z(first.confidence) * math.sqrt(variance)
    return MetricValue(first.name, mean, mean - half, mean + half, rows, first.higher_is_better, first.confidence)


def standard_error(value: MetricValue) -> float:
    """Standard error from the width of the interval, as for a normal one."""
    return (value.high - value.low) / (2 * _z(value.confidence))


@dataclass(frozen=True, slots=True)
class WindowNoise:
    """Standard deviation `sigma` of one window around its level, and the number of windows it was computed from.

    With `windows`, tests use Student's t with two thirds of the number of successive differences as degrees of freedom.
    """

    sigma: float
    windows: int | None = None

    @property
    def variance_of_difference(self) -> float:
        """Variance of the difference between a window and a level, which averages several windows."""
        return self.sigma**2 * (1 + 1 / LEVEL_WINDOWS)

    @property
    def degrees_of_freedom(self) -> float:
        return math.inf if self.windows is None else max(1.0, (self.windows - 1) * 2 / 3)


def window_noise(values: Sequence[float]) -> WindowNoise | None:
    """Noise of one window around its level, from successive differences; None below four windows.

    von Neumann (1941), Annals of Mathematical Statistics 12:367: Σ (x[i+1] - x[i])² / 2(n - 1). Rows of a day are
    correlated, so windows vary more than the sampling error of their rows; slow drift hardly affects the differences.
    The value is capped by that of the median difference of a normal series (Rousseeuw & Croux 1993, JASA 88:1273), so a
    past jump does not count as noise and hide the next one.
    """
    return WindowNoise(_noise(values), len(values)) if len(values) >= NOISE_WINDOWS else None


def noise_of(report: PerformanceReport) -> WindowNoise | None:
    """The noise that the report was judged with; None if it was not known."""
    return None if report.noise is None else WindowNoise(report.noise, report.noise_windows)


def _noise(values: Sequence[float]) -> float:
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    noise = math.sqrt(sum(step**2 for step in steps) / len(steps) / 2)
    caution = CAUTION if len(steps) >= ROBUST_FROM else CAUTION_OF_FEW
    return min(noise, caution * NORMAL_MEDIAN * float(np.median(steps)) / math.sqrt(2))


def noise_before_collapse(values: Sequence[MetricValue]) -> WindowNoise | None:
    """`window_noise` of the windows without a collapse, oldest first; None with fewer than four of them.

    A collapse must not count as noise. A window more than COLLAPSE times the noise below the best level before it is
    excluded, and so is each later one that has not recovered half of the fall. The noise of all windows is used instead
    where it is smaller.
    """
    healthy: list[MetricValue] = []
    lowest, half_way, best = math.inf, -math.inf, None
    for value in values:
        gain = value.value if value.higher_is_better else -value.value
        if best is not None and (gain < half_way or (gain < lowest and _has_collapsed(value, best, healthy))):
            half_way = (gain + (best.value if best.higher_is_better else -best.value)) / 2
            continue
        healthy.append(value)
        lowest = min(lowest, gain)
        if len(healthy) >= LEVEL_WINDOWS:
            level = _level(healthy[-LEVEL_WINDOWS:])
            best = level if best is None or is_worse(best.value, level.value, level.higher_is_better) else best
    of_healthy, of_all = (window_noise([one.value for one in few]) for few in (healthy, values))
    if of_healthy is None or of_all is None:
        return None
    return of_healthy if of_healthy.sigma < of_all.sigma else of_all


def _has_collapsed(value: MetricValue, best: MetricValue, healthy: Sequence[MetricValue]) -> bool:
    error, _ = _error_of_difference(value, best, WindowNoise(_noise([one.value for one in healthy])))
    worse = best.value - value.value if value.higher_is_better else value.value - best.value
    return worse > COLLAPSE * error


def shift_p_value(current: MetricValue, baseline: MetricValue, noise: WindowNoise | None = None) -> float:
    """One-sided p-value that the window is no worse than the level; NaN if an interval is missing.

    Proportions: two-proportion test. Others: z of the difference. With `noise` the variance is at least that of
    windows, of which the level averages several, and the test uses its degrees of freedom.
    """
    if noise is None and current.name == "accuracy":
        hits = (round(current.value * current.rows), round(baseline.value * baseline.rows))
        return two_proportion_test(hits[0], current.rows, hits[1], baseline.rows)
    error, freedom = _error_of_difference(current, baseline, noise)
    worse = baseline.value - current.value if current.higher_is_better else current.value - baseline.value
    if error == 0:
        return 0.0 if worse > 0 else 1.0
    return float(scipy.stats.t.sf(worse / error, freedom))


def _error_of_difference(current: MetricValue, baseline: MetricValue, noise: WindowNoise | None) -> tuple[float, float]:
    """(standard error, degrees of freedom) of the difference between a window and its level; see `shift_p_value`."""
    sampling = standard_error(current) ** 2 + standard_error(baseline) ** 2
    if noise is not None and noise.variance_of_difference > sampling:
        return math.sqrt(noise.variance_of_difference), noise.degrees_of_freedom
    return math.sqrt(sampling), math.inf


def significant_shift(current: MetricValue, baseline: MetricValue, noise: WindowNoise | None, alpha: float) -> float:
    """The smallest worsening with a `shift_p_value` of at most alpha, for the window's rows and interval.

    Infinite if no worsening is significant with these rows; NaN if an interval is missing.
    """
    if noise is None and current.name == "accuracy":
        return baseline.value - _most_hits(current.rows, baseline, alpha) / current.rows
    error, freedom = _error_of_difference(current, baseline, noise)
    return error * float(scipy.stats.t.isf(alpha, freedom))


def _most_hits(rows: int, baseline: MetricValue, alpha: float) -> float:
    """The largest number of hits among `rows` significantly below the level; -inf if there is none."""
    level, hits, above = round(baseline.value * baseline.rows), -1, rows + 1
    while above - hits > 1:
        middle = (hits + above) // 2
        if two_proportion_test(middle, rows, level, baseline.rows) <= alpha:
            hits = middle
        else:
            above = middle
    return hits if hits >= 0 else -math.inf


def smallest_shift(
    current: MetricValue, baseline: MetricValue, noise: WindowNoise | None = None, alpha: float = 0.01
) -> float:
    """The smallest worsening from the level that `shift_p_value` detects at level alpha with a power of `POWER`."""
    if noise is None and current.name == "accuracy":
        return minimum_detectable_drop(current.rows, baseline.rows, baseline.value, alpha, POWER)
    error, freedom = _error_of_difference(current, baseline, noise)
    return error * float(scipy.stats.t.isf(alpha, freedom) + scipy.stats.norm.ppf(POWER))


def labels_needed(
    shift: float,
    current: MetricValue,
    baseline: MetricValue,
    noise: WindowNoise | None = None,
    alpha: float = 0.01,
) -> int | None:
    """Labels that a window needs to show this worsening; None if the noise of windows or of the level is too large.

    As labels increase, the noise of windows remains, and with it Student's t as in `shift_p_value`.
    """
    error = shift / float(scipy.stats.norm.isf(alpha) + scipy.stats.norm.ppf(POWER))
    left = error**2 - standard_error(baseline) ** 2
    boundless = replace(current, low=current.value, high=current.value)
    if left <= 0 or (noise and smallest_shift(boundless, baseline, noise, alpha) > shift):
        return None
    return math.ceil(current.rows * standard_error(current) ** 2 / left)


@cache
def _z(confidence: float) -> float:
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))
