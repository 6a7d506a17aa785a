"""Retrains without effect are reported and a person is asked; timers and fixed breaches are not."""

from dataclasses import replace
from typing import ClassVar, Literal

import pytest

from tasks.policy.decision.escalation import unresolved
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.triggers.base import Trigger
from tasks.policy.triggers.schedule import Every
from tests.policy.triggers.judged_windows import evidence, window
from tests.policy.triggers.test_series_triggers import judged

BREACH = "{trigger: metric_breach, metric: mae, limit: 5.5}"
TIMER = Every(trigger="every", days=1)


class LosingMoney(Trigger):
    """The model loses money."""

    example: ClassVar[str] = "{trigger: losing_money}"
    judges_performance = True
    trigger: Literal["losing_money"]

    def describe(self):
        return "it loses money"

    def judge(self, case):
        return self.result(True, "it loses money")


class OnRequest(LosingMoney):
    """Somebody wrote it on a board."""

    judges_performance = False


def past(*values: float, rule: str = BREACH) -> list[Judgement]:
    return [
        Judgement(window(number).end, "1", evidence(number), judged(rule, list(values[: number + 1])))
        for number in range(len(values))
    ]


def retrains(*numbers: int) -> list:
    return [window(number).end for number in numbers]


def test_three_retrains_without_effect_are_reported_with_dates():
    found = unresolved(past(5, 5, 6, 6, 6, 6), retrains(2, 3, 4), after=3, when=TIMER)
    assert found is not None and found.retrains == 3
    assert f"3 retrains since {window(2).start:%Y-%m-%d} have not solved this" in found.sentence


@pytest.mark.parametrize(
    ("values", "made"),
    [((5, 6, 6, 6), (1, 2)), ((6, 6, 6, 6, 5), (0, 1, 2, 3)), ((5, 5, 5, 5), (0, 1, 2)), ((), ())],
)
def test_fewer_retrains_or_ended_breach_report_nothing(values, made):
    assert unresolved(past(*values), retrains(*made), after=3, when=TIMER) is None


def test_timer_retrains_are_not_escalated():
    decisions = [replace(one, decision=replace(one.decision, triggers=("every",))) for one in past(6, 6, 6, 6, 6)]
    assert unresolved(decisions, retrains(0, 1, 2, 3), after=3, when=TIMER) is None


@pytest.mark.parametrize(("own", "counts"), [(LosingMoney, True), (OnRequest, False)])
def test_a_class_of_the_user_says_itself_whether_it_judges_performance(own, counts):
    rule = own(trigger="losing_money")
    decisions = [replace(one, decision=replace(one.decision, triggers=("losing_money",))) for one in past(6, 6, 6, 6)]
    assert (unresolved(decisions, retrains(0, 1, 2), after=3, when=rule) is not None) is counts
