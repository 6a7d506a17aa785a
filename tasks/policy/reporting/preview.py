"""Describe what a retrain, a promotion or a rollback would do now.

The sentences come from the same decisions that the run uses, so preview and run differ only by events in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.comparison.plan import RolloutForecast, horizon_warning
from tasks.policy.economics.costs import Budget, over_budget
from tasks.policy.evidence.monitoring import Placement
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window
from tasks.policy.records.reports import Snapshot
from tasks.policy.rollout.restorable import RollbackPlan
from tasks.policy.rollout.stages import RolloutPolicy, why_wait
from tasks.policy.rollout.state import RolloutState


@dataclass(frozen=True, slots=True)
class Preview:
    """`refusals` are sentences on what would stop the run; `reasons` describe what it would do, and with which data."""

    model: str
    action: str
    refusals: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The result in one line."""
        if self.refusals:
            return f"{self.action} of {self.model} would not happen: {self.refusals[0]}"
        return f"{self.action} of {self.model} would go ahead: {self.reasons[0]}"


def describe_training_data(training: Snapshot, holdout: Snapshot, champion: ModelVersion) -> str:
    """Describe the rows that train a successor and the rows that validate it."""
    return (
        f"it would train on {training.labelled_rows or 0:,} labelled rows of {training.rows:,} in {training.window.name} "
        f"(version {training.version} of {training.uri}) and be compared with champion "
        f"{champion.version} on {holdout.labelled_rows or 0:,} rows of {holdout.window.name}; labels that arrived since "
        "the last run would be added"
    )


def describe_first_training_data(history: Window, rows: int, holdout_days: float) -> str:
    """Describe the rows of a first model, which are not stored yet."""
    return (
        f"it would be the first model: {rows:,} rows of {history.name} would be stored; it would be trained on the labelled "
        f"ones before the last {holdout_days:g} days and validated on the rest"
    )


def too_few_rows(training: Snapshot, min_rows: int) -> str | None:
    """Why training would refuse these rows; None if there are enough."""
    known = training.labelled_rows or 0
    if known >= min_rows:
        return None
    return f"{known:,} labelled rows are known in {training.window.name}, expected at least {min_rows:,} (training.min_rows)"


def describe_cost(budget: Budget, spent_usd: float, cost_usd: float | None) -> str:
    """Describe the cost forecast and the rest of the month's budget."""
    forecast = "no cost is forecast before a first retrain" if cost_usd is None else f"about {cost_usd:,.2f} USD"
    if budget.max_usd_per_month is None:
        return f"cost: {forecast}; no monthly limit is set, {spent_usd:,.2f} USD were spent in the last 30 days"
    verdict = "refuses it" if over_budget(budget, spent_usd, cost_usd) else "allows it"
    return (
        f"cost: {forecast}; {spent_usd:,.2f} of {budget.max_usd_per_month:,.2f} USD are spent in 30 days, "
        f"so the budget {verdict}"
    )


def describe_place(placement: Placement) -> str:
    """Describe the place that a decision of `monitor` would choose."""
    hours = f", about {placement.hours:.2g} h" if placement.hours is not None else ""
    return f"place: {placement.place}{hours}, since {'; '.join(placement.reasons)}"


def describe_validation(validation: ValidationReport) -> tuple[str, ...]:
    """The verdict on a challenger and all its sentences."""
    return (f"validation: {validation.verdict} on {validation.rows:,} rows", *validation.reasons)


def describe_start(version: str, champion: str | None, policy: RolloutPolicy, rollout: RolloutState | None) -> str:
    """What the promotion of a validated version would do first: begin its rollout, take a served step, or move the aliases."""
    if rollout is not None and rollout.status == "awaiting_approval":
        following = rollout.plan.steps[rollout.step + 1].name
        return f"version {version} would go to {following}, its first step that serves, beside champion {champion}"
    if rollout is None and champion is not None and policy.steps:
        return f"the rollout of version {version} beside champion {champion} would begin with {policy.steps[0].name}"
    replaced = f"champion {champion} would become previous" if champion else "it would be the first champion"
    return f"version {version} would serve and {replaced}"


def why_not_started(rollout: RolloutState | None, policy: RolloutPolicy, at: datetime) -> str | None:
    """Why the promotion of a version whose rollout has begun would change nothing now; None if it would."""
    if rollout is None or rollout.status in ("awaiting_approval", "passed"):
        return None
    version, end = rollout.plan.version, rollout.end
    if end is not None:
        return None if end.end == "promoted" else f"the rollout of version {version} ended, {end.end}: {end.reasons[0]}"
    return (
        f"the rollout of version {version} is {rollout.status} ({why_wait(policy, rollout, at) or rollout.current.name}); "
        "`monitor` carries it on"
    )


def describe_rollout(policy: RolloutPolicy, forecast: RolloutForecast | None) -> tuple[str, ...]:
    """The steps of the rollout that would begin, and what its verdict needs."""
    steps = ", then ".join(step.name for step in policy.steps)
    if forecast is None:
        return (f"rollout: {steps}",)
    exposed = (
        ""
        if not forecast.exposed_usd
        else f"; a loss of the margin would cost {forecast.exposed_usd:,.2f} USD meanwhile"
    )
    needs = f"a verdict needs about {forecast.units:,} units and {forecast.days:,.3g} days{exposed}"
    warning = horizon_warning(forecast, policy.max_days)
    return (f"rollout: {steps}; {needs}", *([warning] if warning else []))


def describe_rollback(plan: RollbackPlan) -> str:
    """Describe which version a rollback restores and which one it quarantines."""
    if plan.champion is None or plan.previous is None:
        return "no version would be restored"
    answers = "" if plan.refusal else "answers and "
    return f"version {plan.previous} {answers}would serve again; version {plan.champion} would be quarantined"


def collect_refusals(refusals: Sequence[str | None]) -> tuple[str, ...]:
    """The given refusals without None."""
    return tuple(refusal for refusal in refusals if refusal)
