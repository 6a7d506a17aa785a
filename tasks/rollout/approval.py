"""Request a person's approval of a challenger where the model's risk requires it.

The run suspends with a form that shows the evidence, and restarts from the top once the form is submitted. The
request and its deadline are stored in the ledger, which makes a repeated request idempotent. A missing answer counts
as a rejection, and a rejection is final for that challenger. These are plain functions, because a suspended run must
not wait in a task.
"""

import shlex
from datetime import datetime, timedelta
from itertools import count
from typing import Literal

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, orchestration, registry, reports
from tasks.policy.governance.access import Approval, ApprovalRequest, why_not_approve
from tasks.policy.governance.people import ANYONE, UNNAMED
from tasks.policy.records.base import digest, from_json
from tasks.policy.records.errors import PromotionRefused
from tasks.policy.records.events import Handover
from tasks.policy.records.evidence import Fact, LedgerEntry, ModelVersion, ValidationReport
from tasks.policy.records.text import one_line
from tasks.policy.rollout.validation import why_not_promote

NOBODY = "perennial"
ANONYMOUS = {"", "unnamed", ANYONE}
"""Actors of a training that a person started without giving a name."""


def approval_of(
    config: ModelConfig,
    challenger: ModelVersion,
    validation: ValidationReport,
    as_of: datetime,
    now: datetime,
    approved_by: str | None = None,
    comment: str = "",
    requested_by: str | None = None,
    model: str | None = None,
) -> Approval:
    """Return a person's answer, or that none is needed; suspend the run while it waits for one.

    Args:
        config: The model's configuration.
        challenger: The version to approve.
        validation: Its validation report, shown as evidence.
        as_of: Time of the facts that are recorded.
        now: Wall-clock time, for the deadline.
        approved_by: An approver who is passed to the run itself, without a form.
        comment: The approver's comment.
        requested_by: Who requested the promotion; a requester may not approve.
        model: The model's name or path as the caller gave it, for the command shown to the approver.

    Raises:
        PromotionRefused: Approval is required and this run cannot wait for it, the approver lacks the right, or the
            challenger could not be promoted anyway.
    """
    decision_id, version = challenger.decision_id, challenger.version
    for entry in ledger.entries(config.name, kind="approval.answered"):
        if entry.decision_id == decision_id:
            return from_json(Approval, entry.body)
    if not config.needs_approval or _serves(challenger):
        return Approval(version, "not_needed", approved_by or NOBODY, comment, ())
    _refuse_the_hopeless(config, challenger, validation)
    request = _request(config, challenger, as_of, now, requested_by)
    if now >= request.expires_at and not orchestration.run_identity.was_answered():
        approval = _expired(request)
    elif approved_by is not None:
        approval = _typed(config, request, approved_by, comment)
    else:
        approval = _asked(config, challenger, validation, request, as_of, now, model or config.name)
    if approval.verdict != "waiting":
        ledger.append(config.name, Fact("approval.answered", approval, as_of, decision_id, approval.by))
    get_run_logger().info(
        "approval: version %s %s by %s; %s", version, approval.verdict, approval.by, approval.reasons[0]
    )
    return approval


def _serves(challenger: ModelVersion) -> bool:
    """Return whether this version is already champion through this decision's promotion, as recorded in the ledger."""
    champion = registry.aliases(challenger.model).get(registry.CHAMPION)
    promoted = {entry.decision_id for entry in ledger.entries(challenger.model, kind="champion.promoted")}
    return champion == challenger.version and challenger.decision_id in promoted


def _refuse_the_hopeless(config: ModelConfig, challenger: ModelVersion, validation: ValidationReport) -> None:
    """Raise PromotionRefused for a challenger that could not be promoted even with an approval."""
    champion = registry.aliases(config.name).get(registry.CHAMPION)
    refusal = why_not_promote(config.validation, config.promotion, challenger, champion, validation)
    if refusal:
        raise PromotionRefused(f"{config.name}: version {challenger.version} is not promoted: {refusal}")


def _request(
    config: ModelConfig, challenger: ModelVersion, as_of: datetime, now: datetime, requested_by: str | None
) -> ApprovalRequest:
    """Record the approval request and return it; later runs of the decision get the first run's request."""
    trained = [
        entry for entry in _entries(config, "challenger.registered") if entry.decision_id == challenger.decision_id
    ]
    asked = {entry.actor for entry in trained} | {
        orchestration.run_identity.creator(requested_by).name,
        requested_by or "",
    }
    request = ApprovalRequest(
        version=challenger.version,
        requesters=tuple(sorted(asked - UNNAMED)),
        asked_at=now,
        expires_at=now + timedelta(hours=config.access.approval_hours),
        run_id=orchestration.run_identity.waiting_run(),
        anonymous=bool({entry.actor for entry in trained} & ANONYMOUS),
    )
    entry = ledger.append(config.name, Fact("approval.requested", request, as_of, challenger.decision_id))
    return from_json(ApprovalRequest, entry.body)


def _entries(config: ModelConfig, kind: str) -> tuple[LedgerEntry, ...]:
    return ledger.entries(config.name, kind=kind)


def _typed(config: ModelConfig, request: ApprovalRequest, approver: str, comment: str) -> Approval:
    """Return the approval passed to the run itself. Raises PromotionRefused if the approver lacks the right."""
    refusal = why_not_approve(config.access, approver, request.requesters, request.anonymous, config.risk)
    if refusal:
        raise PromotionRefused(f"{config.name}: version {request.version} is not approved: {refusal}")
    return _answer(request, "approved", approver, comment)


def _asked(
    config: ModelConfig,
    challenger: ModelVersion,
    validation: ValidationReport,
    request: ApprovalRequest,
    as_of: datetime,
    now: datetime,
    model: str,
) -> Approval:
    """Return the form's answer. An answer by a person without the right is recorded, and the form is shown again."""
    run_id = orchestration.run_identity.waiting_run()
    if run_id is None:
        raise PromotionRefused(
            f"{config.name}: version {request.version} requires approval by a person and this run cannot wait for one; run, as "
            f"{' or '.join(config.access.approve) or 'a named person'}: {_command(model, challenger, as_of)}, or the "
            "deployment `promote`"
        )
    if request.run_id != run_id and orchestration.run_identity.is_waiting(request.run_id):
        return Approval(request.version, "waiting", NOBODY, "", (f"run {request.run_id} waits for the answer already",))
    if not orchestration.run_identity.was_answered():
        handover = Handover(config.name, challenger.decision_id, _question(request, validation), as_of, request.version)
        orchestration.events.announce("approval.requested", config.name, handover.payload())
    refusal = None
    for question in count(1):
        evidence = reports.artifacts.approval_evidence(config, validation, challenger, request, refusal)
        form = orchestration.run_identity.ask(evidence, int((request.expires_at - now).total_seconds()), question)
        name = one_line(form.name)
        verdict = "approved" if form.decision == "approve" else "rejected"
        approving = verdict == "approved"
        requesters, anonymous = (request.requesters, request.anonymous) if approving else ((), False)
        refusal = why_not_approve(config.access, name, requesters, anonymous, config.risk)
        if refusal is None:
            return _answer(request, verdict, name, one_line(form.comment))
        asked = digest(challenger.decision_id, run_id, str(question))
        ledger.append(config.name, Fact("access.refused", refusal, as_of, asked, name))
    raise AssertionError("count never ends")


def _command(model: str, challenger: ModelVersion, as_of: datetime) -> str:
    """Return the command that approves exactly this challenger.

    It states the request's `as_of`, because in a replay the current time is not today and other challengers follow.
    """
    moment = as_of.isoformat().replace("+00:00", "Z")
    return (
        f"perennial run promote --model {shlex.quote(model)} --decision-id {challenger.decision_id} --until {moment} "
        "--approved-by NAME"
    )


def _question(request: ApprovalRequest, validation: ValidationReport) -> tuple[str, ...]:
    """Return the sentences of the notification."""
    asked = f"version {request.version} waits for approval until {request.expires_at:%Y-%m-%d %H:%M} UTC, in run {request.run_id}"
    return (asked, *validation.reasons)


def _answer(request: ApprovalRequest, verdict: Literal["approved", "rejected"], by: str, comment: str) -> Approval:
    nobody = "a person without a name" if request.anonymous else "automation"
    asked = f"requested by {', '.join(request.requesters) or nobody}"
    return Approval(request.version, verdict, by, comment, (f"{by} {verdict} version {request.version}, {asked}",))


def _expired(request: ApprovalRequest) -> Approval:
    reason = (
        f"no one answered for version {request.version} between {request.asked_at:%Y-%m-%d %H:%M} and "
        f"{request.expires_at:%Y-%m-%d %H:%M} UTC, which is a no; train again to ask again"
    )
    return Approval(request.version, "expired", NOBODY, "", (reason,))
