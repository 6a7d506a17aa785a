"""Boosters with other leaves: the same splits, exact values, and refusals."""

import numpy as np
import pytest

from tasks.adapters.models import estimators
from tasks.adapters.online.booster import node_count, score_window, why_not, with_changes
from tasks.adapters.online.leaves import probabilities
from tasks.policy.records.errors import ModelFileError
from tests.support.trained_models import make_config, make_rows

ROWS = make_rows(rows=300, seed=5)


def scorer_of(task: str = "binary", **training: object):
    config = make_config(
        task, training={"parameters": {"n_estimators": 12, "max_depth": 3}, "min_rows": 200, **training}
    )
    return estimators.fit(config, make_rows(task)).scorer


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_changed_leaves_predict_what_was_learned(task):
    """Margins moved by the changes of the leaves that a row reaches, as XGBoost itself computes them."""
    scorer = scorer_of(task)
    booster, matrix = scorer.estimator.get_booster(), scorer.encoding.encode(ROWS)
    window = score_window(booster, matrix, np.zeros(len(matrix)))
    changes = np.random.default_rng(0).normal(0, 0.2, (window.leaves.shape[1], node_count(booster))).astype(np.float32)
    moved = window.corrected(changes)
    expected = probabilities(moved) if task == "binary" else moved
    np.testing.assert_allclose(with_changes(scorer, changes).predict(ROWS), expected, rtol=1e-4, atol=1e-6)


def test_no_change_predicts_the_same_bits():
    scorer = scorer_of()
    unchanged = with_changes(scorer, np.zeros((12, 15), np.float32))
    np.testing.assert_array_equal(unchanged.predict(ROWS), scorer.predict(ROWS))


def test_margins_are_those_of_the_predictions():
    scorer = scorer_of()
    window = score_window(scorer.estimator.get_booster(), scorer.encoding.encode(ROWS), np.zeros(len(ROWS)))
    np.testing.assert_allclose(probabilities(window.margins), scorer.predict(ROWS), rtol=1e-4)


def test_state_of_another_model_is_refused():
    with pytest.raises(ModelFileError, match="changes 99 trees of 15 nodes, expected at most 12 trees"):
        with_changes(scorer_of(), np.zeros((99, 15), np.float32))


def test_only_boosters_whose_loss_is_known_are_corrected():
    assert why_not(scorer_of()) is None
    assert why_not(scorer_of("regression")) is None
    refused = scorer_of("regression", parameters={"objective": "reg:absoluteerror", "n_estimators": 5})
    assert why_not(refused) == (
        "the champion is a gbtree with reg:absoluteerror, expected gbtree with binary:logistic or reg:squarederror"
    )
    linear = scorer_of(estimator="sklearn.linear_model:LogisticRegression", parameters={})
    assert why_not(linear).startswith("the champion is not XGBoost")
