"""Authorise a run by the roles in the model's file. A refusal is written to the ledger, sent as an event and raised.

The creator of a run is the one that the server recorded (`tasks.adapters.orchestration.run_identity`);
`tasks.policy.governance.access` decides. A run started by an event may refer to a model by name only, and may do only
what the ledger has a decision for. A ledger accepts facts only from the model file that it is bound to.
"""

from collections.abc import Sequence
from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig, load_model_config
from tasks.adapters import ledger, orchestration
from tasks.policy.governance.access import Override, Principal, why_not_override, why_not_trigger
from tasks.policy.governance.binding import BOUND, FileBinding, bound_to, why_not_accept, why_not_bound
from tasks.policy.governance.people import AUTOMATION, SCHEDULE
from tasks.policy.governance.requests import MOVES, Action, Request, decided, why_not_requested, why_too_early
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.records.errors import AccessRefused
from tasks.policy.records.events import Handover
from tasks.policy.records.evidence import Fact, Judgement, LedgerEntry, Past

VALIDATED = "challenger.validated"


def admit(model: str) -> ModelConfig:
    """Load the model's configuration.

    Raises AccessRefused if an automation passes a path instead of a model's name, or if the model's ledger is bound to
    another file or to other settings of risk, access or promotion.
    """
    if orchestration.run_identity.creator().kind == "automation" and not model.replace("_", "").isalnum():
        raise AccessRefused(
            f"{model[:80]!r}: an event may name a model that is deployed, expected a name without a path"
        )
    config = load_model_config(model)
    refusal = why_not_bound(bound_to(ledger.entries(config.name, kind=BOUND)), config.binding)
    if refusal:
        raise AccessRefused(f"{config.name}: {refusal}")
    return config


def check_trigger(config: ModelConfig, action: str, requested_by: str, as_of: datetime) -> Principal:
    """Return who started this run. Raises AccessRefused, after recording it, if they lack the right.

    The first authorised run binds the model's ledger to its file.
    """
    principal: Principal = orchestration.run_identity.creator(requested_by)
    refusal = why_not_trigger(config.access, principal, requested_by)
    if refusal:
        _refuse(config, action, refusal, as_of, principal)
    if config.binding and not ledger.entries(config.name, kind=BOUND):
        ledger.append(config.name, Fact(BOUND, config.binding, as_of, digest(config.name, BOUND), principal.name))
    return principal


def check_request(
    config: ModelConfig,
    action: Action,
    principal: Principal,
    decision_id: str | None,
    as_of: datetime,
    version: str | None = None,
) -> Request | None:
    """Return the decision in the ledger that this run carries out; None for a manual run.

    Raises AccessRefused if an event requests an action that was not decided, or if a person requests an action on a
    live model with an `as_of` before its latest promotion or rollback.
    """
    entries = ledger.entries(config.name)
    request = decided(entries, action, decision_id, version)
    refusal = why_not_requested(action, request, principal.kind == "automation", as_of)
    if refusal:
        _refuse(config, action, refusal, as_of, principal)
    if request is None:
        _check_moment(config, action, principal, [entry for entry in entries if entry.kind in MOVES], as_of)
    return request


def check_verdict_time(config: ModelConfig, principal: Principal, decision_id: str, as_of: datetime) -> None:
    """Raise AccessRefused if a live model's challenger would be promoted as of a time before its validation."""
    verdicts = [entry for entry in ledger.entries(config.name, kind=VALIDATED) if entry.decision_id == decision_id]
    _check_moment(config, "promotion", principal, verdicts, as_of)


def _check_moment(
    config: ModelConfig, action: str, principal: Principal, built_on: Sequence[LedgerEntry], as_of: datetime
) -> None:
    """Raise AccessRefused if the action would take effect before a fact it depends on. Recorded data is exempt."""
    refusal = why_too_early(built_on, action, as_of) if config.period.end is None else None
    if refusal:
        _refuse(config, action, refusal, as_of, principal)


def check_window(config: ModelConfig, past: Past, window: Window) -> None:
    """Raise AccessRefused for an event about a live model's window that precedes the latest judged window."""
    if config.period.end or orchestration.run_identity.creator().kind != "automation":
        return
    judged = past.of("window.judged")
    latest = from_json(Judgement, judged[-1].body).evidence.window if judged else window
    if window < latest:
        raise AccessRefused(
            f"{config.name}: an event asked about {window.name}, but {latest.name} was judged already; expected until to "
            f"lie after {latest.start:%Y-%m-%d %H:%M} UTC; fill earlier windows in with: perennial run backfill"
        )


def actor(principal: Principal, requested_by: str) -> str:
    """Return the actor to record: the person that the server recorded, else `requested_by`.

    `automation` and `schedule` are recorded only if the server confirms them; otherwise the actor is "unnamed".
    """
    if principal.recorded and principal.kind == "person":
        return principal.name
    return requested_by if principal.recorded or requested_by not in (AUTOMATION, SCHEDULE) else "unnamed"


def accept_file(model: str, by: str, reason: str, now: datetime) -> FileBinding:
    """Bind the model's ledger to this file from now on; a named person takes responsibility for the change.

    Raises AccessRefused if there is no change, or if `by` may not approve it.
    """
    config = load_model_config(model)
    bindings = ledger.entries(config.name, kind=BOUND)
    bound, found = bound_to(bindings), config.binding
    if bound is None or found is None or why_not_bound(bound, found) is None:
        raise AccessRefused(f"{config.name}: there is no change to answer for, its ledger goes with {model}")
    refusal = why_not_accept(bound, by)
    if refusal:
        raise AccessRefused(f"{config.name}: {refusal}")
    decision_id = digest(config.name, BOUND, str(len(bindings)))
    ledger.append(config.name, Fact("file.accepted", reason, now, decision_id, by))
    ledger.append(config.name, Fact(BOUND, found, now, decision_id, by))
    return found


def check_override(
    config: ModelConfig, action: str, override: Override, principal: Principal, as_of: datetime, now: datetime
) -> Override:
    """Record an override with its reason and expiry, and return it. Raises AccessRefused if it is not valid."""
    refusal = why_not_override(config.access, override, principal, now)
    if refusal:
        _refuse(config, action, refusal, as_of, principal)
    said = f"{override.by} overrides {action} until {override.until:%Y-%m-%d %H:%M} UTC: {override.reason}"
    ledger.append(config.name, Fact("override.used", said, as_of, digest(config.name, action, said), override.by))
    get_run_logger().warning("override: %s", said)
    return override


def _refuse(config: ModelConfig, action: str, refusal: str, as_of: datetime, principal: Principal) -> None:
    reason = f"{action} was refused: {refusal}"
    decision_id = digest(config.name, action, refusal, as_of.isoformat())
    ledger.append(config.name, Fact("access.refused", reason, as_of, decision_id, principal.name))
    orchestration.events.announce(
        "access.refused", config.name, Handover(config.name, decision_id, (reason,), as_of).payload()
    )
    raise AccessRefused(f"{config.name}: {reason}")
