"""Evidence of change: by enumeration and by hand, low without change and high with it."""

import itertools
import math

import numpy as np
import pytest

from tasks.policy.perennial.change_tests import PairedNoise, lead_sigmas, order_sigmas, paired_noise
from tasks.policy.perennial.switching import AGEING, Options, SwitchingRule, patience

NAN = float("nan")


def _likeness(losses: np.ndarray, order: tuple[int, ...]) -> float:
    """Return Σ over pairs of windows of pattern similarity, weighted by closeness in this order."""
    pattern = losses - losses.mean(axis=0)
    pattern = (pattern - pattern.mean(axis=1, keepdims=True))[:, list(order)]
    pairs = itertools.permutations(range(len(order)), 2)
    return float(sum(pattern[:, i] @ pattern[:, j] * math.exp(-abs(i - j) / 3.0) for i, j in pairs))


@pytest.mark.parametrize("seed", range(3))
def test_order_evidence_is_in_sigmas_over_all_permutations(seed: int) -> None:
    losses = np.random.default_rng(seed).normal(size=(4, 6))
    every = [_likeness(losses, order) for order in itertools.permutations(range(6))]
    expected = (_likeness(losses, tuple(range(6))) - np.mean(every)) / np.std(every)
    assert order_sigmas(losses) == pytest.approx(expected)


def test_order_evidence_is_low_without_change() -> None:
    generator = np.random.default_rng(1)
    found = []
    for _ in range(400):
        spread = generator.uniform(0.5, 2.0, 30)
        losses = generator.normal(0, 3, (8, 1)) + generator.normal(0, 3, 30) + spread * generator.normal(size=(8, 30))
        found.append(order_sigmas(losses))
    assert abs(np.mean(found)) < 0.15
    assert np.std(found) == pytest.approx(1.0, abs=0.15)
    assert np.mean(np.array(found) > 3.5) <= 0.005


def test_order_evidence_shows_diverging_models() -> None:
    generator = np.random.default_rng(2)
    losses = np.cumsum(generator.normal(0, 0.3, (8, 40)), axis=1) + generator.normal(size=(8, 40))
    assert order_sigmas(losses) > 5


def test_order_evidence_uses_fully_scored_windows() -> None:
    losses = np.random.default_rng(3).normal(size=(4, 9))
    gapped = losses.copy()
    gapped[1, [2, 5]] = NAN
    assert order_sigmas(gapped) == pytest.approx(order_sigmas(np.delete(losses, [2, 5], axis=1)))


@pytest.mark.parametrize("shape", [(4, 4), (2, 12), (0, 0)])
def test_order_evidence_needs_enough_windows_and_models(shape: tuple[int, int]) -> None:
    assert order_sigmas(np.ones(shape)) == 0.0


def test_paired_noise_by_hand() -> None:
    """Differences 1, 3 and -1, 1: variance 2 each, means 2 and 0, whose median square is 2."""
    noise = paired_noise(np.array([[2.0, 4.0], [1.0, 1.0], [2.0, 0.0]]))
    assert noise.window == pytest.approx(2.0)
    assert noise.training == pytest.approx(2.0 / 0.455)


def test_paired_noise_separates_window_and_training_noise() -> None:
    generator = np.random.default_rng(4)
    losses = generator.normal(0, 0.02, (60, 1)) + generator.normal(0, 0.05, 80) + generator.normal(0, 0.01, (60, 80))
    noise = paired_noise(losses)
    assert math.sqrt(noise.window) == pytest.approx(0.01 * math.sqrt(2), rel=0.1)
    assert math.sqrt(noise.training) == pytest.approx(0.02 * math.sqrt(2), rel=0.35)


def test_lead_evidence_by_hand() -> None:
    """Latest: 4 / √(1 + 2); latest two: 6 / √(2 + 8); all three: 0 / …; the largest counts."""
    assert lead_sigmas(np.array([-6.0, 2.0, 4.0]), PairedNoise(1.0, 2.0)) == pytest.approx(4 / math.sqrt(3))
    assert lead_sigmas(np.array([NAN, 0.1]), PairedNoise(0.0, 0.0)) == math.inf
    assert lead_sigmas(np.array([]), PairedNoise(1.0, 0.0)) == 0.0


def _options(forecast: list[float], losses: list[float], fresh: float, may_train: bool = True) -> Options:
    exists = np.array([True] * len(losses) + [may_train])
    return Options(len(losses), np.array(losses), fresh, len(losses) - 1, np.array(forecast), exists)


def test_switch_pays_by_hand() -> None:
    """The fresh model leads by 0.02 for 4 windows and has a debt of 0.03: 0.08 + 0.015 - 0.09 = 0.005."""
    options = _options([0.30, 0.30, 0.28], losses=[0.30, 0.30], fresh=0.27)
    assert SwitchingRule(0.09, 0.2).choose(options, 0, 4.0) == (2, pytest.approx(0.005), pytest.approx(0.095), 0.09)
    assert SwitchingRule(0.096, 0.2).choose(options, 0, 4.0) == (0, 0.0, pytest.approx(0.095), 0.096)


def test_return_is_cheaper_but_its_debt_is_discounted() -> None:
    """Candidate 1 leads by 0.02 for 4 windows and has a debt of 0.03 / 1.5: 0.08 + 0.01 - 0.8 · 0.1 = 0.01."""
    options = _options([0.30, 0.28, 0.29], losses=[0.30, 0.27], fresh=0.30)
    assert SwitchingRule(0.1, 0.2).choose(options, 0, 4.0) == (1, *map(pytest.approx, (0.01, 0.09, 0.08)))


def test_no_training_when_not_allowed() -> None:
    options = _options([0.3, 0.3, 0.1], losses=[0.3, 0.3], fresh=0.1, may_train=False)
    assert SwitchingRule(0.01, 0.2).choose(options, 0, 4.0)[0] == 0


def test_patience_follows_square_root_law() -> None:
    assert patience(0.4, 0.01, 0.2) == pytest.approx(2 * patience(0.1, 0.01, 0.2))
    assert patience(0.1 * 60, 0.01 * 60, 0.2 * 60) == pytest.approx(patience(0.1, 0.01, 0.2))
    assert patience(0.1, 0.01, 0.2) == pytest.approx(math.sqrt(0.1 / (2 * AGEING * math.sqrt(0.002))))
    assert patience(1e-6, 0.01, 0.2) == patience(0.1, 0.0, 0.2) == 1.0
