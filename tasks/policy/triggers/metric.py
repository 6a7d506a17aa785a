"""Whether a metric's condition holds.

Which windows speak: the latest m that the present champion served from their first row and whose labels are maturing
or closed, with enough of them. Open windows, estimates, quarantined windows and labels that cannot be trusted never
trigger; nor do windows of an earlier champion, because retraining has answered those.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tasks.policy.monitoring.performance import (
    best_past_level,
    closed_values,
    is_worse,
    labels_needed,
    noise_before_collapse,
    shift_p_value,
    significant_shift,
    smallest_shift,
)
from tasks.policy.records.reports import NEVER_SCORED, MetricValue, PerformanceReport
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER
from tasks.policy.statistics.numbers import beside, rounded
from tasks.policy.triggers.conditions import MetricBreach, MetricShift, Persistent
from tasks.policy.triggers.result import Case, Finding, one_finding
from tasks.policy.triggers.sequential_shift import judge_lasting_shift


def speaking_windows(case: Case, metric: str) -> list[tuple[PerformanceReport, MetricValue]]:
    """Reports whose metric may trigger, oldest first; see the module's first lines for the rule."""
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


def silence(case: Case, metric: str) -> str:
    report = case.evidence.performance
    if report is None:
        return f"{metric}: not measured in this window"
    if not report.rows:
        return f"{metric}: {NEVER_SCORED} of this window"
    if report.labels and not report.has_sound_labels:
        return f"{metric}: the labels of this window cannot be trusted, so nothing is triggered by them"
    since = case.history.champion_since
    if since is not None and report.window.start < since:
        return (
            f"{metric}: this window began on {report.window.start:%Y-%m-%d %H:%M}, before the present champion took over on "
            f"{since:%Y-%m-%d %H:%M} UTC; windows that begin later count"
        )
    if report.undefined and metric == report.primary:
        return f"{report.undefined}; no other window of the present champion can tell"
    return (
        f"{metric}: no window of the present champion has enough labels; this one is {report.maturity} with "
        f"{report.labelled_rows} of {report.rows} labels, at least {case.min_labelled_rows} are needed"
    )


def _named(report: PerformanceReport, case: Case) -> str:
    """The window that speaks; where it is an earlier one, why the present window does not."""
    name, present = report.window.name, case.evidence.performance
    if report.window == case.evidence.window:
        return name
    if present is not None and present.undefined:
        return f"{name}, the latest that can tell (in this window {present.undefined}),"
    if present is None:
        return f"{name}, the latest that can tell (this window was not measured),"
    return (
        f"{name}, the latest that can tell (this window is {present.maturity} with {present.labelled_rows} of "
        f"{present.rows} labels),"
    )


def judge_breach(rule: MetricBreach, case: Case) -> Finding:
    speaking = speaking_windows(case, rule.metric)
    higher = HIGHER_IS_BETTER[rule.metric]
    found, level = _breaches(rule, [value.value for _, value in speaking])
    side, bad = ("below", "<") if higher else ("above", ">")
    wish = f"would retrain at {rule.metric} {bad} {level:g}{rule.persistence}"
    if not speaking:
        return one_finding(rule.trigger, False, silence(case, rule.metric), wish)
    past = found[-rule.m :]
    holds = past[-1] and sum(past) >= rule.k
    report, value = speaking[-1]
    position = f"is {side}" if past[-1] else f"is not {side}"
    limit = f"the limit {rule.limit:g}"
    held_against = limit if level == rule.limit else f"{level:g}, which releases a breach of {limit}"
    reason = (
        f"{rule.metric} {_valued(value, level)} in {_named(report, case)} {position} {held_against}; "
        f"{_counted(past, rule, 'past it')}"
    )
    keep = f"would not retrain at {rule.metric} {'≥' if higher else '≤'} {level:g}"
    return one_finding(rule.trigger, holds, reason, keep if holds else wish)


def _breaches(rule: MetricBreach, values: Sequence[float]) -> tuple[list[bool], float]:
    """Which windows are in breach, past the limit or not yet back past its release, and what the latest is held against."""
    higher, level, breached, found = HIGHER_IS_BETTER[rule.metric], rule.limit, False, []
    for value in values:
        level = rule.limit if rule.release is None or not breached else rule.release
        breached = is_worse(value, level, higher)
        found.append(breached)
    return found, level


def judge_shift(rule: MetricShift, case: Case) -> Finding:
    speaking = speaking_windows(case, rule.metric)
    if rule.always_valid and speaking:
        return judge_lasting_shift(rule, case, speaking)
    judged = [_shift(rule, case, report, value) for report, value in speaking[-rule.m :]]
    known = [shift for shift in judged if shift is not None]
    if not speaking:
        return one_finding(rule.trigger, False, silence(case, rule.metric), "")
    if not known or judged[-1] is None:
        reason = f"{rule.metric}: no past level to compare with yet, three closed windows make one"
        return one_finding(rule.trigger, False, reason, "")
    past = [shift.worse >= rule.margin and shift.worse > 0 and shift.p_value <= rule.alpha for shift in known]
    holds = past[-1] and sum(past) >= rule.k
    (report, value), (level, worse, p_value) = speaking[-1], known[-1][:3]
    direction = "worse" if worse >= 0 else "better"
    reason = (
        f"{rule.metric} {_valued(value, level.value)} in {_named(report, case)} is {beside(abs(worse), rule.margin)} "
        f"{direction} than its best past level {level.value:.4g} "
        f"(p={beside(p_value, rule.alpha, 2)}; margin {rule.margin:g}, alpha {rule.alpha:g}); "
        f"{_counted(past, rule, 'shifted')}{'' if past[-1] else _blindness(rule, value, known[-1])}"
    )
    return one_finding(rule.trigger, holds, reason, _beyond(rule, known[-1], holds))


def _beyond(rule: MetricShift, shift: "_Shift", holds: bool) -> str:
    """From where on the latest window counts as shifted, by margin and significance; nothing where it never would."""
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


class _Shift(NamedTuple):
    """One window against the windows before it, and what it could have shown."""

    level: MetricValue
    worse: float
    p_value: float
    smallest: float
    significant: float
    noise: float | None
    windows: int


def _shift(rule: MetricShift, case: Case, report: PerformanceReport, value: MetricValue) -> _Shift | None:
    """None while there is no level."""
    before = [earlier for earlier in case.history.performances if earlier.window < report.window]
    best = best_past_level(before, rule.metric, case.min_labelled_rows)
    if best is None:
        return None
    level = best[0]
    noise, windows = noise_before_collapse(closed_values(before, rule.metric, case.min_labelled_rows))
    worse = level.value - value.value if value.higher_is_better else value.value - level.value
    against = (value, level, noise, windows)
    smallest, significant = (least(*against, alpha=rule.alpha) for least in (smallest_shift, significant_shift))
    return _Shift(level, worse, shift_p_value(*against), smallest, significant, noise, windows)


def _blindness(rule: MetricShift, value: MetricValue, shift: _Shift) -> str:
    """What the window is too small to show, where a worsening as large as the margin is."""
    if rule.margin <= 0 or shift.smallest <= rule.margin:
        return ""
    needed = labels_needed(rule.margin, value, shift.level, shift.noise, shift.windows, rule.alpha)
    none = "no number of labels would do, as windows or their level vary by too much"
    remedy = f"about {needed:,} labels would do" if needed else none
    return (
        f"; insufficient: {value.rows:,} labels would show a worsening from {beside(shift.smallest, rule.margin, 2)} on, "
        f"{rule.margin:g} is asked for; {remedy}"
    )


def _valued(value: MetricValue, level: float) -> str:
    """The metric as it stands to what it is held against."""
    interval = f"{value.confidence:.0%} interval {value.low:.4g} to {value.high:.4g}"
    return f"{beside(value.value, level)} ({interval}, {value.rows} labels)"


def _counted(past: Sequence[bool], rule: Persistent, what: str) -> str:
    return f"{sum(past)} of the last {len(past)} windows {what}, {rule.k} of {rule.m} and the latest are needed"
