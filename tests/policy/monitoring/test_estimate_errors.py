"""The measured error of estimates on closed windows, which widens later intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tasks.policy.monitoring.diagnosis import decide_diagnosis
from tasks.policy.monitoring.estimate_errors import (
    Estimate,
    describe_error,
    describe_estimate,
    is_poor,
    past_error,
    possible,
    widened,
)
from tasks.policy.records.reports import EstimateError
from tests.policy.triggers.judged_windows import drift, evidence, history, report, valued, window


def estimated(value: float, half: float = 0.05):
    return replace(valued("mae", value, half), estimated=True)


def looked_back(pairs, **known):
    """Return the history of windows with (estimated, realised) values."""
    reports = [report(number, mae=came) for number, (_, came) in enumerate(pairs)]
    guesses = tuple((window(number), estimated(value)) for number, (value, _) in enumerate(pairs))
    return history(*reports, estimates=guesses, **known)


def test_estimate_error_by_hand():
    error = past_error(looked_back([(5.0, 5.02), (5.0, 5.3), (5.1, 5.0)]), "mae")
    assert (error.windows, error.within) == (3, 1)
    assert error.mean_absolute == pytest.approx((0.02 + 0.3 + 0.1) / 3)
    assert error.bias == pytest.approx((0.02 + 0.3 - 0.1) / 3)


def test_unlabelled_windows_and_other_metrics_are_ignored():
    waiting = looked_back([(5.0, 9.0)])
    waiting = replace(waiting, performances=(report(0, "maturing", mae=9.0),))
    assert past_error(waiting, "mae") is None
    assert past_error(looked_back([(5.0, 5.0)]), "rmse") is None
    assert "no estimated window has closed" in describe_error(None)


def test_inaccurate_estimator_is_reported():
    wrong, right = (past_error(looked_back([(5.0, 5.0 + gap)] * 8), "mae") for gap in (0.5, 0.02))
    assert is_poor(wrong) and not is_poor(right)
    assert "0.5 over 8 closed windows, 0 within the interval: wrong more often" in describe_error(wrong)
    assert "0.02 over 8 closed windows, 8 within the interval" in describe_estimate(Estimate(estimated(5.0), right))
    assert "wrong" not in describe_error(right)


def test_measured_error_widens_the_interval():
    estimate = estimated(5.0)
    wide = widened(estimate, EstimateError(8, 0.5, 0.5, 0))
    half = stats.t.ppf(0.975, 8) * 0.5 * math.sqrt(math.pi / 2)
    assert (wide.low, wide.high) == pytest.approx((5 - half, 5 + half))
    assert widened(estimate, EstimateError(8, 0.001, 0.0, 8)) == estimate
    assert widened(estimate, EstimateError(2, 0.5, 0.5, 0)) == estimate
    assert widened(estimate, None) == estimate


def test_widened_interval_keeps_its_level():
    """Estimates have a normal error of 0.2 and claim 0.025; twelve windows are known, the next is judged."""
    random, held, own = np.random.default_rng(0), 0, 0
    for _ in range(400):
        pairs = [(5.0, 5.0 + gap) for gap in random.normal(0, 0.2, 12)]
        estimate, came = estimated(5.0), 5.0 + random.normal(0, 0.2)
        wide = widened(estimate, past_error(looked_back(pairs), "mae"))
        held += wide.low <= came <= wide.high
        own += estimate.low <= came <= estimate.high
    assert held / 400 == pytest.approx(0.95, abs=0.03)
    assert own / 400 < 0.4


def test_previously_wrong_estimate_does_not_prove_harm():
    """Before labels, 6.0 ± 0.05 against a level of 5.0 is harm; not from an estimator with an error of 1."""
    waiting = replace(report(5, "open", labels=0, mae=5.0), metrics=(), baseline=valued("mae", 5.0))
    for error, kind in ((None, "harmful_covariate_shift"), (EstimateError(8, 1.0, 0.0, 0), "harmless_covariate_shift")):
        estimate = Estimate(widened(estimated(6.0), error), error)
        found = decide_diagnosis(evidence(5, drift=drift(5, x=2.0), performance=waiting), estimate)
        assert found.kind == kind
        assert describe_error(error) in found.reasons[-1]


def test_displayed_interval_stays_within_metric_bounds():
    wide = widened(estimated(0.5), EstimateError(4, 0.6, 0.0, 0))
    assert wide.low < 0 and possible(wide).low == 0 and possible(wide).high == wide.high
    assert "interval 0 to" in describe_estimate(Estimate(wide))
    sure = replace(valued("accuracy", 0.95, 0.2), estimated=True)
    assert possible(sure).high == 1
