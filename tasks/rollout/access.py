"""Authorise a run by the roles in the model's file. A refusal is written to the ledger, sent as an event and raised.

The creator of a run is the one that the server recorded (`tasks.adapters.orchestration.run_identity`);
`tasks.policy.governance.access` decides. A run started by an event may refer to a model by name only, and may do only
what the ledger has a decision for. A ledger accepts facts only from the model file that it is bound to.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import ledger, orchestration
from tasks.policy.evidence.ledger import Fact, LedgerEntry, Past
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.governance.access import why_not_approve, why_not_override, why_not_trigger
from tasks.policy.governance.binding import BOUND, FileBinding, bound_to, why_not_accept, why_not_bound
from tasks.policy.governance.people import is_unnamed
from tasks.policy.governance.requests import MOVES, RunRequest, decided, why_not_requested, why_too_early
from tasks.policy.records.base import MODEL_NAME, Window, digest, from_json
from tasks.policy.records.errors import AccessRefused
from tasks.policy.records.events import Handover

VALIDATED = "challenger.validated"


def admit(model: str) -> ModelConfig:
    """Load the model's configuration.

    Raises AccessRefused if an automation passes a path instead of a model's name, or if the model's ledger is bound to
    another file or to other settings of risk, access or promotion.
    """
    if orchestration.run_identity.creator().kind == "automation" and not re.fullmatch(MODEL_NAME, model):
        raise AccessRefused(f"{model[:80]!r}: an event may only name a deployed model, expected a name without a path")
    config = load_model_config(model)
    refusal = why_not_bound(bound_to(ledger.entries(config.name, kind=BOUND)), config.binding)
    if refusal:
        raise AccessRefused(f"{config.name}: {refusal}")
    return config


def check_trigger(config: ModelConfig, request: RunRequest) -> None:
    """Raise AccessRefused, after recording it, if the person or automation that started this run lacks the right.

    The first authorised run binds the model's ledger to its file.
    """
    refusal = why_not_trigger(config.access, request.principal, request.requested_by)
    if refusal:
        _refuse(config, request, request.action, refusal)
    if config.binding and not ledger.entries(config.name, kind=BOUND):
        bound = digest(config.name, BOUND)
        ledger.append(config.name, Fact(BOUND, config.binding, request.as_of, bound, request.principal.name))


def check_director(config: ModelConfig, request: RunRequest, action: str) -> None:
    """Raise AccessRefused, after recording it, if this person may not take this action on a rollout.

    Anyone who may start runs may hold or abort a rollout, which exposes fewer units. Where a promotion needs approval, only
    an approver may resume or advance it.
    """
    if action in ("hold", "abort") or not config.needs_approval:
        return
    refusal = why_not_approve(config.access, request.actor, ())
    if refusal:
        _refuse(config, request, f"rollout {action}", refusal)


def check_adopter(config: ModelConfig, request: RunRequest) -> None:
    """Raise AccessRefused, after recording it, if this person may not decide alone that a model becomes the champion."""
    refusal = why_not_approve(config.access, request.actor, ()) if config.needs_approval else None
    if refusal:
        _refuse(config, request, request.action, refusal)


def check_named(config: ModelConfig, request: RunRequest) -> None:
    """Raise AccessRefused, after recording it, unless a person with a name makes this request: no event, and no schedule."""
    if request.principal.kind not in ("automation", "schedule") and not is_unnamed(request.actor):
        return
    refusal = f"{request.principal} asks to import a device's update, expected a person's name in requested_by"
    _refuse(config, request, "import", refusal)


def check_decision(
    config: ModelConfig, request: RunRequest, decision_id: str, version: str | None = None
) -> RunRequest:
    """Return the request with the reason of the decision in the ledger that it carries out; a manual run keeps its own.

    Raises AccessRefused if an event requests an action that was not decided, or if a person requests an action on a
    live model with an `as_of` before its latest promotion or rollback.
    """
    entries = ledger.entries(config.name)
    decision = decided(entries, request.action, decision_id, version)
    refusal = why_not_requested(request, decision)
    if refusal:
        _refuse(config, request, request.action, refusal)
    if decision is None:
        _check_moment(config, request, request.action, [entry for entry in entries if entry.kind in MOVES])
        return request
    return replace(request, reason=decision.reasons[0])


def check_verdict_time(config: ModelConfig, request: RunRequest, decision_id: str) -> None:
    """Raise AccessRefused if a live model's challenger would be promoted as of a time before its validation."""
    verdicts = [entry for entry in ledger.entries(config.name, kind=VALIDATED) if entry.decision_id == decision_id]
    _check_moment(config, request, "promotion", verdicts)


def _check_moment(config: ModelConfig, request: RunRequest, action: str, built_on: Sequence[LedgerEntry]) -> None:
    """Raise AccessRefused if the action would take effect before a fact it depends on. Recorded data is exempt."""
    refusal = why_too_early(built_on, action, request.as_of) if config.period.end is None else None
    if refusal:
        _refuse(config, request, action, refusal)


def check_window(config: ModelConfig, past: Past, window: Window) -> None:
    """Raise AccessRefused for an event about a live model's window that precedes the latest judged window."""
    if config.period.end or orchestration.run_identity.creator().kind != "automation":
        return
    judgements = past.of("window.judged")
    latest = from_json(Judgement, judgements[-1].body).evidence.window if judgements else window
    if window < latest:
        raise AccessRefused(
            f"{config.name}: an event asked for {window.name}, but {latest.name} was judged already; expected until to "
            f"be after {latest.start:%Y-%m-%d %H:%M} UTC; fill in earlier windows with: perennial run backfill"
        )


def accept_file(model: str, by: str, reason: str, now: datetime) -> FileBinding:
    """Bind the model's ledger to this file from now on; a named person takes responsibility for the change.

    Raises AccessRefused if there is no change, or if `by` may not approve it.
    """
    config = load_model_config(model)
    bindings = ledger.entries(config.name, kind=BOUND)
    bound, found = bound_to(bindings), config.binding
    if bound is None or found is None or why_not_bound(bound, found) is None:
        raise AccessRefused(f"{config.name}: there is no change to accept, its ledger is bound to {model} already")
    refusal = why_not_accept(bound, by)
    if refusal:
        raise AccessRefused(f"{config.name}: {refusal}")
    decision_id = digest(config.name, BOUND, str(len(bindings)))
    ledger.append(config.name, Fact("file.accepted", reason, now, decision_id, by))
    ledger.append(config.name, Fact(BOUND, found, now, decision_id, by))
    return found


def use_override(config: ModelConfig, request: RunRequest, limit: str) -> bool:
    """Record that the request's override lifts this limit; False without an override.

    Raises AccessRefused if the override is not valid.
    """
    override = request.override
    if override is None:
        return False
    refusal = why_not_override(config.access, override, request.principal, request.now)
    if refusal:
        _refuse(config, request, limit, refusal)
    reason = f"{override.by} overrides {limit} until {override.until:%Y-%m-%d %H:%M} UTC: {override.reason}"
    decision_id = digest(config.name, limit, reason)
    ledger.append(config.name, Fact("override.used", reason, request.as_of, decision_id, override.by))
    get_run_logger().warning("override: %s", reason)
    return True


def _refuse(config: ModelConfig, request: RunRequest, action: str, refusal: str) -> None:
    reason = f"{action} was refused: {refusal}"
    decision_id = digest(config.name, action, refusal, request.as_of.isoformat())
    ledger.append(config.name, Fact("access.refused", reason, request.as_of, decision_id, request.principal.name))
    handover = Handover(config.name, decision_id, (reason,), request.as_of)
    orchestration.events.announce("access.refused", config.name, handover.payload())
    raise AccessRefused(f"{config.name}: {reason}")
