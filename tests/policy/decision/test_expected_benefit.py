"""Expected cost and gain of a retrain, from earlier iterations, probes and the best past level."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tasks.policy.decision.expected_benefit import describe, expected_benefit, expected_cost, expected_gain
from tasks.policy.economics.costs import Amount, Budget
from tasks.policy.evidence.monitoring import History
from tasks.policy.evidence.versions import Usage
from tasks.policy.statistics.intervals import Gain
from tasks.policy.triggers.base import Case
from tests.policy.triggers.judged_windows import evidence, history, report, window
from tests.policy.triggers.test_probe_triggers import case

HOURLY = Budget(cpu_usd_per_hour=3600, fixed_usd_per_retrain=10, value_usd_per_metric_unit_per_day=1000)


def test_cost_grows_with_rows_when_training_on_all_history():
    history = History(training_rows=1000, rows_since_training=500, usages=(Usage(1000, 1.0, cpu_s=2.0),))
    assert expected_cost(HOURLY, history).usd == pytest.approx(10 + 3, abs=1e-3)
    assert expected_cost(HOURLY, history, grows=False).usd == pytest.approx(10 + 2, abs=1e-3)
    assert expected_cost(HOURLY, History()) is None


def test_gain_is_mean_probe_lead_with_t_interval():
    """Leads 0.02 and 0.04: mean 0.03, standard error 0.01, t(0.95, 1 degree) = 6.314."""
    gain = expected_gain(case(0.02, 0.04), "accuracy")
    half = stats.t.ppf(0.95, 1) * 0.01
    assert gain == pytest.approx((0.03, 0.03 - half, 0.03 + half))


def test_single_lead_without_level_promises_nothing():
    assert expected_gain(case(0.02), "accuracy") is None
    assert expected_benefit(case(0.02, 0.04), "accuracy", None) is None


def test_sentence_has_net_benefit_and_payback():
    """0.03 of the metric at 1000 USD a day over 30 days: 900 USD against 60; paid back in 2 days."""
    known = replace(case(0.03, 0.03), budget=HOURLY)
    benefit = expected_benefit(known, "accuracy", Amount(60.0, 60.0, 60.0))
    sentence = describe(benefit, HOURLY)
    assert math.isclose(benefit.net.usd, 840.0)
    assert "net 840.00 USD" in sentence and "pays back in 2.0 days" in sentence


def promised(values: list[float], champion_from: int = 0, versions: str = "") -> Gain | None:
    """Return the expected gain in MAE without probes at the last window; `versions` names who served each, one letter each."""
    reports = [
        replace(report(number, mae=value), model_version=version)
        for number, (value, version) in enumerate(zip(values, versions or "a" * len(values), strict=True))
    ]
    seen = evidence(len(values) - 1, performance=reports[-1])
    past = history(*reports[:-1], champion_since=window(champion_from).start)
    return expected_gain(Case(seen, past, seen.window.end, 100, 100), "mae")


def test_gain_without_probes_uses_fresh_losses_and_welch_interval():
    """Fresh: 4, 5, 6 of a and 7, 8, 9 of b; latest: 10, 12 of c. Only the first five windows of a are fresh."""
    values = [4, 5, 6, 5, 5, 9, 9, 9, 7, 8, 9, 10, 12]
    fresh, latest = [4, 5, 6, 5, 5, 7, 8, 9], [10, 12]
    low, high = stats.ttest_ind(latest, fresh, equal_var=False).confidence_interval(0.9)
    gain = promised(values, 11, "aaaaaaaabbbcc")
    assert gain == pytest.approx((11 - np.mean(fresh), low, high))
    assert promised([*[5.0] * 5, 6.0, 6.0]) == (1.0, 1.0, 1.0)
    assert promised([*[5.0] * 5, 6.0]) is None


@pytest.mark.parametrize(("windows", "champion_from"), [(24, 0), (24, 12), (30, 20)])
def test_stable_model_has_no_expected_gain(windows, champion_from):
    """Against the best past level the mean gain would be one sigma, and half of the intervals would lie above 0."""
    random = np.random.default_rng(0)
    gains = [promised(list(random.normal(5, 0.1, windows)), champion_from) for _ in range(300)]
    assert np.mean([gain.low > 0 for gain in gains]) <= 0.08
    assert np.mean([gain.gain for gain in gains]) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(("sigmas", "seen"), [(2, 0.8), (3, 0.95)])
def test_lasting_worsening_has_its_cost_as_expected_gain(sigmas, seen):
    random, gains = np.random.default_rng(1), []
    for _ in range(200):
        values = random.normal(5, 0.1, 25)
        values[20:] += 0.1 * sigmas
        gains.append(promised(list(values), 12))
    assert np.mean([gain.low > 0 for gain in gains]) >= seen
    assert np.mean([gain.gain for gain in gains]) == pytest.approx(0.1 * sigmas, rel=0.1)
