"""The trigger `metric_breach`, and the selection of windows that count for a metric.

The latest m windows count that the current champion served from their first row and whose labels are maturing or
closed, with enough of them. Open windows, estimates, quarantined windows and labels that cannot be trusted never
trigger. Windows of an earlier champion do not count either, because a retrain has already followed them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.policy.monitoring.performance import is_worse
from tasks.policy.records.reports import NEVER_SCORED, MetricValue, PerformanceReport
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER
from tasks.policy.statistics.numbers import beside
from tasks.policy.triggers.base import Case, Trigger, TriggerResult

Eligible = Sequence[tuple[PerformanceReport, MetricValue]]
"""The windows that count for a metric, oldest first, with its value on each."""


class MetricTrigger(Trigger):
    """A trigger on one metric of the champion."""

    if TYPE_CHECKING:
        metric: str  # not a Pydantic field, as `trigger` in the base

    judges_performance = True

    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)


class Persistent(MetricTrigger):
    """Holds in at least k of the last m windows, the latest among them (mlops-stacks' breach rule)."""

    k: int = Field(1, ge=1, le=100)
    """Number of windows in breach that are needed."""
    m: int = Field(1, ge=1, le=100)
    """Latest windows among which they are counted."""

    @model_validator(mode="after")
    def _can_hold(self) -> "Persistent":
        if self.k > self.m:
            raise ValueError(f"k is {self.k} and m is {self.m}, expected k <= m: k breaches among the last m windows")
        return self

    @property
    def persistence(self) -> str:
        """The persistence rule as the end of a sentence; empty if one window is enough."""
        return "" if self.m == 1 else f" in {self.k} of the last {self.m} windows, including the latest"

    @property
    def windows_in_words(self) -> str:
        if self.m == 1:
            return "the latest window"
        return (
            f"{self.k} of the last {self.m} windows, including the latest"
            if self.k < self.m
            else f"the last {self.m} windows"
        )

    def persists(self, past: Sequence[bool]) -> bool:
        """Whether at least k of the last m windows are past the limit, the latest among them."""
        return past[-1] and sum(past) >= self.k

    def count(self, past: Sequence[bool], what: str) -> str:
        return (
            f"{sum(past)} of the last {len(past)} windows {what} (needed: {self.k} of {self.m}, including the latest)"
        )


class MetricBreach(Persistent):
    """The metric lies past a limit in at least k of the last m windows, the latest among them."""

    example: ClassVar[str] = "{trigger: metric_breach, metric: accuracy, limit: 0.85, k: 2, m: 3}"
    trigger: Literal["metric_breach"]
    metric: str
    """The metric. Whether higher or lower is better follows from it."""
    limit: float
    """Limit that the metric must not pass."""
    release: float | None = None
    """Hysteresis: a breach lasts until the metric is back past this level. Default: the limit."""
    higher_is_better: bool | None = Field(None, exclude_if=lambda value: value is None)
    """Direction of a metric of your own; taken from `metrics` when left out."""

    @model_validator(mode="after")
    def _releases_on_the_good_side(self) -> "MetricBreach":
        higher = self._is_higher_better
        if self.release is not None and (self.release < self.limit if higher else self.release > self.limit):
            side = ">=" if higher else "<="
            raise ValueError(
                f"release is {self.release:g}, expected {side} the limit {self.limit:g}, the better side of it"
            )
        return self

    @property
    def _is_higher_better(self) -> bool:
        return HIGHER_IS_BETTER.get(self.metric, bool(self.higher_is_better))

    def describe(self) -> str:
        return f"{self.metric} is past {self.limit:g} in {self.windows_in_words}"

    def judge(self, case: Case) -> TriggerResult:
        eligible = eligible_windows(case, self.metric)
        higher = self._is_higher_better
        found, level = self._breaches([value.value for _, value in eligible])
        side, bad = ("below", "<") if higher else ("above", ">")
        would_retrain = f"would retrain at {self.metric} {bad} {level:g}{self.persistence}"
        if not eligible:
            return self.result(False, why_none_counts(case, self.metric), would_retrain)
        past = found[-self.m :]
        holds = self.persists(past)
        report, value = eligible[-1]
        position = f"is {side}" if past[-1] else f"is not {side}"
        limit = f"the limit {self.limit:g}"
        compared_with = limit if level == self.limit else f"{level:g}, the release level after a breach of {limit}"
        reason = (
            f"{self.metric} {describe_value(value, level)} in {describe_window(report, case)} {position} {compared_with}; "
            f"{self.count(past, 'past it')}"
        )
        would_not_retrain = f"would not retrain at {self.metric} {'≥' if higher else '≤'} {level:g}"
        return self.result(holds, reason, would_not_retrain if holds else would_retrain)

    def _breaches(self, values: Sequence[float]) -> tuple[list[bool], float]:
        """Whether each window is in breach (past the limit, or not yet back past its release), and the latest level."""
        higher, level, breached, found = self._is_higher_better, self.limit, False, []
        for value in values:
            level = self.limit if self.release is None or not breached else self.release
            breached = is_worse(value, level, higher)
            found.append(breached)
        return found, level


def eligible_windows(case: Case, metric: str) -> list[tuple[PerformanceReport, MetricValue]]:
    """Reports whose metric may trigger, oldest first; the module docstring gives the rule."""
    own = (case.evidence.performance,) if case.evidence.performance else ()
    earlier = [report for report in case.history.performances if report.window < case.evidence.window]
    found = []
    for report in (*earlier, *own):
        value = report.metric(metric)
        served = case.history.champion_since is None or report.window.start >= case.history.champion_since
        enough = report.maturity != "open" and report.labelled_rows >= case.min_labelled_rows
        enough = enough and report.has_sound_labels
        if served and enough and value is not None and not value.estimated and math.isfinite(value.value):
            found.append((report, value))
    return found


def closed_windows(case: Case) -> list[PerformanceReport]:
    """Closed windows of all champions before the current window."""
    earlier = (report for report in case.history.performances if report.window < case.evidence.window)
    return [report for report in earlier if report.maturity == "closed"]


def why_none_counts(case: Case, metric: str) -> str:
    """Why no window counts for the metric."""
    report = case.evidence.performance
    if report is None:
        return f"{metric}: not measured in this window"
    if not report.rows:
        return f"{metric}: {NEVER_SCORED} of this window"
    if report.labels and not report.has_sound_labels:
        return f"{metric}: the labels of this window cannot be trusted, so they trigger nothing"
    since = case.history.champion_since
    if since is not None and report.window.start < since:
        return (
            f"{metric}: this window began on {report.window.start:%Y-%m-%d %H:%M}, before the current champion took over on "
            f"{since:%Y-%m-%d %H:%M} UTC; windows that begin later count"
        )
    if report.undefined and metric == report.primary:
        return f"{report.undefined}; no other window of the current champion counts"
    return (
        f"{metric}: no window of the current champion has enough labels; this one is {report.maturity} with "
        f"{report.labelled_rows} of {report.rows} labels, at least {case.min_labelled_rows} are needed"
    )


def describe_window(report: PerformanceReport, case: Case) -> str:
    """Name the window that counts; if it is an earlier one, add why the current window does not count."""
    name, current = report.window.name, case.evidence.performance
    if report.window == case.evidence.window:
        return name
    if current is not None and current.undefined:
        return f"{name}, the latest window that counts (in this window {current.undefined}),"
    if current is None:
        return f"{name}, the latest window that counts (this window was not measured),"
    return (
        f"{name}, the latest window that counts (this window is {current.maturity} with {current.labelled_rows} of "
        f"{current.rows} labels),"
    )


def describe_value(value: MetricValue, level: float) -> str:
    """The metric's value with its interval and labels, rounded so that it stays on its side of `level`."""
    interval = f"{value.confidence:.0%} interval {value.low:.4g} to {value.high:.4g}"
    return f"{beside(value.value, level)} ({interval}, {value.rows} labels)"
