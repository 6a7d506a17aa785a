"""The payload of an event between flows: the model, the decision id that keys every write, and the reasons.

Sizes are bounded here, where events are created, and again by the types of the flows' parameters. Anyone with access to
the server's API can emit an event, so verdicts are read from the ledger, never from an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

LONGEST_REASON, MOST_REASONS = 2000, 20
REQUEST = "perennial.request.id"
"""Label of an event's resource by which triggers distinguish a repeated event from a new request for the model."""


class RunMode(StrEnum):
    """Mode of a run. Only a live run's events start other runs, and a back-fill's decisions are not acted on."""

    LIVE = "live"
    REPLAY = "replay"
    BACKFILL = "backfill"
    DRY_RUN = "dry-run"

    @property
    def tag(self) -> str:
        """The tag of a flow run with this mode: shown in the dashboard, and read again after a restart."""
        return f"perennial-{self}"


def about(resource: str, model: str, payload: Mapping[str, object]) -> dict[str, str]:
    """The resource of an event: the model, and the request, identified by its own id, its decision's, or else its time.

    An automation acts once a minute on a request, so what a decision asks for twice, such as a rollout, has ids of its own.
    """
    request = payload.get("request") or payload.get("decision_id") or payload.get("until") or ""
    return {"prefect.resource.id": f"{resource}.{model}", "prefect.resource.name": model, REQUEST: str(request)}


@dataclass(frozen=True, slots=True)
class Handover:
    """A decision handed over to the next flow.

    `until` is the time as of which that flow runs; `champion` is the version that the action refers to.
    """

    model: str
    decision_id: str
    reasons: tuple[str, ...] = ()
    until: datetime | None = None
    champion: str | None = None

    def payload(self) -> dict[str, object]:
        """The payload as a dict; unset fields are omitted, and templates then use the flow's defaults."""
        reasons = [reason[:LONGEST_REASON] for reason in self.reasons[:MOST_REASONS]]
        fields = {
            "model": self.model,
            "decision_id": self.decision_id,
            "reasons": reasons,
            "until": self.until.isoformat() if self.until else None,
            "champion": self.champion,
        }
        return {name: value for name, value in fields.items() if value is not None}
