"""The verdict on a version beside the champion of somebody else's service: planned at the first look, from both sides."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from tasks.policy.comparison.evidence import Evidence, unknown_evidence
from tasks.policy.comparison.plan import ExpectedTraffic, VerdictPolicy
from tasks.policy.comparison.side_by_side import SideBySide, judge_side_by_side
from tasks.policy.records.base import Window, from_json, to_json, utc

START = utc("2026-01-01")
MARGIN, TRAFFIC = 0.1, ExpectedTraffic(units_per_day=100.0, window_days=5.0)


def look(number: int, gain: float, evidence: Evidence | None = None) -> SideBySide:
    """A look after `number` windows of 500 rows, whose gains have a standard deviation of 1."""
    window = Window(START + timedelta(days=5 * (number - 1)), START + timedelta(days=5 * number))
    units = 500 * number
    found = Evidence(window.end, gain, 1 / math.sqrt(units), units, units, True, 1.0, 1.0 - gain)
    return SideBySide("c", "1", "2", window, window.end, evidence or found)


def looks(gain: float, count: int = 8) -> list[SideBySide]:
    done: list[SideBySide] = []
    for number in range(1, count + 1):
        done.append(judge_side_by_side(VerdictPolicy(), look(number, gain), done, MARGIN, TRAFFIC))
    return done


@pytest.mark.parametrize(("gain", "conclusion"), [(0.3, "superior"), (0.0, "non_inferior"), (-0.3, "worse")])
def test_the_verdict_follows_the_gain(gain, conclusion):
    assert next(each.verdict.conclusion for each in looks(gain) if each.is_decided) == conclusion


def test_a_loss_at_the_margin_is_not_decided_as_harmless():
    assert {each.verdict.conclusion for each in looks(-MARGIN, 3)} <= {"undecided", "worse"}


def test_the_plan_is_that_of_the_first_look():
    first, *later = looks(0.0, 3)
    assert first.plan is not None
    assert all(each.plan == first.plan for each in later)
    assert from_json(SideBySide, to_json(first)) == first


def test_without_pairs_there_is_no_verdict():
    nothing = replace(look(1, 0.0), evidence=None, reason="no labels yet")
    assert judge_side_by_side(VerdictPolicy(), nothing, (), MARGIN, TRAFFIC) == nothing
    unknown = look(1, 0.0, unknown_evidence(START, paired=True, reason="one class only"))
    judged = judge_side_by_side(VerdictPolicy(), unknown, (), MARGIN, TRAFFIC)
    assert (judged.verdict, judged.reason) == (None, "one class only")
