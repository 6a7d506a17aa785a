"""The classes of a model that others trained: matched by name, else by code, and refused where they are turned round."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.foreign.class_order import better_order, class_order, coded_classes
from tests.support.trained_models import make_config


def column(*labels: object) -> pa.ChunkedArray:
    return pa.chunked_array([list(labels)])


def config(**columns: object):
    task = "multiclass" if len(columns.get("classes", ())) > 2 else "binary"
    given = {"id": "id", "time": "time", "label": "label", "features": {"numeric": ["x"]}, **columns}
    return make_config(task, columns=given, validation={})


@pytest.mark.parametrize(
    ("columns", "labels", "expected"),
    [
        ({"positive_label": "bad"}, ("good", "bad"), ("bad", "good")),
        ({"positive_label": "0"}, (0, 1), ("0", "1")),
        ({"classes": ["low", "middle", "high"]}, ("high", "low", "middle"), ("low", "middle", "high")),
        ({"classes": ["10", "9", "8"]}, (8, 9, 10), ("10", "9", "8")),
        ({}, (10, 9), ("9", "10")),
    ],
)
def test_codes_stand_for_the_listed_classes_else_the_sorted_ones(columns, labels, expected):
    assert coded_classes(config(**columns), column(*labels)) == expected


@pytest.mark.parametrize(
    ("own", "classes", "coded", "expected"),
    [
        (("0", "1"), ("1", "0"), ("0", "1"), ((1, 0), False)),
        (None, ("1", "0"), ("0", "1"), ((1, 0), False)),
        (None, ("good", "bad"), ("bad", "good"), ((1, 0), True)),
        (("0.0", "1.0"), ("good", "bad"), ("bad", "good"), ((1, 0), True)),
        (("bad", "good"), ("good", "bad"), ("good", "bad"), ((1, 0), False)),
        (None, ("high", "low", "middle"), ("low", "middle", "high"), ((2, 0, 1), True)),
        (("False", "True"), ("1", "0"), ("0", "1"), ((1, 0), False)),
    ],
)
def test_names_come_before_codes(own, classes, coded, expected):
    found = class_order(own, classes, coded)
    assert (found.columns, found.are_codes) == expected


def test_other_classes_do_not_fit():
    assert class_order(("a", "b"), ("0", "1"), ("0", "1")) is None
    assert class_order(("0", "1", "2"), ("0", "1"), ("0", "1")) is None


def drawn(classes: int, skill: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels, and probabilities that know them with this skill: 1 knows them, 0 does not."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, classes, 1000)
    shares = rng.dirichlet(np.ones(classes), 1000)
    return y_true.astype(float), (1 - skill) * shares + skill * np.eye(classes)[y_true]


@pytest.mark.parametrize("order", [(1, 0), (1, 2, 0), (3, 2, 1, 0)])
def test_turned_classes_are_found(order):
    y_true, shares = drawn(len(order), 0.6)
    turned = shares[:, np.argsort(order)]
    assert better_order(y_true, turned) == order
    assert better_order(y_true, shares) is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_model_that_is_only_bad_is_not_turned(classes, seed):
    """Overconfident guesses are worse than a constant in every order."""
    y_true, shares = drawn(classes, 0.0, seed)
    assert better_order(y_true, shares) is None


def test_a_model_with_another_base_rate_is_not_turned():
    """Trained on balanced rows, and worse than the constant of rows with 5 % positives, though it ranks them well."""
    rng = np.random.default_rng(1)
    y_true = (rng.random(4000) < 0.05).astype(float)
    positive = np.clip(0.7 + 0.1 * y_true + rng.normal(0, 0.1, 4000), 0, 1)
    assert better_order(y_true, np.column_stack([1 - positive, positive])) is None
