"""Whether retraining pays, by the model's own policy: evidence and history in, a judgement with its reasons out.

The judgement itself is pure (`tasks.policy.decision.retraining`); this stage gives it what it needs and logs what it said.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import orchestration
from tasks.policy.decision.expected_benefit import describe, expected_benefit, expected_cost
from tasks.policy.decision.retraining import decide_retraining
from tasks.policy.economics.costs import over_budget
from tasks.policy.economics.placement import decide_placement, forecast_rows
from tasks.policy.monitoring.diagnosis import Diagnosis
from tasks.policy.records.evidence import History, Judgement, ModelVersion, WindowEvidence, label_reports
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.triggers.base import Case


@task(cache_policy=NO_CACHE)
def decide(
    config: ModelConfig,
    champion: ModelVersion,
    evidence: WindowEvidence,
    history: History,
    as_of: datetime,
    revised: Sequence[PerformanceReport] = (),
    diagnosis: Diagnosis | None = None,
    registry_changes: Sequence[str] = (),
) -> Judgement:
    """The judgement of one window; `revised` are earlier windows that later labels changed.

    `registry_changes` are told with it and decide nothing.
    """
    kind, told = (diagnosis.kind, diagnosis.explanations) if diagnosis else ("none", ())
    past, policy, budget = history.revised(revised), config.retraining, config.budget
    cost = expected_cost(budget, past, grows=config.training.window_days is None)
    case = Case(evidence, past, as_of, policy.min_rows, policy.min_labelled_rows, budget, cost.usd if cost else None)
    benefit = expected_benefit(case, config.performance.metric, cost)
    decision = decide_retraining(
        config.name,
        policy,
        evidence,
        past,
        as_of,
        budget,
        kind,
        expected_cost_usd=cost.usd if cost else None,
        expected_value_usd=benefit.value.usd if benefit else None,
        fault=diagnosis.reasons[0] if diagnosis and kind == "upstream_data_fault" else "",
        explanations=(*([describe(benefit, budget)] if benefit else []), *told, *_on_labels(evidence, revised)),
    )
    if decision.retrain:
        rows = forecast_rows(history, evidence, config.training.window_days)
        decision = replace(decision, placement=decide_placement(config.placement, rows, config.columns.personal))
    get_run_logger().info("decision: %s, %s", decision.words, decision.reasons[0])
    for change in registry_changes:
        get_run_logger().warning("registry: %s", change)
    return Judgement(
        as_of,
        champion.version,
        evidence,
        decision,
        tuple(revised),
        (*diagnosis.reasons, *told) if diagnosis else (),
        diagnosis.estimate if diagnosis else None,
        diagnosis.estimate_error if diagnosis else None,
        orchestration.events.BACKFILLING.get(),
        tuple(registry_changes),
    )


def _on_labels(evidence: WindowEvidence, revised: Sequence[PerformanceReport]) -> list[str]:
    """What is amiss with the labels of this window, and what has come to light of those of earlier ones."""
    own = (evidence.performance,) if evidence.performance else ()
    found = label_reports((*(report for report in revised if not report.has_sound_labels), *own))
    return [f"{report.window.name}: {reason}" for report in found for reason in report.reasons]


@task(cache_policy=NO_CACHE)
def check_budget(config: ModelConfig, spent_usd: float, next_cost_usd: float | None = None) -> str | None:
    """Why the month's budget refuses a retrain, whoever asks for it; None where it does not."""
    refusal = over_budget(config.budget, spent_usd, next_cost_usd)
    if refusal:
        get_run_logger().warning("budget: %s", refusal)
    return refusal
