"""Roles: who may trigger, approve and override; a recorded name beats a typed one, and a failed gate has no override."""

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
def test_what_the_server_recorded_beats_what_was_typed(kind, name, claimed, expected):
    assert principal_of(kind, name, claimed) == expected


def test_who_is_in_the_role_may_trigger_and_who_is_not_is_told_who_may():
    assert why_not_trigger(CLOSED, Principal("automation", "perennial: x", True), "automation") is None
    assert why_not_trigger(CLOSED, Principal("person", "ADA"), "ADA") is None
    assert why_not_trigger(CLOSED, Principal("person", "Mallory"), "Mallory") == (
        "Mallory may not start this; access.trigger has automation, Ada"
    )
    assert why_not_trigger(CLOSED, Principal("schedule", "schedule", True), None)
    assert why_not_trigger(CLOSED, Principal("unnamed", "unnamed"), None)


def test_by_default_anyone_who_passed_the_servers_log_in_may_trigger():
    for principal in (ADA, Principal("unnamed", "unnamed"), Principal("automation", "a", True)):
        assert why_not_trigger(AccessPolicy(), principal, None) is None


def test_nobody_starts_a_run_in_anothers_name_where_the_server_knows_better():
    recorded = Principal("person", "mallory@example.com", True)
    assert "in the name of Ada" in why_not_trigger(AccessPolicy(), recorded, "Ada")
    assert why_not_trigger(AccessPolicy(), recorded, "unnamed") is None


def test_an_approver_is_another_person_of_the_role():
    assert why_not_approve(CLOSED, "grace", ["Ada"]) is None
    assert "Grace requested this" in why_not_approve(CLOSED, "Grace", ["grace"])
    assert "Ada may not approve" in why_not_approve(CLOSED, "Ada", [])
    assert why_not_approve(AccessPolicy(), "Ada", ["Grace"]) is None
    for nobody in ("automation", "unnamed", "", "Perennial"):
        assert "no person's name" in why_not_approve(AccessPolicy(), nobody, [])


def override(by: str = "Grace", days: float = 1) -> Override:
    return Override(by=by, reason="the budget is renewed on Monday", until=NOW + timedelta(days=days))


def test_an_override_is_of_a_person_in_the_role_and_ends():
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
def test_an_override_without_a_person_a_reason_or_an_end_is_none(fields):
    with pytest.raises(ValidationError):
        Override.model_validate({"by": "Grace", "reason": "the budget is renewed", "until": NOW.isoformat(), **fields})


def test_a_role_that_people_answer_in_names_people():
    for role in ("approve", "override"):
        with pytest.raises(ValidationError, match="expected people"):
            AccessPolicy(**{role: ("anyone",)})
