"""Which earlier champions may serve again, read from the ledger."""

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import EarlierChampion
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import to_json
from tasks.policy.rollout.restorable import returnable
from tests.policy.triggers.judged_windows import window


def made(number: int) -> LedgerEntry:
    version = ModelVersion("m", str(number), "run", f"d{number}", window(number), 1000, "sha")
    return fact("challenger.registered", version, number)


def serves(number: int, at: int, kind: str = "champion.promoted") -> LedgerEntry:
    return fact(kind, Promotion("m", f"p{at}", str(number), None, "promoted"), at)


def fact(kind: str, body: object, at: int) -> LedgerEntry:
    return LedgerEntry("m", 1, kind, window(at).end, None, "tests", to_json(body), "")


def names(*entries: LedgerEntry) -> list[str]:
    return [served.version for served in returnable(entries)]


def test_version_may_return_after_replacement():
    story = (made(1), serves(1, 1), made(2), serves(2, 2))
    assert names(*story[:2]) == []
    assert returnable(story) == (EarlierChampion("1", window(1).end, window(1).end),)
    assert names(*story, serves(1, 5)) == ["2"]


def test_unserved_or_rolled_back_version_may_not_return():
    story = (made(1), serves(1, 1), made(2), made(3), serves(3, 3))
    assert names(*story) == ["1"]
    assert names(*story, serves(1, 4, "champion.rolled_back")) == []
    assert names(*story, serves(1, 4, "champion.rolled_back"), made(5), serves(5, 5)) == ["1"]
