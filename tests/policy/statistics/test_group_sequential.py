"""Group-sequential boundaries against published tables, a multivariate normal distribution and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from tasks.policy.statistics import group_sequential
from tasks.policy.statistics.group_sequential import (
    WIDEST,
    boundaries,
    crossing_probabilities,
    drift_for_power,
    spending_looks,
    spent,
)

NO_BOUND = -math.inf


def equal(looks: int) -> tuple[float, ...]:
    return tuple((np.arange(1, looks + 1) / looks).tolist())


@pytest.mark.parametrize(
    "expected",
    [
        (2.9626, 1.9686),
        (3.7103, 2.5114, 1.9930),
        (4.3326, 2.9631, 2.3590, 2.0141),
        (4.8769, 3.3569, 2.6803, 2.2898, 2.0310),
    ],
    ids=len,
)
def test_obrien_fleming_spending_as_published(expected):
    """Two-sided 0.05 at equal looks: gsDesign's sfLDOF; Proschan, Lan & Wittes (2006), table 5.1."""
    assert boundaries(equal(len(expected)), 0.025, "obrien_fleming") == pytest.approx(expected, abs=1.5e-4)


def test_pocock_spending_as_published():
    """Two-sided 0.05 at five equal looks: gsDesign's sfLDPocock."""
    expected = (2.4380, 2.4268, 2.4101, 2.3966, 2.3859)
    assert boundaries(equal(5), 0.025, "pocock") == pytest.approx(expected, abs=1e-4)


def test_spending_of_lan_and_demets():
    assert spent("obrien_fleming", 0.025, 0.5) == pytest.approx(2 * stats.norm.sf(stats.norm.isf(0.0125) / 0.5**0.5))
    assert spent("pocock", 0.025, 0.5) == pytest.approx(0.025 * math.log(1 + (math.e - 1) * 0.5))
    for shape in ("obrien_fleming", "pocock"):
        assert (spent(shape, 0.025, 0), spent(shape, 0.025, 1), spent(shape, 0.025, 1.3)) == (0, 0.025, 0.025)


@pytest.mark.parametrize("shape", ["obrien_fleming", "pocock"])
def test_unequal_looks_against_the_multivariate_normal_distribution(shape):
    """The probability of staying below all bounds, as scipy integrates it from the correlations √(tᵢ/tⱼ)."""
    times = np.array([0.15, 0.4, 0.85, 1.07])
    bounds = boundaries(tuple(times.tolist()), 0.025, shape)
    covariance = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    below = stats.multivariate_normal.cdf(np.array(bounds), np.zeros(4), covariance, abseps=1e-7, releps=1e-7)
    assert 1 - below == pytest.approx(0.025, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 130), min_size=1, max_size=12, unique=True), st.sampled_from([0.005, 0.025, 0.1]))
def test_the_level_is_spent_exactly(percents, alpha):
    """At any spacing, looks spend what the spending function allows and not more."""
    times = tuple(percent / 100 for percent in sorted(percents))
    for shape in ("obrien_fleming", "pocock"):
        bounds = boundaries(times, alpha, shape)
        crossed, _ = crossing_probabilities(times, bounds, (NO_BOUND,) * len(times), 0.0)
        assert crossed == pytest.approx(spent(shape, alpha, times[-1]), abs=1e-8)


def test_dense_looks_keep_the_integration_exact():
    """A hundred looks one percent apart, against a simulated Brownian motion."""
    times = equal(100)
    bounds = np.array(boundaries(times, 0.025, "pocock"))
    steps = np.random.default_rng(0).normal(0, 0.1, (20_000, 100))
    crossed = (steps.cumsum(axis=1) / np.sqrt(times) > bounds).any(axis=1).mean()
    assert crossed == pytest.approx(0.025, abs=3 * (0.025 * 0.975 / 20_000) ** 0.5)


def test_boundaries_beyond_the_normal_distribution_are_cut():
    assert boundaries((0.01, 1.0), 0.025, "obrien_fleming") == pytest.approx((WIDEST, stats.norm.isf(0.025)), abs=1e-6)
    assert boundaries((), 0.025, "pocock") == ()


def test_information_must_increase():
    with pytest.raises(ValueError, match=r"goes from 0\.5 to 0\.5"):
        boundaries((0.5, 0.5), 0.025, "pocock")


def test_looks_that_test():
    """No new information, less than one percent of it, and looks after the planned end spend nothing."""
    assert spending_looks([0.2, 0.2, 0.205, 0.5, 0.4, 1.1, 1.3]) == (0, 3, 5)
    assert spending_looks([0.995, 1.0]) == (0, 1)
    assert spending_looks([0.0, 0.005]) == ()


def test_one_look_is_a_fixed_test():
    assert boundaries((1.0,), 0.025, "pocock")[0] == pytest.approx(stats.norm.isf(0.025))
    fixed = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    assert drift_for_power(1, 0.025, 0.8) == pytest.approx(fixed, abs=1e-4)


def test_inflation_without_harm_boundary_as_published():
    """gsDesign(k=5, test.type=1, alpha=0.025, beta=0.1, sfu=sfLDOF): inflation factor 1.026."""
    efficacy = boundaries(equal(5), 0.025, "obrien_fleming")
    drift = (stats.norm.isf(0.025) + stats.norm.isf(0.1)) * 1.026**0.5
    power, _ = crossing_probabilities(equal(5), efficacy, (NO_BOUND,) * 5, drift)
    assert power == pytest.approx(0.9, abs=1e-3)


def test_power_by_simulation():
    """Equal challengers, 5 looks, both boundaries: 80 % pass, and about 2.5 % are stopped by chance."""
    times, drift = np.array(equal(5)), drift_for_power(5, 0.025, 0.8)
    steps = np.random.default_rng(1).normal(0, 0.2**0.5, (40_000, 5))
    against_zero = steps.cumsum(axis=1) / np.sqrt(times)
    passed = against_zero + drift * np.sqrt(times) > boundaries(equal(5), 0.025, "obrien_fleming")
    stopped = -against_zero > boundaries(equal(5), 0.025, "pocock")
    never = np.ones((40_000, 1), bool)
    first = [np.hstack([crossed, never]).argmax(axis=1) for crossed in (passed, stopped)]
    assert ((first[0] < first[1]) & passed.any(axis=1)).mean() == pytest.approx(0.8, abs=0.006)


def test_boundaries_are_cached():
    group_sequential.boundaries.cache_clear()
    for _ in range(3):
        boundaries(equal(5), 0.025, "pocock")
    assert group_sequential.boundaries.cache_info().misses == 1
