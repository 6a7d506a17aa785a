"""Whether conditions hold that weigh the champion's whole series of windows: decay, adaptive change, regret in money.

The series are the windows that may speak for a metric (`metric_triggers.py`). What is summed up in money is held against
what models did when they were fresh, before the champion began, so that a champion that started badly is not its own
measure. That level is a mean over windows chosen by time: the best of past levels is partly luck, and a model as good
as ever would seem to lose money to it window after window.
"""

import math
from typing import NamedTuple

from tasks.policy.monitoring.performance import LEVEL_WINDOWS, closed_values, fresh_windows, noise_before_collapse
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.statistics.sequential import confidence_sequence
from tasks.policy.triggers.conditions import Adaptive, MetricDecay, RegretExceedsCost
from tasks.policy.triggers.metric import silence, speaking_windows
from tasks.policy.triggers.result import Case, Finding, one_finding
from tasks.policy.triggers.sequential_shift import NO_NOISE, describe_sure, sure_level

NOISE_RANGE = 6
"""An adaptive window expects values within a range of 1: six standard deviations of one window's noise."""
NO_LEVEL = "no past level to compare with yet, three closed windows make one"


class Excess(NamedTuple):
    """The champion's windows with how much worse than the level each was, and what the level is the mean of."""

    level: float
    """In units of the metric."""
    fresh: list[float]
    """How much worse than the level the windows were that make it."""
    series: list[tuple[PerformanceReport, float]]


def excess_losses(case: Case, metric: str) -> Excess | None:
    """The champion against fresh models before it, else against its own first windows; None before three are closed."""
    speaking, closed, floor = speaking_windows(case, metric), _closed(case), case.min_labelled_rows
    started = speaking[0][0].window if speaking and case.history.champion_since else None
    fresh = fresh_windows([report for report in closed if started and report.window < started], metric, floor)
    fresh = fresh if len(fresh) >= LEVEL_WINDOWS else fresh_windows(closed, metric, floor)
    if len(fresh) < LEVEL_WINDOWS:
        return None
    level, sign = sum(value.value for _, value in fresh) / len(fresh), -1 if fresh[0][1].higher_is_better else 1
    own = {report.window for report, _ in fresh}
    return Excess(
        level,
        [sign * (value.value - level) for _, value in fresh],
        [(report, sign * (value.value - level)) for report, value in speaking if report.window not in own],
    )


def judge_decay(rule: MetricDecay, case: Case) -> Finding:
    """A confidence sequence over all windows of the champion against the best that windows before it surely had."""
    served, closed = speaking_windows(case, rule.metric), _closed(case)
    if not served:
        return one_finding(rule.trigger, False, silence(case, rule.metric), "")
    known = closed_values(closed, rule.metric, case.min_labelled_rows)
    before = [report for report in closed if report.window < served[0][0].window]
    past = closed_values(before, rule.metric, case.min_labelled_rows)
    level = sure_level(past if len(past) >= LEVEL_WINDOWS else known, known, rule.alpha)
    if level is None:
        return one_finding(rule.trigger, False, f"{rule.metric}: {NO_NOISE}", "")
    higher = served[-1][1].higher_is_better
    losses = [-value.value if higher else value.value for _, value in served]
    present = confidence_sequence(losses, rule.alpha, level.sigma, tuned_for=10)[-1]
    holds = present.low > level.loss + rule.margin
    reason, wish = describe_sure(rule, f"{len(served)} windows", present, level.loss, higher)
    return one_finding(rule.trigger, holds, reason, "" if holds else wish)


def _closed(case: Case) -> list[PerformanceReport]:
    """Of all champions, before the window at hand."""
    found = [report for report in case.history.performances if report.window < case.evidence.window]
    return [report for report in found if report.maturity == "closed"]


def _noise(case: Case, metric: str) -> float | None:
    """Of one window, from all closed windows before the one at hand; None while too few are known."""
    return noise_before_collapse(closed_values(_closed(case), metric, case.min_labelled_rows))[0]


def judge_adaptive(rule: Adaptive, case: Case) -> Finding:
    """ADWIN over the champion's windows, in units of their noise; only a change for the worse counts."""
    served, noise = speaking_windows(case, rule.metric), _noise(case, rule.metric)
    if noise is None or not served:
        missing = f"{rule.metric}: {NO_NOISE}" if served else silence(case, rule.metric)
        return one_finding(rule.trigger, False, missing, "")
    from river.drift import ADWIN  # takes a second to import: only for a model whose file asks for it

    window = ADWIN(rule.delta, clock=1, grace_period=0, min_window_length=1)  # looks after every value
    dropped, before = False, 0.0
    sign = -1 if served[-1][1].higher_is_better else 1
    scale = sign * (NOISE_RANGE * noise or 1.0)
    for _, value in served:
        mean_before = window.estimation
        window.update(value.value / scale)
        if window.drift_detected:
            dropped, before = True, mean_before * scale
    now = window.estimation * scale
    worse_now = dropped and sign * now > sign * before
    change = f"changed from {before:.4g} to {now:.4g}" if dropped else f"has not changed, {now:.4g}"
    reason = (
        f"{rule.metric} {change} over {len(served)} windows of the champion "
        f"(adaptive window of {window.width}, delta {rule.delta:g})"
    )
    return one_finding(rule.trigger, worse_now, reason, "")


def judge_regret(rule: RegretExceedsCost, case: Case) -> Finding:
    """Loss above what models had when fresh in money, accumulated since the champion began and never below zero."""
    report, price = case.evidence.performance, case.budget.value_usd_per_metric_unit_per_day
    if report is None or price is None or case.cost_usd is None:
        lacking = {
            "the window's performance": report,
            "budget.value_usd_per_metric_unit_per_day": price,
            "the cost of a retrain": case.cost_usd,
        }
        names = ", ".join(name for name, value in lacking.items() if value is None)
        return one_finding(rule.trigger, False, f"regret: not known without {names}", "")
    found = excess_losses(case, report.primary)
    if found is None:
        return one_finding(rule.trigger, False, f"regret: {NO_LEVEL}", "")
    regret_usd = 0.0
    for seen, worse in found.series:
        regret_usd = max(0.0, regret_usd + worse * price * seen.window.days)
    needed_usd = rule.factor * case.cost_usd
    holds = regret_usd >= needed_usd and regret_usd > 0
    reason = (
        f"regret of {regret_usd:,.2f} USD since the champion began ({len(found.series)} windows against {report.primary} "
        f"{found.level:.4g} of fresh models), a retrain is expected to cost {case.cost_usd:,.2f} USD; "
        f"{needed_usd:,.2f} USD are needed"
    )
    latest = found.series[-1][1] if found.series else 0.0
    wish = f"would retrain from a regret of {needed_usd:,.2f} USD"
    if latest > 0:
        days = math.ceil((needed_usd - regret_usd) / (latest * price)) if price else 0
        wish += f", in {days} days if the latest window's loss stays" if days > 0 else ""
    return one_finding(rule.trigger, holds, reason, "" if holds else wish)
