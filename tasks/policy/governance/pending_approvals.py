"""Find the challenger that passed and awaits approval, and whether the request has expired.

A request that nobody answers in time counts as rejected; the next run of `promote` records this. If that run is
cancelled, the request stays open and is shown as action required.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.governance.access import ApprovalRequest
from tasks.policy.records.base import from_json
from tasks.policy.rollout.state import rollout_of


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A challenger that passed and awaits approval; `expired_at` is set once the approval period is over."""

    version: str
    decision_id: str
    since: datetime
    reason: str
    expired_at: datetime | None = None

    def sentence(self, model: str) -> str:
        """The state of the approval and the action required, in a sentence."""
        if self.expired_at is None:
            return f"version {self.version} passed and is waiting for approval: {self.reason}"
        return (
            f"version {self.version} passed, but no one approved it by {self.expired_at:%Y-%m-%d %H:%M} UTC, so it counts as "
            f"rejected; to record this: perennial run promote --model {model}; "
            f"to try again: perennial run retrain --model {model}"
        )


def pending_approvals(entries: Sequence[LedgerEntry], now: datetime) -> tuple[PendingApproval, ...]:
    """The latest challenger that passed, unless its decision has been answered since or a later challenger exists.

    A challenger in a rollout waits only once its rollout has passed, or is to serve for the first time. `now` is
    wall-clock time, by which approvals expire.
    """
    verdicts = [entry for entry in entries if entry.kind in ("challenger.validated", "challenger.refused")]
    if not verdicts or verdicts[-1].kind != "challenger.validated":
        return ()
    waiting = verdicts[-1]
    about = [entry for entry in entries if entry.decision_id == waiting.decision_id]
    if any(_answers(entry) for entry in about if entry.sequence > waiting.sequence):
        return ()
    rollout = rollout_of(about, waiting.decision_id or "")
    if rollout is not None and rollout.status not in ("awaiting_approval", "passed"):
        return ()
    requests = [from_json(ApprovalRequest, entry.body) for entry in about if entry.kind == "approval.requested"]
    expired_at = requests[0].expires_at if requests and requests[0].expires_at <= now else None
    report = from_json(ValidationReport, waiting.body)
    return (PendingApproval(report.challenger, waiting.decision_id or "", waiting.at, report.reasons[0], expired_at),)


def _answers(entry: LedgerEntry) -> bool:
    answers = ("champion.", "promotion.", "approval.answered", "challenger.rejected")
    return entry.kind.startswith(answers) and not entry.kind.endswith("requested")
