"""One look at a running rollout: the guardrails of the window, and the verdict on all labelled rows so far.

Before labels mature only guardrails that need none are judged. Pairs, which cost no exposure, are evidence where answers
do not change what is observed; otherwise the arms that each version served are compared.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation import rollout_evidence
from tasks.adapters.evaluation.rollout_labels import (
    LabelledArms,
    LabelledPairs,
    LabelledSpan,
    labelled_arms,
    labelled_pairs,
)
from tasks.policy.comparison import plan
from tasks.policy.comparison.evidence import Evidence, why_not_paired
from tasks.policy.comparison.guardrails import judge_guardrails
from tasks.policy.comparison.plan import ExpectedTraffic, RolloutForecast
from tasks.policy.comparison.verdict import RolloutVerdict, decide_verdict
from tasks.policy.evidence.ledger import Past, windows_to_exclude
from tasks.policy.evidence.monitoring import Judgement, latest_performances
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.records.base import Window, from_json
from tasks.policy.records.reports import LatencyComparison, MetricValue, PerformanceReport, Scoring, scoring_id
from tasks.policy.rollout.state import RolloutLook, RolloutState
from tasks.policy.rollout.traffic import sample_ratio_mismatch


def look_at(config: ModelConfig, state: RolloutState, past: Past, window: Window, as_of: datetime) -> RolloutLook:
    """Measure and judge a window of a rollout. Nothing that became known after `as_of` is read."""
    plan = state.plan
    excluding = windows_to_exclude(past.entries, as_of)
    look = RolloutLook(plan.decision_id, state.step, window, as_of)
    if window.name in excluding:
        return replace(look, unevaluated=(f"{window.name} is quarantined, so the rollout is not judged on it",))
    validation, timings = _validation(past, plan.decision_id), _timings(config, past, window)
    answers = rollout_evidence.measure_answers(config, window, validation, timings)
    span = Window(plan.started_at - config.settling - timedelta(days=config.window_days), window.end)
    labelled = LabelledSpan(span, as_of, _closed(past, span), excluding)
    units = rollout_evidence.assigned_units(config, state, labelled) if state.current.share else None
    mismatch = _mismatch(config, state, units) if units else None
    rows, why_not = (None, mismatch) if mismatch else _labelled_rows(config, state, labelled)
    evidence = rows.gain(config.primary_metric) if rows else None
    if evidence and any(window < each.window for each in state.looks):
        evidence, why_not = None, "a later window was judged before, and its verdict stands"
    unevaluated = (why_not,) if why_not else ()
    look = replace(look, mismatch=mismatch, units=units[1] if units else None)
    found = _verdict(config, state, evidence)
    if answers is None:
        nothing = f"version {plan.version} answered nothing in {window.name}: no traffic, no verdict"
        return replace(look, evidence=evidence, verdict=found, unevaluated=(nothing, *unevaluated))
    if rows is not None:
        earlier = sum(each.evidence is not None for each in state.looks)
        answers = replace(answers, labelled=rollout_evidence.measure_labelled(config, rows, earlier + 1))
    breaches = judge_guardrails(config.rollout.guardrails, answers)
    return replace(
        look, guardrails=answers, breaches=breaches, evidence=evidence, verdict=found, unevaluated=unevaluated
    )


def _verdict(config: ModelConfig, state: RolloutState, evidence: Evidence | None) -> RolloutVerdict | None:
    """Judge the evidence; None without a plan.

    Where the pairs of the shadow decide, the plan is for pairs. Far more served rows would be needed for the same verdict,
    so these can only speak against the challenger.
    """
    forecast = state.plan.forecast
    if evidence is None or forecast is None:
        return None
    found = decide_verdict(config.rollout.verdict, forecast, state.evidence, evidence)
    decided_by_pairs = not config.rollout.feedback and not evidence.paired
    return None if decided_by_pairs and found.conclusion != "worse" else found


def _mismatch(config: ModelConfig, state: RolloutState, units: tuple[int, int]) -> str | None:
    """Return why the units that the step's versions answered are no fair sample of the traffic, in a sentence."""
    found = sample_ratio_mismatch(state.current.share, *units, config.rollout.control)
    return found and (
        f"{found}, so the versions cannot be compared; look for lost logs, and for requests that bypass the split"
    )


def _labelled_rows(
    config: ModelConfig, state: RolloutState, at: LabelledSpan
) -> tuple[LabelledPairs | LabelledArms | None, str | None]:
    """Return (the rows to compare on, None), or (None, why there are none)."""
    if state.current.mode == "shadow":
        refusal = why_not_paired(config.rollout.feedback)
        pairs = None if refusal else labelled_pairs(config, state.plan, at)
        return pairs, refusal or (None if pairs else "no labels of rows that both versions predicted have matured")
    arms = labelled_arms(config, state.plan, at)
    return arms, None if arms else "no labels of rows that both versions served have matured"


def forecast_rollout(config: ModelConfig, past: Past, validation: ValidationReport) -> RolloutForecast | None:
    """Return what the verdict will need, from the spread that validation measured; None where it measured none."""
    primary = next((item for item in validation.differences if item.slice_name is None), None)
    if primary is None:
        return None
    policy, steps, days = config.rollout.verdict, config.rollout.steps, config.window_days
    judgements = _judgements(past)
    rows = judgements[-1].evidence.rows / judgements[-1].evidence.window.days if judgements else 0.0
    rows = rows or validation.rows / max(config.validation.holdout_days, days)
    share = steps[-1].share if config.rollout.feedback else None
    found: tuple[float, float, int] = (primary.low, primary.high, primary.rows)
    confidence = config.validation.confidence
    if share is not None:
        realised = _realised(judgements, config.performance.metric)
        if realised is not None:
            found, confidence = (realised.low, realised.high, realised.rows), realised.confidence
        elif validation.constant is not None:
            found = (validation.constant.low, validation.constant.high, validation.constant.rows)
    sigma = plan.unit_sigma(*found, confidence)
    by_day = policy.cluster == "day"
    traffic = ExpectedTraffic(
        units_per_day=1.0 if by_day else rows,
        window_days=days,
        label_delay_days=config.columns.label_delay / timedelta(days=1),
        share=share,
        usd_per_metric_unit=config.budget.value_usd_per_metric_unit_per_day,
    )
    margin = policy.margin or config.validation.margin(primary.name, primary.champion)
    return plan.forecast(policy, margin, sigma / max(rows, 1.0) ** 0.5 if by_day else sigma, traffic)


def _validation(past: Past, decision_id: str) -> ValidationReport:
    kinds = ("challenger.validated", "challenger.refused")  # a warning is promoted with an override
    verdicts = [entry for entry in past.of(*kinds) if entry.decision_id == decision_id]
    return from_json(ValidationReport, verdicts[-1].body)


def _timings(config: ModelConfig, past: Past, window: Window) -> LatencyComparison | None:
    """Return how long both versions took when the window was scored; None where a gateway answered."""
    wanted = scoring_id(config.name, window)
    scored = [from_json(Scoring, entry.body) for entry in past.of("window.scored") if entry.decision_id == wanted]
    return next((each.challenger.compared for each in reversed(scored) if each.challenger), None)


def _closed(past: Past, span: Window) -> tuple[Window, ...]:
    """Return the windows of the span whose labels have arrived."""
    recent = [judgement for judgement in _judgements(past) if judgement.as_of > span.start]
    reports: tuple[PerformanceReport, ...] = latest_performances(recent)
    return tuple(report.window for report in reports if report.maturity == "closed" and report.has_sound_labels)


def _realised(judgements: list[Judgement], metric: str) -> MetricValue | None:
    """Return the latest realised value of the metric, with its interval."""
    reports = latest_performances(judgements[-5:])
    values = [report.metric(metric) for report in reports]
    return next((value for value in reversed(values) if value is not None and not value.estimated), None)


def _judgements(past: Past) -> list[Judgement]:
    return [from_json(Judgement, entry.body) for entry in past.of("window.judged")[-20:]]
