"""A fit is started only if the time that is left covers it and the comparison at the end."""

import pytest

from tasks.adapters.search.spending import Spending
from tasks.policy.economics.costs import Budget
from tasks.policy.training.search import SearchPolicy

MINUTE = SearchPolicy(minutes=1)


@pytest.mark.parametrize(("spent_s", "reserve_s", "allowed"), [(50, 0, True), (57, 0, False), (50, 6, False)])
def test_usual_fit_and_the_comparison_must_fit(spent_s, reserve_s, allowed):
    spending = Spending(MINUTE, Budget(), spent_s=spent_s)
    spending.note([5.0] * 10)
    assert spending.allows(None, reserve_s) is allowed


def test_later_fold_is_expected_to_take_longer():
    spending = Spending(MINUTE, Budget(), spent_s=50)
    assert spending.allows(7.0, 0) and not spending.allows(8.0, 0)


def test_what_was_spent_before_an_interruption_counts():
    assert Spending(MINUTE, Budget(), spent_s=61).left_s < 0


def test_usd_limit_counts_cpu_time():
    """Half a USD of CPU time is spent in 100 s, so the other half lasts as long."""
    prices = Budget(compute_usd_per_hour=0.0, cpu_usd_per_hour=36.0)
    spending = Spending(SearchPolicy(usd=1.0), prices, spent_s=100, spent_cpu_s=50)
    assert spending.left_s == pytest.approx(100, rel=0.02)


def test_only_trials_leave_the_time_open():
    assert Spending(SearchPolicy(trials=3), Budget()).left_s == float("inf")
