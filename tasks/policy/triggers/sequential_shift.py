"""Whether a metric is worse than its best past level by intervals that hold at every look at once.

A test at level alpha after each window is sure to alarm on a stable model sooner or later, the more so against the best
of many past levels, which is partly luck. Here both sides are confidence sequences (`sequential.py`) over blocks of
ten windows: the level is the best that some block surely had, the present the block in which the champion is. Half of
alpha goes to the latest window alone, spent over the looks as 1/t(t + 1), so that a jump is not averaged away. A champion
that is as good as ever alarms with a chance of at most alpha, however long one looks on. `metric_decay`
(`series_triggers.py`) holds all windows of the champion against the same level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from tasks.policy.monitoring.performance import closed_values, noise_before_collapse, standard_error, window_noise
from tasks.policy.records.reports import MetricValue, PerformanceReport
from tasks.policy.statistics.numbers import beside, rounded
from tasks.policy.statistics.resampling import Interval
from tasks.policy.statistics.sequential import BLOCK, block_sequences
from tasks.policy.triggers.conditions import MetricDecay, MetricShift
from tasks.policy.triggers.result import Case, Finding, one_finding

Served = Sequence[tuple[PerformanceReport, MetricValue]]


NO_NOISE = "windows vary by an amount not known before four closed"


class SureLevel(NamedTuple):
    """Losses: what the best past block surely was at most, and what one window varies by, stretched for few windows."""

    loss: float
    sigma: float
    noise: float
    """What one window was seen to vary by, not stretched."""
    windows: int
    """From how many windows that is known."""


class _Look(NamedTuple):
    """Losses: what the best past block surely was at most, the champion's present block of so many windows, and the latest."""

    level: float
    present: Interval
    windows: int
    latest: Interval

    @property
    def jumped(self) -> bool:
        """Whether the latest window alone says more than the block that it is in."""
        return self.latest.low > self.present.low

    @property
    def worse(self) -> float:
        """At least so much worse, surely."""
        return max(self.present.low, self.latest.low) - self.level


def judge_lasting_shift(rule: MetricShift, case: Case, served: Served) -> Finding:
    """`served` are the windows that may speak for the champion, at least one, oldest first."""
    latest = range(max(1, len(served) - rule.m + 1), len(served) + 1)
    looks = [look for look in (_look(rule, case, served[:until]) for until in latest) if look is not None]
    if not looks:
        return one_finding(rule.trigger, False, f"{rule.metric}: {NO_NOISE}", "")
    past = [look.worse >= rule.margin and look.worse > 0 for look in looks]
    holds = past[-1] and sum(past) >= rule.k
    look, higher = looks[-1], served[-1][1].higher_is_better
    windows = "latest window" if look.jumped or look.windows == 1 else f"latest {look.windows} windows"
    told, wish = describe_sure(rule, windows, look.latest if look.jumped else look.present, look.level, higher)
    reason = (
        f"{told}; {sum(past)} of the last {len(past)} windows shifted, {rule.k} of {rule.m} and the latest are needed"
    )
    return one_finding(rule.trigger, holds, reason, "" if holds else f"{wish}{rule.persistence}")


def describe_sure(
    rule: MetricShift | MetricDecay, windows: str, present: Interval, level: float, higher_is_better: bool
) -> tuple[str, str]:
    """(what is sure of the champion's windows and of the level, given as losses; what would change it)."""
    sign, better = (-1, "at least") if higher_is_better else (1, "at most")
    limit = sign * (level + rule.margin)
    low, high = (beside(bound, limit) for bound in sorted((sign * present.low, sign * present.high)))
    told = (
        f"{rule.metric} of the champion's {windows} is on average {low} to {high}, its best past level surely "
        f"{better} {sign * level:.4g}, both at every look at once (alpha {rule.alpha:g}, margin {rule.margin:g})"
    )
    return told, f"would retrain once that average surely lies past {rounded(limit, up=sign > 0)}"


def _look(rule: MetricShift, case: Case, served: Served) -> _Look | None:
    """What was known at the last of these windows; None while the noise of windows is not known."""
    last, sign = served[-1][0].window, -1 if served[-1][1].higher_is_better else 1
    before = [report for report in case.history.performances if report.window < last]
    closed = closed_values(before, rule.metric, case.min_labelled_rows)
    level = sure_level(closed, closed, rule.alpha)
    if level is None:
        return None
    present = block_sequences([sign * value.value for _, value in served], rule.alpha / 2, level.sigma)[-1]
    latest = served[-1][1]
    share = rule.alpha / 2 / (len(served) * (len(served) + 1))
    half = max(
        level.noise * float(stats.t.isf(share / 2, max(1.0, (level.windows - 1) * 2 / 3))),
        standard_error(latest) * float(stats.norm.isf(share / 2)),
    )
    alone = Interval(sign * latest.value - half, sign * latest.value + half)
    return _Look(level.loss, present, (len(served) - 1) % BLOCK + 1, alone)


def sure_level(past: Sequence[MetricValue], closed: Sequence[MetricValue], alpha: float) -> SureLevel | None:
    """The best of the `past` windows, and the noise of all `closed` ones, oldest first; None below four closed.

    A window varies by its rows' sampling error at least. `past` must hold a window.
    """
    noise, windows = noise_before_collapse(closed)
    if noise is None:
        noise, windows = window_noise([value.value for value in closed]), len(closed)
    if noise is None:
        return None
    sampling = float(np.median([standard_error(one) for one in closed]))
    sigma = max(noise * _caution(alpha, windows), sampling)
    sign = -1 if past[0].higher_is_better else 1
    blocks = block_sequences([sign * value.value for value in past], alpha, sigma)
    return SureLevel(min(interval.high for interval in blocks), sigma, max(noise, sampling), windows)


def _caution(alpha: float, windows: int) -> float:
    """By how much noise known from few windows must be stretched: Student's t against the normal, in the tail used.

    Degrees of freedom are those of successive differences, two thirds of theirs.
    """
    tail = alpha / 4
    return float(stats.t.isf(tail, max(1.0, (windows - 1) * 2 / 3)) / stats.norm.isf(tail))
