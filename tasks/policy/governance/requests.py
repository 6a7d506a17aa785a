"""Check that the ledger holds the decision that a run claims to carry out: an event is a request, never a proof.

Anyone with access to the server can emit an event. A run started by an event therefore does only what the ledger has as
decided, as of the time of that decision. A run started by a person needs no decision, but on live data it may not take
effect before the last change of champion, which it would rewrite.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tasks.policy.records.base import from_json
from tasks.policy.records.evidence import Judgement, LedgerEntry
from tasks.policy.rollout.probation import Degradation

Action = Literal["retrain", "rollback"]
MOVES = ("champion.promoted", "champion.rolled_back")


@dataclass(frozen=True, slots=True)
class Request:
    """A decision as recorded in the ledger."""

    at: datetime
    reasons: tuple[str, ...]


def decided(
    entries: Iterable[LedgerEntry], action: Action, decision_id: str | None, version: str | None = None
) -> Request | None:
    """The recorded decision with this id for this action, and this version if given; None if there is none."""
    for entry in entries:
        if decision_id is None or entry.decision_id != decision_id:
            continue
        if action == "retrain" and entry.kind == "window.judged":
            judgement = from_json(Judgement, entry.body)
            decision = judgement.decision
            wanted = decision.go_back_to == version if version else decision.retrain
            if wanted and not judgement.backfilled:
                return Request(entry.at, decision.reasons)
        if action == "rollback" and entry.kind == "champion.degraded":
            degraded = from_json(Degradation, entry.body)
            if degraded.champion == version:
                return Request(entry.at, degraded.reasons)
    return None


def why_not_requested(action: Action, request: Request | None, by_event: bool, as_of: datetime) -> str | None:
    """Why an event's request is rejected; None if the ledger holds the decision, or no event made the request."""
    if not by_event:
        return None
    if request is None:
        return (
            f"an event requested a {action} that the ledger holds no decision for; expected the decision_id of one "
            "that monitor recorded, and the version that it is about"
        )
    if request.at != as_of:
        return (
            f"an event requested a {action} as of {as_of:%Y-%m-%d %H:%M} UTC, but it was decided as of "
            f"{request.at:%Y-%m-%d %H:%M} UTC"
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
