"""Check that the ledger holds the decision that a run claims to carry out: an event is a request, never a proof.

Anyone with access to the server can emit an event. A run started by an event therefore carries out only a decision
in the ledger, as of the time of that decision. A run started by a person needs no decision, but on live data it may not take
effect before the last change of champion, which it would rewrite.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.governance.access import Override, Principal
from tasks.policy.governance.people import AUTOMATION, SCHEDULE
from tasks.policy.records.base import from_json
from tasks.policy.rollout.probation import Degradation

Action = Literal["retrain", "promote", "rollback", "rollout", "adopt", "export"]
MOVES = ("champion.promoted", "champion.rolled_back")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The request behind a run that changes a model, such as `retrain` or `adopt`: the action, the initiator and the time."""

    action: Action
    model: str
    """Name or path of the model, as the caller gave it."""
    principal: Principal
    requested_by: str
    as_of: datetime
    """Time of the facts that the run records."""
    now: datetime
    """Wall-clock time, by which overrides and approvals expire."""
    reason: str = ""
    override: Override | None = None
    approved_by: str | None = None
    """An approver who is passed to the run itself, without a form."""
    comment: str = ""
    """The approver's comment."""

    @property
    def actor(self) -> str:
        """The actor to record: the person that the server recorded, else `requested_by`.

        `automation` and `schedule` are recorded only if the server confirms them; otherwise the actor is "unnamed".
        """
        if self.principal.recorded and self.principal.kind == "person":
            return self.principal.name
        claims_a_machine = self.requested_by in (AUTOMATION, SCHEDULE)
        return "unnamed" if claims_a_machine and not self.principal.recorded else self.requested_by


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """A decision to retrain, to try an earlier version or to roll back, as recorded in the ledger."""

    at: datetime
    reasons: tuple[str, ...]


def decided(
    entries: Iterable[LedgerEntry], action: Action, decision_id: str | None, version: str | None = None
) -> RecordedDecision | None:
    """The recorded decision with this id for this action, and this version if given; None if there is none."""
    for entry in entries:
        if decision_id is None or entry.decision_id != decision_id:
            continue
        if action == "retrain" and entry.kind == "window.judged":
            judgement = from_json(Judgement, entry.body)
            decision = judgement.decision
            wanted = decision.go_back_to == version if version else decision.retrain
            if wanted and not judgement.backfilled:
                return RecordedDecision(entry.at, decision.reasons)
        if action == "rollback" and entry.kind == "champion.degraded":
            degraded = from_json(Degradation, entry.body)
            if degraded.champion == version:
                return RecordedDecision(entry.at, degraded.reasons)
    return None


def why_not_requested(request: RunRequest, decision: RecordedDecision | None) -> str | None:
    """Why an event's request is rejected; None if the ledger holds the decision, or no event made the request."""
    if request.principal.kind != "automation":
        return None
    if decision is None:
        return (
            f"an event requested a {request.action} that the ledger holds no decision for; expected the decision_id of one "
            "that monitor recorded, and the version that it is about"
        )
    if decision.at != request.as_of:
        return (
            f"an event requested a {request.action} as of {request.as_of:%Y-%m-%d %H:%M} UTC, but it was decided as of "
            f"{decision.at:%Y-%m-%d %H:%M} UTC"
        )
    return None


def why_too_early(entries: Iterable[LedgerEntry], action: str, as_of: datetime) -> str | None:
    """Why the action cannot take effect at this time, before one of the entries that it builds on; None if it can."""
    latest = max(entries, key=lambda entry: entry.at, default=None)
    if latest is None or as_of >= latest.at:
        return None
    return (
        f"until is {as_of:%Y-%m-%d %H:%M} UTC, but {latest.kind} is of {latest.at:%Y-%m-%d %H:%M} UTC and a {action} "
        "cannot take effect before it; leave until empty for now"
    )
