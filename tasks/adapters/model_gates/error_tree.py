"""Find the slices in which the challenger loses most, by a shallow tree on the difference of both models' losses.

As in Slice Finder (Chung et al. 2019, ICDE), slices are searched rather than named. The earlier half of the rows finds them
and the later half tests them, so the search itself cannot make a slice look bad. The intervals are as wide as their number
demands: by Bonferroni one of them lies below the margin exactly where Holm's procedure would reject any.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import category_texts
from tasks.policy.comparison.differences import DRAWS, difference
from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.model_gates.dependence import time_blocks, widened
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, Metric
from tasks.policy.statistics.resampling import Resampling

DEPTH = 3
"""Conditions of a slice; more would be no description that a person can act on."""
TESTED = 3
"""Slices that are tested, those with the largest loss on the rows that find them."""
CATEGORIES = 12
"""Most frequent categories of a feature that can name a slice."""


@dataclass(frozen=True)
class _Questions:
    """What the tree may ask: one column a question, with its words for yes and no; numbers are compared with a bound."""

    values: Floats
    names: tuple[str, ...]
    categories: tuple[str | None, ...]
    """The category that a column of zeros and ones stands for; None for numbers."""


@dataclass(frozen=True)
class _Rows:
    """What the challenger loses more than the champion on each row (n,), and the block of time (n,) of the row."""

    loss: Floats
    blocks: NDArray[np.int64]


def worst_slices(config: ModelConfig, rows: pa.Table, pairs: PairedPredictions) -> tuple[MetricDifference, ...]:
    """The slices found in the earlier half of the rows with the challenger's gain in the later half, the worst first."""
    order = np.argsort(rows.column(config.columns.time).to_numpy(), kind="stable")
    half, least = len(order) // 2, config.validation.slice_min_rows
    questions = _questions(config, rows)
    if half < 2 * least or not questions.names:
        return ()
    loss = _loss_difference(config.primary_metric, pairs)
    early, late = order[:half], order[half:]
    tree = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=least, random_state=config.training.seed)
    tree.fit(questions.values[early], loss[early])
    leaf_of = tree.apply(questions.values)
    by_leaf = {int(leaf): float(loss[early][leaf_of[early] == leaf].mean()) for leaf in np.unique(leaf_of[early])}
    worst = sorted((leaf for leaf, lost in by_leaf.items() if lost > 0), key=lambda leaf: -by_leaf[leaf])[:TESTED]
    slices = {_rule(tree, questions, leaf): late[leaf_of[late] == leaf] for leaf in worst}
    blocks = time_blocks(rows.column(config.columns.time).to_numpy())
    return _tested(config, pairs, slices, _Rows(loss, blocks))


def _tested(
    config: ModelConfig, pairs: PairedPredictions, slices: dict[str, NDArray[np.int64]], rows: _Rows
) -> tuple[MetricDifference, ...]:
    """The gain in each slice that has enough rows; `slices` maps its description to the places of its rows."""
    confidence = 1 - (1 - config.validation.confidence) / max(1, len(slices))
    resampling = Resampling(confidence, DRAWS, config.training.seed)
    found = []
    for name, places in slices.items():
        if len(places) < config.validation.slice_min_rows:
            continue
        inside = np.zeros(len(pairs), bool)
        inside[places] = True
        gained = difference(config.primary_metric, pairs.where(inside), resampling, name)
        found.append(widened(gained, -rows.loss[inside], rows.blocks[inside], confidence))
    return tuple(found)


def _loss_difference(metric: Metric, pairs: PairedPredictions) -> Floats:
    """What the challenger loses more than the champion on each row (n,), in the metric or in one that is a mean of rows."""
    old, new = (metrics.row_losses(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    if old is not None and new is not None:
        return old - new if metric.higher_is_better else new - old
    is_regression = metric.rule.is_regression if metric.rule else metric.name in metrics.REGRESSION_METRICS
    return _loss_difference(Metric("mae" if is_regression else "brier"), pairs)


def _questions(config: ModelConfig, rows: pa.Table) -> _Questions:
    """Numbers as they are, and one column for each frequent category. Personal columns name no slice."""
    features = config.columns.features
    shown = [name for name in features.tabular if name in rows.column_names and name not in config.columns.personal]
    columns: list[Floats] = []
    names: list[str] = []
    categories: list[str | None] = []
    for name in shown:
        column = rows.column(name)
        if name in features.numeric:
            columns.append(np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), float))
            names.append(name)
            categories.append(None)
            continue
        texts = np.array([value or "(null)" for value in category_texts(column).to_pylist()], dtype=np.str_)
        found, counts = np.unique(texts, return_counts=True)
        for category in found[np.argsort(-counts, kind="stable")][:CATEGORIES]:
            columns.append((texts == category).astype(float))
            names.append(name)
            categories.append(str(category))
    values = np.column_stack(columns) if columns else np.empty((len(rows), 0))
    values[~np.isfinite(values)] = np.nan
    return _Questions(values, tuple(names), tuple(categories))


def _rule(tree: DecisionTreeRegressor, questions: _Questions, leaf: int) -> str:
    """The conditions from the root to a leaf in words: `distance > 1200 and origin is JFK`."""
    nodes, words = tree.tree_, []
    node = leaf
    while node:
        parent = int(np.flatnonzero((nodes.children_left == node) | (nodes.children_right == node))[0])
        is_left, asked = bool(nodes.children_left[parent] == node), int(nodes.feature[parent])
        category = questions.categories[asked]
        if category is None:
            missing = np.isnan(questions.values[:, asked]).any() and bool(nodes.missing_go_to_left[parent]) == is_left
            words.append(
                f"{questions.names[asked]} {'≤' if is_left else '>'} {nodes.threshold[parent]:.4g}"
                f"{' or missing' if missing else ''}"
            )
        else:
            words.append(f"{questions.names[asked]} {'is not' if is_left else 'is'} {category}")
        node = parent
    return " and ".join(dict.fromkeys(reversed(words))) or "all rows"
