"""Which version may serve where someone else moved the alias champion, read from the ledger."""

import pytest

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.access import Approval
from tasks.policy.records.base import to_json
from tasks.policy.rollout.versions import OUTSIDE, Registry, last_move, outside_move, why_not_approved, why_not_serve
from tests.policy.triggers.judged_windows import window


def fact(kind: str, body: object, at: int, actor: str = "tests") -> LedgerEntry:
    return LedgerEntry("m", at, kind, window(at).end, f"d{at}", actor, to_json(body), "")


def made(number: int) -> LedgerEntry:
    version = ModelVersion("m", str(number), f"run{number}", f"d{number}", window(number), 1000, "sha")
    return fact("challenger.registered", version, number)


def judged(number: int, verdict: str = "fail", kind: str = "challenger.refused", actor: str = "tests") -> LedgerEntry:
    report = ValidationReport(str(number), "1", verdict, (), ("it loses",), 10)
    return fact(kind, report, number, actor)


def passed(number: int, actor: str = "tests") -> LedgerEntry:
    return judged(number, "pass", "challenger.validated", actor)


def rejected(number: int) -> LedgerEntry:
    return fact("challenger.rejected", Approval(str(number), "rejected", "ada", "no", ()), number)


def serves(number: int, kind: str = "champion.promoted") -> LedgerEntry:
    return fact(kind, Promotion("m", f"d{number}", str(number), None, "promoted"), number)


FIRST = (made(1), passed(1), serves(1), made(2))


@pytest.mark.parametrize(
    ("entries", "number", "why"),
    [
        ((*FIRST, judged(2)), "2", "on version 2, whose validation says fail (it loses); set it back to version 1 in MLflow"),
        ((*FIRST, passed(2), rejected(2)), "2", "whose promotion was rejected"),
        ((*FIRST, passed(2), serves(2), serves(1, "champion.rolled_back")), "2", "was rolled back and does not serve again"),
        ((made(1), judged(1)), "1", "remove it in MLflow"),
        ((*FIRST, passed(2)), "2", None),
        ((*FIRST, judged(2), passed(2)), "2", None),
        ((*FIRST, judged(2), serves(2)), "2", None),
        ((*FIRST, judged(2), made(2)), "2", None),
        ((*FIRST, passed(2), serves(2), serves(1, "champion.rolled_back")), "1", None),
        ((*FIRST, judged(2)), "1", None),
        ((), "1", None),
    ],
)  # fmt: skip
def test_the_last_verdict_decides(entries, number, why):
    found = why_not_serve(entries, number)
    assert found is None if why is None else why in str(found)


def state(champion: int, moved_by: str = "") -> Registry:
    return Registry({"champion": str(champion)}, {"1": "run1", "2": "run2"}, {"2": moved_by})


def test_unapproved_version_may_not_serve():
    entries = (*FIRST, passed(2))
    assert "whose promotion nobody approved; set it back to version 1" in str(why_not_approved(entries, state(2), "2"))
    assert why_not_approved(entries, state(1), "1") is None
    assert why_not_approved(entries, state(2, "d2"), "2") is None, "a promotion that was not recorded yet"
    assert why_not_approved((*entries, serves(2), serves(1, "champion.rolled_back")), state(2), "2") is None
    assert why_not_approved((made(1),), state(1), "1") is None, "before the first promotion"


def test_interrupted_record_of_a_move_is_still_to_be_recorded():
    entries, moved = (*FIRST, passed(2, OUTSIDE)), state(2, "d2")
    assert outside_move("m", entries, moved).number == "2"
    assert last_move((*FIRST, passed(2)), moved).champion == "2", "a promotion of our own is complete"
