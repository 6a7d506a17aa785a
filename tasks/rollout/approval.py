"""Request a person's approval of a challenger where the model's risk requires it.

The run suspends with a form that shows the evidence, and restarts from the top once the form is submitted. The
request and its deadline are stored in the ledger, which makes a repeated request idempotent. A missing answer counts
as a rejection, and a rejection is final for that challenger. These are plain functions, because a suspended run must
not wait in a task.
"""

import shlex
from datetime import timedelta
from itertools import count
from typing import Literal

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, orchestration, registry, reports
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.access import Approval, ApprovalRequest, why_not_approve
from tasks.policy.governance.people import ANYONE, UNNAMED
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import digest, from_json
from tasks.policy.records.errors import PromotionRefused
from tasks.policy.records.events import Handover
from tasks.policy.records.text import one_line
from tasks.policy.rollout.validation import why_not_promote

SYSTEM = "perennial"  # actor of an answer that no person gave
ANONYMOUS = {"", "unnamed", ANYONE}
"""Actors of a training that a person started without giving a name."""


def approval_of(
    config: ModelConfig, request: RunRequest, challenger: ModelVersion, validation: ValidationReport
) -> Approval:
    """Return a person's answer, or that none is needed; suspend the run while it waits for one.

    Args:
        config: The model's configuration.
        request: Who requested the promotion, and so may not approve it; who approves it without a form, if anyone.
        challenger: The version to approve.
        validation: Its validation report, shown as evidence.

    Raises:
        PromotionRefused: Approval is required and this run cannot wait for it, the approver lacks the right, or the
            challenger could not be promoted anyway.
    """
    decision_id, version = challenger.decision_id, challenger.version
    for entry in ledger.entries(config.name, kind="approval.answered"):
        if entry.decision_id == decision_id:
            return from_json(Approval, entry.body)
    if not config.needs_approval or _serves(challenger):
        return Approval(version, "not_needed", request.approved_by or SYSTEM, request.comment, ())
    _check_promotable(config, challenger, validation)
    pending = _open(config, request, challenger)
    if request.now >= pending.expires_at and not orchestration.run_identity.was_answered():
        approval = _expired(pending)
    elif request.approved_by is not None:
        approval = _approval_from_parameters(config, pending, request.approved_by, request.comment)
    else:
        approval = _ask(config, request, challenger, validation, pending)
    if approval.verdict != "waiting":
        ledger.append(config.name, Fact("approval.answered", approval, request.as_of, decision_id, approval.by))
    get_run_logger().info(
        "approval: version %s %s by %s; %s", version, approval.verdict, approval.by, approval.reasons[0]
    )
    return approval


def _serves(challenger: ModelVersion) -> bool:
    """Return whether this version is already champion through this decision's promotion, as recorded in the ledger."""
    champion = registry.aliases(challenger.model).get(registry.CHAMPION)
    promoted = {entry.decision_id for entry in ledger.entries(challenger.model, kind="champion.promoted")}
    return champion == challenger.version and challenger.decision_id in promoted


def _check_promotable(config: ModelConfig, challenger: ModelVersion, validation: ValidationReport) -> None:
    """Raise PromotionRefused for a challenger that could not be promoted even with an approval."""
    champion = registry.aliases(config.name).get(registry.CHAMPION)
    refusal = why_not_promote(config.validation, config.promotion, challenger, champion, validation)
    if refusal:
        raise PromotionRefused(f"{config.name}: version {challenger.version} is not promoted: {refusal}")


def _open(config: ModelConfig, request: RunRequest, challenger: ModelVersion) -> ApprovalRequest:
    """Record the approval request and return it; later runs of the decision get the first run's request."""
    trained = [
        entry for entry in _entries(config, "challenger.registered") if entry.decision_id == challenger.decision_id
    ]
    requesters = {entry.actor for entry in trained} | {request.principal.name, request.requested_by}
    pending = ApprovalRequest(
        version=challenger.version,
        requesters=tuple(sorted(requesters - UNNAMED)),
        asked_at=request.now,
        expires_at=request.now + timedelta(hours=config.access.approval_hours),
        run_id=orchestration.run_identity.waiting_run(),
        anonymous=bool({entry.actor for entry in trained} & ANONYMOUS),
    )
    entry = ledger.append(config.name, Fact("approval.requested", pending, request.as_of, challenger.decision_id))
    return from_json(ApprovalRequest, entry.body)


def _entries(config: ModelConfig, kind: str) -> tuple[LedgerEntry, ...]:
    return ledger.entries(config.name, kind=kind)


def _approval_from_parameters(config: ModelConfig, pending: ApprovalRequest, approver: str, comment: str) -> Approval:
    """Return the approval passed to the run itself. Raises PromotionRefused if the approver lacks the right."""
    refusal = why_not_approve(config.access, approver, pending.requesters, pending.anonymous, config.risk)
    if refusal:
        raise PromotionRefused(f"{config.name}: version {pending.version} is not approved: {refusal}")
    return _answer(pending, "approved", approver, comment)


def _ask(
    config: ModelConfig,
    request: RunRequest,
    challenger: ModelVersion,
    validation: ValidationReport,
    pending: ApprovalRequest,
) -> Approval:
    """Return the form's answer. An answer by a person without the right is recorded, and the form is shown again."""
    run_id = orchestration.run_identity.waiting_run()
    if run_id is None:
        raise PromotionRefused(
            f"{config.name}: version {pending.version} requires approval by a person and this run cannot wait for one; run, as "
            f"{' or '.join(config.access.approve) or 'a named person'}: {_command(request, challenger)}, or the "
            "deployment `promote`"
        )
    if pending.run_id != run_id and orchestration.run_identity.is_waiting(pending.run_id):
        return Approval(
            pending.version, "waiting", SYSTEM, "", (f"run {pending.run_id} is already waiting for the answer",)
        )
    if not orchestration.run_identity.was_answered():
        reasons = _notification(pending, validation)
        handover = Handover(config.name, challenger.decision_id, reasons, request.as_of, pending.version)
        orchestration.events.announce("approval.requested", config.name, handover.payload())
    refusal = None
    for question in count(1):
        evidence = reports.artifacts.approval_evidence(config, validation, challenger, pending, refusal)
        form = orchestration.run_identity.ask(
            evidence, int((pending.expires_at - request.now).total_seconds()), question
        )
        name = one_line(form.name)
        approving = form.decision == "approve"
        requesters, anonymous = (pending.requesters, pending.anonymous) if approving else ((), False)
        refusal = why_not_approve(config.access, name, requesters, anonymous, config.risk)
        if refusal is None:
            return _answer(pending, "approved" if approving else "rejected", name, one_line(form.comment))
        asked = digest(challenger.decision_id, run_id, str(question))
        ledger.append(config.name, Fact("access.refused", refusal, request.as_of, asked, name))
    raise AssertionError("count never ends")


def _command(request: RunRequest, challenger: ModelVersion) -> str:
    """Return the command that approves exactly this challenger.

    It states the request's `as_of`, because in a replay the current time is not today and other challengers follow.
    """
    moment = request.as_of.isoformat().replace("+00:00", "Z")
    return (
        f"perennial run promote --model {shlex.quote(request.model)} --decision-id {challenger.decision_id} --until {moment} "
        "--approved-by NAME"
    )


def _notification(pending: ApprovalRequest, validation: ValidationReport) -> tuple[str, ...]:
    """Return the sentences of the notification."""
    asked = f"version {pending.version} waits for approval until {pending.expires_at:%Y-%m-%d %H:%M} UTC, in run {pending.run_id}"
    return (asked, *validation.reasons)


def _answer(pending: ApprovalRequest, verdict: Literal["approved", "rejected"], by: str, comment: str) -> Approval:
    nobody = "a person without a name" if pending.anonymous else "automation"
    asked = f"requested by {', '.join(pending.requesters) or nobody}"
    return Approval(pending.version, verdict, by, comment, (f"{by} {verdict} version {pending.version}, {asked}",))


def _expired(pending: ApprovalRequest) -> Approval:
    reason = (
        f"no one answered the request to approve version {pending.version} between {pending.asked_at:%Y-%m-%d %H:%M} and "
        f"{pending.expires_at:%Y-%m-%d %H:%M} UTC, which counts as a rejection; train again to ask again"
    )
    return Approval(pending.version, "expired", SYSTEM, "", (reason,))
