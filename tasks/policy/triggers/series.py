"""Triggers on all windows of the champion: a change found by an adaptive window, and regret in money.

The series are the windows that count for a metric (`metric.py`). Regret is measured against models when they were
fresh, before the champion started, so that a champion with a bad start is not its own reference. That level is a mean
over windows chosen by time. The best of past levels would be partly luck, and a stable model would accumulate regret
against it in every window.
"""

import math
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from tasks.policy.monitoring.performance import LEVEL_WINDOWS, closed_values, fresh_windows, noise_before_collapse
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.triggers.base import Case, Trigger, TriggerResult
from tasks.policy.triggers.metric import MetricTrigger, closed_windows, eligible_windows, why_none_counts
from tasks.policy.triggers.metric_shift import NO_LEVEL, NO_NOISE

NOISE_RANGE = 6
"""Scale of ADWIN's input: it expects values within a range of 1, set to six standard deviations of a window's noise."""


class Adaptive(MetricTrigger):
    """ADWIN, an adaptive window, finds that the champion's metric has changed for the worse."""

    example: ClassVar[str] = "{trigger: adaptive, metric: roc_auc, delta: 0.05}"
    trigger: Literal["adaptive"]
    metric: str
    """The metric."""
    delta: float = Field(0.05, gt=0, lt=1)
    """Probability of a false alarm."""

    def describe(self) -> str:
        return f"an adaptive window detects that {self.metric} has changed for the worse"

    def judge(self, case: Case) -> TriggerResult:
        """Run ADWIN over the champion's windows, in units of their noise; only a change for the worse counts."""
        eligible = eligible_windows(case, self.metric)
        noise = noise_before_collapse(closed_values(closed_windows(case), self.metric, case.min_labelled_rows))
        if noise is None or not eligible:
            return self.result(False, f"{self.metric}: {NO_NOISE}" if eligible else why_none_counts(case, self.metric))
        # river takes a second to import: only for a model that uses this trigger
        from river.drift import ADWIN

        window = ADWIN(self.delta, clock=1, grace_period=0, min_window_length=1)  # checks after every value
        dropped, before = False, 0.0
        sign = -1 if eligible[-1][1].higher_is_better else 1
        scale = sign * (NOISE_RANGE * noise.sigma or 1.0)
        for _, value in eligible:
            mean_before = window.estimation
            window.update(value.value / scale)
            if window.drift_detected:
                dropped, before = True, mean_before * scale
        now = window.estimation * scale
        worse_now = dropped and sign * now > sign * before
        change = f"changed from {before:.4g} to {now:.4g}" if dropped else f"has not changed, {now:.4g}"
        reason = (
            f"{self.metric} {change} over {len(eligible)} windows of the champion "
            f"(adaptive window of {window.width}, delta {self.delta:g})"
        )
        return self.result(worse_now, reason)


class RegretExceedsCost(Trigger):
    """The champion's accumulated loss above that of fresh models is worth more than a retrain costs."""

    example: ClassVar[str] = "{trigger: regret_exceeds_cost, factor: 1}"
    judges_performance = True
    trigger: Literal["regret_exceeds_cost"]
    factor: float = Field(1.0, gt=0)
    """Multiple of a retrain's cost that the regret must reach."""

    def describe(self) -> str:
        return f"the regret of not retraining reaches {self.factor:g} times its cost"

    def judge(self, case: Case) -> TriggerResult:
        """Accumulate, in USD, the loss above the level of fresh models since the champion started, floored at 0."""
        report, price = case.evidence.performance, case.budget.value_usd_per_metric_unit_per_day
        if report is None or price is None or case.cost_usd is None:
            lacking = {
                "the window's performance": report,
                "budget.value_usd_per_metric_unit_per_day": price,
                "the cost of a retrain": case.cost_usd,
            }
            names = ", ".join(name for name, value in lacking.items() if value is None)
            return self.result(False, f"regret: unknown without {names}")
        found = excess_losses(case, report.primary)
        if found is None:
            return self.result(False, f"regret: {NO_LEVEL}")
        regret_usd = 0.0
        for seen, worse in found.series:
            regret_usd = max(0.0, regret_usd + worse * price * seen.window.days)
        needed_usd = self.factor * case.cost_usd
        holds = regret_usd >= needed_usd and regret_usd > 0
        reason = (
            f"regret of {regret_usd:,.2f} USD since the champion took over ({len(found.series)} windows against "
            f"{report.primary} {found.level:.4g} of fresh models), a retrain is expected to cost {case.cost_usd:,.2f} USD; "
            f"{needed_usd:,.2f} USD are needed"
        )
        latest = found.series[-1][1] if found.series else 0.0
        would_retrain = f"would retrain from a regret of {needed_usd:,.2f} USD"
        if latest > 0:
            days = math.ceil((needed_usd - regret_usd) / (latest * price)) if price else 0
            would_retrain += f", in {days} days if the latest window's loss persists" if days > 0 else ""
        return self.result(holds, reason, "" if holds else would_retrain)


class Excess(NamedTuple):
    """The level, the deviations of the windows that define it, and the champion's windows with their deviations."""

    level: float
    """In units of the metric."""
    fresh: list[float]
    """Deviation of each window that defines the level; positive is worse."""
    series: list[tuple[PerformanceReport, float]]


def excess_losses(case: Case, metric: str) -> Excess | None:
    """The champion against fresh models before it, else against its own first windows; None with fewer than three."""
    eligible, closed, floor = eligible_windows(case, metric), closed_windows(case), case.min_labelled_rows
    started = eligible[0][0].window if eligible and case.history.champion_since else None
    fresh = fresh_windows([report for report in closed if started and report.window < started], metric, floor)
    fresh = fresh if len(fresh) >= LEVEL_WINDOWS else fresh_windows(closed, metric, floor)
    if len(fresh) < LEVEL_WINDOWS:
        return None
    level, sign = sum(value.value for _, value in fresh) / len(fresh), -1 if fresh[0][1].higher_is_better else 1
    own = {report.window for report, _ in fresh}
    return Excess(
        level,
        [sign * (value.value - level) for _, value in fresh],
        [(report, sign * (value.value - level)) for report, value in eligible if report.window not in own],
    )
