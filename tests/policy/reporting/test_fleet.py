"""The fleet page lists required actions, the most urgent model first."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Decision, Judgement, WindowEvidence
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.access import ApprovalRequest
from tasks.policy.records.base import Window, WindowGrid, from_json, to_json, utc
from tasks.policy.records.reports import DriftReport, MetricValue, PerformanceReport, QualityReport
from tasks.policy.reporting.fleet import BrokenModel, FleetMember, ModelFacts, describe_member, survey
from tasks.policy.rollout.state import Rollout, RolloutMove, RolloutStep

NOW = utc("2024-03-01T06:00")
WINDOW = Window(utc("2024-02-24"), utc("2024-02-29"))
GRID = WindowGrid(WINDOW.start, 5)
CHAMPION = ModelVersion("churn", "3", "run", "d" * 16, Window(utc("2024-01-01"), utc("2024-02-01")), 1000, "0" * 64)


def entry(kind: str, body: object, at: datetime = NOW, decision_id: str | None = "a" * 16) -> LedgerEntry:
    return LedgerEntry(
        "churn", 0, kind, at, decision_id, "perennial", body if isinstance(body, str) else to_json(body), ""
    )


def judged(window: Window = WINDOW, **changes: Any) -> LedgerEntry:
    """Return a judged window: sound, stable, accuracy 0.9 at its best level; `changes` replace parts of it."""
    value = MetricValue("accuracy", changes.pop("value", 0.9), 0.88, 0.92, 1000, True)
    performance = PerformanceReport(
        window, window.end, "3", 1000, 1000, "closed", (value,), "accuracy", baseline=replace(value, value=0.9),
        shift_p_value=changes.pop("p", 0.5),
    )  # fmt: skip
    quality = QualityReport(window, changes.pop("quality", "pass"), 1000, (), 12, ("12 % of plan is null",))
    drift = DriftReport(
        window, changes.pop("drift", "stable"), (), 0.4, 10, 10, ("4 of 10 features drifted",),
        unknown_tests=changes.pop("unknown_tests", ()),
    )  # fmt: skip
    decision = Decision("a" * 16, "churn", window, changes.pop("retrain", False), ("no reason to",), **changes)
    return entry(
        "window.judged",
        Judgement(window.end, "3", WindowEvidence(window, 1000, quality, drift, performance), decision),
        window.end,
    )


def facts(*entries: LedgerEntry, **changes: Any) -> ModelFacts:
    numbered = tuple(replace(each, sequence=number) for number, each in enumerate(entries, 1))
    known = ModelFacts(
        "churn", "p", "owner", "low", False, GRID, timedelta(), None, None, None, 0.0, NOW, CHAMPION, numbered
    )
    return replace(known, **changes)


def needs(member: FleetMember) -> list[str]:
    return [need.kind for need in member.needs]


def test_model_judged_in_time_is_healthy():
    member = describe_member(facts(judged()))
    assert (member.health, member.needs) == ("healthy", ())
    assert member.next_check == utc("2024-03-05")
    assert member.metric.value == 0.9


@pytest.mark.parametrize(
    ("entries", "changes", "kind", "health"),
    [
        ((), {"champion": None}, "no champion", "action required"),
        ((judged(quality="fail"),), {}, "quarantined", "action required"),
        ((judged(unknown_tests=("a test was not computed",)),), {}, "drift tests", "action required"),
        ((judged(blocked_by="budget"),), {}, "budget", "action required"),
        ((judged(), entry("retraining.refused", "the budget refuses")), {}, "budget", "action required"),
        ((judged(),), {"as_of": utc("2024-03-08")}, "overdue", "action required"),
        ((judged(value=0.8, p=0.01),), {}, "worse", "watch"),
        ((judged(drift="drifted"),), {}, "drifted", "watch"),
        ((judged(retrain=True),), {}, "retraining", "watch"),
    ],
)
def test_each_problem_is_listed_as_its_kind(entries, changes, kind, health):
    member = describe_member(facts(*entries, **changes))
    assert needs(member) == [kind]
    assert member.health == health


@pytest.mark.parametrize(
    "entry_after",
    [judged(value=0.95, p=0.01), judged(value=0.8, p=0.2), judged(drift="insufficient")],
    ids=["better than its best", "within the noise", "too few rows to tell"],
)
def test_no_loss_and_no_drift_need_no_action(entry_after):
    assert needs(describe_member(facts(entry_after))) == []


def test_check_within_grace_period_is_not_overdue():
    assert needs(describe_member(facts(judged(), as_of=utc("2024-03-07T11:00")))) == []


def test_no_check_is_due_after_the_end_of_recorded_data():
    member = describe_member(facts(judged(), served_until=utc("2024-03-01"), as_of=utc("2024-03-01")))
    assert member.next_check is None
    assert needs(member) == []


def test_final_quarantined_window_is_watched_in_recorded_data():
    ended = describe_member(facts(judged(quality="fail"), served_until=WINDOW.end, as_of=WINDOW.end))
    assert (ended.health, needs(ended)) == ("watch", ["record ended"])
    assert ended.needs[0].sentence.startswith(
        "the recorded data ends; its last window 2024-02-24..2024-02-29 is quarantined"
    )
    before_its_end = facts(judged(quality="fail"), served_until=WINDOW.next().end)
    assert describe_member(before_its_end).health == "action required"


PASSED = entry(
    "challenger.validated", ValidationReport("4", "3", "pass", (), ("gains 0.02",), 500), decision_id="b" * 16
)


def test_passed_challenger_waits_only_if_approval_is_required():
    (approval,) = describe_member(facts(judged(), PASSED, approval=True)).approvals
    assert (approval.version, approval.reason) == ("4", "gains 0.02")
    assert describe_member(facts(judged(), PASSED, approval=False)).approvals == ()


@pytest.mark.parametrize(
    "answer",
    [
        entry("champion.promoted", Promotion("churn", "b" * 16, "4", "3", "promoted"), decision_id="b" * 16),
        entry("promotion.rejected", "no", decision_id="b" * 16),
        entry("challenger.refused", ValidationReport("5", "3", "fail", (), ("worse",), 500), decision_id="c" * 16),
    ],
)
def test_approval_is_closed_by_answer_or_later_challenger(answer):
    assert describe_member(facts(judged(), PASSED, answer, approval=True)).approvals == ()


SHADOW = RolloutStep("shadow", 0.0)
STARTED = entry(
    "rollout.started", Rollout("b" * 16, "4", "3", (SHADOW, RolloutStep("canary", 0.1)), None, "salt", NOW), decision_id="b" * 16
)  # fmt: skip


def rollout_moved(status: str, *reasons: str, end: str | None = None) -> LedgerEntry:
    kind = "rollout.ended" if status == "ended" else "rollout.moved"
    return entry(kind, RolloutMove("b" * 16, "4", status, 0, NOW, reasons, end=end), decision_id="b" * 16)


def test_running_rollout_is_shown_until_it_ends():
    member = describe_member(facts(judged(), PASSED, STARTED))
    assert (member.rollout.plan.version, member.health) == ("4", "healthy")
    assert survey([member.facts], NOW).rollouts == (("churn", member.rollout),)
    ended = facts(judged(), PASSED, STARTED, rollout_moved("ended", "worse", end="returned"))
    assert describe_member(ended).rollout is None
    assert survey([ended], NOW).rollouts == ()


def test_held_rollout_requires_action():
    member = describe_member(facts(judged(), PASSED, STARTED, rollout_moved("held", "checking a complaint")))
    assert (needs(member), member.health) == (["rollout"], "action required")
    assert member.needs[0].sentence == (
        "Version 4 is held in step shadow until a person resumes or aborts it. Checking a complaint."
    )


@pytest.mark.parametrize(
    ("moves", "is_waiting"),
    [
        ((), False),
        ((rollout_moved("awaiting_approval", "no worse in shadow"),), True),
        ((rollout_moved("passed", "no worse"),), True),
        ((rollout_moved("ended", "worse", end="returned"),), False),
    ],
)
def test_challenger_waits_for_approval_only_once_its_rollout_asks(moves, is_waiting):
    assert bool(describe_member(facts(judged(), PASSED, STARTED, *moves, approval=True)).approvals) == is_waiting


def test_approval_request_does_not_close_it():
    asked = entry("promotion.requested", "asked Ada", decision_id="b" * 16)
    assert describe_member(facts(judged(), PASSED, asked, approval=True)).approvals


@pytest.mark.parametrize("looked_at", [None, utc("2024-03-04T06:00")])  # production time may have ended long before
def test_expired_approval_names_the_command(looked_at):
    expires_at = looked_at or NOW
    request = ApprovalRequest("4", ("Ada",), NOW - timedelta(hours=72), expires_at, "run")
    asked = entry("approval.requested", request, decision_id="b" * 16)
    waiting = facts(judged(), PASSED, asked, approval=True, looked_at=looked_at)
    (need,) = describe_member(waiting).needs
    assert need.sentence == (
        f"version 4 passed, but no one approved it by {expires_at:%Y-%m-%d} 06:00 UTC, so it counts as rejected; to record this: "
        "perennial run promote --model churn; to try again: perennial run retrain --model churn"
    )
    (in_time,) = describe_member(replace(waiting, looked_at=expires_at - timedelta(minutes=1))).needs
    assert in_time.sentence == "version 4 passed and is waiting for approval: gains 0.02"


def test_refused_challenger_is_watched_until_next_window():
    refused = entry("challenger.refused", ValidationReport("5", "3", "fail", (), ("worse by 0.1",), 500), WINDOW.end)
    assert needs(describe_member(facts(judged(), refused))) == ["refused"]
    assert needs(describe_member(facts(judged(), refused, judged(WINDOW.next().next()), as_of=utc("2024-03-10")))) == []


def test_retrains_count_for_thirty_days():
    old, new = (entry("challenger.registered", "x", NOW - timedelta(days=days)) for days in (31, 29))
    assert describe_member(facts(old, new, judged())).retrains == 1


def test_most_urgent_model_comes_first():
    members = [
        facts(judged(), model="b_healthy"),
        facts(judged(drift="drifted"), model="drifting"),
        facts(judged(), PASSED, approval=True, model="waiting"),
        facts(judged(quality="fail", drift="drifted"), model="broken"),
        facts(judged(), model="a_healthy"),
    ]
    fleet = survey(members, NOW)
    assert [member.facts.model for member in fleet.members] == [
        "waiting",
        "broken",
        "drifting",
        "a_healthy",
        "b_healthy",
    ]
    assert fleet.headline == "Action required for 2 models, 1 to watch, 2 healthy."


def test_backfill_does_not_hide_the_latest_window():
    days = [utc("2023-06-01") + timedelta(days=5 * number) for number in range(40)]  # more than are read
    earlier = tuple(judged(Window(day, day + timedelta(days=5))) for day in days)
    member = describe_member(facts(judged(), *earlier))
    assert (member.health, member.latest.evidence.window) == ("healthy", WINDOW)
    assert needs(describe_member(facts(judged(quality="fail"), *earlier))) == needs(
        describe_member(facts(judged(quality="fail")))
    )


def test_broken_model_file_requires_action():
    fleet = survey([facts(judged())], NOW, broken=[BrokenModel("odd", "odd.yaml: is not YAML")])
    assert fleet.headline == "Action required for 1 model, 1 healthy."
    assert survey([], NOW, broken=fleet.broken).headline == "Action required for 1 model."


def test_backfill_decision_is_not_a_retrain_request():
    (entry_of,) = facts(judged(retrain=True)).entries
    filled = replace(from_json(Judgement, entry_of.body), backfilled=True)
    assert needs(describe_member(facts(replace(entry_of, body=to_json(filled))))) == []
