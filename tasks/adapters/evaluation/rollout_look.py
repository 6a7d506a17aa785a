"""One look at a running rollout: the guardrails of the window, and the verdict on all labelled rows so far.

Before labels mature only guardrails that need none are judged. Pairs, which cost no exposure, are evidence where answers
do not change what is observed; otherwise the arms that each version served are compared.
"""

from datetime import datetime, timedelta

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation import rollout_evidence
from tasks.adapters.evaluation.rollout_evidence import LabelledSpan
from tasks.policy.records.base import Window, from_json
from tasks.policy.records.evidence import (
    Judgement,
    Past,
    ValidationReport,
    latest_performances,
    scoring_id,
    windows_to_exclude,
)
from tasks.policy.records.reports import Latency, PerformanceReport, Scoring
from tasks.policy.rollout import verdict
from tasks.policy.rollout.guardrails import judge_guardrails
from tasks.policy.rollout.stages import RolloutLook, RolloutState
from tasks.policy.rollout.verdict import Evidence, ExpectedTraffic, RolloutForecast

DAY = timedelta(days=1)


def look_at(config: ModelConfig, state: RolloutState, past: Past, window: Window, as_of: datetime) -> RolloutLook:
    """Measure and judge a window of a rollout. Nothing that became known after `as_of` is read."""
    plan = state.plan
    excluding = windows_to_exclude(past.entries, as_of)
    look = RolloutLook(plan.decision_id, state.step, window, as_of)
    if window.name in excluding:
        return _with(look, unevaluated=(f"{window.name} is quarantined, so the rollout is not judged on it",))
    validation = _validation(past, plan.decision_id)
    span = _span(config, state, window)
    labelled = LabelledSpan(span, as_of, _closed(past, span), excluding)
    answers = rollout_evidence.measure_answers(config, window, validation, _latencies(config, past, window))
    evidence, unevaluated = _evidence(config, state, labelled)
    if answers is None:
        unevaluated = (f"{plan.version} answered nothing in {window.name}: no traffic, no verdict", *unevaluated)
        return _with(look, unevaluated=unevaluated)
    looks = 1 + sum(each.evidence is not None for each in state.looks)
    mature = rollout_evidence.labelled_guardrails(config, plan, labelled, looks) if evidence else None
    answers = rollout_evidence.with_labels(answers, mature)
    breaches = judge_guardrails(config.rollout.guardrails, answers)
    found = None
    if evidence is not None and plan.forecast is not None:
        found = verdict.decide_verdict(config.rollout.verdict, plan.forecast, state.evidence, evidence)
    return RolloutLook(
        look.rollout, look.step, window, as_of, answers, breaches, evidence, found, unevaluated
    )
