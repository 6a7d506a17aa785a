"""Decide whether to retrain, by the model's policy: from evidence and history to a judgement with its reasons.

The decision itself is pure (`tasks.policy.decision.retraining`); this stage collects its inputs and logs the result.
"""

from collections.abc import Sequence
from dataclasses import replace

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters.orchestration.stage import stage
from tasks.policy.decision.expected_benefit import describe, expected_benefit, expected_cost
from tasks.policy.decision.retraining import decide_retraining
from tasks.policy.economics.costs import over_budget
from tasks.policy.economics.placement import decide_placement, forecast_rows
from tasks.policy.evidence.monitoring import Judgement, MonitorRun, WindowEvidence, label_reports
from tasks.policy.monitoring.diagnosis import Diagnosis
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.reporting.decision import headline


@stage
def decide(
    config: ModelConfig,
    run: MonitorRun,
    evidence: WindowEvidence,
    revised: Sequence[PerformanceReport] = (),
    diagnosis: Diagnosis | None = None,
) -> Judgement:
    """Judge one window; `revised` are reports of earlier windows that later labels changed.

    Changes that others made in the registry are reported but do not influence the decision.
    """
    history, policy, budget = run.history.revised(revised), config.retraining, config.budget
    cost = expected_cost(budget, history, grows=config.training.window_days is None)
    case = policy.case(evidence, history, run.as_of, budget, cost.usd if cost else None)
    benefit = expected_benefit(case, config.performance.metric, cost)
    decision = decide_retraining(config.name, policy, case, diagnosis)
    if benefit:
        reasons = (*decision.reasons, describe(benefit, budget))
        decision = replace(decision, expected_value_usd=benefit.value.usd, reasons=reasons)
    decision = replace(decision, reasons=(*decision.reasons, *_on_labels(evidence, revised)))
    if decision.retrain:
        rows = forecast_rows(run.history, evidence, config.training.window_days)
        decision = replace(decision, placement=decide_placement(config.placement, rows, config.columns.personal))
    get_run_logger().info("decision: %s", headline(decision, run.champion.version))
    for change in run.registry_changes:
        get_run_logger().warning("registry: %s", change)
    estimate = diagnosis.estimate if diagnosis else None
    return Judgement(
        as_of=run.as_of,
        champion=run.champion.version,
        evidence=evidence,
        decision=decision,
        revised=tuple(revised),
        diagnosis_reasons=(*diagnosis.reasons, *diagnosis.explanations) if diagnosis else (),
        estimate=estimate.value if estimate else None,
        estimate_error=estimate.error if estimate else None,
        backfilled=run.mode is RunMode.BACKFILL,
        registry_changes=run.registry_changes,
    )


def _on_labels(evidence: WindowEvidence, revised: Sequence[PerformanceReport]) -> list[str]:
    """Describe problems with the labels of this window, and newly found ones with the labels of earlier windows."""
    own = (evidence.performance,) if evidence.performance else ()
    found = label_reports((*(report for report in revised if not report.has_sound_labels), *own))
    return [f"{report.window.name}: {reason}" for report in found for reason in report.reasons]


@stage
def check_budget(config: ModelConfig, spent_usd: float, next_cost_usd: float | None = None) -> str | None:
    """Return why the monthly budget refuses a retrain; None if it allows it."""
    refusal = over_budget(config.budget, spent_usd, next_cost_usd)
    if refusal:
        get_run_logger().warning("budget: %s", refusal)
    return refusal
