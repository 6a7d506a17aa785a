"""Hand-over: an event is repeated until its decision has a result, and never after that."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.backfill import backfill
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger
from tasks.adapters.orchestration import events as announcements
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tests.support.prepared_workspaces import FIRST

pytestmark = pytest.mark.usefixtures("prefect_server")
SECOND, THIRD = utc("2024-01-25"), utc("2024-01-27")
EVERY = {
    "{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}": "{trigger: every, days: 1}",
    "cooldown_days: 4": "cooldown_days: 0",
}


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count how often each event was emitted per decision."""
    counted: Counter[tuple[str, str]] = Counter()
    announce = announcements.announce

    def count(event: str, model: str, payload: dict[str, Any]) -> None:
        counted[event, str(payload["decision_id"])] += 1
        announce(event, model, payload)

    monkeypatch.setattr(announcements, "announce", count)
    return counted


@pytest.fixture
def model(tmp_path: Path, begin: Callable[..., str]) -> str:
    """A model that requests a retrain after each window, with a champion."""
    return begin(tmp_path, **EVERY)


def ask(model: str) -> str:
    """Return the id of the decision to retrain after the window that ends at SECOND."""
    for until in (utc("2024-01-23"), SECOND):
        score(model, until=until)
    decision = monitor(model, until=SECOND).decision
    assert decision.retrain
    return decision.decision_id


def test_lost_request_is_repeated_until_validation(model, announced):
    wanted = ask(model)
    monitor(model, until=SECOND)
    assert announced["retraining.requested", wanted] == 2
    retrain(model, until=SECOND, decision_id=wanted)
    monitor(model, until=SECOND)
    assert announced["retraining.requested", wanted] == 2


def test_refused_request_is_not_repeated(model, announced):
    wanted = ask(model)
    ledger.append("small", Fact("retraining.refused", "the budget refuses", SECOND, wanted))
    monitor(model, until=SECOND)
    assert announced["retraining.requested", wanted] == 1


def test_passed_challenger_is_handed_over_until_promoted(model, announced):
    wanted = ask(model)
    for _ in range(2):
        retrain(model, until=SECOND, decision_id=wanted)
    assert announced["challenger.validated", wanted] == 2
    promote(model, decision_id=wanted, until=SECOND)
    retrain(model, until=SECOND, decision_id=wanted)
    assert announced["challenger.validated", wanted] == 2


def test_quarantined_version_is_not_requested_again(model, announced):
    wanted = ask(model)
    retrain(model, until=SECOND, decision_id=wanted)
    promote(model, decision_id=wanted, until=SECOND)
    rollback(model, reason="answers are late", until=SECOND)
    before = announced.copy()
    monitor(model, until=SECOND)
    retrain(model, until=SECOND, decision_id=wanted)
    announced.subtract(before)
    assert {event for (event, _), times in announced.items() if times} == {"model.watched"}


def test_backfill_decision_is_never_handed_over(model, announced):
    backfill(model, start=FIRST, end=SECOND, dry_run=False)
    filled = monitor(model, until=SECOND)
    assert filled.decision.retrain and filled.backfilled
    assert not [event for event, _ in announced if event == "retraining.requested"]
    score(model, until=THIRD)
    live = monitor(model, until=THIRD)
    assert not live.backfilled
    assert announced["retraining.requested", live.decision.decision_id] == 1
