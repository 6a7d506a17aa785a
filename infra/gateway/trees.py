"""Evaluate an XGBoost booster for one row: the same numbers as the booster, bit for bit, in a tenth of its time.

XGBoost spends most of the time for one row on preparing the call. Here all trees take one step at once, as NumPy
operations on arrays of nodes, and leaves are added in XGBoost's order with 32-bit floats. A node compares `x > threshold`.
Each form of XGBoost's split becomes one, and NaN, which is never greater, then takes the default direction:

- missing left: `x >= t` becomes `x > (the float before t)`; the second child is XGBoost's right one.
- missing right: `x < t` becomes `-x > -t`; the second child is XGBoost's left one.
- categories: a column of its own holds 1 where the value's category goes right; a table by category fills these columns.

Measured against treelite's GTIL (not equal in the last bit, slower at one row), generated Python (faster below about 60
trees, but seconds to compile for many) and `inplace_predict`. `matches` compares with the booster whenever a model is loaded.
"""

import ctypes
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.adapters.models.encoding import Matrix

Prediction = float | list[float]
F32 = np.float32
IDENTITIES = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror")
ONE = F32(1)

_expf: Callable[[float], float] = ctypes.CDLL(
    None
).expf  # the function that XGBoost calls; NumPy's differs in the last bit
_expf.argtypes, _expf.restype = [ctypes.c_float], ctypes.c_float  # type: ignore[attr-defined]


class TreeEvaluator:
    """The trees of a booster as arrays of nodes. Not thread-safe: calls share a buffer."""

    def __init__(self, booster: Any, categories: Sequence[int]) -> None:
        """Read a booster; `categories` has the number of categories of each feature. Raises ValueError if unsupported."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        self._objective = learner["objective"]["name"]
        if learner["gradient_booster"]["name"] != "gbtree" or self._objective not in (
            "binary:logistic", "multi:softprob", *IDENTITIES
        ):  # fmt: skip
            raise ValueError(f"{learner['gradient_booster']['name']} with {self._objective} is not supported")
        model = learner["gradient_booster"]["model"]
        groups = np.array(model["tree_info"], int)
        nodes = _Nodes(len(categories))
        roots = [nodes.add(model["trees"][index]) for index in np.argsort(groups, kind="stable")]
        self._roots, self._depth = np.array(roots, np.intp) * 2, nodes.depth
        # a node is known by twice its number, so that adding a comparison gives the index of its next node
        self._next = np.array(nodes.children, np.intp).ravel() * 2
        self._column, self._threshold = np.repeat(np.array(nodes.columns, np.intp), 2), np.repeat(nodes.thresholds, 2)
        self._leaf = np.repeat(np.array(nodes.leaves, F32), 2)
        self._features = len(categories)
        self._values = np.zeros(2 * self._features + len(nodes.sets), F32)
        self._tables = nodes.category_tables(categories)
        intercepts = np.array(json.loads(learner["learner_model_param"]["base_score"]), F32).reshape(-1)
        if self._objective == "binary:logistic":
            intercepts = -np.log(ONE / intercepts - ONE)
        count = int(groups.max(initial=0)) + 1
        self._terms = np.empty((count, len(roots) // count + 1), F32)
        self._terms[:, 0] = intercepts

    def predict(self, row: Sequence[float]) -> Prediction:
        """Predict one encoded row, as `Scorer.predict`: a number, or a list of one probability for each class."""
        values, features = self._values, self._features
        values[:features] = row
        np.negative(values[:features], out=values[features : 2 * features])
        for feature, columns, table in self._tables:
            code = row[feature]
            values[columns] = table[int(code) if code == code else -1]
        node = self._roots
        for _ in range(self._depth):
            node = self._next.take(node + (values.take(self._column.take(node)) > self._threshold.take(node)))
        self._terms[:, 1:] = self._leaf.take(node).reshape(len(self._terms), -1)
        margins = np.add.accumulate(self._terms, axis=1)[:, -1]  # one addition after the other, as XGBoost does
        if self._objective == "binary:logistic":
            return float(ONE / (ONE + F32(_expf(float(-margins[0])))))
        if self._objective == "multi:softprob":
            top = margins.max()
            powers = [F32(_expf(float(margin - top))) for margin in margins]
            total = F32(sum(map(float, powers)))
            return [float(power / total) for power in powers]
        return float(margins[0])

    def matches(self, predict: Callable[[Matrix], NDArray[np.float64]], rows: int = 500) -> bool:
        """Whether these predictions of random rows, with thresholds, categories and nulls among their values, are equal."""
        random = np.random.default_rng(0)
        cuts = np.unique(self._threshold[np.isfinite(self._threshold)])
        matrix = random.choice(
            np.concatenate([cuts, -cuts, random.normal(size=100).astype(F32)]), (rows, self._features)
        )
        for feature, _, table in self._tables:
            matrix[:, feature] = random.integers(0, len(table) - 1, rows)
        matrix[random.random(matrix.shape) < 0.1] = np.nan
        return bool(np.array_equal(predict(matrix), np.array([self.predict(row) for row in matrix.tolist()])))


class _Nodes:
    """All nodes of the trees read so far; a leaf is its own child."""

    def __init__(self, features: int) -> None:
        self.features, self.depth = features, 0
        self.columns: list[int] = []
        self.thresholds: list[F32] = []
        self.children: list[tuple[int, int]] = []
        self.leaves: list[float] = []
        self.sets: list[tuple[int, list[int], bool]] = []
        """For each split by category: its feature, the categories that go right, and whether null does."""

    def add(self, tree: dict[str, Any]) -> int:
        """Append a tree's nodes and return the number of its root."""
        first, depths = len(self.leaves), [0] * len(tree["left_children"])
        segments = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
        listed = {node: tree["categories"][start : start + size] for node, start, size in segments}
        splits = zip(
            tree["left_children"], tree["right_children"], tree["split_indices"], tree["split_conditions"],
            tree["default_left"], strict=True,
        )  # fmt: skip
        for node, (left, right, feature, condition, missing_left) in enumerate(splits):
            pair, column, threshold = (left, right), feature, F32(np.inf)
            if left == -1:
                pair, column = (node, node), 0
            elif node in listed:
                column, threshold = 2 * self.features + len(self.sets), F32(0.5)
                self.sets.append((feature, listed[node], not missing_left))
            elif missing_left:
                threshold = np.nextafter(F32(condition), F32(-np.inf))
            else:
                pair, column, threshold = (right, left), self.features + feature, -F32(condition)
            for child in pair if left != -1 else ():
                depths[child] = depths[node] + 1  # parents come before their children
            self.columns.append(column)
            self.thresholds.append(threshold)
            self.children.append((first + pair[0], first + pair[1]))
            self.leaves.append(condition if left == -1 else 0.0)
        self.depth = max(self.depth, *depths)
        return first

    def category_tables(self, categories: Sequence[int]) -> list[tuple[int, NDArray[np.intp], Matrix]]:
        """Return (feature, its columns, their values by category, the last for null) for each feature split by category."""
        tables = []
        for feature in sorted({feature for feature, _, _ in self.sets}):
            own = [(number, right, null) for number, (of, right, null) in enumerate(self.sets) if of == feature]
            table = np.zeros((categories[feature] + 1, len(own)), F32)
            for column, (_, right, null) in enumerate(own):
                table[[code for code in right if code < categories[feature]], column] = 1
                table[-1, column] = null
            tables.append((feature, np.array([2 * self.features + number for number, _, _ in own], np.intp), table))
        return tables
