"""The measures of the metric blessing, against values worked out by hand and against fairlearn."""

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.model_gates.calibration import compare_calibration, own_calibration, reliability_curve
from tasks.policy.model_gates.churn import compare_predictions
from tasks.policy.model_gates.dependence import time_blocks, widened
from tasks.policy.model_gates.fragility import SHOWN, FaultScale, compare_faults, loss_of_constant
from tasks.policy.model_gates.parity import Groups, compare_errors, compare_parity
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling

RESAMPLING = Resampling(0.95, 500, 7)
BINARY = np.tile([1.0, 0, 1, 0], 100)


def pairs(champion: list[float], challenger: list[float]) -> PairedPredictions:
    return PairedPredictions(BINARY, np.tile(champion, 100), np.tile(challenger, 100))


def test_calibration_compares_expected_errors():
    """Predicted 0.5 for half positives errs by 0; 0.9 and 0.7 for half positives err by 0.4 and 0.2 on half the rows each."""
    found = compare_calibration(pairs([0.5] * 4, [0.9, 0.9, 0.7, 0.7]), np.arange(400), 0.95)
    assert (found.champion, found.challenger) == (pytest.approx(0.0), pytest.approx(0.3))
    assert found.low < found.value < found.high
    assert found.low > 0.15


def test_calibration_of_several_classes_is_that_of_the_most_probable():
    shares = np.tile([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], (50, 1))
    assert own_calibration(np.zeros(100), shares).challenger == pytest.approx(0.3)


def test_reliability_curve_counts_what_came_true():
    curve = reliability_curve("7", np.array([1.0, 0, 0, 0, 1, 1]), np.array([0.2] * 4 + [0.9] * 2))
    assert [(round(each.predicted, 3), each.observed, each.rows) for each in curve.bins] == [
        (0.2, 0.25, 4),
        (0.9, 1.0, 2),
    ]
    assert all(each.low <= each.observed <= each.high + 1e-9 for each in curve.bins)


def test_churn_counts_classes_that_become_wrong():
    """Of four rows two flip: one from right to wrong, one from wrong to right."""
    found = compare_predictions(pairs([0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.9, 0.1]), None, 0.95)
    assert (found.value, found.rows) == (0.25, 400)
    assert "of 50 % that change" in found.subject


def test_churn_of_a_regression_counts_moves_away_from_the_label():
    y_true = np.array([0.0, 0.0, 0.0, 0.0])
    moved = PairedPredictions(y_true, np.array([1.0, 1, 1, 1]), np.array([3.0, 0, 1.2, -3]))
    assert compare_predictions(moved, 0.5, 0.95).value == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_differences_are_those_of_fairlearn(seed):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 3, 600)
    y_true = (random.random(600) < 0.3 + 0.1 * codes).astype(float)
    old, new = random.random(600), random.random(600)
    groups = Groups("city", codes, time_blocks(np.arange(600)))
    parity, odds = compare_parity(PairedPredictions(y_true, old, new), groups, RESAMPLING)
    for measure, function in ((parity, demographic_parity_difference), (odds, equalized_odds_difference)):
        known = [function(y_true, one >= 0.5, sensitive_features=codes) for one in (old, new)]
        assert [measure.champion, measure.challenger] == pytest.approx(known)
        assert measure.value == pytest.approx(known[1] - known[0])
        assert measure.low <= measure.value <= measure.high


def test_group_without_positives_has_no_equalized_odds():
    codes, y_true = np.tile([0, 1], 100), np.tile([0.0, 0, 1, 0], 50)
    found = compare_parity(PairedPredictions(y_true, y_true, y_true), Groups("city", codes, np.arange(200)), RESAMPLING)
    assert [measure.subject for measure in found] == ["demographic parity difference of city"]


def test_difference_of_errors_is_a_share_of_the_champions_error():
    """Champion errs by 2 in both groups; challenger by 1 and 4: a difference of 3, which is 1.5 of the champion's error."""
    codes, y_true = np.tile([0, 1], 200), np.zeros(400)
    compared = PairedPredictions(y_true, np.full(400, 2.0), np.tile([1.0, 4.0], 200))
    found = compare_errors(compared, Groups("city", codes, time_blocks(np.arange(400))), RESAMPLING)
    assert (found.champion, found.challenger, found.value) == (pytest.approx(0), pytest.approx(1.5), pytest.approx(1.5))
    assert found.low == pytest.approx(1.5)


def test_robustness_shows_the_worst_faults_in_units_of_a_constants_loss():
    """A constant loses 1 for labels ±1; under fault n the challenger loses n/10 more than the champion."""
    y_true = np.tile([1.0, -1.0], 200)
    plain = PairedPredictions(y_true, y_true, y_true)
    assert loss_of_constant(Metric("mae"), plain) == 1.0
    faults = {f"f{n} missing": PairedPredictions(y_true, y_true + 0.2, y_true + 0.2 + n / 10) for n in range(5)}
    found = compare_faults(faults, FaultScale(Metric("mae"), 1.0, RESAMPLING))
    assert [measure.subject for measure in found] == ["f4 missing", "f3 missing", "f2 missing"]
    assert len(found) == SHOWN
    assert (found[0].champion, found[0].challenger) == (pytest.approx(0.2), pytest.approx(0.6))
    assert (found[0].value, found[0].low) == (pytest.approx(0.4), pytest.approx(0.4))


@pytest.mark.parametrize("constant", [0.0, float("nan")])
def test_robustness_without_a_scale_does_not_apply(constant):
    (found,) = compare_faults(
        {"f missing": pairs([0.5] * 4, [0.5] * 4)}, FaultScale(Metric("mae"), constant, RESAMPLING)
    )
    assert found.skipped and found.value is None


def test_interval_is_wider_where_blocks_differ():
    """Gains of 1 in half of the blocks and -1 in the others: 20 facts, not 400."""
    gains = np.repeat(np.tile([1.0, -1.0], 10), 20)
    found = MetricDifference("mae", 1.0, 1.0, 0.0, -0.1, 0.1, 400)
    blocks = time_blocks(np.arange(400))
    assert widened(found, gains, blocks, 0.95).high == pytest.approx(
        0.1 * np.sqrt(20 * 20 / 19) * 2.093 / 1.960, rel=1e-3
    )
    alike = np.tile([1.0, -1.0], 200)
    assert widened(found, alike, blocks, 0.95).high == pytest.approx(0.1 * 2.093 / 1.960, rel=1e-3)
