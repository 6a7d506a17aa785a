"""A failed test of `drift.evidently` triggers only if it counts as drift."""

from dataclasses import replace

import pytest

from tasks.policy.monitoring.second_opinion import with_own_tests
from tasks.policy.records.reports import OwnTest, UncomputedTest
from tasks.policy.triggers.base import Case
from tasks.policy.triggers.drift import DriftedShare
from tests.policy.triggers.judged_windows import drift, evidence, history, window


@pytest.mark.parametrize(
    ("passed", "fails_as", "fires"), [(False, "drifted", True), (False, "warn", False), (True, "drifted", False)]
)
def test_failed_user_test_triggers_if_it_counts_as_drift(passed, fails_as, fires):
    measured = with_own_tests(drift(1, amount=0.1), [OwnTest("MeanValue of amount", passed, "3 < 5", fails_as)], ())
    case = Case(evidence(1, drift=measured), history(), window(1).end, min_rows=100, min_labelled_rows=100)
    finding = DriftedShare(trigger="drifted_share").judge(case)
    assert finding.holds == fires
    assert ("failed tests of drift.evidently that count as drift: 1" in finding.reasons[0]) == fires


GATE = UncomputedTest("Evidently's MeanValue of amount was not computed (drift.evidently.0): no such table", "drifted")


def finding(measured):
    case = Case(evidence(1, drift=measured), history(), window(1).end, min_rows=100, min_labelled_rows=100)
    return DriftedShare(trigger="drifted_share").judge(case)


def test_a_test_that_was_not_computed_fires_nothing_and_the_reason_says_so():
    found = finding(with_own_tests(drift(1, amount=0.0), [], [GATE]))
    assert not found.holds and "insufficient, Evidently's MeanValue of amount was not computed" in found.reasons[0]
    assert "drift is not ruled out" in found.reasons[0]


def test_drift_that_was_found_fires_beside_a_test_that_was_not_computed():
    stable = drift(1, amount=0.0)
    moved = replace(
        stable, drifted_share=1.0, verdict="drifted",
        features=tuple(replace(one, verdict="drifted") for one in stable.features),
    )  # fmt: skip
    found = finding(with_own_tests(moved, [], [GATE]))
    assert found.holds and found.reasons[0].endswith("not computed and count neither way: 1")
