"""Evaluate an XGBoost booster for one row: the same numbers as the booster, bit for bit, in a tenth of its time.

XGBoost spends most of the time for one row on preparing the call. Here the splits of all trees are compared at once, as
NumPy arrays, and all trees then walk down together. Leaves are added in XGBoost's order, as 32-bit floats. Each form of
XGBoost's numeric split becomes `x > threshold`, which is false for null, and so takes the default direction:

- null goes left: `x >= t` becomes `x > (the float before t)`; the second child is XGBoost's right one.
- null goes right: `x < t` becomes `-x > -t`; the second child is XGBoost's left one.

A split by category is looked up in a table. Measured against treelite's GTIL (differs in the last bit, three times slower
for one row), generated Python (needs seconds to compile 200 trees) and `inplace_predict` (ten times slower).
`matches` compares with the booster whenever a model is loaded.
"""

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.models.encoding import Matrix

Prediction = float | list[float]
F32 = np.float32
LOGISTIC, SOFTMAX = "binary:logistic", "multi:softprob"
IDENTITIES = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror")
MOST_NODES = 100_000
"""From about here on, XGBoost itself is faster, also for one row."""
ONE = F32(1)


def _of_libm(name: str) -> Callable[[float], float]:
    """Return a 32-bit function of C's library, which XGBoost calls; NumPy's own differ in the last bit."""
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    found: Callable[[float], float] = function
    return found


_expf, _logf = _of_libm("expf"), _of_libm("logf")


class TreeEvaluator:
    """The trees of a booster as arrays of nodes. Not thread-safe: calls share buffers."""

    def __init__(self, booster: Any, categories: Sequence[int]) -> None:
        """Read a booster; `categories` has the number of categories of each feature. Raises ValueError if unsupported."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        kind, self._objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
        if kind != "gbtree" or self._objective not in (LOGISTIC, SOFTMAX, *IDENTITIES):
            raise ValueError(f"{kind} with {self._objective} is not supported")
        model = learner["gradient_booster"]["model"]
        classes = np.array(model["tree_info"], int)
        nodes = [_Nodes(model["trees"][index]) for index in np.argsort(classes, kind="stable")]
        if sum(len(each.left) for each in nodes) > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} nodes are not faster")
        self._features, self._depth = len(categories), max((each.depth for each in nodes), default=0)
        self._take_nodes(nodes, categories)
        intercepts = np.array(json.loads(learner["learner_model_param"]["base_score"]), F32).reshape(-1)
        if self._objective == LOGISTIC:
            intercepts = np.array([-_logf(ONE / intercepts[0] - ONE)], F32)
        groups = int(classes.max(initial=0)) + 1
        self._terms = np.empty((groups, len(nodes) // groups + 1), F32)
        self._terms[:, 0] = intercepts

    def _take_nodes(self, nodes: Sequence["_Nodes"], categories: Sequence[int]) -> None:
        """Number all nodes anew: numeric splits by what they compare, splits by category by feature, then leaves."""
        starts = np.cumsum([0, *(len(each.left) for each in nodes)])
        left, right, columns, values, null_left, is_set = (
            np.concatenate([getattr(each, name) for each in nodes])
            for name in ("left", "right", "columns", "values", "null_left", "is_set")
        )
        is_leaf = left < 0
        compared = np.where(null_left, columns, columns + self._features)
        place = np.where(is_leaf, 4 * self._features, np.where(is_set, 2 * self._features + columns, compared))
        order = np.argsort(place, kind="stable")
        number = np.empty(len(order), np.intp)
        number[order] = np.arange(len(order))
        offset = np.repeat(starts[:-1], np.diff(starts))
        first = np.where(is_leaf, number, number[left + offset])
        second = np.where(is_leaf, number, number[right + offset])
        swapped = ~is_set & ~null_left & ~is_leaf
        pairs = np.where(swapped[:, None], np.stack([second, first], 1), np.stack([first, second], 1))
        self._children = pairs[order].ravel()
        self._counts = np.bincount(place[place < 2 * self._features], minlength=2 * self._features)
        numeric = int(self._counts.sum())
        thresholds = np.where(null_left, np.nextafter(values, F32(-np.inf)), -values)[order][:numeric]
        self._thresholds, self._is_second = thresholds, np.zeros(len(order), bool)
        self._leaves, self._roots = values[order], number[starts[:-1]]
        self._values = np.zeros(2 * self._features, F32)
        listed = [(*found, offset) for each, offset in zip(nodes, starts, strict=False) for found in each.sets]
        self._tables = []
        for feature in sorted({int(columns[node + offset]) for node, _, offset in listed}):
            own = np.flatnonzero(place == 2 * self._features + feature)
            table = np.zeros((categories[feature] + 1, len(own)), bool)
            begin = int(number[own].min())
            for node, right_codes, offset in listed:
                if columns[node + offset] == feature:
                    column = number[node + offset] - begin
                    table[[code for code in right_codes if code < categories[feature]], column] = True
                    table[-1, column] = not null_left[node + offset]
            self._tables.append((feature, slice(begin, begin + len(own)), table))

    def predict(self, row: Sequence[float]) -> Prediction:
        """Predict one encoded row, as `Scorer.predict`: a number, or a list of one probability for each class."""
        values, is_second, features = self._values, self._is_second, self._features
        values[:features] = row
        np.negative(values[:features], out=values[features:])
        np.greater(values.repeat(self._counts), self._thresholds, out=is_second[: len(self._thresholds)])
        for feature, splits, table in self._tables:
            code = row[feature]
            is_second[splits] = table[int(code) if code == code else -1]
        node = self._roots
        for _ in range(self._depth):
            node = self._children.take(node + node + is_second.take(node))
        terms = self._terms
        terms[:, 1:] = self._leaves.take(node).reshape(len(terms), -1)
        margins = [np.add.accumulate(each)[-1] for each in terms]  # one addition after the other, as XGBoost does
        if self._objective == LOGISTIC:
            return float(ONE / (ONE + F32(_expf(-margins[0]))))
        if self._objective == SOFTMAX:
            top = max(margins)
            powers = [F32(_expf(margin - top)) for margin in margins]
            total = F32(sum(map(float, powers)))
            return [float(power / total) for power in powers]
        return float(margins[0])

    def matches(self, predict: Callable[[Matrix], NDArray[np.float64]], rows: int = 500) -> bool:
        """Whether these predictions of random rows, with thresholds, categories and nulls among their values, are equal."""
        random = np.random.default_rng(0)
        cuts = np.concatenate([self._thresholds, -self._thresholds, random.normal(size=100).astype(F32)])
        matrix = random.choice(cuts, (rows, self._features))
        for feature, _, table in self._tables:
            matrix[:, feature] = random.integers(0, len(table) - 1, rows)
        matrix[random.random(matrix.shape) < 0.1] = np.nan
        return bool(np.array_equal(predict(matrix), np.array([self.predict(row) for row in matrix.tolist()])))


class _Nodes:
    """The nodes of one tree. `values` has the threshold of a split, and the value of a leaf; `sets` the splits by category."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self.left, self.right = np.array(tree["left_children"], np.intp), np.array(tree["right_children"], np.intp)
        self.columns = np.array(tree["split_indices"], np.intp)
        self.values = np.array(tree["split_conditions"], F32)
        self.null_left = np.array(tree["default_left"], bool)
        self.is_set = np.zeros(len(self.left), bool)
        self.is_set[tree["categories_nodes"]] = True
        self.sets = [
            (node, tree["categories"][start : start + size])
            for node, start, size in zip(
                tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
            )
        ]
        self.depth, level = 0, np.array([0], np.intp)
        while (level := np.concatenate([self.left[level], self.right[level]])[np.tile(self.left[level] >= 0, 2)]).size:
            self.depth += 1
