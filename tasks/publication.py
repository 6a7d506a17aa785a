"""Tell what happened: first the ledger, then people (artifacts), then the next flow (events).

In that order, because the ledger is what counts: a run killed after it can be run again and says the same thing once.
Reasons are the decision's own sentences everywhere.
"""

from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.policy.evidence import (
    History,
    Judgement,
    ModelVersion,
    Placement,
    Promotion,
    Scoring,
    ValidationReport,
    scoring_id,
)
from tasks.policy.placement import DEDICATED

# Retried: the API server may be restarting; the ledger's facts are idempotent by decision.
RETRIES = {"retries": 2, "retry_delay_seconds": 2, "cache_policy": NO_CACHE}

PLOTTED_WINDOWS = 30


def publish_scoring(config: ModelConfig, scoring: Scoring) -> None:
    """Record which version served a window, and how fast it answered."""
    from tasks.adapters import ledger

    ledger.append(config.name, "window.scored", scoring, scoring.window.end, scoring_id(config.name, scoring.window))


@task(**RETRIES)
def publish_judgement(
    config: ModelConfig, judgement: Judgement, dry_run: bool = False, history: History | None = None
) -> None:
    """Record what a window showed and what was decided; ask for a retrain where that was the decision."""
    from tasks.adapters import artifacts, ledger

    decision = judgement.decision
    artifacts.publish_judgement_page(config, judgement)
    artifacts.publish_plots(config, judgement, history.performances[-PLOTTED_WINDOWS:] if history else ())
    if dry_run:
        return
    quality = judgement.evidence.quality
    ledger.append(config.name, "window.judged", judgement, judgement.as_of, decision.decision_id)
    if quality and quality.verdict == "fail":
        ledger.append(config.name, "window.quarantined", quality, judgement.as_of, decision.decision_id)
        artifacts.announce("window.quarantined", config.name, _handover(judgement))
    if decision.retrain:
        artifacts.announce(_request(decision.placement), config.name, _handover(judgement))


def _request(placement: Placement | None) -> str:
    """The event that asks for a retrain; each place but the dedicated hosts has one of its own, which its trigger expects."""
    elsewhere = placement and placement.place != DEDICATED
    return f"retraining.requested.{placement.place}" if placement and elsewhere else "retraining.requested"


def _handover(judgement: Judgement) -> dict[str, object]:
    decision = judgement.decision
    return {
        "model": decision.model,
        "decision_id": decision.decision_id,
        "until": judgement.as_of.isoformat(),
        "reasons": list(decision.reasons),
    }


@task(**RETRIES)
def publish_validation(
    config: ModelConfig,
    challenger: ModelVersion,
    validation: ValidationReport,
    as_of: datetime,
    reason: str,
    requested_by: str,
) -> None:
    """Record the challenger and its verdict; hand a challenger that passed over to promotion."""
    from tasks.adapters import artifacts, ledger

    decision_id = challenger.decision_id
    ledger.append(config.name, "challenger.registered", challenger, as_of, decision_id, requested_by)
    kind = "challenger.validated" if config.promotion.accepts(validation.verdict) else "challenger.refused"
    ledger.append(config.name, kind, validation, as_of, decision_id, requested_by)
    artifacts.publish_validation_page(config, validation, challenger.run_id, reason)
    handover = {
        "model": config.name,
        "decision_id": decision_id,
        "until": as_of.isoformat(),
        "reasons": list(validation.reasons),
    }
    artifacts.announce(kind, config.name, handover)


@task(**RETRIES)
def publish_promotion(config: ModelConfig, promotion: Promotion, as_of: datetime, actor: str, comment: str) -> None:
    """Record who serves now; say nothing where nothing changed."""
    from tasks.adapters import artifacts, ledger

    kind = "champion.rolled_back" if promotion.action == "rolled_back" else "champion.promoted"
    ledger.append(config.name, kind, promotion, as_of, promotion.decision_id, actor)
    artifacts.publish_promotion_page(config, promotion, actor, comment)
    handover = {"model": config.name, "decision_id": promotion.decision_id, "champion": promotion.champion}
    artifacts.announce(kind, config.name, handover)


@task(**RETRIES)
def refuse_retraining(config: ModelConfig, decision_id: str, refusal: str, as_of: datetime, requested_by: str) -> None:
    """Record that the budget refused, and tell."""
    from tasks.adapters import artifacts, ledger

    ledger.append(config.name, "retraining.refused", refusal, as_of, decision_id, requested_by)
    handover = {"model": config.name, "decision_id": decision_id, "reasons": [refusal]}
    artifacts.announce("budget.refused", config.name, handover)
