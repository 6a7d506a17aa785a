"""Triggers on a metric that is worse than its best past level: `metric_shift` and `metric_decay`.

A test at level alpha after each window eventually raises a false alarm on a stable model, and sooner against the best
of many past levels, which is partly luck. Here both sides are confidence sequences (`statistics/sequential.py`) over
blocks of ten windows. The level is the best upper bound of the loss over the past blocks; the present is the champion's
current block. Half of alpha is spent on the latest window alone, as 1/t(t + 1) over the looks, so a jump is not
averaged away. A champion that has not worsened triggers with probability at most alpha, however many windows are
judged. `metric_decay` compares all windows of the champion with the same level; `always_valid: false` tests each window
separately.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import stats

from tasks.policy.monitoring.performance import (
    LEVEL_WINDOWS,
    WindowNoise,
    best_past_level,
    closed_values,
    labels_needed,
    noise_before_collapse,
    shift_p_value,
    significant_shift,
    smallest_shift,
    standard_error,
    window_noise,
)
from tasks.policy.records.reports import MetricValue, PerformanceReport
from tasks.policy.statistics.numbers import beside, rounded
from tasks.policy.statistics.resampling import Interval
from tasks.policy.statistics.sequential import BLOCK, block_sequences, confidence_sequence
from tasks.policy.triggers.base import Case, TriggerResult
from tasks.policy.triggers.metric import (
    Eligible,
    MetricTrigger,
    Persistent,
    closed_windows,
    describe_value,
    describe_window,
    eligible_windows,
    why_none_counts,
)

NO_LEVEL = "no past level to compare with yet; three closed windows are needed"
NO_NOISE = "the noise of windows is not known yet; four closed windows are needed"


class MetricShift(Persistent):
    """The metric is significantly worse than its best past level, by at least a margin, in k of the last m windows."""

    example: ClassVar[str] = "{trigger: metric_shift, metric: log_loss, margin: 0.01, k: 2, m: 3}"
    trigger: Literal["metric_shift"]
    metric: str
    """The metric."""
    margin: float = Field(0.0, ge=0)
    """Smallest loss against the best past level that counts, in units of the metric."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Probability of ever triggering on a stable champion. Without `always_valid`, the largest p-value of one window."""
    always_valid: bool = Field(True, exclude_if=lambda on: bool(on))  # left out of ids, so that decisions keep theirs
    """Use anytime-valid intervals over blocks of windows. `false` tests each window by itself, which detects a fall sooner
    but eventually triggers on a stable model (7 of 10 within 50 windows at `alpha: 0.01`)."""

    def describe(self) -> str:
        return (
            f"{self.metric} is worse than its best level by {self.margin:g} or more "
            f"({'anytime-valid, alpha' if self.always_valid else 'p ≤'} {self.alpha:g}) "
            f"in {self.windows_in_words}"
        )

    def judge(self, case: Case) -> TriggerResult:
        eligible = eligible_windows(case, self.metric)
        if not eligible:
            return self.result(False, why_none_counts(case, self.metric))
        return self._judge_blocks(case, eligible) if self.always_valid else self._judge_windows(case, eligible)

    def _judge_blocks(self, case: Case, eligible: Eligible) -> TriggerResult:
        latest = range(max(1, len(eligible) - self.m + 1), len(eligible) + 1)
        looks = [look for look in (_look(self, case, eligible[:until]) for until in latest) if look is not None]
        if not looks:
            return self.result(False, f"{self.metric}: {NO_NOISE}")
        past = [look.worse >= self.margin and look.worse > 0 for look in looks]
        holds, look, higher = self.persists(past), looks[-1], eligible[-1][1].higher_is_better
        windows = "latest window" if look.jumped or look.windows == 1 else f"latest {look.windows} windows"
        present = look.latest if look.jumped else look.present
        reason, would_retrain = _describe_bounds(self, windows, present, look.level, higher)
        reason = f"{reason}; {self.count(past, 'shifted')}"
        return self.result(holds, reason, "" if holds else f"{would_retrain}{self.persistence}")

    def _judge_windows(self, case: Case, eligible: Eligible) -> TriggerResult:
        judged = [_shift(self, case, report, value) for report, value in eligible[-self.m :]]
        known = [shift for shift in judged if shift is not None]
        if not known or judged[-1] is None:
            return self.result(False, f"{self.metric}: {NO_LEVEL}")
        past = [shift.worse >= self.margin and shift.worse > 0 and shift.p_value <= self.alpha for shift in known]
        holds = self.persists(past)
        (report, value), (level, worse, p_value) = eligible[-1], known[-1][:3]
        direction = "worse" if worse >= 0 else "better"
        reason = (
            f"{self.metric} {describe_value(value, level.value)} in {describe_window(report, case)} is "
            f"{beside(abs(worse), self.margin)} {direction} than its best past level {level.value:.4g} "
            f"(p={beside(p_value, self.alpha, 2)}; margin {self.margin:g}, alpha {self.alpha:g}); "
            f"{self.count(past, 'shifted')}{'' if past[-1] else _describe_power(self, value, known[-1])}"
        )
        return self.result(holds, reason, _beyond(self, known[-1], holds))


class MetricDecay(MetricTrigger):
    """The mean over the champion's windows is worse than the best past level, by anytime-valid intervals of both."""

    example: ClassVar[str] = "{trigger: metric_decay, metric: rmse, margin: 0.1}"
    trigger: Literal["metric_decay"]
    metric: str
    """The metric."""
    margin: float = Field(0.0, ge=0)
    """Smallest loss against the best past level that counts, in units of the metric."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Probability of ever triggering on a champion that has not decayed."""

    def describe(self) -> str:
        return f"the mean {self.metric} of its windows is significantly worse than its best level, by more than {self.margin:g}"

    def judge(self, case: Case) -> TriggerResult:
        """Compare a confidence sequence over the champion's windows with the best level established before them."""
        eligible, closed = eligible_windows(case, self.metric), closed_windows(case)
        if not eligible:
            return self.result(False, why_none_counts(case, self.metric))
        known = closed_values(closed, self.metric, case.min_labelled_rows)
        before = [report for report in closed if report.window < eligible[0][0].window]
        past = closed_values(before, self.metric, case.min_labelled_rows)
        level = _level_bound(past if len(past) >= LEVEL_WINDOWS else known, known, self.alpha)
        if level is None:
            return self.result(False, f"{self.metric}: {NO_NOISE}")
        higher = eligible[-1][1].higher_is_better
        losses = [-value.value if higher else value.value for _, value in eligible]
        present = confidence_sequence(losses, self.alpha, level.sigma, tuned_for=10)[-1]
        holds = present.low > level.loss + self.margin
        reason, would_retrain = _describe_bounds(self, f"{len(eligible)} windows", present, level.loss, higher)
        return self.result(holds, reason, "" if holds else would_retrain)


class _LevelBound(NamedTuple):
    """Upper bound of the loss of the best past block, and the noise of one window, widened for few windows."""

    loss: float
    sigma: float
    noise: WindowNoise
    """Observed noise of one window, not widened."""


class _Look(NamedTuple):
    """Losses: bound of the best past block, the champion's current block (`windows` windows), the latest window."""

    level: float
    present: Interval
    windows: int
    latest: Interval

    @property
    def jumped(self) -> bool:
        """Whether the latest window alone is stronger evidence than its block."""
        return self.latest.low > self.present.low

    @property
    def worse(self) -> float:
        """Lower bound of the worsening."""
        return max(self.present.low, self.latest.low) - self.level


def _describe_bounds(
    rule: MetricShift | MetricDecay, windows: str, present: Interval, level: float, higher_is_better: bool
) -> tuple[str, str]:
    """A sentence on the bounds of the champion's windows and of the level (both losses), and what would change it."""
    sign, better = (-1, "at least") if higher_is_better else (1, "at most")
    limit = sign * (level + rule.margin)
    low, high = (beside(bound, limit) for bound in sorted((sign * present.low, sign * present.high)))
    reason = (
        f"mean {rule.metric} of the champion's {windows} is between {low} and {high}, and its best past level is "
        f"{better} {sign * level:.4g} (anytime-valid intervals, alpha {rule.alpha:g}, margin {rule.margin:g})"
    )
    return reason, f"would retrain once the entire interval of that mean is past {rounded(limit, up=sign > 0)}"


def _look(rule: MetricShift, case: Case, eligible: Eligible) -> _Look | None:
    """The comparison as of the last of these windows; None while the noise of windows is not known."""
    last, sign = eligible[-1][0].window, -1 if eligible[-1][1].higher_is_better else 1
    before = [report for report in case.history.performances if report.window < last]
    closed = closed_values(before, rule.metric, case.min_labelled_rows)
    level = _level_bound(closed, closed, rule.alpha)
    if level is None:
        return None
    present = block_sequences([sign * value.value for _, value in eligible], rule.alpha / 2, level.sigma)[-1]
    latest = eligible[-1][1]
    share = rule.alpha / 2 / (len(eligible) * (len(eligible) + 1))
    half = max(
        level.noise.sigma * float(stats.t.isf(share / 2, level.noise.degrees_of_freedom)),
        standard_error(latest) * float(stats.norm.isf(share / 2)),
    )
    alone = Interval(sign * latest.value - half, sign * latest.value + half)
    return _Look(level.loss, present, (len(eligible) - 1) % BLOCK + 1, alone)


def _level_bound(past: Sequence[MetricValue], closed: Sequence[MetricValue], alpha: float) -> _LevelBound | None:
    """The best level of the `past` windows, with the noise of all `closed` ones, oldest first; None below four closed.

    The noise of a window is at least the sampling error of its rows. `past` must not be empty.
    """
    noise = noise_before_collapse(closed) or window_noise([value.value for value in closed])
    if noise is None:
        return None
    sampling = float(np.median([standard_error(one) for one in closed]))
    sigma = max(noise.sigma * _caution(alpha, noise), sampling)
    sign = -1 if past[0].higher_is_better else 1
    blocks = block_sequences([sign * value.value for value in past], alpha, sigma)
    observed = replace(noise, sigma=max(noise.sigma, sampling))
    return _LevelBound(min(interval.high for interval in blocks), sigma, observed)


def _caution(alpha: float, noise: WindowNoise) -> float:
    """Factor that widens noise known from few windows: Student's t over the normal quantile, in the tail used."""
    tail = alpha / 4
    return float(stats.t.isf(tail, noise.degrees_of_freedom) / stats.norm.isf(tail))


class _Shift(NamedTuple):
    """One window compared with the windows before it, and the smallest shift it could detect."""

    level: MetricValue
    worse: float
    p_value: float
    smallest: float
    significant: float
    noise: WindowNoise | None


def _shift(rule: MetricShift, case: Case, report: PerformanceReport, value: MetricValue) -> _Shift | None:
    """Compare the window with the best past level; None while there is no level."""
    before = [earlier for earlier in case.history.performances if earlier.window < report.window]
    best = best_past_level(before, rule.metric, case.min_labelled_rows)
    if best is None:
        return None
    level = best[0]
    noise = noise_before_collapse(closed_values(before, rule.metric, case.min_labelled_rows))
    worse = level.value - value.value if value.higher_is_better else value.value - level.value
    against = (value, level, noise)
    smallest, significant = (least(*against, alpha=rule.alpha) for least in (smallest_shift, significant_shift))
    return _Shift(level, worse, shift_p_value(*against), smallest, significant, noise)


def _describe_power(rule: MetricShift, value: MetricValue, shift: _Shift) -> str:
    """A clause on the window's lack of power, if it is too small to show a worsening as large as the margin."""
    if rule.margin <= 0 or shift.smallest <= rule.margin:
        return ""
    needed = labels_needed(rule.margin, value, shift.level, shift.noise, rule.alpha)
    none = "no number of labels would be enough, because windows or their level vary too much"
    remedy = f"about {needed:,} labels would be enough" if needed else none
    return (
        f"; insufficient: {value.rows:,} labels can show a worsening of {beside(shift.smallest, rule.margin, 2)} or more, "
        f"but the margin is {rule.margin:g}; {remedy}"
    )


def _beyond(rule: MetricShift, shift: _Shift, holds: bool) -> str:
    """The value at which the latest window counts as shifted, by margin and significance; empty if none does."""
    if not math.isfinite(shift.significant):
        return ""
    needed, higher = max(0.0, rule.margin, shift.significant), shift.level.higher_is_better
    limit = shift.level.value - needed if higher else shift.level.value + needed
    words = f"would {'not ' if holds else ''}retrain at {rule.metric} "
    bad = ("≤" if higher else "≥") if needed else ("<" if higher else ">")
    sign = {"≤": ">", "≥": "<", "<": "≥", ">": "≤"}[bad] if holds else bad
    words += f"{sign} {rounded(limit, up=higher == holds)}"
    if shift.significant > rule.margin:
        words += f" (p {'>' if holds else '≤'} {rule.alpha:g} at this window's precision)"
    return words if holds else words + rule.persistence
