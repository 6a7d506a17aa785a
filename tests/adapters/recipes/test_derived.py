"""Derived features: the same numbers for one row and for many, in files and in the gateway; no row sees its own label."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from skrub import DatetimeEncoder, SquashingScaler

from infra.gateway.versions import ServedVersion
from tasks.adapters.models import estimators, files as model_files, shap
from tasks.adapters.models.encoding import Encoding
from tasks.adapters.recipes.calendar_parts import calendar_columns, utc_times
from tasks.adapters.recipes.numbers import fit_squash
from tasks.adapters.recipes.target_encoding import fit_means, forward_column
from tasks.policy.records.errors import FeatureError
from tests.support.trained_models import make_config, make_rows

RECIPE = {
    "calendar": "cyclic",
    "target_encoded": ["colour"],
    "interactions": [{"kind": kind, "left": "x", "right": "noise"} for kind in ("product", "ratio", "difference")],
    "squashed": ["x"],
}
TIMES = pd.date_range("2023-12-27T00:30:00", periods=2000, freq="5h7min")


def fitted(task: str = "binary", **training: object) -> estimators.Fitted:
    config = make_config(
        task, training={"min_rows": 200, "recipe": RECIPE, "parameters": {"n_estimators": 20}, **training}
    )
    return estimators.fit(config, make_rows(task))


def test_calendar_parts_are_those_of_skrub():
    expected = DatetimeEncoder(resolution="hour", add_weekday=True, add_day_of_year=True, add_total_seconds=False)
    table = expected.fit_transform(pd.Series(TIMES, name="t"))
    found = calendar_columns(TIMES.to_numpy(), "numbers")
    np.testing.assert_array_equal(np.floor(found[:, 0]), table["t_hour"])
    np.testing.assert_array_equal(found[:, 1] + 1, table["t_weekday"])  # skrub counts from Monday = 1
    np.testing.assert_array_equal(found[:, 2], table["t_month"])
    np.testing.assert_array_equal(found[:, 3], table["t_day_of_year"])


def test_midnight_and_a_missing_time():
    times = np.array(["2024-01-01T00:00", "NaT"], "datetime64[us]")
    cyclic = calendar_columns(times, "cyclic")
    assert cyclic[0].tolist() == [0, 1] * 4
    assert np.isnan(cyclic[1]).all()


def test_times_in_every_type_are_utc():
    text = pa.chunked_array([["2024-06-01T12:00:00Z", None]])
    moment = pa.chunked_array([pa.array([datetime(2024, 6, 1, 12, tzinfo=UTC), None])])
    naive = pa.chunked_array([pa.array([datetime(2024, 6, 1, 12), None])])  # noqa: DTZ001, as data without a zone has it
    for column in (text, moment, naive):
        found = utc_times(column, "t")
        assert found[0] == np.datetime64("2024-06-01T12:00:00") and np.isnat(found[1])
    with pytest.raises(FeatureError, match="column t: is of type double"):
        utc_times(pa.chunked_array([[1.0]]), "t")


def test_squashed_values_are_those_of_skrub():
    values = np.random.default_rng(0).standard_cauchy(500)
    expected = SquashingScaler(max_absolute_value=3).fit_transform(values.reshape(-1, 1)).ravel()
    np.testing.assert_allclose(fit_squash("x", values).column(values), expected, rtol=1e-9)


def test_means_of_training_rows_see_earlier_rows_only():
    """The encoding of a row stays the same whatever its own label and the later ones are."""
    random = np.random.default_rng(1)
    codes, y = random.integers(0, 5, 200).astype(np.float32), random.random(200)
    changed = y.copy()
    changed[100:] = 1 - changed[100:]
    before, after = forward_column("c", codes, y, 5), forward_column("c", codes, changed, 5)
    np.testing.assert_array_equal(before[:120], after[:120])  # the block of rows 100 to 119 is encoded by rows 0 to 99
    assert (before[140:] != after[140:]).any()
    assert np.isnan(before[:20]).all() and np.isfinite(before[20:]).all()


def test_unseen_and_missing_categories_get_the_mean_of_all():
    means = fit_means("c", np.array([0, 0, 1, 1], np.float32), np.array([0.0, 0.0, 1.0, 1.0]), 3)
    found = means.column(np.array([2, np.nan], np.float32))
    assert found.tolist() == [0.5, 0.5]


ESTIMATORS = [
    None,
    "lightgbm:LGBMClassifier",
    "catboost:CatBoostClassifier",
    "sklearn.ensemble:HistGradientBoostingClassifier",
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_files_and_gateway_predict_bit_for_bit(estimator, tmp_path: Path):
    parameters = {"max_iter" if estimator and estimator.startswith("sklearn") else "n_estimators": 20}
    model, rows = fitted(estimator=estimator, parameters=parameters), make_rows(seed=5)
    model_files.save(model.scorer, tmp_path)
    stored = model_files.read(tmp_path)
    types = model_files.scorer_types(model.scorer, model_files.TRUSTED_PACKAGES)
    loaded = model_files.load(stored, model_files.sha256(stored), types)
    expected = model.scorer.predict(rows)
    np.testing.assert_array_equal(loaded.predict(rows), expected)
    version = ServedVersion.of("1", loaded)
    single = [version.predict([row], times=[row["time"]])[0] for row in rows.slice(0, 60).to_pylist()]
    np.testing.assert_array_equal(single, expected[:60])
    times = [row["time"] for row in rows.slice(0, 60).to_pylist()]
    assert version.predict(rows.slice(0, 60).to_pylist(), times=times) == expected[:60].tolist()


def test_a_recipe_is_stored_as_data(tmp_path: Path):
    model_files.save(fitted().scorer, tmp_path)
    stored = json.loads((tmp_path / model_files.DESCRIPTION).read_text())
    assert stored["derived"]["calendar"] == "cyclic"
    assert [each["feature"] for each in stored["derived"]["targets"]] == ["colour"]


def test_files_without_a_recipe_stay_as_they_were(tmp_path: Path):
    model_files.save(estimators.fit(make_config(), make_rows()).scorer, tmp_path)
    assert set(json.loads((tmp_path / model_files.DESCRIPTION).read_text())) == {
        "task", "classes", "features", "categories",
    }  # fmt: skip


def test_the_time_is_required_at_prediction():
    with pytest.raises(FeatureError, match="column time: not among"):
        fitted().scorer.predict(make_rows().drop_columns(["time"]))


def test_contributions_and_importance_are_those_of_the_features():
    model = fitted()
    found = shap.contributions(model.scorer, make_rows())
    assert found is not None and found.shape[1] == 4
    assert set(model.importance) == {"x", "noise", "colour", "flag"}
    assert sum(model.importance.values()) == pytest.approx(1.0)


def test_linear_estimators_scale_derived_columns_too():
    model = fitted(estimator="sklearn.linear_model:LogisticRegression", parameters={})
    assert np.isfinite(model.scorer.predict(make_rows(seed=2))).all()
    assert isinstance(model.scorer.encoding, Encoding) and "colour mean label" in model.scorer.encoding.inputs.names


def test_smoke_test_rows_have_the_time():
    scorer = fitted().scorer
    assert np.isfinite(scorer.predict(scorer.synthetic_rows(9))).all()
