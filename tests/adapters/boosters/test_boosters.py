"""XGBoost, LightGBM and CatBoost train, stop, store and explain alike, each in its own file format."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from deployments.config.model import ModelConfig
from infra.gateway.versions import ServedVersion
from tasks.adapters.boosters import library
from tasks.adapters.boosters.known import LIBRARIES, library_of
from tasks.adapters.models import estimators, files as model_files, shap
from tasks.policy.records.errors import EstimatorError, ModelFileError
from tasks.policy.statistics import metrics
from tests.support.trained_models import make_config, make_rows

PACKAGES = ("xgboost", "lightgbm", "catboost")
TASKS = ("binary", "multiclass", "regression")
PREFIX = {"xgboost": "XGB", "lightgbm": "LGBM", "catboost": "CatBoost"}


def config_of(package: str, task: str = "binary", **changes: Any) -> ModelConfig:
    kind = "Regressor" if task == "regression" else "Classifier"
    given = {"min_rows": 10, "parameters": {"n_estimators": 100}, **changes.pop("training", {})}
    training = {"estimator": f"{package}:{PREFIX[package]}{kind}", **given}
    return make_config(task, training=training, **changes)


def sampled(package: str) -> dict[str, Any]:
    """Return parameters under which every tree sees other rows."""
    more = {"lightgbm": {"subsample_freq": 1}, "catboost": {"bootstrap_type": "Bernoulli"}}.get(package, {})
    return {"n_estimators": 15, "subsample": 0.5, **more}


def stored(scorer: model_files.Scorer, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    model_files.save(scorer, folder)
    return model_files.read(folder)


def losses(config: ModelConfig, rows: pa.Table, fresh: pa.Table) -> float:
    y_true, y_pred = estimators.fit(config, rows).scorer.predict_labelled(fresh, fresh["label"])
    return metrics.compute(config.primary_metric, y_true, y_pred)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_each_library_learns_as_well_as_xgboost(package, task):
    rows, fresh = make_rows(task), make_rows(task, seed=1)
    assert losses(config_of(package, task), rows, fresh) < 1.15 * losses(config_of("xgboost", task), rows, fresh)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_stored_model_predicts_the_same_bits_and_two_fits_are_one_file(package, task, tmp_path):
    rows = make_rows(task)
    config, fresh = config_of(package, task, training={"parameters": sampled(package)}), make_rows(task, seed=2)
    fitted = estimators.fit(config, rows)
    files = stored(fitted.scorer, tmp_path / "one")
    again = stored(estimators.fit(config, rows).scorer, tmp_path / "two")
    assert sorted(files) == sorted(["scorer.json", next(each.file for each in LIBRARIES if each.package == package)])
    assert files == again
    read_back = model_files.load(files, model_files.sha256(files))
    np.testing.assert_array_equal(read_back.predict(fresh), fitted.scorer.predict(fresh))
    assert stored(read_back, tmp_path / "three") == files, "a copy of a stored model is the same file"
    assert model_files.needed_types(fitted.scorer.estimator, ()) == ()


@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_a_changed_byte_prevents_loading(package, tmp_path):
    files = stored(estimators.fit(config_of(package), make_rows()).scorer, tmp_path / "model")
    name = next(name for name in files if name != "scorer.json")
    registered = model_files.sha256(files)
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(ModelFileError, match="changed or cut short"):
        model_files.load(files, registered)


@pytest.mark.parametrize("package", PACKAGES)
def test_rounds_are_chosen_on_the_latest_rows_and_fitted_on_all(package):
    training = {"parameters": {"n_estimators": 150, "learning_rate": {"catboost": 0.4}.get(package, 0.1)}}
    fitted = estimators.fit(config_of(package, training=training), make_rows())
    assert 10 < fitted.rounds < 150
    assert (fitted.fitted_rows, fitted.held_back_rows, fitted.remarks) == (1000, 150, ())
    all_rounds = {**training, "early_stopping_rounds": None}
    assert estimators.fit(config_of(package, training=all_rounds), make_rows()).rounds == 150


@pytest.mark.parametrize("package", PACKAGES)
def test_training_adapts_to_concept_drift(package):
    turned = pa.concat_tables([make_rows().slice(0, 850), make_rows(turn=-1.0).slice(850)])
    training = {"parameters": {"n_estimators": 300, "max_depth": 3, "learning_rate": 0.1}, "min_rows": 100}
    fitted = estimators.fit(config_of(package, training=training), turned)
    assert fitted.remarks
    assert fitted.fitted_rows < 1000


def test_forms_that_cannot_stop_early_fit_all_rows():
    training = {"parameters": {"boosting_type": "dart", "n_estimators": 30}}
    fitted = estimators.fit(config_of("lightgbm", training=training), make_rows())
    assert (fitted.rounds, fitted.held_back_rows) == (30, 0)


@pytest.mark.parametrize("package", PACKAGES)
def test_categories_without_an_order_are_learned(package):
    """The label is 1 for every other letter of 40: codes as numbers would need 40 splits, which depth 2 does not allow."""
    random = np.random.default_rng(0)
    letters = random.integers(0, 40, 4000)
    rows = make_rows(rows=4000)
    texts = pa.array([f"c{code:02d}" for code in letters])
    for name, values in (("colour", texts), ("label", pa.array(letters % 2))):
        rows = rows.set_column(rows.column_names.index(name), name, values)
    training = {"parameters": {"n_estimators": 100, "max_depth": 2, "learning_rate": 0.5}}
    if package == "catboost":
        training["parameters"]["one_hot_max_size"] = 50
    fitted = estimators.fit(config_of(package, training=training), rows)
    assert losses(config_of(package, training=training), rows, rows) < 0.1
    assert max(fitted.importance, key=fitted.importance.__getitem__) == "colour"


@pytest.mark.parametrize("package", PACKAGES)
def test_missing_and_unseen_values_are_scored(package):
    rows = make_rows()
    for name in ("x", "colour", "flag"):
        place = rows.column_names.index(name)
        values = rows[name].to_pylist()
        rows = rows.set_column(
            place, name, pa.array([None if row % 5 == 0 else value for row, value in enumerate(values)])
        )
    scorer = estimators.fit(config_of(package), rows).scorer
    odd = pa.table({"x": [None, np.inf], "noise": [None, 0.0], "colour": ["violet", None], "flag": [None, True]})
    assert np.isfinite(scorer.predict(odd)).all()


@pytest.mark.parametrize("package", PACKAGES)
def test_constraints_name_features(package):
    training = {"parameters": {"monotone_constraints": {"x": -1}, "n_estimators": 60}}
    scorer = estimators.fit(config_of(package, training=training), make_rows()).scorer
    free = estimators.fit(config_of(package), make_rows()).scorer
    rows = make_rows().slice(0, 50)
    grown = rows.set_column(rows.column_names.index("x"), "x", pc.add(rows["x"], 1.0))
    assert (scorer.predict(grown) <= scorer.predict(rows) + 1e-12).all()
    assert (free.predict(grown) > free.predict(rows)).any()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_seed_decides_what_is_random(package):
    def predicted(seed: int) -> Any:
        training = {"parameters": sampled(package), "seed": seed}
        return estimators.fit(config_of(package, training=training), make_rows()).scorer.predict(make_rows(seed=3))

    np.testing.assert_array_equal(predicted(7), predicted(7))
    assert (predicted(7) != predicted(8)).any()


@pytest.mark.parametrize(
    ("package", "parameters"),
    [
        ("lightgbm", {"num_iterations": 12, "bagging_fraction": 0.5, "seed": 1, "num_threads": 1, "metric": "auc"}),
        ("lightgbm", {"num_boost_round": 12, "force_col_wise": True, "verbose": -1}),
        ("catboost", {"num_trees": 12, "random_state": 1, "max_depth": 4, "logging_level": "Silent"}),
        ("catboost", {"n_estimators": 12, "objective": "CrossEntropy", "eta": 0.1}),
    ],
)  # fmt: skip
def test_parameters_may_have_any_of_their_names(package, parameters):
    """Also those that we set ourselves, which the library would refuse or ignore under a second name."""
    training = {"parameters": parameters, "early_stopping_rounds": None}
    estimators.try_out(config_of(package, training=training))
    assert estimators.fit(config_of(package, training=training), make_rows()).rounds == 12


@pytest.mark.parametrize(
    ("package", "parameters", "message"),
    [
        ("lightgbm", {"learning_rat": 1}, r"learning_rat is not known to LGBMClassifier; did you mean learning_rate\?"),
        ("lightgbm", {"learning_rate": "fast"}, "training.parameters cannot be used by LGBMClassifier"),
        ("lightgbm", {"n_estimators": "many"}, "training.parameters cannot be used by LGBMClassifier"),
        ("lightgbm", {"monotone_constraints": {"colr": 1}}, "no feature; did you mean colour"),
        ("catboost", {"iteration": 8}, r"iteration is not known to CatBoostClassifier; did you mean iterations\?"),
        ("catboost", {"learning_rate": "fast"}, "training.parameters cannot be used by CatBoostClassifier"),
        ("catboost", {"depth": -3}, "training.parameters cannot be used by CatBoostClassifier"),
    ],
)
def test_unusable_parameters_are_refused_before_training(package, parameters, message):
    with pytest.raises(EstimatorError, match=message):
        estimators.try_out(config_of(package, training={"parameters": parameters}))


@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_an_absent_extra_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as `import` sees a package that is not installed
    expected = rf"{package} cannot be imported .* extra: pip install 'perennial\[{package}\]'"
    with pytest.raises(EstimatorError, match=expected):
        estimators.try_out(config_of(package))
    with pytest.raises(EstimatorError, match=expected):
        library.import_extra(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_pinball_trains_its_quantile(package):
    config = config_of(package, "regression", performance={"metric": "pinball", "quantile": 0.9})
    scorer = estimators.fit(config, make_rows("regression", rows=3000)).scorer
    fresh = make_rows("regression", rows=3000, seed=1)
    assert 0.8 < np.mean(scorer.labels(fresh["label"]) <= scorer.predict(fresh)) < 0.97


@pytest.mark.parametrize(
    ("task", "metric"),
    [("binary", "roc_auc"), ("binary", "accuracy"), ("multiclass", "roc_auc"), ("regression", "rmse")],
)
@pytest.mark.parametrize("package", PACKAGES)
def test_early_stopping_watches_any_metric(package, task, metric):
    assert estimators.fit(config_of(package, task, performance={"metric": metric}), make_rows(task)).rounds


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("package", PACKAGES)
def test_shap_values_sum_to_the_margin(package, task):
    rows = make_rows(task)
    scorer = estimators.fit(config_of(package, task), rows).scorer
    matrix, found = scorer.encoding.encode(rows), shap.contributions(scorer, rows, limit=len(rows))
    assert found.shape == (1000, 4)
    share = np.abs(found).mean(axis=0)
    assert share.argmax() == scorer.encoding.names.index("x")
    if task == "multiclass":
        return
    own = library_of(scorer.estimator)
    margin = own.contributions(scorer.estimator, matrix, scorer.encoding.inputs, approximate=False).sum(axis=1)
    expected = margin if task == "regression" else 1 / (1 + np.exp(-margin))
    np.testing.assert_allclose(expected, scorer.predict(rows), atol=2e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_the_gateway_answers_as_batch_scoring_does(package, task):
    rows = make_rows(task)
    scorer = estimators.fit(config_of(package, task), rows).scorer
    served = ServedVersion.of("1", scorer)
    asked = rows.slice(0, 20).select(list(scorer.encoding.names)).to_pylist()
    np.testing.assert_allclose(served.predict(asked), scorer.predict(rows.slice(0, 20)), rtol=1e-12)
    np.testing.assert_allclose(served.predict(asked[:1]), scorer.predict(rows.slice(0, 1)), rtol=1e-12)


@pytest.mark.parametrize("package", PACKAGES)
def test_odd_names_of_features_are_stored(package, tmp_path):
    names = {"x": "größe [cm]", "noise": "a, b", "colour": "c:d {e}"}
    rows = make_rows().rename_columns([names.get(name, name) for name in make_rows().column_names])
    features = {"numeric": [names["x"], names["noise"]], "categorical": [names["colour"]], "boolean": ["flag"]}
    columns = {"id": "id", "time": "time", "label": "label", "features": features}
    config = config_of(package, columns=columns, validation={"slices": []})
    scorer = estimators.fit(config, rows).scorer
    files = stored(scorer, tmp_path / "model")
    read_back = model_files.load(files, model_files.sha256(files))
    np.testing.assert_array_equal(read_back.predict(rows), scorer.predict(rows))


def test_files_name_the_features(tmp_path):
    import catboost
    import lightgbm

    files = {}
    for package in ("lightgbm", "catboost"):
        files |= stored(estimators.fit(config_of(package), make_rows()).scorer, tmp_path / package)
    booster = lightgbm.Booster(model_str=files["model.lightgbm.txt"].decode())
    assert booster.feature_name() == ["x", "noise", "colour", "flag"]
    assert catboost.CatBoost().load_model(blob=files["model.cbm"]).feature_names_ == ["x", "noise", "colour", "flag"]


@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_training_prints_and_writes_nothing(package, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    scorer = estimators.fit(config_of(package), make_rows()).scorer
    scorer.predict(make_rows())
    assert (*capfd.readouterr(), list(tmp_path.iterdir())) == ("", "", [])


@pytest.mark.parametrize("loss", ["Poisson", "Tweedie:variance_power=1.5", "LogLinQuantile:alpha=0.5"])
def test_catboost_predicts_counts_in_the_labels_unit(loss, tmp_path):
    """Their formula gives the logarithm; rounds are chosen by the loss, as other metrics would compare it with the label."""
    rows, random = make_rows("regression", rows=2000), np.random.default_rng(0)
    rate = np.exp(1 + 0.8 * rows["x"].to_numpy())
    counts = pa.array(random.poisson(rate).astype(float))
    rows = rows.set_column(rows.column_names.index("label"), "label", counts)
    training = {"parameters": {"loss_function": loss, "n_estimators": 200, "learning_rate": 0.1}}
    config = config_of("catboost", "regression", training=training)
    fitted = estimators.fit(config, rows)
    files = stored(fitted.scorer, tmp_path / "model")
    predicted = model_files.load(files, model_files.sha256(files)).predict(rows)
    np.testing.assert_array_equal(predicted, fitted.scorer.predict(rows))
    assert (predicted > 0).all()
    assert np.abs(predicted - rate).mean() < 0.25 * rate.mean()
    kind, encoding = estimators.estimator_class(config), fitted.scorer.encoding
    assert "eval_metric" not in estimators.build(config, kind, encoding, 0).model.get_params()
    usual = config_of("catboost", "regression")
    assert estimators.build(usual, kind, encoding, 0).model.get_params()["eval_metric"] == "MAE"
