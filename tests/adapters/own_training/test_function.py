"""Train by a function of the user's own: what it is given, and which models are taken in."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation import probes
from tasks.adapters.models import files
from tasks.adapters.own_training import trainer
from tasks.policy.records.errors import EstimatorError, ModelConfigError
from tests.support.trained_models import TRAINING, make_config, make_rows
from tests.support.ways_in import example

MODULE = """
import numpy as np
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from xgboost import XGBClassifier

given = []


def encoded(*steps):
    return make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["colour"]), ("passthrough", ["x", "flag"])
        ),
        *steps,
    )


def forest(rows, config):
    given.append((rows, config))
    return encoded(LogisticRegression()).fit(rows, rows["label"])


def boosted(rows, config):
    return encoded(XGBClassifier(n_estimators=20)).fit(rows, np.searchsorted(sorted(set(rows["label"])), rows["label"]))


def coded(rows, config):
    order = list(config.training.parameters["order"])
    return encoded(XGBClassifier(n_estimators=20)).fit(rows, rows["label"].map(order.index))


def reversed_classes(rows, config):
    model = encoded(LogisticRegression()).fit(rows, rows["label"])
    model[-1].classes_, model[-1].coef_, model[-1].intercept_ = model[-1].classes_[::-1], -model[-1].coef_, -model[-1].intercept_
    return model


def other_classes(rows, config):
    return encoded(LogisticRegression()).fit(rows, np.where(rows["x"] > 0, "up", "down"))


def ridge(rows, config):
    return encoded(Ridge()).fit(rows, rows["label"])


def with_lambda(rows, config):
    return encoded(FunctionTransformer(lambda matrix: matrix), LogisticRegression()).fit(rows, rows["label"])


def own_objective(rows, config):
    def loss(y_true, y_score):
        share = 1 / (1 + np.exp(-y_score))
        return share - y_true, share * (1 - share)

    return LGBMClassifier(n_estimators=20, verbosity=-1, objective=loss).fit(rows[["x"]], rows["label"])


def nothing(rows, config):
    return None


def one_column(rows, config):
    return LogisticRegression().fit(rows[["x"]], rows["label"])


def turned_columns(rows, config):
    return LogisticRegression().fit(rows[["noise", "flag", "x"]], rows["label"])


def extra_column(rows, config):
    return LogisticRegression().fit(rows[["x"]].assign(more=1.0), rows["label"])


def bare_array(rows, config):
    return LogisticRegression().fit(rows[["x"]].to_numpy(), rows["label"])


def unfitted(rows, config):
    model = LogisticRegression()
    model.classes_ = np.array(sorted(set(rows["label"])))
    return model


def classifier(rows, config):
    return LogisticRegression().fit(rows[["x"]], (rows["x"] > 0).astype(int))


def bug(rows, config):
    given.append((rows, config))
    raise KeyError("a bug of mine\\nand more")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trainers.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trainers", raising=False)


def model(name: str, task: str = "binary") -> ModelConfig:
    return make_config(task, training={"function": f"trainers:{name}", "min_rows": 200, "parameters": {}})


def restored(config: ModelConfig, scorer: files.Scorer, folder: Path) -> files.Scorer:
    files.save(scorer, folder)
    packages = files.trusted_packages(config.training.imported)
    stored = files.read(folder)
    return files.load(stored, files.sha256(stored), files.scorer_types(scorer, packages), packages)


def test_the_page_trains_a_model(tmp_path):
    (tmp_path / "shop_training.py").write_text(example("training", "python"), encoding="utf-8")
    columns = {"id": "id", "time": "time", "label": "label", "features": {"numeric": ["x", "noise"]}}
    shown = yaml.safe_load(example("training"))["training"]
    config = make_config(columns=columns, training={**shown, "min_rows": 200}, validation={})
    rows = make_rows()
    y_true, y_pred = trainer.fit(config, rows).scorer.predict_labelled(rows, rows["label"])
    assert ((y_pred > 0.5) == y_true).mean() > 0.8
    assert trainer.check(config)


def test_function_gets_raw_rows_oldest_first():
    config, rows = model("forest"), make_rows()
    trainer.fit(config, rows.take(pa.array(np.random.default_rng(0).permutation(len(rows)))))
    frame, seen = sys.modules["trainers"].given[-1]
    assert seen == config
    assert list(frame) == ["id", "time", "label", "x", "noise", "colour", "flag"]
    assert frame["time"].is_monotonic_increasing and set(frame["colour"]) == {"blue", "green", "red"}


@pytest.mark.parametrize(
    ("name", "task"), [("forest", "binary"), ("forest", "multiclass"), ("boosted", "binary"), ("boosted", "multiclass"), ("ridge", "regression")]
)  # fmt: skip
def test_model_predicts_the_same_after_a_round_trip(name, task, tmp_path):
    config, rows = model(name, task), make_rows(task)
    scorer = trainer.fit(config, rows).scorer
    folder = tmp_path / "files"
    folder.mkdir()
    again = restored(config, scorer, folder)
    np.testing.assert_array_equal(again.predict(rows), scorer.predict(rows))
    assert (folder / "model.ubj").exists() == (name == "boosted")
    y_true, y_pred = again.predict_labelled(make_rows(task, seed=1), make_rows(task, seed=1)["label"])
    hits = (
        (y_pred > 0.5) == y_true
        if task == "binary"
        else y_pred.argmax(axis=1) == y_true
        if task == "multiclass"
        else abs(y_pred - y_true) < 1
    )
    assert hits.mean() > 0.85
    assert len(again.predict(again.synthetic_rows(8))) == 8


def test_classes_in_another_order_are_put_in_ours():
    rows = make_rows()
    usual, turned = (trainer.fit(model(name), rows).scorer for name in ("forest", "reversed_classes"))
    assert (usual.order, turned.order) == ((), (1, 0))
    np.testing.assert_allclose(turned.predict(rows), usual.predict(rows), atol=1e-12)


def coded(order: list[str], **columns: object) -> ModelConfig:
    given = {"id": "id", "time": "time", "label": "label", **columns,
             "features": {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]}}  # fmt: skip
    training = {"function": "trainers:coded", "min_rows": 200, "parameters": {"order": order}}
    return make_config("multiclass", training=training, columns=given)


def test_codes_stand_for_the_listed_classes():
    rows = make_rows("multiclass")
    order = ["low", "middle", "high"]
    listed = trainer.fit(coded(order, classes=order), rows).scorer
    usual = trainer.fit(coded(sorted(order)), rows).scorer
    for scorer in (listed, usual):
        y_true, y_pred = scorer.predict_labelled(rows, rows["label"])
        assert (y_pred.argmax(axis=1) == y_true).mean() > 0.85


def test_codes_in_another_order_are_refused():
    with pytest.raises(EstimatorError, match=r"another order.*list them in columns.classes: \[low, middle, high\]"):
        trainer.fit(coded(["low", "middle", "high"]), make_rows("multiclass"))


def test_missing_values_reach_the_model_as_nan():
    config, rows = model("forest"), make_rows()
    scorer = trainer.fit(config, rows).scorer
    frame = scorer.encoding.frame(rows.set_column(2, "x", pa.nulls(len(rows), pa.float64())))
    assert frame["x"].isna().all() and isinstance(frame, pd.DataFrame)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned a NoneType without predict_proba, expected a fitted scikit-learn binary estimator"),
        ("ridge", "returned a Pipeline without predict_proba"),
        ("other_classes", "whose classes_ are down, up, expected those of the label: 0, 1"),
        ("with_lambda", "instead of a lambda"),
        ("missing", "trainers has no function missing"),
        (
            "extra_column",
            r"cannot predict rows of the features .*fit it to rows\[list\(config.columns.features.names\)\]",
        ),
        (
            "bare_array",
            r"cannot predict rows of the features .*fit it to rows\[list\(config.columns.features.names\)\]",
        ),
        ("own_objective", "LightGBM was trained with an objective of your own, .* expected one of LightGBM's"),
        ("unfitted", r"cannot predict rows of the features"),
        ("bug", r"training.function is trainers:bug, which raised KeyError: 'a bug of mine"),
    ],
)
def test_models_that_cannot_serve_are_refused(name, message):
    with pytest.raises(EstimatorError, match=message):
        trainer.fit(model(name), make_rows())


def test_classifier_is_no_regression():
    with pytest.raises(EstimatorError, match="LogisticRegression that was fitted to classes"):
        trainer.fit(model("classifier", "regression"), make_rows("regression"))


@pytest.mark.parametrize(("name", "columns"), [("one_column", ["x"]), ("turned_columns", ["noise", "flag", "x"])])
def test_model_gets_the_columns_that_it_was_fitted_to_in_its_order(name, columns, tmp_path):
    config, rows = model(name), make_rows()
    scorer = trainer.fit(config, rows).scorer
    (tmp_path / "files").mkdir()
    again = restored(config, scorer, tmp_path / "files")
    frame = rows.to_pandas()[columns].astype(float)
    np.testing.assert_allclose(again.predict(rows), scorer.estimator.predict_proba(frame)[:, 1])
    assert list(again.encoding.names) == columns


@pytest.mark.parametrize(
    ("training", "kind"),
    [({"function": "trainers:forest"}, "Pipeline"), ({"command": ["python", "train.py"]}, "XGBClassifier")],
)
def test_probes_call_the_function_and_stand_in_for_a_command(training, kind, tmp_path):
    config, rows = make_config(training={**training, "min_rows": 200}), make_rows()
    probes.store_sample(TRAINING, rows, tmp_path)
    probe = probes._probe(config, [TRAINING], tmp_path)
    assert type(probe.estimator).__name__ == kind
    (loss,) = probes.losses(config, [probe], rows)
    assert loss < 0.5


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (
            {"function": "trainers:forest", "estimator": "sklearn.svm:SVC"},
            "estimator and function are given, expected one of",
        ),
        ({"function": "trainers:forest", "pipeline": "trainers:encoded"}, "pipeline is given with function"),
        ({"command": ["python"], "flow": "a/b"}, "command and flow are given, expected one of"),
        ({"flow": "a/b", "parameters": {"depth": 3}}, "parameters is given with flow, .*use flow_parameters"),
        ({"flow": "a/b", "flow_parameters": {"output": "x"}}, "flow_parameters has output, which every flow is given"),
        ({"flow": "a"}, "flow"),
        ({"registered_model": "x"}, "registered_model is given with estimator"),
        ({"flow": "a/b", "registered_model": "binary_model"}, "where Perennial registers its own versions"),
    ],
)
def test_one_way_of_training_is_accepted(training, message):
    with pytest.raises((ModelConfigError, ValueError), match=message):
        make_config(training=training)
