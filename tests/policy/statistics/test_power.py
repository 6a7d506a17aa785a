"""Power of a window, against independent formulas and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import GofChisquarePower, NormalIndPower

from tasks.policy.statistics import power
from tasks.policy.statistics.distances import Table, chi2, compared_bins
from tasks.policy.statistics.power import EffectTest


def test_detectable_psi_equals_statsmodels():
    """Effect size w of one sample, w² = Σ(p - q)²/q; against an infinite reference, PSI is w²."""
    independent = GofChisquarePower().solve_power(nobs=400, alpha=0.01, power=0.8, n_bins=20) ** 2
    assert power.smallest_effect(EffectTest("psi", 0.01, 0.8, 20), 400, 10**12) == pytest.approx(independent, rel=1e-3)
    assert power.smallest_effect(EffectTest("kl", 0.01, 0.8, 20), 400, 10**12) == pytest.approx(
        independent / 2, rel=1e-3
    )


def test_detectable_shift_equals_statsmodels():
    independent = NormalIndPower().solve_power(nobs1=400, alpha=0.01, power=0.8, ratio=5)
    assert power.minimum_detectable_shift(400, 2000, 0.01, 0.8) == pytest.approx(independent, rel=1e-4)
    assert power.minimum_detectable_shift(1, 2000) == math.inf


@pytest.mark.parametrize("method", ["ks", "wasserstein"])
def test_detectable_ks_shift_has_80_percent_power(method):
    random = np.random.default_rng(0)
    size = power.smallest_effect(EffectTest(method, 0.01), 500, 2000)
    shift = size if method == "wasserstein" else 2 * stats.norm.ppf((1 + size) / 2)
    found = [
        stats.ks_2samp(random.normal(shift, 1, 500), random.normal(0, 1, 2000), method="asymp").pvalue <= 0.01
        for _ in range(1000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_detectable_category_shift_has_80_percent_power():
    random, shares = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    size = power.smallest_effect(EffectTest("psi", 0.01, bins=4), 500, 2000)
    way = np.array([1, -1, 1, -1])
    step = next(e for e in np.linspace(0, 0.09, 901) if ((e * way) * np.log((shares + e * way) / shares)).sum() >= size)
    moved = shares + step * way
    found = [
        chi2(Table(random.multinomial(2000, shares).tolist(), random.multinomial(500, moved).tolist()))[1] <= 0.01
        for _ in range(1000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_detectable_effect_shrinks_with_rows():
    assert power.smallest_effect(EffectTest("ks", 0.01), 1, 1000) == math.inf
    sizes = [power.smallest_effect(EffectTest("wasserstein", 0.01), rows, 10**6) for rows in (200, 2000, 20_000)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(sizes[2] * 10, rel=0.02)


@pytest.mark.parametrize("method", ["ks", "wasserstein", "psi", "kl"])
def test_needed_rows_are_minimal(method):
    test = EffectTest(method, 0.01)
    rows = power.rows_needed(test, 0.1, 50_000)
    assert power.smallest_effect(test, rows, 50_000) <= 0.1
    assert power.smallest_effect(test, rows - 1, 50_000) > 0.1
    assert power.rows_needed(EffectTest("ks", 0.01), 0.01, 1000) is None


def test_pooled_bins_are_not_counted():
    assert compared_bins(Table((50, 50, 50), (50, 50, 50))) == 3
    assert compared_bins(Table((500, 500, 1, 1, 1), (500, 500, 1, 1, 1))) == 2  # all rare ones and one more
    assert compared_bins(Table((), ())) == 0


def test_the_detectable_drop_of_a_proportion():
    by_hand = (1.6448536 + 0.8416212) * math.sqrt(0.9 * 0.1 * (1 / 1000 + 1 / 3000))
    assert power.minimum_detectable_drop(1000, 3000, 0.9) == pytest.approx(by_hand)
