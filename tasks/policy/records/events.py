"""The payload of an event from one flow to the next: the model, the decision that keys every write, and the reasons.

Sizes are bounded here where events are made, and again by the types of the flows' parameters. Anyone who can reach the
server's API can emit an event, so verdicts are read from the ledger, never from an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

LONGEST_REASON, MOST_REASONS = 2000, 20
REQUEST = "perennial.request.id"
"""Label of an event's resource by which triggers tell repetitions from another request about the same model."""


class RunMode(StrEnum):
    """What a run may set off: only a live run's events start other runs, and nobody acts on what a back-fill decides."""

    LIVE = "live"
    REPLAY = "replay"
    BACKFILL = "backfill"
    DRY_RUN = "dry-run"

    @property
    def tag(self) -> str:
        """The tag by which a flow run shows its mode in the dashboard, and by which it knows it after a restart."""
        return f"perennial-{self}"


def about(resource: str, model: str, payload: Mapping[str, object]) -> dict[str, str]:
    """The resource of an event: which model, and which of its requests, by decision or else by time."""
    request = payload.get("decision_id") or payload.get("until") or ""
    return {"prefect.resource.id": f"{resource}.{model}", "prefect.resource.name": model, REQUEST: str(request)}


@dataclass(frozen=True, slots=True)
class Handover:
    """`until` is the time as of which the next flow judges; `champion` the version that an action is about."""

    model: str
    decision_id: str
    reasons: tuple[str, ...] = ()
    until: datetime | None = None
    champion: str | None = None

    def payload(self) -> dict[str, object]:
        """As an event carries it; what is unset is left out, so that templates fall back to the flow's defaults."""
        reasons = [reason[:LONGEST_REASON] for reason in self.reasons[:MOST_REASONS]]
        fields = {
            "model": self.model,
            "decision_id": self.decision_id,
            "reasons": reasons,
            "until": self.until.isoformat() if self.until else None,
            "champion": self.champion,
        }
        return {name: value for name, value in fields.items() if value is not None}
