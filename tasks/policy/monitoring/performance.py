"""What a window's labels allow to be said: how mature it is, the best level the model has had, and a shift from it.

The baseline is the best past level, not the latest: a model retrained on mostly old rows right after an abrupt change
is poor, and must not become its own measure. One lucky window is no level either, so a level is the mean of three
consecutive closed windows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import scipy  # its parts load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike

from tasks.policy.records.reports import Maturity, MetricValue, PerformanceReport
from tasks.policy.statistics.intervals import two_proportion_test
from tasks.policy.statistics.power import minimum_detectable_drop

LEVEL_WINDOWS = 3
"""Consecutive closed windows that make a level."""
FRESH_WINDOWS = 5
"""First closed windows of a version, on which it is fresh."""
NOISE_WINDOWS = 4
"""Closed windows from which their own noise is estimated."""
ROBUST_FROM, NORMAL_MEDIAN, CAUTION, CAUTION_OF_FEW = 8, 1.4826, 1.25, 1.5
"""Differences from which their median is known well; of a normal one; and what a median of few, or of fewer, may be too
small by: with these, 1 to 3 % of stable windows reach p = 0.01 (simulated, 4 to 15 past windows)."""
COLLAPSE = 6.0
"""A window that fell so many times the noise below the best level before it tells of a change, not of noise."""
HISTOGRAM_BINS = 10
POWER = 0.8
"""Chance with which a shift is to be seen that a window is said to be able to show."""


def decide_maturity(rows: int, labelled_rows: int, all_due: bool, maturing_at: float, closed_at: float) -> Maturity:
    """Closed when enough labels are there, or when none is still due (cancelled flights never get one)."""
    completeness = labelled_rows / rows if rows else 0.0
    if rows and (completeness >= closed_at or all_due):
        return "closed"
    return "maturing" if completeness >= maturing_at else "open"


def confidence_histogram(y_pred: ArrayLike) -> tuple[float, ...]:
    """Shares of rows by the probability of the class decided for: ten equal bins from 1/classes to 1."""
    predicted = np.asarray(y_pred, float)
    if not len(predicted):
        return ()
    certainty = np.maximum(predicted, 1 - predicted) if predicted.ndim == 1 else predicted.max(axis=1)
    classes = 2 if predicted.ndim == 1 else predicted.shape[1]
    counts, _ = np.histogram(np.clip(certainty, 1 / classes, 1), bins=HISTOGRAM_BINS, range=(1 / classes, 1))
    return tuple(float(share) for share in counts / len(predicted))


def is_worse(value: float, than: float, higher_is_better: bool) -> bool:
    return value < than if higher_is_better else value > than


def closed_values(reports: Sequence[PerformanceReport], metric: str, min_labels: int = 1) -> list[MetricValue]:
    """The metric of the closed windows that have enough labels which can be trusted, in the order given."""
    found = [
        report.metric(metric)
        for report in reports
        if report.maturity == "closed" and report.labelled_rows >= min_labels and report.has_sound_labels
    ]
    return [value for value in found if value is not None and not value.estimated and math.isfinite(value.value)]


def best_past_level(
    reports: Sequence[PerformanceReport], metric: str, min_labels: int = 1
) -> tuple[MetricValue, str] | None:
    """The best mean of three consecutive closed windows, and which; None before there are three.

    Whichever champion served them: what was possible once is the measure. Rows weigh alike. The interval joins
    those of the windows as independent: variance = Σ (rows/total)² · variance.
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
    """The first closed windows of each version, oldest first: chosen by time and not by value, so not by luck."""
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
    """What the width of an interval says of the standard error, as for a normal one."""
    return (value.high - value.low) / (2 * _z(value.confidence))


def window_noise(values: Sequence[float]) -> float | None:
    """Standard deviation of one window around its level, from successive differences; None before four windows.

    von Neumann (1941), Annals of Mathematical Statistics 12:367: Σ (x[i+1] - x[i])² / 2(n - 1). Rows of a day move
    together, so windows differ by more than their rows' sampling error; a slow drift hardly enters the differences.
    At most what their median says of a normal one (Rousseeuw & Croux 1993, JASA 88:1273), so that a jump in the past does
    not pass for noise and hide the next one.
    """
    return _noise(values) if len(values) >= NOISE_WINDOWS else None


def _noise(values: Sequence[float]) -> float:
    steps = [abs(later - earlier) for earlier, later in pairwise(values)]
    noise = math.sqrt(sum(step**2 for step in steps) / len(steps) / 2)
    caution = CAUTION if len(steps) >= ROBUST_FROM else CAUTION_OF_FEW
    return min(noise, caution * NORMAL_MEDIAN * float(np.median(steps)) / math.sqrt(2))


def noise_before_collapse(values: Sequence[MetricValue]) -> tuple[float | None, int]:
    """`window_noise` of the windows that had not collapsed, oldest first, and how many these are.

    A collapse must not become its own noise: a window that fell by more than COLLAPSE times the noise below the best
    level before it is left out, and so is each later one that did not come half of the way back. Where all windows, by
    their median, vary by less, that counts: it is known from more of them. None before four that had not collapsed.
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
    known = [(window_noise([one.value for one in few]), len(few)) for few in (healthy, values)]
    return known[0] if known[0][0] is None else min(known, key=lambda one: (one[0] or 0.0, -one[1]))


def _has_collapsed(value: MetricValue, best: MetricValue, healthy: Sequence[MetricValue]) -> bool:
    error, _ = _error_of_difference(value, best, _noise([one.value for one in healthy]), None)
    worse = best.value - value.value if value.higher_is_better else value.value - best.value
    return worse > COLLAPSE * error


def shift_p_value(
    current: MetricValue, baseline: MetricValue, noise: float | None = None, windows: int | None = None
) -> float:
    """One-sided p-value that the window is no worse than the level; NaN where an interval is missing.

    Proportions: two-proportion test. Others: z of the difference. With `noise` (of one window) the standard error
    is at least what windows were seen to vary by, which the level shares over its windows. `windows` says from how many
    that noise is known: then Student's t, with the degrees of freedom of successive differences, two thirds of theirs.
    """
    if noise is None and current.name == "accuracy":
        hits = (round(current.value * current.rows), round(baseline.value * baseline.rows))
        return two_proportion_test(hits[0], current.rows, hits[1], baseline.rows)
    error, freedom = _error_of_difference(current, baseline, noise, windows)
    worse = baseline.value - current.value if current.higher_is_better else current.value - baseline.value
    if error == 0:
        return 0.0 if worse > 0 else 1.0
    return float(scipy.stats.t.sf(worse / error, freedom))


def _error_of_difference(
    current: MetricValue, baseline: MetricValue, noise: float | None, windows: int | None
) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a window's distance from its level; see `shift_p_value`."""
    variance, freedom = standard_error(current) ** 2 + standard_error(baseline) ** 2, math.inf
    if noise is not None and noise**2 * (1 + 1 / LEVEL_WINDOWS) > variance:
        variance = noise**2 * (1 + 1 / LEVEL_WINDOWS)
        freedom = math.inf if windows is None else max(1.0, (windows - 1) * 2 / 3)
    return math.sqrt(variance), freedom


def significant_shift(
    current: MetricValue, baseline: MetricValue, noise: float | None, windows: int | None, alpha: float
) -> float:
    """The least worsening from the level whose `shift_p_value` is at most alpha, at the window's rows and interval.

    Infinite where no share of these rows would do; NaN where an interval is missing.
    """
    if noise is None and current.name == "accuracy":
        return baseline.value - _most_hits(current.rows, baseline, alpha) / current.rows
    error, freedom = _error_of_difference(current, baseline, noise, windows)
    return error * float(scipy.stats.t.isf(alpha, freedom))


def _most_hits(rows: int, baseline: MetricValue, alpha: float) -> float:
    """Hits of so many rows up to which their share is significantly below the level; -inf where it never is."""
    level, hits, above = round(baseline.value * baseline.rows), -1, rows + 1
    while above - hits > 1:
        middle = (hits + above) // 2
        if two_proportion_test(middle, rows, level, baseline.rows) <= alpha:
            hits = middle
        else:
            above = middle
    return hits if hits >= 0 else -math.inf


def smallest_shift(
    current: MetricValue,
    baseline: MetricValue,
    noise: float | None = None,
    windows: int | None = None,
    alpha: float = 0.01,
    power: float = POWER,
) -> float:
    """The least worsening from the level that `shift_p_value` would find at level alpha with this power."""
    if noise is None and current.name == "accuracy":
        return minimum_detectable_drop(current.rows, baseline.rows, baseline.value, alpha, power)
    error, freedom = _error_of_difference(current, baseline, noise, windows)
    return error * float(scipy.stats.t.isf(alpha, freedom) + scipy.stats.norm.ppf(power))


def labels_needed(
    shift: float,
    current: MetricValue,
    baseline: MetricValue,
    noise: float | None = None,
    windows: int | None = None,
    alpha: float = 0.01,
) -> int | None:
    """Labels of a window that would show this worsening; None where windows or the level vary too much for any number.

    With ever more labels what is left is the noise of windows, and with it Student's t as in `shift_p_value`.
    """
    error = shift / float(scipy.stats.norm.isf(alpha) + scipy.stats.norm.ppf(POWER))
    left = error**2 - standard_error(baseline) ** 2
    boundless = replace(current, low=current.value, high=current.value)
    if left <= 0 or (noise and smallest_shift(boundless, baseline, noise, windows, alpha) > shift):
        return None
    return math.ceil(current.rows * standard_error(current) ** 2 / left)


@cache
def _z(confidence: float) -> float:
    return float(scipy.stats.norm.ppf((1 + confidence) / 2))
