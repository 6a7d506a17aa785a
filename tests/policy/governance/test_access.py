"""Roles: who may trigger, approve and override. Recorded names override typed ones; a failed gate has no override."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from tasks.policy.governance.access import (
    AccessPolicy,
    Override,
    Principal,
    principal_of,
    why_not_approve,
    why_not_override,
    why_not_trigger,
)
from tasks.policy.records.base import utc

NOW = utc("2026-11-24")
ADA = Principal("person", "Ada")
CLOSED = AccessPolicy(trigger=("automation", "Ada"), approve=("Grace",), override=("Grace",))


@pytest.mark.parametrize(
    ("kind", "name", "claimed", "expected"),
    [
        (None, None, "Ada", Principal("person", "Ada")),
        (None, None, "unnamed", Principal("unnamed", "unnamed")),
        (None, None, "automation", Principal("unnamed", "unnamed")),
        ("AUTOMATION", "perennial: retrain", "Ada", Principal("automation", "perennial: retrain", True)),
        ("SCHEDULE", "monitor", None, Principal("schedule", "schedule", True)),
        ("USER", "ada@example.com", "Grace", Principal("person", "ada@example.com", True)),
    ],
)
def test_recorded_name_overrides_typed_name(kind, name, claimed, expected):
    assert principal_of(kind, name, claimed) == expected


def test_only_people_in_the_role_may_trigger():
    assert why_not_trigger(CLOSED, Principal("automation", "perennial: x", True), "automation") is None
    assert why_not_trigger(CLOSED, Principal("person", "ADA"), "ADA") is None
    assert why_not_trigger(CLOSED, Principal("person", "Mallory"), "Mallory") == (
        "Mallory may not start this; access.trigger has automation, Ada"
    )
    assert why_not_trigger(CLOSED, Principal("schedule", "schedule", True), None)
    assert why_not_trigger(CLOSED, Principal("unnamed", "unnamed"), None)


def test_anyone_logged_in_may_trigger_by_default():
    for principal in (ADA, Principal("unnamed", "unnamed"), Principal("automation", "a", True)):
        assert why_not_trigger(AccessPolicy(), principal, None) is None


def test_run_in_another_name_is_refused():
    recorded = Principal("person", "mallory@example.com", True)
    assert "in the name of Ada" in why_not_trigger(AccessPolicy(), recorded, "Ada")
    assert why_not_trigger(AccessPolicy(), recorded, "unnamed") is None


def test_approver_is_another_person_in_the_role():
    assert why_not_approve(CLOSED, "grace", ["Ada"]) is None
    assert "Grace requested this" in why_not_approve(CLOSED, "Grace", ["grace"])
    assert "Ada may not approve" in why_not_approve(CLOSED, "Ada", [])
    assert why_not_approve(AccessPolicy(), "Ada", ["Grace"]) is None
    for nobody in ("automation", "unnamed", "", "Perennial"):
        assert "expected a person's name" in why_not_approve(AccessPolicy(), nobody, [])


def override(by: str = "Grace", days: float = 1) -> Override:
    return Override(by=by, reason="the budget is renewed on Monday", until=NOW + timedelta(days=days))


def test_override_needs_role_and_expiry():
    grace = Principal("person", "Grace")
    assert why_not_override(CLOSED, override(), grace, NOW) is None
    assert "Ada may not override" in why_not_override(CLOSED, override("Ada"), ADA, NOW)
    assert "ended" in why_not_override(CLOSED, override(days=-1), grace, NOW)
    assert "at most 30 days" in why_not_override(CLOSED, override(days=31), grace, NOW)
    assert "Ada cannot override in the name of Grace" in why_not_override(CLOSED, override(), ADA, NOW)
    assert "access.override has nobody" in why_not_override(AccessPolicy(), override(), grace, NOW)


@pytest.mark.parametrize(
    "fields", [{"reason": "because"}, {"until": "2026-11-25T00:00:00"}, {"by": ""}, {"gate": "quality"}]
)
def test_incomplete_override_is_invalid(fields):
    with pytest.raises(ValidationError):
        Override.model_validate({"by": "Grace", "reason": "the budget is renewed", "until": NOW.isoformat(), **fields})


def test_approver_roles_name_people():
    for role in ("approve", "override"):
        with pytest.raises(ValidationError, match="expected people"):
            AccessPolicy(**{role: ("anyone",)})
