"""Publish outcomes: first to the ledger, then to people (artifacts), then to the next flow (events).

The ledger comes first because it is authoritative: a run killed after that write can be rerun without recording
anything twice. Every channel shows the decision's own reasons.
"""

from datetime import datetime
from typing import Any

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, orchestration, registry, reports
from tasks.adapters.orchestration.stage import stage
from tasks.policy.decision.retraining import ADVISED
from tasks.policy.economics.placement import DEDICATED
from tasks.policy.evidence.ledger import LABELS_QUARANTINED, LABELS_SOUND, Fact, LabelVerdicts, LedgerEntry, Past
from tasks.policy.evidence.monitoring import History, Judgement, MonitorRun, Placement, label_reports
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.access import Approval
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import Window, digest, from_json, to_json
from tasks.policy.records.events import Handover, RunMode
from tasks.policy.records.reports import Scoring, scoring_id
from tasks.policy.rollout.probation import Degradation
from tasks.policy.rollout.versions import OUTSIDE

# Retried: the API server may be restarting; the ledger's facts are idempotent by decision.
RETRIES: dict[str, Any] = {"retries": 2, "retry_condition_fn": None}

PLOTTED_WINDOWS = 30
ANSWERS = ("challenger.validated", "challenger.refused", "retraining.refused")
"""Facts that complete a decision's request. A challenger without a validation verdict is an interrupted retrain."""
ENDS = ("champion.promoted", "challenger.rejected")
"""Facts that end the trial of a challenger that passed."""


def publish_scoring(config: ModelConfig, scoring: Scoring) -> None:
    """Record which version served a window, and how fast it answered."""
    ledger.append(
        config.name, Fact("window.scored", scoring, scoring.window.end, scoring_id(config.name, scoring.window))
    )


def ask_for_monitoring(config: ModelConfig, window: Window, as_of: datetime) -> None:
    """Announce that a window was scored, or has no rows, where no schedule of its own starts `monitor`."""
    if config.schedule is not None or orchestration.run_identity.creator().kind == "automation":
        payload = {"model": config.name, "decision_id": scoring_id(config.name, window), "until": as_of.isoformat()}
        orchestration.events.announce("window.scored", config.name, payload)


def emit_heartbeat(config: ModelConfig, judgement: Judgement) -> None:
    """Announce a successful monitor run, with or without a new window; an automation alerts if the event is missing."""
    orchestration.events.announce("model.watched", config.name, _handover(judgement))


@stage(**RETRIES)
def publish_judgement(config: ModelConfig, run: MonitorRun, judgement: Judgement) -> tuple[LedgerEntry, ...]:
    """Record a window's judgement, and request a retrain if that was decided.

    Returns the ledger entries that it wrote: none in a dry run.
    """
    decision = judgement.decision
    reports.judgement.publish_judgement_page(config, judgement)
    if run.mode is not RunMode.REPLAY:  # a replay has a page of its own
        reports.judgement.publish_plots(config, judgement, run.history.performances[-PLOTTED_WINDOWS:])
    if run.mode is RunMode.DRY_RUN:
        return ()
    quality = judgement.evidence.quality
    entry = ledger.append(config.name, Fact("window.judged", judgement, judgement.as_of, decision.decision_id))
    recorded = [entry]
    if quality and quality.verdict == "fail":
        if judgement.evidence.rows:  # an empty window has no rows to exclude, and its late rows must stay usable
            fact = Fact("window.quarantined", quality, judgement.as_of, decision.decision_id)
            recorded.append(ledger.append(config.name, fact))
        if entry.body == to_json(judgement):  # an empty window is judged again; announce it once
            orchestration.events.announce("window.quarantined", config.name, _handover(judgement))
    recorded += _publish_labels(config, judgement, run.history)
    ask_for_retraining(config, judgement, run.past.extended(recorded))
    return tuple(recorded)


def _publish_labels(config: ModelConfig, judgement: Judgement, history: History) -> list[LedgerEntry]:
    """Record windows whose labels failed their checks or pass them again; announce the failed ones."""
    own = (judgement.evidence.performance,) if judgement.evidence.performance else ()
    found = label_reports((*judgement.revised, *own))
    doubted = {report.window for report in history.performances if not report.has_sound_labels}
    failed = LabelVerdicts(tuple(report for report in found if report.verdict == "fail"))
    fixed = LabelVerdicts(tuple(one for one in found if one.verdict != "fail" and one.window in doubted))
    recorded = [
        ledger.append(config.name, Fact(kind, verdicts, judgement.as_of, judgement.decision.decision_id))
        for kind, verdicts in ((LABELS_QUARANTINED, failed), (LABELS_SOUND, fixed))
        if verdicts.reports
    ]
    if failed.reports:
        orchestration.events.announce("labels.quarantined", config.name, _handover(judgement))
    return recorded


def ask_for_retraining(config: ModelConfig, judgement: Judgement, past: Past) -> None:
    """Request the retrain or the return to an earlier version that was decided.

    Repeats the request if the window was judged before, because that run may have died. Does nothing once the
    decision has had an effect, or for a back-fill.
    """
    if judgement.backfilled or past.holds(judgement.decision.decision_id, ANSWERS):
        return
    if judgement.decision.retrain:
        orchestration.events.announce(_request(judgement.decision.placement), config.name, _handover(judgement))
    if judgement.decision.blocked_by == ADVISED and not _was_advised(judgement, past):
        orchestration.events.announce("retraining.advised", config.name, _handover(judgement))
    if judgement.decision.go_back_to:
        orchestration.events.announce("return.requested", config.name, _handover(judgement))


def _was_advised(judgement: Judgement, past: Past) -> bool:
    """Return whether people were told with the window before; they are told once, until the condition no longer holds."""
    earlier = [from_json(Judgement, entry.body) for entry in past.of("window.judged")[-5:]]
    earlier = [other for other in earlier if other.evidence.window < judgement.evidence.window]
    return bool(earlier) and earlier[-1].decision.blocked_by == ADVISED


def _request(placement: Placement | None) -> str:
    """Return the event that requests a retrain; each place except the dedicated hosts has an event of its own."""
    elsewhere = placement and placement.place != DEDICATED
    return f"retraining.requested.{placement.place}" if placement and elsewhere else "retraining.requested"


def _handover(judgement: Judgement) -> dict[str, object]:
    decision = judgement.decision
    reasons, earlier = decision.reasons, decision.go_back_to
    return Handover(decision.model, decision.decision_id, reasons, judgement.as_of, earlier).payload()


@stage(**RETRIES)
def publish_degradation(config: ModelConfig, degraded: Degradation) -> None:
    """Record that a fresh champion must be rolled back, once per champion, and hand it over to `rollback`."""
    decision_id = digest(config.name, "degraded", degraded.champion)
    ledger.append(config.name, Fact("champion.degraded", degraded, degraded.at, decision_id))
    handover = Handover(config.name, decision_id, degraded.reasons, degraded.at, degraded.champion)
    orchestration.events.announce("champion.degraded", config.name, handover.payload())


@stage(**RETRIES)
def publish_validation(
    config: ModelConfig, request: RunRequest, challenger: ModelVersion, validation: ValidationReport
) -> None:
    """Record the challenger and its validation verdict; hand a challenger that passed over to `promote`.

    A challenger made by another decision is an earlier champion validated again: nothing was trained, no cost is
    charged.
    """
    decision_id = challenger.decision_id
    recalled = decision_id != dict(challenger.tags).get("decision_id", decision_id)
    made = "challenger.recalled" if recalled else "challenger.registered"
    ledger.append(config.name, Fact(made, challenger, request.as_of, decision_id, request.actor))
    kind = "challenger.validated" if config.promotion.accepts(validation.verdict) else "challenger.refused"
    ledger.append(config.name, Fact(kind, validation, request.as_of, decision_id, request.actor))
    reports.artifacts.publish_validation_page(config, validation, challenger.run_id, request.reason)
    searched = None if recalled else registry.version_files.search_report(challenger)
    if searched:
        reports.artifacts.publish_search_page(config, searched, challenger.version)
    hand_over(config, validation, decision_id, request.as_of)


@stage(**RETRIES)
def publish_adoption(
    config: ModelConfig, request: RunRequest, version: ModelVersion, validation: ValidationReport
) -> None:
    """Record a model that a person adopts, and how it compares with a constant prediction. Nothing is handed over."""
    decision_id = version.decision_id
    ledger.append(config.name, Fact("challenger.registered", version, request.as_of, decision_id, request.actor))
    ledger.append(config.name, Fact("challenger.validated", validation, request.as_of, decision_id, request.actor))
    reports.artifacts.publish_validation_page(config, validation, version.run_id, request.reason)


@stage(**RETRIES)
def publish_taken_in(config: ModelConfig, version: ModelVersion, validation: ValidationReport, as_of: datetime) -> None:
    """Record a version that someone else made champion and that was taken in, and how it compares with a constant."""
    ledger.append(config.name, Fact("challenger.registered", version, as_of, version.decision_id, OUTSIDE))
    ledger.append(config.name, Fact("challenger.validated", validation, as_of, version.decision_id, OUTSIDE))


def publish_followed(config: ModelConfig, promotion: Promotion | None, as_of: datetime) -> None:
    """Record a champion that someone else set in MLflow; nothing if the move is not followed yet."""
    if promotion is not None:
        publish_promotion(config, promotion, as_of, OUTSIDE, promotion.reasons[0])


def hand_over(config: ModelConfig, validation: ValidationReport, decision_id: str, as_of: datetime) -> None:
    """Announce a challenger's validation verdict."""
    kind = "challenger.validated" if config.promotion.accepts(validation.verdict) else "challenger.refused"
    handover = Handover(config.name, decision_id, validation.reasons, as_of)
    orchestration.events.announce(kind, config.name, handover.payload())


def hand_over_again(config: ModelConfig, validation: ValidationReport, decision_id: str, as_of: datetime) -> None:
    """Announce a recorded verdict again, because the first run may have died before it did.

    Does nothing once the challenger was promoted, rejected or quarantined.
    """
    status = registry.tags(config.name, validation.challenger).get("status")
    if status not in ("quarantined", "rejected") and not Past(ledger.entries(config.name)).holds(decision_id, ENDS):
        hand_over(config, validation, decision_id, as_of)


@stage(**RETRIES)
def publish_promotion(config: ModelConfig, promotion: Promotion, as_of: datetime, actor: str, comment: str) -> None:
    """Record which version serves now, once per decision; do nothing if it is unchanged."""
    if promotion.action == "unchanged":
        return
    kind = "champion.rolled_back" if promotion.action == "rolled_back" else "champion.promoted"
    ledger.append(config.name, Fact(kind, promotion, as_of, promotion.decision_id, actor))
    reports.artifacts.publish_promotion_page(config, promotion, actor, comment)
    handover = Handover(config.name, promotion.decision_id, promotion.reasons, as_of, promotion.champion)
    orchestration.events.announce(kind, config.name, handover.payload())


@stage(**RETRIES)
def publish_answer(config: ModelConfig, challenger: ModelVersion, approval: Approval, as_of: datetime) -> Approval:
    """Record and announce that a challenger was rejected or its approval expired; a pending approval is only shown."""
    reports.artifacts.publish_answer_page(config, approval)
    if approval.verdict in ("rejected", "expired"):
        registry.tag(config.name, challenger.version, status="rejected")
        ledger.append(config.name, Fact("challenger.rejected", approval, as_of, challenger.decision_id, approval.by))
        handover = Handover(config.name, challenger.decision_id, approval.reasons, as_of)
        orchestration.events.announce("challenger.rejected", config.name, handover.payload())
    return approval


@stage(**RETRIES)
def refuse_retraining(config: ModelConfig, request: RunRequest, decision_id: str, refusal: str) -> None:
    """Record and announce that the budget refused a retrain."""
    ledger.append(config.name, Fact("retraining.refused", refusal, request.as_of, decision_id, request.actor))
    handover = Handover(config.name, decision_id, (refusal,), request.as_of)
    orchestration.events.announce("budget.refused", config.name, handover.payload())
