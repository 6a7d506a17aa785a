"""Whether retraining pays, by the model's own policy: evidence and history in, a judgement with its reasons out.

The judgement itself is pure (`tasks.policy.retraining`); this stage gives it what it needs and logs what it said.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from deployments.model_config import ModelConfig
from tasks.policy.diagnosis import Diagnosis
from tasks.policy.economics import over_budget
from tasks.policy.evidence import History, Judgement, ModelVersion, PerformanceReport, WindowEvidence
from tasks.policy.placement import decide_placement, forecast_rows
from tasks.policy.retraining import decide_retraining


@task(cache_policy=NO_CACHE)
def decide(
    config: ModelConfig,
    champion: ModelVersion,
    evidence: WindowEvidence,
    history: History,
    as_of: datetime,
    revised: Sequence[PerformanceReport] = (),
    diagnosis: Diagnosis | None = None,
) -> Judgement:
    """The judgement of one window; `revised` are earlier windows that later labels changed."""
    kind = diagnosis.kind if diagnosis else "none"
    told = diagnosis.explanations if diagnosis else ()
    decision = decide_retraining(
        config.name,
        config.retraining,
        evidence,
        history.revised(revised),
        as_of,
        config.budget,
        kind,
        explanations=told,
    )
    if decision.retrain:
        rows = forecast_rows(history, evidence, config.training.window_days)
        decision = replace(decision, placement=decide_placement(config.placement, rows, config.columns.personal))
    get_run_logger().info("decision: %s, %s", "retrain" if decision.retrain else "keep", decision.reasons[0])
    return Judgement(
        as_of,
        champion.version,
        evidence,
        decision,
        tuple(revised),
        (*diagnosis.reasons, *told) if diagnosis else (),
        diagnosis.estimate if diagnosis else None,
    )


@task(cache_policy=NO_CACHE)
def check_budget(config: ModelConfig, spent_usd: float) -> str | None:
    """Why the month's budget refuses a retrain, whoever asks for it; None where it does not."""
    refusal = over_budget(config.budget, spent_usd, None)
    if refusal:
        get_run_logger().warning("budget: %s", refusal)
    return refusal
