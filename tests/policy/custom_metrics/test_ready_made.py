"""Ready-made metrics have the values that scikit-learn or a calculation by hand gives."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics

from tasks.policy.custom_metrics.ready_made import (
    READY_MADE,
    cost_matrix,
    lift,
    mape,
    ndcg,
    precision_at_k,
    quantile_loss,
    recall_at_precision,
    wape,
)

CODES = arrays(float, 40, elements=st.sampled_from([0.0, 1.0]))
SCORES = arrays(float, 40, elements=st.sampled_from(np.linspace(0, 1, 11).tolist()))
AMOUNTS = arrays(float, 40, elements=st.floats(1, 1000))


@given(y_true=CODES, y_pred=SCORES, precision=st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_recall_at_precision_is_the_best_point_of_the_curve(y_true, y_pred, precision) -> None:
    if not y_true.any():
        assert np.isnan(recall_at_precision(y_true, y_pred, precision=precision))
        return
    found, recall, _ = sklearn_metrics.precision_recall_curve(y_true, y_pred)
    assert recall_at_precision(y_true, y_pred, precision=precision) == pytest.approx(recall[found >= precision].max())


@given(y_true=CODES, y_pred=SCORES, k=st.integers(1, 60))
def test_precision_at_k_is_the_mean_over_random_orders_of_ties(y_true, y_pred, k) -> None:
    random, drawn = np.random.default_rng(0), []
    for _ in range(300):
        order = np.lexsort([random.random(len(y_true)), -y_pred])[:k]
        drawn.append(y_true[order].mean())
    assert precision_at_k(y_true, y_pred, k=k) == pytest.approx(np.mean(drawn), abs=0.12)


def test_precision_at_a_share_and_lift() -> None:
    y_true, y_pred = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0.0]), np.linspace(1, 0, 10)
    assert precision_at_k(y_true, y_pred, k=0.3) == pytest.approx(2 / 3)
    assert lift(y_true, y_pred, share=0.3) == pytest.approx((2 / 3) / 0.3)
    assert lift(y_true, y_pred, share=1) == pytest.approx(1)
    assert np.isnan(lift(np.zeros(10), y_pred))


@given(y_true=AMOUNTS, y_pred=AMOUNTS)
def test_percentage_errors(y_true, y_pred) -> None:
    expected = sklearn_metrics.mean_absolute_percentage_error(y_true, y_pred)
    assert mape(y_true, y_pred) == pytest.approx(expected)
    assert mape(np.append(y_true, 0.0), np.append(y_pred, 5.0)) == pytest.approx(expected), (
        "a label of 0 has no percentage"
    )
    assert wape(y_true, y_pred) == pytest.approx(np.abs(y_true - y_pred).sum() / y_true.sum())
    assert np.isnan([mape(np.zeros(3), y_pred[:3]), wape(np.zeros(3), y_pred[:3])]).all()


@given(y_true=AMOUNTS, y_pred=AMOUNTS, quantile=st.sampled_from([0.1, 0.5, 0.9]))
def test_quantile_loss(y_true, y_pred, quantile) -> None:
    expected = sklearn_metrics.mean_pinball_loss(y_true, y_pred, alpha=quantile)
    assert quantile_loss(y_true, y_pred, quantile=quantile).mean() == pytest.approx(expected)


def test_cost_matrix_prices_each_decision() -> None:
    """A missed fraud costs 100, a blocked customer 5."""
    costs = [[0, 5], [100, 0]]
    y_true, y_pred = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.9, 0.9, 0.2])
    assert cost_matrix(y_true, y_pred, costs=costs).tolist() == [0, 5, 0, 100]
    assert cost_matrix(y_true, y_pred, costs=costs, threshold=0.15).tolist() == [0, 5, 0, 0]
    three = np.array([[0.2, 0.5, 0.3]])
    assert cost_matrix(np.array([2.0]), three, costs=[[0, 1, 2], [3, 0, 4], [5, 6, 0]]).tolist() == [6]
    with pytest.raises(ValueError, match=r"shape \(2, 2\), expected a row for each of 3 labels"):
        cost_matrix(np.array([2.0]), three, costs=costs)


@given(y_true=arrays(float, 20, elements=st.sampled_from([0.0, 1.0, 3.0])), y_pred=arrays(float, 20, elements=st.sampled_from([0.1, 0.4, 0.9])), k=st.sampled_from([None, 5]))  # fmt: skip
def test_ndcg(y_true, y_pred, k) -> None:
    if not y_true.any():
        assert np.isnan(ndcg(y_true, y_pred, k=k))
        return
    assert ndcg(y_true, y_pred, k=k) == pytest.approx(sklearn_metrics.ndcg_score([y_true], [y_pred], k=k))


def test_directions_and_shapes_are_as_listed() -> None:
    random = np.random.default_rng(3)
    settings = {"cost_matrix": {"costs": [[0, 1], [1, 0]]}}
    for name, ready in READY_MADE.items():
        regression = "regression" in ready.tasks
        y_true = random.normal(10, 2, 200) if regression else (random.random(200) < 0.4).astype(float)
        good = y_true + random.normal(0, 0.5, 200) if regression else np.where(y_true == 1, 0.8, 0.2)
        bad = random.permutation(good)
        better, worse = (np.mean(ready.function(y_true, each, **settings.get(name, {}))) for each in (good, bad))
        assert (better > worse) == ready.higher_is_better, name
        assert np.shape(ready.function(y_true, good, **settings.get(name, {}))) == ((200,) if ready.per_row else ())
