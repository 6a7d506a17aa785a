"""Estimates without labels: correct under covariate shift, with valid intervals, and blind to concept drift."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from tasks.policy.monitoring import estimation
from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Metric


def calibrated(rows: int, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn with a true probability, and that probability."""
    random = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-random.normal(shift, 1.5, rows)))
    return (random.random(rows) < chance).astype(float), chance


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("name", metrics.CLASS_METRICS)
def test_estimates_match_realised_value_under_covariate_shift(name, shift):
    y_true, chance = calibrated(50_000, shift)
    estimate = next(value for value in estimation.estimate_classes(chance) if value.name == name)
    assert estimate.estimated
    assert estimate.value == pytest.approx(metrics.compute(Metric(name), y_true, chance), abs=0.01)


def test_by_hand():
    """Rows of 0.9 and 0.6: both decided positive; accuracy 0.75; brier (0.09 + 0.24) / 2; one cross pair."""
    found = {value.name: value.value for value in estimation.estimate_classes([0.9, 0.6])}
    assert found["accuracy"] == pytest.approx(0.75)
    assert found["brier"] == pytest.approx(0.165)
    assert found["roc_auc"] == pytest.approx((0.9 * 0.4) / (0.9 * 0.4 + 0.6 * 0.1))


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier", "f1", "balanced_accuracy", "roc_auc"])
def test_intervals_cover_realised_value_at_their_level(name):
    covered = []
    for seed in range(150):
        y_true, chance = calibrated(400, seed=seed)
        value = next(one for one in estimation.estimate_classes(chance) if one.name == name)
        covered.append(value.low <= metrics.compute(Metric(name), y_true, chance) <= value.high)
    assert np.mean(covered) > 0.92


def test_calibration_corrects_overconfident_probabilities():
    y_true, chance = calibrated(20_000)
    boastful = chance**3 / (chance**3 + (1 - chance) ** 3)
    realised = metrics.compute(Metric("accuracy"), y_true, boastful)
    plain = estimation.estimate_classes(boastful)[0].value
    fixed = estimation.estimate_classes(boastful, estimation.calibrate(y_true, boastful))[0].value
    assert plain > realised + 0.05
    assert fixed == pytest.approx(realised, abs=0.005)


def test_calibration_agrees_with_scikit_learns_isotonic_regression():
    y_true, chance = calibrated(5000)
    curve = estimation.calibrate(y_true, chance, bins=200)
    independent = IsotonicRegression(out_of_bounds="clip").fit(chance, y_true)
    probes = np.linspace(0.05, 0.95, 19)
    assert curve.apply(probes) == pytest.approx(independent.predict(probes), abs=0.06)
    assert (np.diff(curve.apply(np.linspace(0, 1, 50))) >= 0).all()


def test_concept_drift_shows_as_gap_to_the_estimate():
    y_true, chance = calibrated(20_000)
    flipped = 1 - y_true
    estimate = estimation.estimate_classes(chance)[0]
    assert metrics.compute(Metric("accuracy"), flipped, chance) < estimate.low - 0.3


@pytest.mark.parametrize("metric", estimation.LOSS_ESTIMATES)
def test_errors_of_similar_predictions_estimate_the_loss(metric):
    """Errors grow with the prediction; the current window predicts larger values than the reference."""
    random = np.random.default_rng(1)

    def rows(centre: float) -> tuple[np.ndarray, np.ndarray]:
        y_pred = random.normal(centre, 2, 20_000)
        return y_pred + random.normal(0, 0.2 * np.maximum(y_pred, 0.1)), y_pred

    curve = estimation.learn_losses(Metric(metric), *rows(8.0), bins=40)
    y_true, y_pred = rows(10.0)
    estimate = estimation.estimate_loss(curve, y_pred)
    assert estimate.value == pytest.approx(metrics.compute(Metric(metric), y_true, y_pred), rel=0.05)
    unmoved = estimation.estimate_loss(curve, rows(8.0)[1])
    assert estimate.low > unmoved.high


@pytest.mark.parametrize("metric", estimation.LOSS_ESTIMATES)
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_loss_intervals_cover_with_few_calibration_rows(metric, shift):
    """As many calibration rows as estimated rows; ignoring the curve's uncertainty, coverage was 77 to 84 %."""
    covered, random = [], np.random.default_rng(2)

    def rows(centre: float, count: int) -> tuple[np.ndarray, np.ndarray]:
        y_pred = random.normal(centre, 2, count)
        return y_pred + random.normal(0, 0.2 * np.maximum(y_pred, 0.1)), y_pred

    for _ in range(300):
        curve, (y_true, y_pred) = estimation.learn_losses(Metric(metric), *rows(8.0, 500)), rows(8.0 + shift, 500)
        value = estimation.estimate_loss(curve, y_pred)
        covered.append(value.low <= metrics.compute(Metric(metric), y_true, y_pred) <= value.high)
    assert 0.925 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("name", ["accuracy", "log_loss", "brier", "f1", "balanced_accuracy"])
def test_intervals_cover_with_few_calibration_rows(name):
    """Ignoring the calibration's uncertainty, coverage was 80 to 85 %."""
    covered = []
    for seed in range(250):
        y_true, chance = calibrated(500, seed=seed)
        curve = estimation.calibrate(*calibrated(500, seed=1000 + seed))
        value = next(one for one in estimation.estimate_classes(chance, curve) if one.name == name)
        covered.append(value.low <= metrics.compute(Metric(name), y_true, chance) <= value.high)
    assert 0.92 < np.mean(covered) < 0.98
