"""The state machine of a rollout: what ends a step, what ends a rollout, and what a person may do."""

from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import ValidationError

from tasks.policy.comparison.guardrails import ArmStatistics, Breach, GuardrailEvidence
from tasks.policy.comparison.verdict import Conclusion, RolloutVerdict
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.base import Window, to_json, utc
from tasks.policy.rollout import stages
from tasks.policy.rollout.stages import RolloutPolicy, decide_step
from tasks.policy.rollout.state import (
    ENDED,
    LOOKED,
    MOVED,
    STARTED,
    Rollout,
    RolloutLook,
    RolloutMove,
    RolloutState,
    rollout_of,
    rollout_state,
)

START = utc("2024-03-01")
CANARY = RolloutPolicy(min_units=100, bake_hours=24, max_days=20)
SHADOW = RolloutPolicy(feedback=False, min_units=100, bake_hours=24, max_days=20)


def state(policy: RolloutPolicy = CANARY, **changes: object) -> RolloutState:
    plan = Rollout("decision", "8", "7", policy.steps, None, "salt", START)
    return replace(RolloutState(plan), **changes)


def verdict(conclusion: Conclusion, information: float = 0.5) -> RolloutVerdict:
    return RolloutVerdict(conclusion, -0.01, 0.03, information, 1, 2, f"the challenger is {conclusion}")


def look(day: int, at: RolloutState, rows: int = 500, **changes: object) -> RolloutLook:
    window = Window(START + timedelta(days=day - 1), START + timedelta(days=day))
    answers = GuardrailEvidence(window, ArmStatistics("7", rows), ArmStatistics("8", rows))
    plain = RolloutLook("decision", at.step, window, window.end, answers if rows else None)
    return replace(plain, **changes)


def moved(at: RolloutState, found: RolloutLook, policy: RolloutPolicy = CANARY) -> RolloutMove:
    move = decide_step(policy, at, found)
    assert move is not None
    return move


def test_steps_follow_from_feedback_and_mode():
    assert [step.name for step in RolloutPolicy().steps] == ["shadow", "canary 10 %", "canary 50 %"]
    assert [step.name for step in RolloutPolicy(feedback=False).steps] == ["shadow"]
    assert [step.name for step in RolloutPolicy(mode="ab").steps] == ["shadow", "A/B 5 %"]
    assert RolloutPolicy(mode="none").steps == ()


def test_a_shadow_with_feedback_proves_nothing():
    with pytest.raises(ValidationError, match="a shadow's rows prove nothing"):
        RolloutPolicy(mode="shadow", feedback=True)


def test_a_shadow_without_feedback_needs_a_verdict():
    begun = state(SHADOW)
    assert decide_step(SHADOW, begun, look(1, begun)) is None
    move = moved(begun, look(1, begun, verdict=verdict("non_inferior")), SHADOW)
    assert (move.status, move.step, move.end) == ("passed", 0, None)


def test_a_shadow_with_feedback_goes_on_without_labels():
    begun = state()
    move = moved(begun, look(1, begun))
    assert (move.status, move.step) == ("running", 1)
    assert begun.moved(move).split("churn").share == 0.1


def test_the_last_step_needs_a_verdict():
    last = state(step=2, since=START)
    assert decide_step(CANARY, last, look(1, last)) is None
    assert decide_step(CANARY, last, look(1, last, verdict=verdict("undecided"))) is None
    assert moved(last, look(1, last, verdict=verdict("superior"))).status == "passed"


@pytest.mark.parametrize("status", ["running", "passed"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_mismatched_sample_promotes_nothing(step, status):
    """Also not by the verdict of an earlier look, and not by a person."""
    at = state(step=step, since=START)
    at = replace(at, status=status, looks=(look(1, at, verdict=verdict("superior")),))
    found = look(2, at, mismatch="the units do not match")
    ended = moved(at, found)
    assert (ended.status, ended.end, ended.reasons) == ("ended", "inconclusive", ("the units do not match",))
    holds = CANARY.model_copy(update={"on_inconclusive": "hold"})
    held = moved(at, found, holds)
    assert (held.status, held.end, held.step, held.reasons) == ("held", None, step, ended.reasons)
    waiting = replace(at.moved(held), looks=(*at.looks, found))
    assert not waiting.is_proven
    assert "cannot be compared" in str(stages.why_not_direct(holds, waiting, "advance"))
    assert stages.why_not_direct(holds, waiting, "resume") is None
    assert decide_step(holds, waiting, look(3, at, mismatch="the units do not match")) is None, (
        "held until a person decides"
    )


def test_a_breach_on_a_mismatched_sample_returns_all_traffic():
    at = state(step=1, since=START)
    move = moved(at, look(1, at, mismatch="the units do not match", breaches=(Breach("errors", "no answer"),)))
    assert (move.end, move.reasons) == ("returned", ("no answer",))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_breach_or_a_loss_returns_all_traffic_from_any_step(step):
    at = state(step=step, since=START)
    for against in (
        look(1, at, breaches=(Breach("latency", "slow"),)),
        look(1, at, verdict=verdict("worse")),
        look(1, at, rows=0, breaches=(Breach("errors", "no answer"),)),
    ):
        move = moved(at, against)
        assert (move.status, move.end) == ("ended", "returned")
        assert at.moved(move).split("churn").challenger is None


@pytest.mark.parametrize("status", ["held", "awaiting_approval", "passed"])
def test_a_breach_counts_while_a_person_decides(status):
    at = state(status=status, step=1)
    assert moved(at, look(1, at, breaches=(Breach("latency", "slow"),))).end == "returned"
    assert decide_step(CANARY, at, look(1, at, verdict=verdict("superior"))) is None


def test_no_traffic_is_no_verdict_and_never_a_promotion():
    at = state()
    for day in range(1, 20):
        assert decide_step(CANARY, at, look(day, at, rows=0)) is None
    end = moved(at, look(20, at, rows=0))
    assert (end.end, end.reasons[0]) == ("inconclusive", "shadow: 0 of 100 units answered after 20 days")


def test_seven_good_looks_do_not_outweigh_missing_units():
    """A step that lasts long enough with too few units stays."""
    at = state(step=1, since=START)
    for day in range(1, 8):
        found = look(day, at, rows=10, verdict=verdict("superior"))
        assert decide_step(CANARY, at, found) is None
        at = replace(at, looks=(*at.looks, found))


@pytest.mark.parametrize(("units", "step"), [((40, 99), None), ((40, 100), 2), ((None, None), 2)])
def test_a_unit_counts_once_however_often_it_asks(units, step):
    """1,000 rows of each look are those of a few units; entries of before tell only the rows."""
    at = state(step=1, since=START)
    first, second = (look(day, at, rows=1000, units=found) for day, found in enumerate(units, start=1))
    move = decide_step(CANARY, replace(at, looks=(first,)), second)
    assert (move and move.step) == step


def test_bake_time_counts_from_the_step():
    at = state(step=1, since=START + timedelta(hours=12))
    assert decide_step(CANARY, at, look(1, at)) is None
    assert moved(at, look(2, at)).step == 2


def test_the_planned_end_without_a_verdict_is_inconclusive():
    at = state(SHADOW)
    over = look(1, at, verdict=verdict("undecided", information=1.0))
    assert moved(at, over, SHADOW).end == "inconclusive"
    hold = SHADOW.model_copy(update={"on_inconclusive": "hold"})
    assert moved(at, over, hold).status == "held"


@pytest.mark.parametrize("conclusion", ["non_inferior", "superior"])
def test_a_verdict_at_the_planned_end_waits_for_units_and_bake_time(conclusion):
    """Windows shorter than `bake_hours` would otherwise end every rollout inconclusive, with a verdict in its favour."""
    at = state(SHADOW)
    early = look(1, at, verdict=verdict(conclusion, information=1.5))
    early = replace(early, at=START + timedelta(hours=6))
    assert decide_step(SHADOW, at, early) is None
    few = look(1, at, rows=10, verdict=verdict(conclusion, information=1.5))
    assert decide_step(SHADOW, at, few) is None
    at = replace(at, looks=(early,))
    assert moved(at, look(2, at, verdict=verdict(conclusion, information=2.0)), SHADOW).status == "passed"


def test_a_look_moves_a_rollout_once():
    at = state()
    found = look(1, at)
    after = at.moved(moved(at, found))
    assert decide_step(CANARY, after, found) is None


def test_approval_comes_before_the_first_served_request():
    at = state()
    waits = stages.awaiting_approval(at, moved(at, look(1, at)))
    assert (waits.status, waits.step) == ("awaiting_approval", 0)
    assert at.moved(waits).split("churn").mode == "shadow"
    served = state(step=1, since=START)
    assert stages.awaiting_approval(served, moved(served, look(2, served))).status == "running"


def entry(sequence: int, kind: str, body: object) -> LedgerEntry:
    decision_id = body.decision_id if isinstance(body, Rollout) else None
    return LedgerEntry("churn", sequence, kind, START, decision_id, "perennial", to_json(body), "")


def test_the_state_is_folded_from_the_ledger():
    begun = state()
    first = look(1, begun)
    advanced = moved(begun, first)
    entries = [
        entry(1, STARTED, replace(begun.plan, decision_id="older")),
        entry(2, STARTED, begun.plan),
        entry(3, LOOKED, replace(first, rollout="older")),
        entry(4, LOOKED, first),
        entry(5, MOVED, advanced),
    ]
    folded = rollout_state(entries)
    assert folded == replace(begun, looks=(first,)).moved(advanced)
    assert rollout_state(entries[:1]) == RolloutState(replace(begun.plan, decision_id="older"))
    assert rollout_of(entries, "older") == RolloutState(replace(begun.plan, decision_id="older"), looks=())
    assert rollout_state([]) is None


def test_nothing_changes_a_rollout_that_ended():
    begun = state()
    end = moved(begun, look(1, begun, verdict=verdict("worse")))
    later = RolloutMove("decision", "8", "running", 1, START, ("late",))
    entries = [entry(1, STARTED, begun.plan), entry(2, ENDED, end), entry(3, MOVED, later)]
    folded = rollout_state(entries)
    assert folded is not None
    assert folded.end == end


@pytest.mark.parametrize(
    ("action", "status", "refused"),
    [
        ("hold", "running", False),
        ("hold", "held", True),
        ("resume", "held", False),
        ("resume", "running", True),
        ("advance", "running", False),
        ("advance", "awaiting_approval", True),
        ("abort", "awaiting_approval", False),
        ("abort", "ended", True),
    ],
)
def test_what_a_person_may_do(action, status, refused):
    assert (stages.why_not_direct(CANARY, state(status=status), action) is not None) == refused


def test_a_person_neither_lifts_a_breach_nor_replaces_a_verdict():
    breached = state(looks=(look(1, state(), breaches=(Breach("latency", "slow"),)),))
    assert "a person cannot lift it" in str(stages.why_not_direct(CANARY, breached, "advance"))
    last = state(step=2)
    assert "no labels have matured" in str(stages.why_not_direct(CANARY, last, "advance"))
    assert stages.why_not_direct(CANARY, None, "hold") is not None


def test_shares_must_grow():
    with pytest.raises(ValidationError, match="expected shares that grow"):
        RolloutPolicy(shares=(0.5, 0.1))


def test_moves_of_one_step_share_an_id_only_for_one_window():
    move = RolloutMove("decision", "8", "running", 1, START, ("x",), window="w1")
    assert move.id == replace(move, reasons=("y",)).id
    assert move.id != replace(move, window="w2").id
