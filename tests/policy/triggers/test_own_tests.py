"""A failed test of `drift.evidently` triggers only if it counts as drift."""

import pytest

from tasks.policy.monitoring.second_opinion import with_own_tests
from tasks.policy.records.reports import OwnTest
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
