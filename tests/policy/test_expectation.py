"""What a retrain is expected to cost and bring: from earlier iterations, probes, and the level that was once reached."""

import math
from dataclasses import replace

import pytest
from scipy import stats

from tasks.policy.economics import Amount, Budget, Usage
from tasks.policy.evidence import History
from tasks.policy.expectation import describe, expected_benefit, expected_cost, expected_gain
from tests.policy.test_probe_triggers import case

HOURLY = Budget(cpu_usd_per_hour=3600, fixed_usd_per_retrain=10, value_usd_per_metric_unit_per_day=1000)


def test_cost_grows_with_the_rows_of_a_model_that_trains_on_all_history():
    history = History(training_rows=1000, rows_since_training=500, usages=(Usage(1000, 1.0, cpu_s=2.0),))
    assert expected_cost(HOURLY, history).usd == pytest.approx(10 + 3, abs=1e-3)
    assert expected_cost(HOURLY, history, grows=False).usd == pytest.approx(10 + 2, abs=1e-3)
    assert expected_cost(HOURLY, History()) is None


def test_the_gain_is_the_mean_lead_of_fresh_probes_with_students_interval():
    """Leads 0.02 and 0.04: mean 0.03, standard error 0.01, t(0.95, 1 degree) = 6.314."""
    gain = expected_gain(case(0.02, 0.04), "accuracy")
    half = stats.t.ppf(0.95, 1) * 0.01
    assert gain == pytest.approx((0.03, 0.03 - half, 0.03 + half))


def test_one_lead_and_no_level_promise_nothing():
    assert expected_gain(case(0.02), "accuracy") is None
    assert expected_benefit(case(0.02, 0.04), "accuracy", None) is None


def test_the_sentence_has_net_benefit_and_pay_back():
    """0.03 of the metric at 1000 USD a day over 30 days: 900 USD against 60; paid back in 2 days."""
    known = replace(case(0.03, 0.03), budget=HOURLY)
    benefit = expected_benefit(known, "accuracy", Amount(60.0, 60.0, 60.0))
    told = describe(benefit, HOURLY)
    assert math.isclose(benefit.net.usd, 840.0)
    assert "net 840.00 USD" in told and "pays back in 2.0 days" in told
