"""Shared budgets: what is spent and promised, which models request, and who goes first."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tasks.policy.economics.budget import (
    BudgetBalance,
    Grant,
    decide_share,
    open_request,
    promised_usd,
    request_of,
    spent_usd,
)
from tasks.policy.economics.costs import Budget, Request, share_budget
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Decision, Judgement
from tasks.policy.evidence.versions import USAGE, ModelVersion, Usage
from tasks.policy.records.base import from_json, to_json, utc
from tests.policy.triggers.judged_windows import evidence, window

NOW = utc("2013-06-30")
BUDGET = Budget(fixed_usd_per_retrain=40, cpu_usd_per_hour=1)


def entry(kind: str, body: object, days_ago: float, decision: str) -> LedgerEntry:
    return LedgerEntry("small", 1, kind, NOW - timedelta(days=days_ago), decision, "tests", to_json(body), "")


def made(days_ago: float, decision: str, cpu_hours: float = 0) -> LedgerEntry:
    used = to_json(Usage(1000, 0.0, cpu_s=3600 * cpu_hours))
    version = ModelVersion("small", "1", "run", decision, window(0), 1000, "sha", ((USAGE, used),))
    return entry("challenger.registered", version, days_ago, decision)


def granted(days_ago: float, decision: str, cost: float) -> LedgerEntry:
    return entry("budget.granted", Grant(cost, 0.0, ""), days_ago, decision)


def judged(days_ago: float, decision: str, retrain: bool = True, value: float | None = 100.0) -> LedgerEntry:
    found = Decision(decision, "small", window(0), retrain, ("why",), expected_value_usd=value, expected_cost_usd=50.0)
    return entry("window.judged", Judgement(NOW, "1", evidence(0), found), days_ago, decision)


def test_spent_covers_thirty_days_and_promised_covers_open_grants():
    facts = (
        made(31, "a"),
        made(29, "b", 5),
        granted(20, "c", 60),
        made(19, "c"),
        granted(2, "d", 70),
        granted(31, "e", 80),
    )
    assert spent_usd(facts, BUDGET, NOW) == pytest.approx(45 + 40)
    assert spent_usd(facts, BUDGET, NOW, apart_from="b") == pytest.approx(40)
    assert promised_usd(facts, NOW) == 70
    assert (
        promised_usd(facts, NOW - timedelta(days=19.5)) == 60 + 80
    )  # c's challenger was made later, e is of that month


@pytest.mark.parametrize(
    ("facts", "asks"),
    [
        ((judged(1, "a"),), True),
        ((judged(1, "a", retrain=False),), False),
        ((judged(5, "a"), judged(1, "b", retrain=False)), False),
        ((judged(1, "a"), made(0.5, "a")), False),
        ((judged(1, "a"), granted(0.5, "a", 50)), False),
        ((judged(31, "a"),), False),
        ((judged(-1, "a"),), False),
        ((), False),
    ],
)
def test_open_request_is_the_latest_unanswered_judgement(facts, asks):
    assert open_request("small", facts, BUDGET, NOW) == (Request("small", 50.0, 50.0) if asks else None)


def test_backfill_requests_no_budget_and_hides_no_live_request():
    live, filled = judged(2, "a"), judged(1, "b")
    body = to_json(replace(from_json(Judgement, filled.body), backfilled=True))
    assert open_request("small", (replace(filled, body=body),), BUDGET, NOW) is None
    assert open_request("small", (live, replace(filled, body=body)), BUDGET, NOW) == Request("small", 50.0, 50.0)


def test_unjudged_model_has_unknown_benefit():
    assert request_of("small", "byhand", (judged(1, "a"),), BUDGET, 45.0) == Request("small", 45.0, None)
    assert request_of("small", "byhand", (), BUDGET) == Request("small", 40.0, None)
    assert request_of("small", "a", (judged(1, "a", value=None),), BUDGET) == Request("small", 50.0, None)


def budget_balance(left: float) -> BudgetBalance:
    return BudgetBalance(100.0, 100.0 - left, 0.0, ("a", "b"))


def test_all_requests_are_granted_within_budget():
    asking = [Request("a", 50, -1), Request("b", 50, None)]
    assert decide_share(asking[0], asking[1:], budget_balance(100)) is None
    assert decide_share(asking[1], asking[:1], budget_balance(100)) is None


def test_larger_benefit_is_granted_first_and_the_other_gets_a_reason():
    better, worse = Request("a", 50, 90), Request("b", 50, 30)
    assert decide_share(better, [worse], budget_balance(99)) is None
    refusal = decide_share(worse, [better], budget_balance(99))
    assert "the shared budget refuses: 1.00 of 100.00 USD shared by a, b are spent in 30 days" in refusal
    assert "it is expected to bring 30.00 USD net for 50.00 USD" in refusal
    assert "other requests go first: a is expected to bring 90.00 USD net for 50.00 USD" in refusal


def test_known_benefit_comes_before_unknown():
    known, unknown, losing = Request("a", 50, 5), Request("b", 50, None), Request("c", 50, -5)
    assert decide_share(known, [unknown, losing], budget_balance(60)) is None
    assert decide_share(unknown, [known], budget_balance(60)) is not None
    assert decide_share(losing, [unknown], budget_balance(60)) is not None
    assert decide_share(unknown, [losing], budget_balance(60)) is None
    assert share_budget([unknown, Request("d", 20, None)], 60)["d"] is not None


def test_request_above_budget_is_refused():
    assert decide_share(Request("a", 50, 1e6), [], budget_balance(50)) is None
    assert "expected to cost 50.00 USD" in decide_share(Request("a", 50, 1e6), [], budget_balance(49.99))
