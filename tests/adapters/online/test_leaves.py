"""Learning leaf values: by hand, and its limits."""

import numpy as np
import pytest

from tasks.adapters.online.leaves import ScoredWindow, learn_leaves, probabilities
from tasks.policy.training.online import OnlinePolicy


def window(labels: list[float], leaves: list[list[int]] | None = None, margin: float = 0.0) -> ScoredWindow:
    count = len(labels)
    reached = np.array(leaves if leaves is not None else [[0]] * count, np.int32).reshape(count, -1)
    return ScoredWindow(np.full(count, margin), reached, np.array(labels, float))


def test_regression_by_hand():
    """One tree, rate 0.3: leaf 1 has residuals 1 and 3, so 0.3 · 4 / (2 + 2); leaf 2 has -2, so 0.3 · -2 / (1 + 2)."""
    rows = window([1.0, 3.0, -2.0], [[1], [1], [2]])
    changes = learn_leaves([rows], OnlinePolicy(shrinkage_rows=2), nodes=3, is_regression=True)
    np.testing.assert_allclose(changes, [[0.0, 0.3, -0.2]], rtol=1e-6)


def test_classification_by_hand():
    """At log odds 0 the gradient of a 1 is 0.5 and the curvature 0.25: 0.3 · 2 · 0.5 / (2 · 0.25 + 4 · 0.25)."""
    changes = learn_leaves([window([1.0, 1.0])], OnlinePolicy(shrinkage_rows=4), nodes=1, is_regression=False)
    np.testing.assert_allclose(changes, [[0.2]], rtol=1e-6)


def test_second_tree_learns_what_the_first_leaves():
    """Both rows are in leaf 0 of both trees: the first moves 0.3 · 4 / (2 + 2) = 0.3, the second 0.3 · 3.4 / 4."""
    rows = window([2.0, 2.0], [[0, 0], [0, 0]])
    changes = learn_leaves([rows], OnlinePolicy(shrinkage_rows=2), nodes=1, is_regression=True)
    np.testing.assert_allclose(changes, [[0.3], [0.255]], rtol=1e-6)


def test_older_rows_count_less():
    """With a half-life of one window: 0.3 · (1 · 4 + 0.5 · -2) / (1 + 0.5 + 1.5)."""
    policy = OnlinePolicy(half_life_windows=1, shrinkage_rows=1.5)
    changes = learn_leaves([window([-2.0]), window([4.0])], policy, nodes=1, is_regression=True)
    np.testing.assert_allclose(changes, [[0.3]], rtol=1e-6)


def test_only_the_latest_windows_teach():
    policy = OnlinePolicy(windows=2)
    recent = [window([1.0]), window([2.0])]
    expected = learn_leaves(recent, policy, nodes=1, is_regression=True)
    np.testing.assert_array_equal(
        learn_leaves([window([99.0]), *recent], policy, nodes=1, is_regression=True), expected
    )


def test_a_window_without_rows_ages_the_others():
    policy, empty = (
        OnlinePolicy(half_life_windows=1, shrinkage_rows=1),
        ScoredWindow(np.empty(0), np.empty((0, 0), np.int32), np.empty(0)),
    )
    changes = learn_leaves([window([2.0]), empty], policy, nodes=1, is_regression=True)
    np.testing.assert_allclose(changes, [[0.3 * 1 / 1.5]], rtol=1e-6)


def test_without_rows_nothing_is_learned():
    assert learn_leaves([], OnlinePolicy(), nodes=1, is_regression=True) is None


def test_more_trees_do_not_learn_more():
    """Of 20 or 200 trees that hold the same rows, all together reach nearly the same residual."""
    left = []
    for trees in (40, 400):
        rows = window([1.0] * 50, [[0] * trees] * 50)
        changes = learn_leaves([rows], OnlinePolicy(), nodes=1, is_regression=True)
        left.append(1 - float(changes.sum()))
    assert left[0] == pytest.approx(left[1], abs=0.01)


def test_certain_predictions_cannot_move_a_leaf_without_bound():
    changes = learn_leaves([window([0.0] * 100, margin=30.0)], OnlinePolicy(), nodes=1, is_regression=False)
    assert -15.1 < float(changes[0, 0]) < 0, "at most the rate over the least curvature"


def test_probabilities_of_extreme_margins_are_finite():
    assert probabilities(np.array([-1e9, 0.0, 1e9])).tolist() == [pytest.approx(0), 0.5, 1.0]
