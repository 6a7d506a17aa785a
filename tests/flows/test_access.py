"""Access: refusals are recorded in the ledger, overrides need a name, and no override passes a failed gate."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from tasks.adapters import ledger, registry
from tasks.adapters.orchestration import run_identity
from tasks.policy.governance.access import Principal
from tasks.policy.records.base import utc
from tasks.policy.records.errors import AccessRefused, PromotionRefused
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")
ROLES = {"risk: low": "risk: low\naccess: {trigger: [Ada], override: [Grace]}"}
BUDGET = {"window_days: 2": "budget: {fixed_usd_per_retrain: 60, max_usd_per_month: 100}\nwindow_days: 2"}


@contextmanager
def started_by(monkeypatch: pytest.MonkeyPatch, principal: Principal):
    """Simulate a run that the server recorded with this creator."""
    with monkeypatch.context() as patched:
        patched.setattr(run_identity, "creator", lambda claimed=None: principal)
        yield


def kinds() -> list[str]:
    return [entry.kind for entry in ledger.entries("small")]


def grace(**changes: object) -> dict[str, object]:
    end = datetime.now(UTC) + timedelta(hours=1)
    return {"by": "Grace", "reason": "the budget is renewed on Monday", "until": end.isoformat(), **changes}


def test_unauthorised_run_is_refused_and_recorded(tmp_path):
    model = write_model(tmp_path, **ROLES)
    for attempt in (
        lambda: retrain(model, until=FIRST, requested_by="Mallory"),
        lambda: promote(model, until=FIRST, requested_by="Mallory"),
        lambda: rollback(model, reason="just so", until=FIRST, requested_by="Mallory"),
    ):
        with pytest.raises(AccessRefused, match="Mallory may not start this"):
            attempt()
    assert [(entry.kind, entry.actor) for entry in ledger.entries("small")] == [("access.refused", "Mallory")] * 3
    assert retrain(model, until=FIRST, requested_by="Ada").verdict == "pass"


def test_event_cannot_name_a_model_file(tmp_path, monkeypatch):
    model = write_model(tmp_path)
    with started_by(monkeypatch, Principal("automation", "perennial: score when data arrives", True)):
        for flow in (monitor, retrain):
            with pytest.raises(AccessRefused, match="expected a name without a path"):
                flow(model, until=FIRST)


def test_only_named_people_override_the_budget(tmp_path):
    model = write_model(tmp_path, **{"risk: low": "risk: low\naccess: {override: [Grace]}"}, **BUDGET)
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    later = utc("2024-01-25")
    assert retrain(model, until=later, reason="once more") is None
    with pytest.raises(AccessRefused, match="Mallory may not override"):
        retrain(model, until=later, reason="again", requested_by="Mallory", override=grace(by="Mallory"))
    with pytest.raises(AccessRefused, match="ended"):
        ended = datetime.now(UTC) - timedelta(hours=1)
        retrain(model, until=later, reason="again", requested_by="Grace", override=grace(until=ended.isoformat()))
    assert retrain(model, until=later, reason="now", requested_by="Grace", override=grace()) is not None
    used = ledger.entries("small", kind="override.used")
    assert [(entry.actor, "the budget is renewed" in entry.body) for entry in used] == [("Grace", True)]


def test_override_never_passes_a_failed_gate(tmp_path):
    floor = "validation: {first_model_floor: 0.001, holdout_days: 1.5"
    access = {"risk: low": "risk: low\naccess: {override: [Grace]}", "validation: {holdout_days: 1.5": floor}
    model = write_model(tmp_path, **access)
    assert retrain(model, until=FIRST).verdict == "fail"
    with pytest.raises(PromotionRefused, match="validation says fail"):
        promote(model, until=FIRST, requested_by="Grace", override=grace())
    assert registry.CHAMPION not in registry.aliases("small")
    assert "override.used" not in kinds()
