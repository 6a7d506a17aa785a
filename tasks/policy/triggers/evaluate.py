"""Whether a condition holds: evidence + history → `Finding` with a sentence and what would change it.

Insufficient drift never triggers; metrics have their own rule (`metric_triggers.py`),
as have what counts from the last training (`since_training.py`) and groups (`groups.py`).
"""

import math

from tasks.policy.records.reports import DriftReport
from tasks.policy.statistics.numbers import beside
from tasks.policy.triggers.combinators import judge_group
from tasks.policy.triggers.conditions import (
    Adaptive,
    AllOf,
    AnyOf,
    Arrival,
    AtLeast,
    Calendar,
    Condition,
    DriftedShare,
    Every,
    MeanShift,
    MetricBreach,
    MetricDecay,
    MetricShift,
    NewRows,
    Perennial,
    Probe,
    RegretExceedsCost,
)
from tasks.policy.triggers.metric import judge_breach, judge_shift
from tasks.policy.triggers.probe import judge_perennial, judge_probe
from tasks.policy.triggers.result import Case, Finding, one_finding
from tasks.policy.triggers.schedule import judge_arrival, judge_calendar, judge_every, judge_new_rows
from tasks.policy.triggers.series import judge_adaptive, judge_decay, judge_regret


def judge(condition: Condition, case: Case) -> Finding:
    """Whether the condition holds, and why."""
    match condition:
        case AnyOf() | AllOf() | AtLeast():
            return judge_group(condition, [judge(part, case) for part in condition.conditions])
        case MetricBreach():
            return judge_breach(condition, case)
        case MetricShift():
            return judge_shift(condition, case)
        case MetricDecay():
            return judge_decay(condition, case)
        case Adaptive():
            return judge_adaptive(condition, case)
        case RegretExceedsCost():
            return judge_regret(condition, case)
        case Probe():
            return judge_probe(condition, case)
        case Perennial():
            return judge_perennial(condition, case)
        case MeanShift():
            return _judge_mean_shift(condition, case)
        case DriftedShare():
            return _judge_drifted_share(condition, case)
        case NewRows():
            return judge_new_rows(condition, case)
        case Arrival():
            return judge_arrival(condition, case)
        case Every():
            return judge_every(condition, case)
        case Calendar():
            return judge_calendar(condition, case)


def _judge_mean_shift(rule: MeanShift, case: Case) -> Finding:
    drift, silence = _drift(case)
    wish = f"would retrain at a mean shift > {rule.sigma:g} σ in any feature"
    if drift is None:
        return one_finding(rule.trigger, False, f"mean shift: {silence}", wish)
    shifts = [
        (abs(feature.mean_shift_sigma), feature.feature)
        for feature in drift.features
        if (feature.verdict != "insufficient" or feature.is_underpowered)
        and feature.mean_shift_sigma is not None
        and not math.isnan(feature.mean_shift_sigma)
    ]
    if not shifts:
        return one_finding(rule.trigger, False, "mean shift: no feature has a mean that could be compared", wish)
    worst, name = max(shifts)
    holds = worst > rule.sigma
    count = sum(shift > rule.sigma for shift, _ in shifts)
    reason = (
        f"the mean of {name} lies {beside(worst, rule.sigma, 2, 'f')} reference σ from the reference's, the largest of "
        f"{len(shifts)} features; {count} past the limit of {rule.sigma:g} σ"
    )
    keep = f"would not retrain at a mean shift ≤ {rule.sigma:g} σ in every feature"
    return one_finding(rule.trigger, holds, reason, keep if holds else wish)


def _judge_drifted_share(rule: DriftedShare, case: Case) -> Finding:
    drift, silence = _drift(case)
    limit = f"{100 * rule.share:g}%"
    wish = f"would retrain at a share of drifted features ≥ {limit}"
    if drift is None:
        return one_finding(rule.trigger, False, f"drift: {silence}", wish)
    count = sum(feature.verdict == "drifted" for feature in drift.features)
    holds = drift.drifted_share >= rule.share
    weighed = " by importance" if any(feature.importance for feature in drift.features) else ""
    reason = (
        f"{count} of {len(drift.features)} features drifted, a share of "
        f"{beside(drift.drifted_share, rule.share, 0, '%')}{weighed}; the limit is {limit}"
    )
    keep = f"would not retrain at a share of drifted features < {limit}"
    return one_finding(rule.trigger, holds, reason, keep if holds else wish)


def _drift(case: Case) -> tuple[DriftReport | None, str]:
    """The drift report where it may trigger, else None and why."""
    drift = case.evidence.drift
    if drift is None:
        return None, "not measured in this window"
    if drift.rows < case.min_rows:
        return None, f"insufficient, {drift.rows} rows in {drift.window.name}, at least {case.min_rows} are needed"
    if not drift.says_something:
        return None, f"insufficient, {'; '.join(drift.reasons[:2]) or f'{drift.rows} rows in {drift.window.name}'}"
    return drift, ""
