"""Decide who may trigger, approve and override, by the roles in a model's file.

The name that the server recorded counts; a typed name is a claim and never overrides it. A self-hosted Prefect records
automations and schedules, not people. There the login protects the server, and the ledger stores the claimed name.
Four eyes: no one may approve a request made under their own name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from tasks.policy.governance.people import ANYONE, AUTOMATION, SCHEDULE, UNNAMED, is_unnamed, look_alike, plain
from tasks.policy.records.text import NO_CONTROLS, OneLine

Name = Annotated[str, Field(min_length=2, max_length=200, pattern=NO_CONTROLS)]


class AccessPolicy(BaseModel):
    """The people in each role. `automation`, `schedule` and `anyone` may be listed as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    trigger: tuple[Name, ...] = Field((AUTOMATION, SCHEDULE, ANYONE), examples=[[AUTOMATION, "ada@example.com"]])
    """Names that may start `retrain`, `promote` and `rollback`."""
    approve: tuple[Name, ...] = Field((), examples=[["grace@example.com"]])
    """People who may approve a promotion. Default: any named person except the requester."""
    override: tuple[Name, ...] = Field((), examples=[["ada@example.com"]])
    """People who may override a budget or a warning for a limited time. Default: nobody. No one can override a failed gate."""
    approval_hours: float = Field(72, gt=0, le=24 * 60, examples=[24])
    """Hours after which a promotion that nobody approved is rejected."""

    @model_validator(mode="after")
    def _names_people(self) -> Self:
        for role in ("approve", "override"):
            nobody = [name for name in getattr(self, role) if is_unnamed(name)]
            if nobody:
                raise ValueError(f"{role} names {', '.join(nobody)}, expected people")
        return self


@dataclass(frozen=True, slots=True)
class Principal:
    """The initiator of a run. `recorded` means that the server stored the name; otherwise it was typed."""

    kind: Literal["automation", "schedule", "person", "unnamed"]
    name: str
    recorded: bool = False

    def __str__(self) -> str:
        prefix = "" if self.kind == self.name or self.kind == "person" else f"{self.kind} "
        return f"{prefix}{self.name}"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request for approval: the version, the times, and `run_id`, the run that waits for the answer."""

    version: str
    requesters: tuple[str, ...]
    asked_at: datetime
    expires_at: datetime
    run_id: str | None
    anonymous: bool = False
    """Whether a person without a name started it, so that the approver may be the same person."""


@dataclass(frozen=True, slots=True)
class Approval:
    """The outcome of an approval request for a validated challenger."""

    version: str
    verdict: Literal["approved", "rejected", "expired", "waiting", "not_needed"]
    by: str
    comment: str
    reasons: tuple[str, ...]


class Override(BaseModel):
    """A time-limited exception that a named person takes responsibility for. It never passes a failed gate."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    by: Name
    """The person responsible for it."""
    reason: Annotated[OneLine, Field(min_length=10, max_length=2000)]
    """The reason, in a sentence."""
    until: AwareDatetime
    """End of the override; at most 30 days from now."""


LONGEST_OVERRIDE = timedelta(days=30)


def principal_of(recorded_kind: str | None, recorded_name: str | None, claimed: str | None) -> Principal:
    """The initiator of a run, from what the server recorded (None if nothing) and the typed name."""
    name = (recorded_name or "").strip()
    match (recorded_kind or "").lower():
        case "":
            typed = (claimed or "").strip()
            return Principal("unnamed", "unnamed") if is_unnamed(typed) else Principal("person", typed)
        case "automation":
            return Principal("automation", name or AUTOMATION, True)
        case "schedule" | "deployment":
            return Principal("schedule", SCHEDULE, True)
        case _:
            return Principal("person", name, True) if name else Principal("unnamed", "unnamed", True)


def why_not_trigger(policy: AccessPolicy, principal: Principal, claimed: str | None) -> str | None:
    """Why this principal may not start a run that changes the champion; None if it may."""
    if (
        principal.recorded
        and principal.kind == "person"
        and plain(claimed or "") not in UNNAMED | {plain(principal.name)}
    ):
        return f"{principal.name} started this in the name of {claimed}; expected one's own name"
    role = {plain(name) for name in policy.trigger}
    if principal.kind in ("person", "unnamed") and ANYONE in role:
        return None
    if plain(principal.name) in role or principal.kind in role:
        return None
    return f"{principal} may not start this; access.trigger has {', '.join(policy.trigger) or 'nobody'}"


def why_not_approve(
    policy: AccessPolicy, approver: str, requesters: Iterable[str], anonymous: bool = False, risk: str = "low"
) -> str | None:
    """Why `approver` may not approve this request, else None. `anonymous`: a person without a name started it."""
    if is_unnamed(approver):
        return f"approver is {approver or 'empty'}, expected a person's name"
    if look_alike(approver, set(requesters) - UNNAMED):
        return f"{approver} requested this, expected another person to approve it"
    if policy.approve and plain(approver) not in {plain(name) for name in policy.approve}:
        return f"{approver} may not approve; access.approve has {', '.join(policy.approve)}"
    if anonymous and risk == "high":
        return (
            "risk is high and the person who started this gave no name, so the approver may be the same person; "
            "train again with requested_by"
        )
    return None


def why_not_override(policy: AccessPolicy, override: Override, principal: Principal, now: datetime) -> str | None:
    """Why this override is not valid; None if it is."""
    if plain(override.by) not in {plain(name) for name in policy.override}:
        return f"{override.by} may not override; access.override has {', '.join(policy.override) or 'nobody'}"
    if principal.kind == "person" and plain(principal.name) != plain(override.by):
        return f"{principal.name} cannot override in the name of {override.by}"
    if override.until <= now:
        return f"the override of {override.by} ended {override.until:%Y-%m-%d %H:%M} UTC"
    if override.until > now + LONGEST_OVERRIDE:
        return f"the override lasts until {override.until:%Y-%m-%d}, expected at most {LONGEST_OVERRIDE.days} days"
    return None
