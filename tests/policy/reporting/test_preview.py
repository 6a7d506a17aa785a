"""Sentences and headline of a dry run, which names the first obstacle."""

from dataclasses import replace

from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.monitoring import Placement
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import Snapshot
from tasks.policy.reporting.preview import (
    Preview,
    collect_refusals,
    describe_cost,
    describe_place,
    describe_rollback,
    describe_start,
    describe_training_data,
    describe_validation,
    too_few_rows,
    why_not_started,
)
from tasks.policy.rollout.restorable import RollbackPlan
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import Rollout, RolloutMove, RolloutState

TRAINED = Window(utc("2024-01-11"), utc("2024-01-19"))
AT = utc("2024-03-02")
HELD_OUT = Window(utc("2024-01-19"), utc("2024-01-21"))


def rows(window: Window, count: int, labelled: int | None) -> Snapshot:
    return Snapshot("lake/small/rows", 3, window, count, "hash", labelled_rows=labelled)


def test_headline_names_the_first_obstacle():
    assert Preview("small", "retraining", (), ("it would train",)).headline == (
        "retraining of small would go ahead: it would train"
    )
    assert Preview("small", "retraining", ("no money", "no rows"), ("it would train",)).headline == (
        "retraining of small would not happen: no money"
    )
    assert collect_refusals((None, "no money", None, "no rows")) == ("no money", "no rows")


def test_rows_are_described_by_count_window_and_version():
    champion = ModelVersion("small", "4", "run", "decision", TRAINED, 1200, "sha")
    sentences = describe_training_data(rows(TRAINED, 1210, 1200), rows(HELD_OUT, 300, 226), champion)
    assert "1,200 labelled rows of 1,210 in 2024-01-11..2024-01-19 (version 3 of lake/small/rows)" in sentences
    assert "be compared with champion 4 on 226 rows of 2024-01-19..2024-01-21" in sentences


def test_too_few_labelled_rows_are_reported():
    assert too_few_rows(rows(TRAINED, 5000, 1000), 1000) is None
    assert too_few_rows(rows(TRAINED, 5000, 999), 1000).startswith("999 labelled rows are known")
    assert too_few_rows(rows(TRAINED, 5000, None), 1).startswith("0 labelled rows")


def test_budget_allows_up_to_its_limit():
    month = Budget(max_usd_per_month=100)
    assert (
        describe_cost(month, 60, 40)
        == "cost: about 40.00 USD; 60.00 of 100.00 USD are spent in 30 days, so the budget allows it"
    )
    assert describe_cost(month, 60, 40.01).endswith("so the budget refuses it")
    assert describe_cost(Budget(), 60, None) == (
        "cost: no cost is forecast before a first retrain; no monthly limit is set, 60.00 USD were spent in the last 30 days"
    )


def test_place_has_hours_and_reasons():
    assert describe_place(Placement("ecs", "serverless", 10, 1.5, ("it fits", "it is cheap"))) == (
        "place: ecs, about 1.5 h, since it fits; it is cheap"
    )
    assert (
        describe_place(Placement("dedicated", "dedicated", 10, None, ("it fits",))) == "place: dedicated, since it fits"
    )


def test_gate_sentences_follow_the_aliases():
    report = ValidationReport("5", "4", "warn", (), ("mae: gain +0.1", "colour red may lose"), 226)
    assert describe_validation(report) == ("validation: warn on 226 rows", "mae: gain +0.1", "colour red may lose")
    at_once, canary = RolloutPolicy(mode="none"), RolloutPolicy()
    assert describe_start("5", "4", at_once, None) == "version 5 would serve and champion 4 would become previous"
    assert describe_start("5", None, canary, None) == "version 5 would serve and it would be the first champion"
    assert (
        describe_start("5", "4", canary, None) == "the rollout of version 5 beside champion 4 would begin with shadow"
    )


def test_a_promotion_does_what_its_rollout_allows():
    policy = RolloutPolicy()
    at = RolloutState(Rollout("d", "5", "4", policy.steps, None, "s", utc("2024-03-01")))
    running, held = (why_not_started(replace(at, status=status), policy, AT) for status in ("running", "held"))
    assert running == (
        "the rollout of version 5 is running (shadow: 0 of 200 units answered after 1 days); `monitor` carries it on"
    )
    assert held.startswith("the rollout of version 5 is held")
    waiting, passed = replace(at, status="awaiting_approval"), replace(at, status="passed")
    assert why_not_started(waiting, policy, AT) is why_not_started(passed, policy, AT) is None
    assert describe_start("5", "4", policy, waiting) == (
        "version 5 would go to canary 10 %, its first step that serves, beside champion 4"
    )
    assert describe_start("5", "4", policy, passed) == "version 5 would serve and champion 4 would become previous"
    ended = at.moved(RolloutMove("d", "5", "ended", 0, AT, ("Ada: not now",), end="aborted"))
    assert why_not_started(ended, policy, AT) == "the rollout of version 5 ended, aborted: Ada: not now"


def test_a_rollback_names_both_versions_and_says_that_one_answers_only_where_it_was_tried():
    assert describe_rollback(RollbackPlan("2", "1", None)) == (
        "version 1 answers and would serve again; version 2 would be quarantined"
    )
    assert describe_rollback(RollbackPlan("2", "1", "it is quarantined")) == (
        "version 1 would serve again; version 2 would be quarantined"
    )
    assert describe_rollback(RollbackPlan("1", None, "nothing to roll back to")) == "no version would be restored"
