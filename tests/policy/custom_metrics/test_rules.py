"""Metrics of the user's own get intervals, paired gains and evidence like the built-in ones."""

import numpy as np
import pytest

from tasks.policy.comparison.differences import against_constant, difference, own_value
from tasks.policy.custom_metrics.labels import Labels
from tasks.policy.custom_metrics.rules import CustomRule
from tasks.policy.monitoring.slices import measure_slices
from tasks.policy.records.errors import MetricError
from tasks.policy.statistics.intervals import PairedPredictions, metric_interval
from tasks.policy.statistics.metrics import Metric, as_loss, compute, compute_weighted, row_losses, undefined
from tasks.policy.statistics.resampling import Resampling

RANDOM = np.random.default_rng(11)
ROWS = 600
AMOUNT = RANDOM.lognormal(3, 1, ROWS)
Y_TRUE = Labels.of((RANDOM.random(ROWS) < 0.3).astype(float), {"amount": AMOUNT})
GOOD = np.clip(0.25 + 0.5 * np.asarray(Y_TRUE) + RANDOM.normal(0, 0.15, ROWS), 0, 1)
POOR = np.clip(RANDOM.random(ROWS), 0, 1)


def profit(y_true, y_pred, rows):
    """A loan that is granted earns a tenth if it is repaid (0), and loses all if not."""
    granted = y_pred < 0.5
    return np.where(granted, np.where(y_true == 0, 0.1, -1.0) * rows["amount"], 0.0)


PER_ROW = Metric("profit", rule=CustomRule("profit", profit, True, per_row=True, columns=("amount",)))
PER_TABLE = Metric("profit", rule=CustomRule("profit", lambda *all: profit(*all).mean(), True, columns=("amount",)))


def test_rows_and_tables_have_one_value():
    expected = profit(np.asarray(Y_TRUE), GOOD, {"amount": AMOUNT}).mean()
    assert compute(PER_ROW, Y_TRUE, GOOD) == compute(PER_TABLE, Y_TRUE, GOOD) == pytest.approx(expected)
    assert row_losses(PER_ROW, Y_TRUE, GOOD).shape == (ROWS,)
    assert row_losses(PER_TABLE, Y_TRUE, GOOD) is None
    assert as_loss(PER_ROW, 5.0) == -5.0
    half = np.arange(ROWS) < ROWS / 2
    assert compute(PER_TABLE, Y_TRUE[half], GOOD[half]) == pytest.approx(
        profit(np.asarray(Y_TRUE)[half], GOOD[half], {"amount": AMOUNT[half]}).mean()
    )


@pytest.mark.parametrize("metric", [PER_ROW, PER_TABLE], ids=["row", "table"])
def test_intervals_and_gains_agree_with_the_normal_approximation(metric):
    rows = profit(np.asarray(Y_TRUE), GOOD, {"amount": AMOUNT})
    half = 1.96 * rows.std() / np.sqrt(ROWS)
    low, high = metric_interval(metric, Y_TRUE, GOOD)
    assert (low, high) == (
        pytest.approx(rows.mean() - half, abs=0.4 * half),
        pytest.approx(rows.mean() + half, abs=0.4 * half),
    )
    found = difference(metric, PairedPredictions(Y_TRUE, POOR, GOOD), Resampling(draws=400))
    assert found.low < found.gain == found.challenger - found.champion < found.high
    assert found.low > 0, "the better model earns more"
    assert difference(metric, PairedPredictions(Y_TRUE, GOOD, POOR), Resampling(draws=400)).high < 0


def test_a_constant_is_the_best_decision_for_everybody():
    found = against_constant(PER_ROW, Y_TRUE, GOOD, Resampling(draws=200))
    nobody, everybody = 0.0, profit(np.asarray(Y_TRUE), np.zeros(ROWS), {"amount": AMOUNT}).mean()
    assert found.champion == pytest.approx(max(nobody, everybody))


def test_slices_have_the_rows_of_their_group():
    groups = np.where(AMOUNT > 20, "large", "small")
    found = {item.name: item.value.value for item in measure_slices(PER_ROW, Y_TRUE, GOOD, {"size": groups}, 50)}
    large = groups == "large"
    assert found["size=large"] == pytest.approx(profit(np.asarray(Y_TRUE), GOOD, {"amount": AMOUNT})[large].mean())


def test_the_first_model_has_its_value_and_interval():
    value = own_value(PER_ROW, Y_TRUE, GOOD, Resampling())
    assert (value.name, value.higher_is_better, value.rows) == ("profit", True, ROWS)
    assert value.low < value.value < value.high


@pytest.mark.parametrize("metric", [PER_ROW, PER_TABLE], ids=["row", "table"])
def test_weights_count_rows(metric):
    assert compute_weighted(metric, Y_TRUE, GOOD, np.ones(ROWS)) == pytest.approx(compute(metric, Y_TRUE, GOOD))
    first = np.arange(ROWS) < 200
    assert compute_weighted(metric, Y_TRUE, GOOD, first.astype(float)) == pytest.approx(
        compute(metric, Y_TRUE[first], GOOD[first])
    )


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (CustomRule("m", lambda *_: np.ones(3), True, per_row=True), r"returned shape \(3,\) for 600 rows.*per: table"),
        (CustomRule("m", lambda *_: np.ones(600), True), "expected a number; for a value of each row set per: row"),
        (CustomRule("m", lambda *_: "much", True), "returned 'much', expected a number"),
        (CustomRule("m", profit, True, columns=("age",)), "reads age, which these rows do not have"),
    ],
)
def test_wrong_results_are_named(rule, message):
    with pytest.raises(MetricError, match=message):
        compute(Metric("m", rule=rule), Y_TRUE, GOOD)


def test_few_positives_do_not_define_a_rare_event_metric():
    rule = CustomRule("recall", lambda *_: 1.0, True, needs_positives=True)
    y_true = np.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    assert undefined(Metric("recall", rule=rule), y_true, 2) == (
        "recall is undefined: 2 of 8 labels are positive, expected at least 5"
    )
    assert undefined(Metric("recall", rule=rule), np.tile(y_true, 5), 2) is None


def test_classes_are_given_where_a_function_decides():
    rule = CustomRule("hits", lambda y_true, y_pred: float((y_true == y_pred).mean()), True, decided=True)
    assert compute(Metric("hits", rule=rule), Y_TRUE, GOOD) == pytest.approx(
        ((GOOD >= 0.5) == np.asarray(Y_TRUE)).mean()
    )
