"""Decide whether to retrain: evidence + history + policy → Decision, with reasons in sentences.

A condition requests a retrain; quality, diagnosis, cooldown, monthly cap and budget can block it. A decision not to
retrain is recorded as well, with the evidence, the limits and what would change it.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from pydantic import Field

from tasks.policy.decision.escalation import performance_triggers
from tasks.policy.economics.costs import Budget, over_budget
from tasks.policy.evidence.monitoring import Decision, History, WindowEvidence, newest_labels
from tasks.policy.monitoring.diagnosis import Diagnosis
from tasks.policy.records.base import Settings, Window, digest
from tasks.policy.triggers.base import Case
from tasks.policy.triggers.combinators import Condition
from tasks.policy.triggers.schedule import day, is_reached

MONTH = timedelta(days=30)
ADVISED = "advise_only"
"""`blocked_by` of a decision that people are told, and nothing carries out."""


class RetrainingPolicy(Settings):
    """The condition for a retrain, and the limits that prevent retrains too often or on too little data."""

    when: Condition = Field(examples=[{"trigger": "perennial"}])
    """The condition that requests a retrain."""
    cooldown_days: float = Field(0, ge=0, examples=[14])
    """Refuse a retrain within this many days of the last one."""
    max_retrains_per_month: int | None = Field(None, ge=0, examples=[2])
    """Refuse more than this many retrains in 30 days."""
    min_rows: int = Field(200, ge=1, examples=[1000])
    """With fewer rows in the window, its data triggers nothing."""
    min_labelled_rows: int = Field(200, ge=1, examples=[500])
    """With fewer labels in a window, its performance triggers nothing."""
    escalate_after: int = Field(
        3, ge=1, examples=[2], exclude_if=lambda count: bool(count == 3)
    )  # left out of ids, as always_valid
    """Require action once this many retrains have not brought the metric back within its limit."""
    advise_only: bool = Field(False, examples=[True], exclude_if=lambda only: not only)
    """Judge and tell people when retraining pays, but start nothing. Default with `predictions` and no `training`: true."""

    def metrics(self) -> tuple[str, ...]:
        """Every metric that a condition names."""
        return self.when.metrics()

    @property
    def has_own_trigger(self) -> bool:
        """Whether the condition names a class of the user's own."""
        return any(leaf.is_own for leaf in self.when.leaves())

    def case(
        self,
        evidence: WindowEvidence,
        history: History,
        as_of: datetime,
        budget: Budget | None = None,
        cost_usd: float | None = None,
    ) -> Case:
        """The inputs of this policy's decision; `cost_usd` is the expected cost of a retrain, None while unknown."""
        return Case(evidence, history, as_of, self.min_rows, self.min_labelled_rows, budget or Budget(), cost_usd)


def decision_id(model: str, policy: RetrainingPolicy, window: Window, empty: bool = False) -> str:
    """Id of the decision on a window, the same for the same model, policy and window, so writes are idempotent.

    An `empty` window has an id of its own; once its rows arrive, it is judged as any other.
    """
    return digest(model, digest(policy.model_dump_json()), window.name, *(["empty"] if empty else []))


def decide_retraining(model: str, policy: RetrainingPolicy, case: Case, diagnosis: Diagnosis | None = None) -> Decision:
    """Decide whether to retrain, and why; `case` comes from `policy.case`.

    Pure: the same arguments give the same record, and nothing after `case.as_of` is read.
    """
    evidence, earlier = case.evidence, tuple(moment for moment in case.history.retrained_at if moment < case.as_of)
    case = replace(case, history=replace(case.history, retrained_at=earlier))
    result = policy.when.decide(case)
    block = _data_fault(case, diagnosis)
    would_change = result.would_change
    if result.holds and block is None:
        block = _block(policy, case)
        would_change = (block[2],) if block else would_change
    elif result.go_back_to and block is None:
        block = _too_soon(policy, case) or _advice(policy, f"returning to version {result.go_back_to} pays")
        would_change = (block[2],) if block else would_change
    reasons = (block[1], *result.reasons) if block else result.reasons
    unresolved = case.history.unresolved if performance_triggers(policy.when) & set(result.triggers) else None
    return Decision(
        decision_id=decision_id(model, policy, evidence.window, empty=not evidence.rows),
        model=model,
        window=evidence.window,
        retrain=result.holds and block is None,
        reasons=(*reasons, *([unresolved] if unresolved else [])),
        diagnosis=diagnosis.kind if diagnosis else "none",
        triggers=result.triggers,
        blocked_by=block[0] if block else None,
        expected_cost_usd=case.cost_usd,
        would_change=would_change,
        go_back_to=result.go_back_to if block is None and not result.holds else None,
        unresolved=unresolved,
        details=result.details,
    )


def _data_fault(case: Case, diagnosis: Diagnosis | None) -> tuple[str, str, str] | None:
    """(block, reason, what would change it) if the data cannot be trusted: it must be repaired, never learned from."""
    change = "would judge again once the data is repaired"
    evidence, quality, labels = case.evidence, case.evidence.quality, newest_labels(case.evidence, case.history)
    if quality is None:
        return "quality", f"the data of {evidence.window.name} was not checked, so nothing is decided from it", change
    if quality.verdict == "fail":
        first = quality.reasons[0] if quality.reasons else f"{quality.failing_rows} rows fail"
        return (
            "quality",
            f"the data of {evidence.window.name} failed its quality checks ({first}), so nothing is decided from it",
            change,
        )
    if labels is not None and labels.verdict == "fail":
        first = labels.reasons[0] if labels.reasons else "they failed their checks"
        text = f"the labels of {labels.window.name} cannot be trusted ({first}), so nothing is decided or learned from them"
        return "labels", text, "would judge again once the labels are repaired, or with other limits in quality.labels"
    if diagnosis and diagnosis.kind == "upstream_data_fault":
        why = "the change is an upstream data fault, which retraining cannot repair"
        return "diagnosis", f"{why}: {diagnosis.reasons[0]}", change
    return None


def _block(policy: RetrainingPolicy, case: Case) -> tuple[str, str, str] | None:
    """(block, reason, what would change it) if the condition holds but a limit blocks the retrain."""
    history, window, as_of = case.history, case.evidence.window, case.as_of
    if history.rollout:
        return _rolling_out(history.rollout)
    last = max(history.retrained_at, default=None)
    if last is not None and not is_reached(free := last + timedelta(days=policy.cooldown_days), as_of, window):
        text = f"the last retrain was on {last:%Y-%m-%d}, and the cooldown of {policy.cooldown_days:g} days is not over"
        return "cooldown", text, f"would retrain from {day(free)}, if the condition still holds"
    recent = sorted(moment for moment in history.retrained_at if not is_reached(moment + MONTH, as_of, window))
    cap = policy.max_retrains_per_month
    if cap is not None and len(recent) >= cap:
        text = f"{len(recent)} retrains in the last 30 days, {cap} are allowed"
        free_again = f"from {day(recent[-cap] + MONTH)}" if cap else "with a higher max_retrains_per_month"
        return "max_retrains_per_month", text, f"would retrain {free_again}, if the condition still holds"
    refusal = over_budget(case.budget, history.spent_usd_this_month, case.cost_usd)
    if refusal:
        alone = over_budget(case.budget, 0.0, case.cost_usd)
        later = "" if alone else ", or once enough of the spending is 30 days old"
        return "budget", refusal, f"would retrain with a larger budget{later}"
    return _advice(policy, "retraining pays")


def _advice(policy: RetrainingPolicy, what: str) -> tuple[str, str, str] | None:
    """Where somebody else trains the model, a decision is theirs to carry out."""
    if not policy.advise_only:
        return None
    return (
        ADVISED,
        f"{what}, by the evidence below; nothing is trained here (retraining.advise_only)",
        "would start a retrain with retraining.advise_only: false",
    )


def _rolling_out(rollout: str) -> tuple[str, str, str]:
    """A newer challenger would end the rollout before its verdict, again and again, and none would ever serve."""
    return (
        "rollout",
        f"{rollout}; no other challenger starts before its verdict",
        "would retrain once the rollout has ended",
    )


def _too_soon(policy: RetrainingPolicy, case: Case) -> tuple[str, str, str] | None:
    """The same for a return to an earlier version: the cooldown counts from the last change of champions."""
    since, window = case.history.champion_since, case.evidence.window
    if case.history.rollout:
        return _rolling_out(case.history.rollout)
    if since is None or is_reached(free := since + timedelta(days=policy.cooldown_days), case.as_of, window):
        return None
    text = f"the champion changed on {since:%Y-%m-%d}, and the cooldown of {policy.cooldown_days:g} days is not over"
    return "cooldown", text, f"would return to the earlier version from {day(free)}, if that still pays"
