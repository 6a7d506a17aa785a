"""Metrics against scikit-learn, hand-worked values and their mathematical properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sklearn

from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Metric

CLASS_METRICS = metrics.CLASS_METRICS


def binary_rows(rows: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y_pred = np.round(random.random(rows), 2)  # rounded, so that ties occur
    return (random.random(rows) < y_pred).astype(int), y_pred


def multiclass_rows(rows: int = 600, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y_pred = random.dirichlet([1, 2, 3], rows)
    return np.array([random.choice(3, p=row) for row in y_pred]), y_pred


@pytest.mark.parametrize(
    ("name", "independent"),
    [
        ("accuracy", lambda y, p: sklearn.accuracy_score(y, p >= 0.5)),
        ("balanced_accuracy", lambda y, p: sklearn.balanced_accuracy_score(y, p >= 0.5)),
        ("f1", lambda y, p: sklearn.f1_score(y, p >= 0.5)),
        ("roc_auc", sklearn.roc_auc_score),
        ("log_loss", lambda y, p: sklearn.log_loss(y, p, labels=[0, 1])),
        ("brier", sklearn.brier_score_loss),
    ],
)
def test_binary_metrics_equal_scikit_learn(name, independent):
    y_true, y_pred = binary_rows()
    assert metrics.compute(Metric(name), y_true, y_pred) == pytest.approx(independent(y_true, y_pred), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "independent"),
    [
        ("accuracy", lambda y, p: sklearn.accuracy_score(y, p.argmax(1))),
        ("balanced_accuracy", lambda y, p: sklearn.balanced_accuracy_score(y, p.argmax(1))),
        ("f1", lambda y, p: sklearn.f1_score(y, p.argmax(1), average="macro")),
        ("roc_auc", lambda y, p: sklearn.roc_auc_score(y, p, multi_class="ovr", average="macro")),
        ("log_loss", lambda y, p: sklearn.log_loss(y, p, labels=[0, 1, 2])),
        ("brier", lambda y, p: sklearn.brier_score_loss(y, p, labels=[0, 1, 2])),
    ],
)
def test_multiclass_metrics_equal_scikit_learn(name, independent):
    y_true, y_pred = multiclass_rows()
    assert metrics.compute(Metric(name), y_true, y_pred) == pytest.approx(independent(y_true, y_pred), rel=1e-12)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_regression_metrics_equal_scikit_learn(quantile):
    random = np.random.default_rng(2)
    y_true, y_pred = random.normal(size=300), random.normal(size=300)
    pinball = sklearn.mean_pinball_loss(y_true, y_pred, alpha=quantile)
    assert metrics.compute(Metric("mae"), y_true, y_pred) == pytest.approx(sklearn.mean_absolute_error(y_true, y_pred))
    assert metrics.compute(Metric("rmse"), y_true, y_pred) == pytest.approx(
        sklearn.root_mean_squared_error(y_true, y_pred)
    )
    assert metrics.compute(Metric("pinball", quantile), y_true, y_pred) == pytest.approx(pinball)


def test_hand_worked_values():
    y_true, y_pred = [1, 0, 1, 0], [0.9, 0.6, 0.4, 0.1]  # decided 1 1 0 0: one hit of each class
    assert metrics.compute(Metric("accuracy"), y_true, y_pred) == 0.5
    assert metrics.compute(Metric("f1"), y_true, y_pred) == 0.5  # 2·1 / (2 + 2)
    assert metrics.compute(Metric("roc_auc"), y_true, y_pred) == 0.75  # 3 of 4 pairs in order
    assert metrics.compute(Metric("brier"), y_true, y_pred) == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert metrics.compute(Metric("rmse"), [0, 0], [3, 4]) == pytest.approx(12.5**0.5)
    assert metrics.compute(Metric("pinball", 0.9), [10, 10], [8, 12]) == pytest.approx((0.9 * 2 + 0.1 * 2) / 2)


def test_undefined_metric_is_nan():
    assert np.isnan(metrics.compute(Metric("roc_auc"), [1, 1, 1], [0.2, 0.5, 0.9]))
    assert np.isnan(metrics.compute(Metric("f1"), [0, 0], [0.1, 0.2]))
    for name in metrics.HIGHER_IS_BETTER:
        assert np.isnan(metrics.compute(Metric(name), [], []))


def test_absent_class_is_left_out_of_class_mean():
    y_true, y_pred = multiclass_rows()
    rows = y_true != 2
    value = metrics.compute(Metric("roc_auc"), y_true[rows], y_pred[rows])
    by_hand = [sklearn.roc_auc_score(y_true[rows] == code, y_pred[rows][:, code]) for code in (0, 1)]
    assert value == pytest.approx(np.mean(by_hand))


def test_certain_wrong_prediction_has_finite_log_loss():
    assert metrics.compute(Metric("log_loss"), [1], [0.0]) == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred"),
    [
        ("gini", [0], [0.5]),
        ("mae", [1, 2], [1.0]),
        ("mae", [1.0], [[0.5, 0.5]]),
        ("f1", [0, np.nan], [0.5, 0.5]),  # NumPy would convert it to the smallest integer
    ],
)
def test_invalid_metric_arguments_are_refused(name, y_true, y_pred):
    with pytest.raises(ValueError, match="expected"):
        metrics.compute(Metric(name), y_true, y_pred)


rows_of_scores = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(rows_of_scores)
def test_row_losses_average_to_the_metric(rows):
    y_true, y_pred = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    for name in metrics.HIGHER_IS_BETTER:
        parts = metrics.row_losses(Metric(name), y_true, y_pred)
        if parts is not None:
            assert parts.mean() == pytest.approx(metrics.compute(Metric(name), y_true, y_pred))
    assert metrics.row_losses(Metric("roc_auc"), y_true, y_pred) is None
    assert metrics.row_losses(Metric("rmse"), y_true, y_pred) is None


@settings(max_examples=60, deadline=None)
@given(rows_of_scores)
def test_auc_is_invariant_to_scale_and_flips_with_sign(rows):
    y_true = np.array([row[0] for row in rows], float)
    y_pred = np.round(np.array([row[1] for row in rows]), 3)
    area = metrics.compute(Metric("roc_auc"), y_true, y_pred)
    if not np.isnan(area):
        assert metrics.compute(Metric("roc_auc"), y_true, -y_pred) == pytest.approx(1 - area)
        assert metrics.compute(Metric("roc_auc"), y_true, y_pred * 3 + 1) == pytest.approx(area)


@settings(max_examples=40, deadline=None)
@given(rows_of_scores, st.floats(-100, 100))
def test_errors_are_shift_invariant(rows, shift):
    y_true, y_pred = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    for name in metrics.REGRESSION_METRICS:
        moved = metrics.compute(Metric(name), y_true + shift, y_pred + shift)
        assert moved == pytest.approx(metrics.compute(Metric(name), y_true, y_pred), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "labels", "classes", "words"),
    [
        ("f1", [0] * 700, 2, "0 of 700 labels are positive"),
        ("f1", [0] * 699 + [1], 2, "1 of 700 labels are positive"),
        ("balanced_accuracy", [1] * 50, 2, "0 of 50 labels are negative"),
        ("roc_auc", [1] * 50 + [0] * 4, 2, "4 of 54 labels are negative"),
        ("roc_auc", [2] * 50, 3, "1 classes have at least 5 labels"),
        ("f1", [1] * 50, 2, None),
        ("f1", [0] * 50 + [1] * 5, 2, None),
        ("balanced_accuracy", [0] * 5 + [2] * 5, 9, None),
        ("accuracy", [0] * 50, 2, None),
        ("log_loss", [0], 2, None),
    ],
)
def test_class_metrics_need_every_class(name, labels, classes, words):
    reason = metrics.undefined(Metric(name), labels, classes)
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "roc_auc"])
def test_level_needs_each_of_a_few_classes(name):
    """A week without the hardest of three classes makes the model look better; with fifty classes, some are always absent."""
    without = [0] * 50 + [1] * 50 + [2] * 4
    assert metrics.undefined(Metric(name), without, 3) is None, "two models on the same rows can be compared"
    assert "2 classes have at least 5 labels, expected 3" in metrics.undefined(Metric(name), without, 3, each=True)
    assert metrics.undefined(Metric(name), [*without, 2], 3, each=True) is None
    assert metrics.undefined(Metric(name), without, 50, each=True) is None


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "roc_auc"])
def test_window_without_positives_has_no_value(name):
    assert math.isnan(metrics.compute(Metric(name), np.zeros(20), np.linspace(0, 0.9, 20)))


def test_best_constant_is_median_majority_or_shares():
    assert metrics.constant_prediction(Metric("mae"), [1.0, 2.0, 9.0], 0)[0] == 2.0
    assert metrics.constant_prediction(Metric("rmse"), [1.0, 2.0, 9.0], 0)[0] == 4.0
    assert metrics.constant_prediction(Metric("pinball", 0.9), [0.0, 10.0], 0)[0] == pytest.approx(9.0)
    assert metrics.constant_prediction(Metric("accuracy"), [0, 0, 1], 2)[0] == 0.0
    assert metrics.constant_prediction(Metric("f1"), [0, 0, 1], 2)[0] == 1.0
    assert metrics.constant_prediction(Metric("log_loss"), [0, 0, 1], 2)[0] == pytest.approx(1 / 4), (
        "no row counts for itself"
    )
    assert metrics.constant_prediction(Metric("log_loss"), [0, 1, 2, 2], 3).shape == (4, 3)


@pytest.mark.parametrize(
    ("name", "independent"),
    [
        ("accuracy", lambda y, p, w: sklearn.accuracy_score(y, p >= 0.5, sample_weight=w)),
        ("balanced_accuracy", lambda y, p, w: sklearn.balanced_accuracy_score(y, p >= 0.5, sample_weight=w)),
        ("f1", lambda y, p, w: sklearn.f1_score(y, p >= 0.5, sample_weight=w)),
        ("roc_auc", lambda y, p, w: sklearn.roc_auc_score(y, p, sample_weight=w)),
        ("log_loss", lambda y, p, w: sklearn.log_loss(y, p, labels=[0, 1], sample_weight=w)),
        ("rmse", lambda y, p, w: sklearn.root_mean_squared_error(y, p, sample_weight=w)),
    ],
)
def test_weighted_metrics_equal_scikit_learn(name, independent):
    y_true, y_pred = binary_rows()
    weights = np.random.default_rng(3).exponential(1, len(y_true)) * (np.arange(len(y_true)) % 3 > 0)
    found = metrics.compute_weighted(Metric(name), y_true, y_pred, weights)
    assert found == pytest.approx(independent(y_true, y_pred, weights), rel=1e-9)


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_weights_count_rows(name):
    """A whole weight is that many copies of the row; without rows that define it, the metric is NaN."""
    y_true, y_pred = multiclass_rows()
    weights = np.random.default_rng(4).integers(0, 3, len(y_true))
    rows = np.repeat(np.arange(len(y_true)), weights)
    expected = metrics.compute(Metric(name), y_true[rows], y_pred[rows])
    assert metrics.compute_weighted(Metric(name), y_true, y_pred, weights) == pytest.approx(expected)
    assert math.isnan(metrics.compute_weighted(Metric(name), y_true, y_pred, np.zeros(len(y_true))))
    assert math.isnan(metrics.compute_weighted(Metric("f1"), *binary_rows(), binary_rows()[0] == 0))
