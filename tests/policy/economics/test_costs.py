"""Costs, benefits, payback and budgets of iterations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tasks.policy.economics.costs import (
    Amount,
    Budget,
    NetBenefit,
    Request,
    forecast_cost,
    measured_cost,
    net_benefit,
    over_budget,
    score_gains,
    score_outcome,
    share_budget,
)
from tasks.policy.evidence.versions import Usage
from tasks.policy.statistics.intervals import Gain


def sure(usd: float) -> Amount:
    return Amount(usd, usd, usd)


def sure_gain(units: float) -> Gain:
    return Gain(units, units, units)


def test_roi_examples_match_the_specification():
    """120 $/h × 4 h = 480 $, oversight 200 $ a day, 0.05 $ per inference; 50 k$ per 3 % accuracy, 200 k$, 500 k$."""
    budget = Budget(
        compute_usd_per_hour=120,
        oversight_usd_per_day=200,
        oversight_days_per_retrain=10,
        usd_per_inference=0.05,
        value_usd_per_metric_unit_per_day=50_000 / 0.03 / 365,
        horizon_days=365,
    )
    training_only = Budget(compute_usd_per_hour=120)
    assert measured_cost(training_only, Usage(rows=1, wall_s=4 * 3600)) == 480
    cost = measured_cost(budget, Usage(rows=1, wall_s=4 * 3600, inferences=100_000))
    assert cost == pytest.approx(480 + 2_000 + 5_000)
    benefit = net_benefit(budget, sure_gain(0.03), sure(cost), other_usd=200_000 + 500_000)
    assert benefit.value.usd == pytest.approx(750_000)
    assert benefit.net.usd == pytest.approx(742_520)
    assert benefit.payback_days == pytest.approx(7_480 / (750_000 / 365))


def test_every_cost_item_by_hand():
    budget = Budget(compute_usd_per_hour=2, cpu_usd_per_hour=1, memory_usd_per_gb_hour=0.5, fixed_usd_per_retrain=3)
    usage = Usage(rows=10, wall_s=1800, cpu_s=7200, peak_memory_mb=4000)
    assert measured_cost(budget, usage) == pytest.approx(0.5 * 2 + 2 * 1 + 0.5 * 4 * 0.5 + 3)


def test_forecast_follows_rows_and_interval_follows_noise():
    budget = Budget(compute_usd_per_hour=3600, fixed_usd_per_retrain=10)  # one dollar per second
    exact = [Usage(rows, wall_s=5 + rows / 100) for rows in (1000, 2000, 4000)]
    forecast = forecast_cost(budget, exact, 3000)
    assert (forecast.usd, forecast.low, forecast.high) == pytest.approx((45, 45, 45))
    noisy = [
        Usage(rows, wall_s=5 + rows / 100 + noise) for rows, noise in ((1000, 2), (2000, -3), (4000, 1), (3000, 1))
    ]
    forecast = forecast_cost(budget, noisy, 3000)
    assert 10 < forecast.low < forecast.usd < forecast.high


def test_forecast_intervals_cover_nine_of_ten():
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):
        sizes = random.uniform(1e3, 1e5, 8)
        past = [Usage(int(rows), wall_s=20 + rows / 1e3 + random.normal(0, 5)) for rows in sizes]
        forecast = forecast_cost(Budget(compute_usd_per_hour=3600), past, 50_000)
        covered += forecast.low <= 70 + random.normal(0, 5) <= forecast.high
    assert 0.85 < covered / 400 < 0.95


def test_few_iterations_scale_the_last_cost():
    budget = Budget(compute_usd_per_hour=3600)
    assert forecast_cost(budget, [], 100) is None
    assert (
        type(forecast_cost(budget, [Usage(1000, wall_s=3600)], 1500).usd) is float
    )  # NumPy numbers cannot be serialised
    assert forecast_cost(budget, [Usage(100, wall_s=30)], 200) == Amount(60, 30, 120)
    assert forecast_cost(budget, [Usage(100, wall_s=30)] * 5, 100) == Amount(30, 15, 60)


def test_no_benefit_without_value_per_unit():
    assert net_benefit(Budget(), sure_gain(0.03), sure(10)) is None


def test_a_loss_never_pays_back():
    budget = Budget(value_usd_per_metric_unit_per_day=100)
    benefit = net_benefit(budget, sure_gain(-0.1), sure(10))
    assert benefit.net.usd == pytest.approx(-310)
    assert benefit.payback_days is None


def test_net_interval_combines_both_uncertainties():
    budget = Budget(value_usd_per_metric_unit_per_day=1, horizon_days=10)
    benefit = net_benefit(budget, Gain(5, 4.7, 5.3), Amount(10, 6, 14))
    assert (benefit.net.usd, benefit.net.low, benefit.net.high) == pytest.approx((40, 35, 45))  # 3-4-5


def test_budget_is_hard_and_unknown_cost_counts_as_fixed_part():
    budget = Budget(max_usd_per_month=100, fixed_usd_per_retrain=30)
    assert over_budget(budget, 50, 50) is None
    assert over_budget(budget, 70, None) is None
    assert "70.01 USD are spent" in over_budget(budget, 70.01, None)
    assert over_budget(Budget(), 1e9, 1e9) is None


@pytest.mark.parametrize(
    ("gain", "half", "verdict"),
    [(0.2, 0.01, "paid"), (0.05, 0.01, "not paid"), (0.1, 0.05, "open")],
)
def test_outcome_is_scored_against_forecast(gain, half, verdict):
    budget = Budget(value_usd_per_metric_unit_per_day=100, horizon_days=30)
    forecast = net_benefit(budget, sure_gain(0.15), sure(100))
    outcome = score_outcome(budget, forecast, [(Gain(gain, gain - half, gain + half), 5.0)] * 2, cost_usd=100)
    assert outcome.verdict == verdict
    assert outcome.realised_usd.usd == pytest.approx(1000 * gain)
    assert outcome.forecast_usd == pytest.approx(150)
    assert f"it cost 100.00 USD: {verdict}" in outcome.reason


def test_shared_budget_goes_to_the_most_beneficial_set():
    requests = [Request("a", 60, 90), Request("b", 50, 70), Request("c", 50, 70), Request("d", 1, -5)]
    answers = share_budget(requests, 100)
    assert (answers["a"] is None, answers["b"], answers["c"]) == (False, None, None)
    assert "do not fit into the shared budget" in answers["a"]
    assert "would not pay" in answers["d"]
    assert share_budget([], 100) == {}


HARD_CHOICES = """
197:450 1430:1500 1259:1279 706:1060 1216:1554 734:938 1689:1829 316:616 607:936 1402:1506 482:659 815:1123
1141:1209 905:1148 1206:1488 1537:1660 1270:1588 336:723 1216:1549 1727:1981 1779:1847 833:1226 1825:1947
848:1030 1668:1851 774:917 1782:1838 1683:1769 619:715 405:684 822:1062 622:942 198:266 1217:1608 1641:1868
833:1125 984:1171 1475:1575 167:548 976:1061 1503:1618 305:565 180:503 1765:1947 988:1270 1573:1601 1207:1254
959:1247 306:535 951:1244 553:659
"""
"""Costs and benefits found by random search: 44,401 lies within 1e-4 of the best, where HiGHS stops by default."""


def test_best_set_is_exact_for_close_alternatives():
    pairs = [tuple(map(int, pair.split(":"))) for pair in HARD_CHOICES.split()]
    best = np.zeros(34_643 + 1)  # by dynamic programming over whole dollars
    for cost, net in pairs:
        best[cost:] = np.maximum(best[cost:], best[:-cost] + net)
    requests = [Request(f"m{i}", cost, net) for i, (cost, net) in enumerate(pairs)]
    answers = share_budget(requests, 34_643)
    assert sum(request.net_usd for request in requests if answers[request.model] is None) == best[-1] == 44_405


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-20, 50)), max_size=8), st.integers(0, 120))
def test_no_affordable_set_has_more_benefit(offers, budget):
    requests = [Request(f"m{i}", cost, net) for i, (cost, net) in enumerate(offers)]
    granted = [r for r in requests if share_budget(requests, budget)[r.model] is None]
    assert sum(r.cost_usd for r in granted) <= budget
    subsets = itertools.chain.from_iterable(itertools.combinations(requests, size) for size in range(len(requests) + 1))
    best = max(sum(r.net_usd for r in s) for s in subsets if sum(r.cost_usd for r in s) <= budget)
    assert sum(r.net_usd for r in granted) == pytest.approx(best)


def test_records_round_trip_as_json():
    from tasks.policy.records.base import from_json, to_json

    benefit = net_benefit(Budget(value_usd_per_metric_unit_per_day=1), sure_gain(1), sure(2))
    assert from_json(NetBenefit, to_json(benefit)) == benefit


def test_promotion_without_price_is_scored_in_metric_units():
    """Gains of 0.3 and 0.1 over 5 and 15 days: 0.15 a day; bounds ±0.1 join to hypot(0.5, 1.5) / 20."""
    outcome = score_gains([(Gain(0.3, 0.2, 0.4), 5.0), (Gain(0.1, 0.0, 0.2), 15.0)], "mae")
    assert "by 0.15 (0.07094 to 0.2291)" in outcome.reason
    assert (outcome.verdict, outcome.days) == ("better", 20.0)
    assert score_gains([(Gain(-0.1, -0.3, 0.1), 5.0)], "mae").verdict == "open"
