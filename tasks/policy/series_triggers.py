"""Whether conditions hold that weigh the champion's whole series of windows: decay, adaptive change, regret in money.

The series are the windows that may speak for a metric (`metric_triggers.py`), each as its loss above the best past
level of closed windows before the champion began, so that a champion that started badly is not its own measure.
"""

import math

from tasks.policy.conditions import Adaptive, MetricDecay, RegretExceedsCost
from tasks.policy.findings import Case, Finding, one_finding
from tasks.policy.lasting_shift import NO_NOISE, describe_sure, sure_level
from tasks.policy.metric_triggers import silence, speaking_windows
from tasks.policy.performance import LEVEL_WINDOWS, best_past_level, closed_values, window_noise
from tasks.policy.reports import MetricValue, PerformanceReport
from tasks.policy.sequential import AdaptiveWindow, confidence_sequence

NOISE_RANGE = 6
"""An adaptive window expects values within a range of 1: six standard deviations of one window's noise."""
NO_LEVEL = "no past level to compare with yet, three closed windows make one"


def excess_losses(case: Case, metric: str) -> tuple[MetricValue, list[tuple[PerformanceReport, float]]] | None:
    """(best past level, the champion's windows with how much worse than it each was); None without a level."""
    speaking = speaking_windows(case, metric)
    started = speaking[0][0].window if speaking and case.history.champion_since else None
    closed = _closed(case)
    before = [report for report in closed if started and report.window < started]
    best = best_past_level(before, metric, case.min_labelled_rows)
    best = best or best_past_level(closed, metric, case.min_labelled_rows)
    if best is None:
        return None
    sign = -1 if best[0].higher_is_better else 1
    return best[0], [(report, sign * (value.value - best[0].value)) for report, value in speaking]


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
    return window_noise([value.value for value in closed_values(_closed(case), metric, case.min_labelled_rows)])


def judge_adaptive(rule: Adaptive, case: Case) -> Finding:
    """ADWIN over the champion's windows, in units of their noise; only a change for the worse counts."""
    found, noise = excess_losses(case, rule.metric), _noise(case, rule.metric)
    if found is None or noise is None or not found[1]:
        missing = NO_LEVEL if found is None or noise is None else silence(case, rule.metric)
        return one_finding(rule.trigger, False, f"{rule.metric}: {missing}", "")
    window, dropped, before = AdaptiveWindow(rule.delta), False, 0.0
    scale = NOISE_RANGE * noise or 1.0
    for _, worse in found[1]:
        mean_before = window.mean
        if window.update(worse / scale):
            dropped, before = True, mean_before * scale
    worse_now = dropped and window.mean * scale > before
    now = window.mean * scale
    change = f"changed from {before:.4g} to {now:.4g}" if dropped else f"has not changed, {now:.4g}"
    reason = (
        f"{rule.metric}: the loss above the best past level {found[0].value:.4g} {change} "
        f"over {len(found[1])} windows of the champion (adaptive window of {window.width}, delta {rule.delta:g})"
    )
    return one_finding(rule.trigger, worse_now, reason, "")


def judge_regret(rule: RegretExceedsCost, case: Case) -> Finding:
    """Loss above the best past level in money, accumulated since the champion began and never below zero."""
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
    for seen, worse in found[1]:
        regret_usd = max(0.0, regret_usd + worse * price * seen.window.days)
    needed_usd = rule.factor * case.cost_usd
    holds = regret_usd >= needed_usd and regret_usd > 0
    reason = (
        f"regret of {regret_usd:,.2f} USD since the champion began ({len(found[1])} windows against {report.primary} "
        f"{found[0].value:.4g}), a retrain is expected to cost {case.cost_usd:,.2f} USD; {needed_usd:,.2f} USD are "
        "needed"
    )
    latest = found[1][-1][1] if found[1] else 0.0
    wish = f"would retrain from a regret of {needed_usd:,.2f} USD"
    if latest > 0:
        days = math.ceil((needed_usd - regret_usd) / (latest * price)) if price else 0
        wish += f", in {days} days if the latest window's loss stays" if days > 0 else ""
    return one_finding(rule.trigger, holds, reason, "" if holds else wish)
