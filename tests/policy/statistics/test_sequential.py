"""Sequential tests: false alarms keep their level over all looks, and change is detected."""

import math

import numpy as np
import pytest
from scipy import stats

from tasks.policy.statistics import sequential
from tasks.policy.statistics.sequential import confidence_sequence


def test_the_radius_by_hand():
    alpha, sigma, tuned = 0.05, 2.0, 20
    rho = sigma**2 * tuned / (2 * math.log(20) + math.log(1 + 2 * math.log(20)))
    low, high = confidence_sequence([1.0, 3.0, 2.0], alpha, sigma, tuned)[-1]
    v = 3 * sigma**2
    half = math.sqrt((v + rho) * math.log((v + rho) / (rho * alpha**2))) / 3
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_anytime_intervals_keep_level_over_all_looks():
    """600 stable series of 300 windows: the share whose interval ever excludes the true value."""
    random, ever, ever_fixed = np.random.default_rng(0), 0, 0
    counts = np.arange(1, 301)
    for _ in range(600):
        series = random.normal(size=300)
        ever += any(not low <= 0 <= high for low, high in confidence_sequence(series, 0.05, 1.0))
        ever_fixed += bool((np.abs(np.cumsum(series) / counts) > stats.norm.ppf(0.975) / np.sqrt(counts)).any())
    assert ever / 600 <= 0.05
    assert ever_fixed / 600 > 0.3


def test_block_sequence_keeps_level_and_restarts():
    random, ever = np.random.default_rng(3), 0
    for _ in range(400):
        found = sequential.block_sequences(random.normal(size=100), 0.05, 1.0)
        ever += any(not low <= 0 <= high for low, high in found)
    assert ever / 400 <= 0.05
    assert sequential.block_sequences([0.0] * 10 + [1.0], 0.05, 1.0)[-1] == pytest.approx(
        confidence_sequence([1.0], 0.05 / 6, 1.0, 5)[0]
    )


def test_one_sigma_shift_is_detected_in_time():
    random = np.random.default_rng(1)
    seen = [confidence_sequence(random.normal(1, 1, 20), 0.05, 1.0)[-1].low > 0 for _ in range(300)]
    assert np.mean(seen) > 0.9


def test_constant_and_empty_series():
    assert confidence_sequence([2.0, 2.0], 0.05, 0.0)[-1] == (2.0, 2.0)
    assert confidence_sequence([], 0.05, 1.0) == []


def test_width_of_an_asymptotic_confidence_sequence():
    """Waudby-Smith et al. (2024), theorem 2.2 and equation 23: the boundary for t values with ρ tuned for t*."""
    alpha, tuned, t = 0.1, 500, 200
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned)
    radius = math.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * rho**2 + 1) / alpha))
    assert sequential.sequence_width(t / tuned, alpha) / math.sqrt(t) == pytest.approx(radius)
