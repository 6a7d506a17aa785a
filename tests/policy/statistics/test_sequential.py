"""Looking after every window: false alarms stay at their level for ever, and change is seen; ADWIN against river's."""

import doctest
import math

import numpy as np
import pytest
from river.drift import ADWIN
from scipy import stats

from tasks.policy.statistics import sequential
from tasks.policy.statistics.sequential import AdaptiveWindow, change_points, confidence_sequence


def test_the_radius_by_hand():
    alpha, sigma, tuned = 0.05, 2.0, 20
    rho = sigma**2 * tuned / (2 * math.log(20) + math.log(1 + 2 * math.log(20)))
    low, high = confidence_sequence([1.0, 3.0, 2.0], alpha, sigma, tuned)[-1]
    v = 3 * sigma**2
    half = math.sqrt((v + rho) * math.log((v + rho) / (rho * alpha**2))) / 3
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_intervals_hold_at_every_look_at_once_where_fixed_ones_do_not():
    """600 stable series of 300 windows: the share that ever excludes the truth."""
    random, ever, ever_fixed = np.random.default_rng(0), 0, 0
    counts = np.arange(1, 301)
    for _ in range(600):
        series = random.normal(size=300)
        ever += any(not low <= 0 <= high for low, high in confidence_sequence(series, 0.05, 1.0))
        ever_fixed += bool((np.abs(np.cumsum(series) / counts) > stats.norm.ppf(0.975) / np.sqrt(counts)).any())
    assert ever / 600 <= 0.05
    assert ever_fixed / 600 > 0.3


def test_a_sequence_a_block_holds_at_every_look_at_once_and_forgets_the_block_before():
    random, ever = np.random.default_rng(3), 0
    for _ in range(400):
        found = sequential.block_sequences(random.normal(size=100), 0.05, 1.0)
        ever += any(not low <= 0 <= high for low, high in found)
    assert ever / 400 <= 0.05
    assert sequential.block_sequences([0.0] * 10 + [1.0], 0.05, 1.0)[-1] == pytest.approx(
        confidence_sequence([1.0], 0.05 / 6, 1.0, 5)[0]
    )


def test_a_shift_of_one_sigma_is_seen_within_the_windows_it_is_tuned_for():
    random = np.random.default_rng(1)
    seen = [confidence_sequence(random.normal(1, 1, 20), 0.05, 1.0)[-1].low > 0 for _ in range(300)]
    assert np.mean(seen) > 0.9


def test_values_without_spread_and_none():
    assert confidence_sequence([2.0, 2.0], 0.05, 0.0)[-1] == (2.0, 2.0)
    assert confidence_sequence([], 0.05, 1.0) == []


def stream(before: float, after: float, seed: int, length: int = 2000) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.binomial(1, np.where(np.arange(length) < length // 2, before, after)).astype(float)


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(sequential) == (0, 2)


def test_memory_grows_with_the_logarithm():
    window = AdaptiveWindow()
    for value in np.random.default_rng(0).random(20_000):
        window.update(value)
    assert window.width == 20_000
    assert sum(len(row) for row in window.rows) <= sequential.BUCKETS_PER_ROW * (math.log2(20_000) + 1)


def test_the_buckets_keep_mean_and_spread():
    values = np.random.default_rng(2).normal(0.5, 0.1, 500)
    window = AdaptiveWindow()
    for value in values:
        window.update(value)
    count, total, spread = window._totals()
    assert (count, total, spread) == pytest.approx((500, values.sum(), 500 * values.var()))


@pytest.mark.parametrize("seed", range(5))
def test_an_abrupt_change_is_found_about_when_river_finds_it(seed):
    values = stream(0.2, 0.6, seed)
    ours = [place for place in change_points(list(values)) if place >= 1000]
    theirs, detector = [], ADWIN(delta=0.002, clock=1, grace_period=0)
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            theirs.append(place)
    assert ours
    assert abs(ours[0] - next(place for place in theirs if place >= 1000)) <= 40
    assert ours[0] - 1000 < 150


def test_after_a_change_the_mean_is_that_of_the_new_level():
    window = AdaptiveWindow()
    for value in stream(0.2, 0.7, seed=3):
        window.update(value)
    assert window.mean == pytest.approx(0.7, abs=0.06)


def test_false_alarms_stay_below_delta_on_stable_streams():
    random = np.random.default_rng(4)
    alarms = sum(bool(change_points(list(random.random(400)), delta=0.05)) for _ in range(60))
    assert alarms / 60 <= 0.05
