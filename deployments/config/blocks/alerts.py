"""Settings of who gets which alerts: the block `alerts` of a model's YAML file and of `fleet.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, get_args

from pydantic import Field

from tasks.policy.records.base import Settings

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
SHARED_BLOCK = "perennial-alerts"
"""Name of the notification block of alerts that no file routes. It can be of any notification type."""
BLOCK = r"^[a-z][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,98}$"

BlockName = Annotated[str, Field(pattern=BLOCK, examples=["slack-webhook/ml-team"])]
BlockNames = Annotated[tuple[BlockName, ...], Field(max_length=10, examples=[["slack-webhook/ml-team"]])]


class Alerts(Settings):
    """Who gets alerts, by severity: Prefect's notification blocks, each as type/name.

    A severity that is left out goes to the blocks of fleet.yaml, else to the block `perennial-alerts`; `[]` sends nothing.
    `perennial alerts add` creates a block. Its address is stored in Prefect, never in this file."""

    critical: BlockNames | None = Field(None, examples=[["pager-duty-webhook/on-call"]])
    """A degraded champion, a failed run, or a model that is not monitored."""
    warning: BlockNames | None = Field(None, examples=[["slack-webhook/ml-team"]])
    """Quarantined rows or labels, a refused budget or access, and what waits for a person: an approval or a held rollout."""
    info: BlockNames | None = Field(None, examples=[[]])
    """The end of a rollout, and a rejected challenger."""


@dataclass(frozen=True)
class Audience:
    """Who gets the alerts of each model. A model without a file counts as one without alerts of its own."""

    fleet: Alerts = field(default_factory=Alerts)
    models: Mapping[str, Alerts] = field(default_factory=dict)
    existing: Mapping[str, str] | None = None
    """Ids of the server's blocks by name, `perennial-alerts` included; None before a server was asked."""

    def on(self, existing: Mapping[str, str]) -> "Audience":
        """Return the audience on a server with these blocks, whose ids are given by name."""
        return replace(self, existing=existing)

    def named(self, model: str | None, severity: Severity) -> tuple[str, ...]:
        """Return the blocks that the files name for a model, whether they exist or not; None means any other model."""
        own = self.models.get(model) if model else None
        for alerts in (own or Alerts(), self.fleet):
            chosen: tuple[str, ...] | None = getattr(alerts, severity)
            if chosen is not None:
                return tuple(dict.fromkeys(chosen))
        return (SHARED_BLOCK,)

    def of(self, model: str | None, severity: Severity) -> tuple[str, ...]:
        """Return the existing blocks of a model, or of any other model.

        If none of those named exists, alerts go to the fleet's blocks, else to `perennial-alerts`, rather than nowhere.
        """
        named = self.named(model, severity)
        if not named:
            return ()
        choices = (named, self.named(None, severity), (SHARED_BLOCK,))
        return next((there for there in map(self._there, choices) if there), ())

    def is_shared(self, severity: Severity) -> bool:
        """Whether the alerts of every model go to the same blocks."""
        return all(self.of(model, severity) == self.of(None, severity) for model in self.models)

    def missing(self) -> tuple[tuple[str, Severity, str], ...]:
        """Return (file, severity, block) for each block that a file names and the server lacks."""
        files = {"fleet.yaml": self.fleet, **{f"{model}.yaml": alerts for model, alerts in self.models.items()}}
        return tuple(
            (file, severity, block)
            for file, alerts in files.items()
            for severity in SEVERITIES
            for block in getattr(alerts, severity) or ()
            if self.existing is not None and block not in self.existing
        )

    def _there(self, blocks: tuple[str, ...]) -> tuple[str, ...]:
        """Return the blocks that exist. The shared block has one name, even if a file gives its type as well."""
        if self.existing is None:
            return blocks
        found = {self.existing[block]: block for block in (*blocks, SHARED_BLOCK) if block in self.existing}
        return tuple(dict.fromkeys(found[self.existing[block]] for block in blocks if block in self.existing))
