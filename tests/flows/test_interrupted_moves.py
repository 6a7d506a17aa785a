"""An interrupted promotion or rollback records the same fact once when it runs again."""

import pytest
from prefect import flow, get_client
from prefect.runtime import flow_run

from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from tasks.adapters import ledger, registry
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json, utc
from tasks.policy.rollout.restorable import returnable
from tasks.record.publication import publish_promotion
from tests.support.prepared_workspaces import FIRST, first_champion
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
SECOND, THIRD = utc("2024-01-25"), utc("2024-01-27")
NAME = "small"


def two_champions(model: str) -> None:
    first_champion(model)
    retrain(model, until=SECOND)
    promote(model, until=SECOND)


@pytest.fixture
def model(tmp_path, begin) -> str:
    """Prepare a registry where version 2 serves and version 1 is previous."""
    # without an end, its time follows the clock
    return begin(tmp_path, prepare=two_champions, **{", end: 2024-02-06T00:00:00Z": ""})


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch):
    """Interrupt before the next entry of a kind is written, as a lost machine does."""
    append = ledger.append

    def at(interrupted: str) -> None:
        def append_or_die(name: str, fact: Fact) -> object:
            if fact.kind == interrupted:
                monkeypatch.setattr(ledger, "append", append)
                raise KeyboardInterrupt
            return append(name, fact)

        monkeypatch.setattr(ledger, "append", append_or_die)

    return at


def facts(kind: str) -> list[LedgerEntry]:
    return list(ledger.entries(NAME, kind=kind))


def test_interrupted_rollback_is_recorded_on_rerun(model, cut_off):
    promotions = facts("champion.promoted")

    def go_back() -> Promotion:
        return rollback(model, reason="answers are late", requested_by="Ada", until=THIRD)

    cut_off("champion.rolled_back")
    with pytest.raises(KeyboardInterrupt):
        go_back()
    expected = (NAME, "1", None, "rolled_back", ("Ada: answers are late",))
    for again in (go_back(), go_back()):
        assert (again.model, again.champion, again.previous, again.action, again.reasons) == expected
    (fact,) = facts("champion.rolled_back")
    assert (fact.actor, from_json(Promotion, fact.body)) == ("Ada", again)
    assert facts("champion.promoted") == promotions
    assert returnable(ledger.entries(NAME)) == (), "version 2 is quarantined"


def test_interrupted_promotion_is_recorded_with_reasons(tmp_path, cut_off):
    model = write_model(tmp_path)
    validation = retrain(model, until=FIRST)
    cut_off("champion.promoted")
    with pytest.raises(KeyboardInterrupt):
        promote(model, until=FIRST)
    again = promote(model, until=FIRST)
    assert (again.action, again.champion, again.previous, again.reasons) == ("promoted", "1", None, validation.reasons)
    assert [from_json(Promotion, fact.body) for fact in facts("champion.promoted")] == [again]


def test_rerun_of_a_manual_rollback_is_the_same_decision(model, monkeypatch):
    """Without `until` the clock has moved on; the run's first scheduled start has not."""
    tries = iter((False, True))

    def dies_once(*arguments: object) -> None:
        if not next(tries):
            raise ConnectionError("the ledger's machine is gone")
        publish_promotion(*arguments)

    monkeypatch.setattr("flows.rollback.publish_promotion", dies_once)
    restored = rollback.with_options(retries=1, retry_delay_seconds=0)(model, reason="answers are late")
    assert (restored.action, restored.champion) == ("rolled_back", "1")
    assert [from_json(Promotion, fact.body) for fact in facts("champion.rolled_back")] == [restored]
    assert registry.tags(NAME, "2")["status"] == "quarantined"


def test_prefect_keeps_the_first_scheduled_time():
    """The previous test relies on this: another process reads the time from the server."""

    @flow(name="first due")
    def first_due() -> bool:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(flow_run.id).expected_start_time == flow_run.scheduled_start_time

    assert first_due()
