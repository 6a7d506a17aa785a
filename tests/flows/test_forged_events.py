"""An event is a request, never a proof: nothing is done that the ledger has not decided."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.adapters.orchestration import run_identity
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import Decision, Judgement, WindowEvidence
from tasks.policy.governance.access import Principal
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import AccessRefused
from tasks.policy.rollout.probation import Degradation
from tests.support.prepared_workspaces import first_champion

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.attack("whoever can emit an event")]
LATER = utc("2024-01-25")
WINDOW = Window(utc("2024-01-23"), LATER)
DECISION = "0123456789abcdef"
AUTOMATION = Principal("automation", "perennial: retrain when monitor asks", True)
LIVE = {", end: 2024-02-06T00:00:00Z": ""}


def two_champions(model: str) -> None:
    first_champion(model)
    retrain(model, until=LATER)
    promote(model, until=LATER)


@pytest.fixture
def live(tmp_path: Path, begin: Callable[..., str]) -> str:
    """A live model with a champion and a predecessor, found by its name, as by events."""
    begin(tmp_path / "models", prepare=two_champions, **LIVE)
    assert registry.aliases("small")[registry.CHAMPION] == "2"
    return "small"


@pytest.fixture
def by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_identity, "creator", lambda claimed=None: AUTOMATION)


def record_judgement(
    window: Window = WINDOW, retrain: bool = True, back_to: str | None = None, **changes: object
) -> None:
    decision = Decision(DECISION, "small", window, retrain, ("mae rose",), go_back_to=back_to)
    judgement = Judgement(window.end, "2", WindowEvidence(window, 300), decision, **changes)
    ledger.append("small", Fact("window.judged", judgement, window.end, DECISION))


def trained() -> int:
    return len(ledger.entries("small", kind="challenger.registered"))


def test_undecided_retrain_is_refused_and_recorded(live, by_event):
    for decision_id in (DECISION, None):
        with pytest.raises(AccessRefused, match="the ledger holds no decision for"):
            retrain(live, until=LATER, decision_id=decision_id, requested_by="automation")
    assert trained() == 2
    assert ledger.entries("small")[-1].kind == "access.refused"


def test_other_decisions_do_not_authorise_a_retrain(live, by_event):
    record_judgement(retrain=False)
    with pytest.raises(AccessRefused, match="holds no decision"):
        retrain(live, until=LATER, decision_id=DECISION)
    with pytest.raises(AccessRefused, match="holds no decision"):
        retrain(live, until=LATER, decision_id=DECISION, earlier="1")
    assert trained() == 2


def test_decided_retrain_uses_recorded_reason_and_time(live, by_event):
    record_judgement()
    with pytest.raises(AccessRefused, match="decided as of 2024-01-25"):
        retrain(live, until=LATER - timedelta(days=1), decision_id=DECISION)
    validation = retrain(live, until=LATER, decision_id=DECISION, reason="a forged reason", requested_by="automation")
    assert validation is not None
    assert trained() == 3
    assert ledger.entries("small", kind="challenger.registered")[-1].actor == "automation"


def test_rollback_event_needs_a_recorded_degradation(live, by_event):
    with pytest.raises(AccessRefused, match="holds no decision"):
        rollback(live, reason="forged", until=LATER, decision_id=DECISION, champion="2")
    degraded = Degradation("2", "1", LATER, ("version 2 loses 3 mae",))
    ledger.append("small", Fact("champion.degraded", degraded, LATER, DECISION))
    with pytest.raises(AccessRefused, match="holds no decision"):
        rollback(live, reason="forged", until=LATER, decision_id=DECISION, champion="1")
    assert registry.aliases("small")[registry.CHAMPION] == "2"
    rollback(live, reason="forged", until=LATER, decision_id=DECISION, champion="2")
    assert registry.aliases("small")[registry.CHAMPION] == "1"
    assert "version 2 loses 3 mae" in ledger.entries("small", kind="champion.rolled_back")[-1].body


def test_event_cannot_judge_or_score_past_windows(live, by_event):
    record_judgement()
    for flow in (monitor, score):
        with pytest.raises(AccessRefused, match=r"2024-01-23\.\.2024-01-25 was judged already"):
            flow(live, until=utc("2024-01-23"))


def test_person_cannot_change_a_live_model_in_the_past(live):
    before = LATER - timedelta(days=1)
    with pytest.raises(AccessRefused, match=r"a retrain\s+cannot take effect before it"):
        retrain(live, until=before, reason="rewrite the past", requested_by="Mallory")
    with pytest.raises(AccessRefused, match="a rollback cannot take effect before it"):
        rollback(live, reason="rewrite the past", until=before, requested_by="Mallory")
    with pytest.raises(AccessRefused, match="a promotion cannot take effect before it"):
        promote(live, until=before, requested_by="Mallory")
    assert registry.aliases("small")[registry.CHAMPION] == "2"


def test_typed_automation_is_not_automation(live):
    retrain(live, until=LATER, reason="in its name", requested_by="automation")
    assert ledger.entries("small", kind="challenger.registered")[-1].actor == "unnamed"
