"""The fast path equals XGBoost bit for bit, on rows with categories, nulls and values at the thresholds."""

import numpy as np
import pyarrow as pa
import pytest
from xgboost import XGBRegressor

from infra.gateway import trees
from infra.gateway.requests import RowEncoder
from infra.gateway.versions import ServedVersion
from tasks.adapters.models import estimators
from tests.support.trained_models import make_config, make_rows

ROWS = 10_000
COLOURS = ["blue", "green", "red", "unseen", None]


def random_rows(seed: int) -> pa.Table:
    """Return rows with a tenth of nulls and categories that training has not seen."""
    random = np.random.default_rng(seed)

    def numbers() -> pa.Array:
        return pa.array(random.normal(0, 2, ROWS).round(2), mask=random.random(ROWS) < 0.1)

    flags = pa.array(random.random(ROWS) < 0.5, mask=random.random(ROWS) < 0.1)
    colours = [COLOURS[code] for code in random.integers(0, len(COLOURS), ROWS)]
    return pa.table({"x": numbers(), "noise": numbers(), "colour": pa.array(colours, pa.string()), "flag": flags})


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"n_estimators": 40, "max_depth": 6, "max_cat_to_onehot": 1},
        {"n_estimators": 20, "max_depth": 4, "max_cat_to_onehot": 10, "subsample": 0.7},
        {"n_estimators": 5, "grow_policy": "lossguide", "max_leaves": 40, "max_depth": 0, "gamma": 0.5},
        {"n_estimators": 5, "max_depth": 12, "min_child_weight": 0, "reg_lambda": 0},
    ],
    ids=["sets", "one-hot", "lossguide", "many leaves"],
)
def test_ten_thousand_rows_equal_the_booster(task, parameters):
    scorer = estimators.fit(
        make_config(task, training={"parameters": parameters, "min_rows": 200}), make_rows(task)
    ).scorer
    version = ServedVersion.of("1", scorer)
    assert version.evaluator is not None
    rows = random_rows(seed=1)
    found = [version.evaluator.predict(RowEncoder(scorer.encoding).encode(row)) for row in rows.to_pylist()]
    np.testing.assert_array_equal(np.array(found), scorer.predict(rows))


def test_a_request_is_predicted_as_the_scorer_does_at_every_size():
    scorer = estimators.fit(make_config(), make_rows()).scorer
    version, rows = ServedVersion.of("1", scorer), random_rows(seed=2).slice(0, 40)
    for size in (1, 2, 8, 9, 40):
        assert version.predict(rows.slice(0, size).to_pylist()) == scorer.predict(rows.slice(0, size)).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_the_intercept_is_exact_for_every_share_of_positives(seed):
    """NumPy's logarithm differs from XGBoost's in the last bit, for some shares."""
    assert ServedVersion.of("1", estimators.fit(make_config(), make_rows(seed=seed)).scorer).evaluator is not None


@pytest.mark.parametrize("parameters", [{"booster": "dart"}, {"objective": "count:poisson"}])
def test_other_boosters_are_left_to_xgboost(parameters):
    rows = make_rows("regression")
    matrix, target = np.column_stack([rows["x"], rows["noise"]]), np.exp(rows["label"].to_numpy())
    booster = XGBRegressor(n_estimators=3, **parameters).fit(matrix, target).get_booster()
    with pytest.raises(ValueError, match="is not supported"):
        trees.TreeEvaluator(booster, [0, 0])


def test_a_tree_may_have_more_leaves_than_a_word_has_bits():
    parameters = {"n_estimators": 5, "max_depth": 12, "min_child_weight": 0, "reg_lambda": 0}
    scorer = estimators.fit(
        make_config("regression", training={"parameters": parameters, "min_rows": 200}), make_rows("regression")
    ).scorer
    assert max(tree.count("leaf") for tree in scorer.estimator.get_booster().get_dump()) > trees.WORDS[-1]
    assert ServedVersion.of("1", scorer).evaluator is not None


@pytest.mark.parametrize(
    ("parameters", "most_bytes", "expected"),
    [({"gamma": 1e9}, trees.MOST_BYTES, "without splits"), ({}, 100_000, "for 100 trees is too large")],
)
def test_boosters_that_gain_nothing_are_left_to_xgboost(monkeypatch, parameters, most_bytes, expected):
    monkeypatch.setattr(trees, "MOST_BYTES", most_bytes)
    random = np.random.default_rng(0)
    matrix, target = random.normal(size=(500, 2)), random.normal(size=500)
    booster = XGBRegressor(**parameters).fit(matrix, target).get_booster()
    with pytest.raises(ValueError, match=expected):
        trees.TreeEvaluator(booster, [0, 0])


def test_an_evaluator_that_differs_is_noticed():
    scorer = estimators.fit(make_config(), make_rows()).scorer
    evaluator = trees.TreeEvaluator(scorer.estimator.get_booster(), [0, 0, 3, 0])
    assert evaluator.matches(scorer.predict_encoded)
    assert not evaluator.matches(lambda matrix: np.nextafter(scorer.predict_encoded(matrix), 1))


def test_other_estimators_predict_as_their_scorer():
    training = {
        "estimator": "sklearn.ensemble:RandomForestClassifier",
        "parameters": {"n_estimators": 5},
        "min_rows": 10,
    }
    scorer = estimators.fit(make_config(training=training), make_rows()).scorer
    version, rows = ServedVersion.of("1", scorer), random_rows(seed=3).slice(0, 20)
    assert version.evaluator is None
    assert version.predict(rows.to_pylist()) == scorer.predict(rows).tolist()
