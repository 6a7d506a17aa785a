"""Models of every format predict as their makers' own libraries do, and what does not fit is refused by name."""

import gc
import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import obstore
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeRegressor

from tasks.adapters import foreign
from tasks.adapters.foreign import artefact
from tasks.adapters.models import files as model_files
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import workspace as current_workspace
from tasks.policy.records.errors import FeatureError, ForeignModelError, ModelFileError
from tests.support.foreign_models import FEATURES, config_of, expected, frame, pipeline, stored
from tests.support.object_store import object_store, on_each_store
from tests.support.trained_models import make_rows

TASKS = ["binary", "multiclass", "regression"]
NUMERIC = {
    "columns": {"id": "id", "time": "time", "label": "label", "features": {"numeric": ["x", "noise"]}},
    "validation": {"min_rows": 100},
}


def reloaded(scorer: foreign.ForeignScorer, folder: Path) -> foreign.ForeignScorer:
    """Store a scorer's files and load them, as the registry does."""
    folder.mkdir()
    foreign.scorer.save(scorer, folder)
    found = model_files.read(folder)
    return foreign.scorer.load(found, model_files.sha256(found))


@pytest.mark.parametrize("task", TASKS)
def test_skops_pipeline_predicts_as_its_maker(task, tmp_path):
    rows, model = make_rows(task), pipeline(task)
    address = stored(tmp_path, model, "model.skops")
    fitted = foreign.take_in(config_of(task), address, rows)
    later = make_rows(task, seed=5)
    found = reloaded(fitted.scorer, tmp_path / "files").predict(later)
    assert found == pytest.approx(expected(model, task, later))
    assert fitted.parameters["original_sha256"] == artefact.sha256({"model.skops": Path(address).read_bytes()})
    assert fitted.parameters["adopted_from"] == address
    assert (fitted.rows, fitted.fitted_rows, fitted.scorer.estimator.name) == (1000, 0, type(model[-1]).__name__)


@pytest.mark.parametrize("task", TASKS)
def test_joblib_pipeline_predicts_in_its_own_process(task, tmp_path):
    rows, model = make_rows(task), pipeline(task)
    scorer = foreign.take_in(config_of(task, trust=True), stored(tmp_path, model, "model.joblib"), rows).scorer
    assert scorer.predict(rows) == pytest.approx(expected(model, task, rows))
    assert scorer.predict(rows.slice(0, 1)) == pytest.approx(expected(model, task, rows.slice(0, 1)))


def xgboost_model(task: str, rows: pa.Table) -> xgboost.XGBModel:
    table = frame(rows)
    features = table[FEATURES].assign(colour=table["colour"].astype("category"))
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    labels = table["label"] if task != "multiclass" else table["label"].map({"high": 0, "low": 1, "middle": 2})
    return kind(n_estimators=10, max_depth=3, enable_categorical=True).fit(features, labels)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["model.ubj", "model.json"])
def test_xgboost_file_predicts_as_its_maker(task, name, tmp_path):
    rows = make_rows(task)
    model = xgboost_model(task, rows)
    model.save_model(tmp_path / name)
    scorer = foreign.take_in(config_of(task), str(tmp_path / name), rows).scorer
    later = make_rows(task, seed=3, rows=50)
    own = frame(later)[FEATURES].assign(colour=frame(later)["colour"].astype("category"))
    answer = model.predict(own) if task == "regression" else model.predict_proba(own)
    assert reloaded(scorer, tmp_path / "files").predict(later) == pytest.approx(
        answer[:, 1] if task == "binary" else answer, abs=1e-6
    )
    assert scorer.inputs.accepts_nulls


def test_classes_are_reordered_to_those_of_the_file(tmp_path):
    """The team's positive class comes first in its own order."""
    rows = make_rows()
    rows = rows.set_column(
        rows.column_names.index("label"), "label", pa.array(np.where(frame(rows)["label"] == 1, "a", "b"))
    )
    model = pipeline(rows=rows)
    config = config_of(
        columns={
            "id": "id", "time": "time", "label": "label", "positive_label": "a",
            "features": {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]},
        }
    )  # fmt: skip
    scorer = foreign.take_in(config, stored(tmp_path, model, "model.skops"), rows).scorer
    assert scorer.classes == ("b", "a")
    assert scorer.predict(rows) == pytest.approx(model.predict_proba(frame(rows)[FEATURES])[:, 0])


def with_labels(rows: pa.Table, labels: object) -> pa.Table:
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(labels))


def numeric(**columns: object) -> dict[str, object]:
    return {**NUMERIC, "columns": {**NUMERIC["columns"], **columns}}


@pytest.mark.parametrize("name", ["model.skops", "model.joblib", "model.ubj"])
def test_labels_that_are_codes_are_matched_by_name(name, tmp_path):
    """With positive_label 0, the model's first column is the positive class."""
    rows = make_rows()
    features, labels = frame(rows)[["x", "noise"]], frame(rows)["label"]
    if name == "model.ubj":
        model = xgboost.XGBClassifier(n_estimators=10).fit(features, labels)
        model.save_model(tmp_path / name)
    else:
        model = LogisticRegression().fit(features, labels)
        stored(tmp_path, model, name)
    config = config_of(trust=True, **numeric(positive_label="0"))
    scorer = foreign.take_in(config, str(tmp_path / name), rows).scorer
    assert scorer.classes == ("1", "0")
    own = model.predict_proba(features)[:, 0]
    assert scorer.predict(rows) == pytest.approx(own, abs=1e-6)
    assert reloaded(scorer, tmp_path / "files").predict(rows) == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("coded", [("low", "middle", "high"), ("high", "low", "middle")])
def test_codes_stand_for_the_listed_classes(coded, tmp_path):
    """The file lists the classes in the order of the codes; sorted, they are high, low, middle."""
    rows = make_rows("multiclass")
    features, labels = frame(rows)[["x", "noise"]], frame(rows)["label"]
    model = xgboost.XGBClassifier(n_estimators=10).fit(features, labels.map(list(coded).index))
    model.save_model(tmp_path / "model.ubj")
    config = config_of("multiclass", **numeric(classes=list(coded)))
    scorer = foreign.take_in(config, str(tmp_path / "model.ubj"), rows).scorer
    own = pd.DataFrame(model.predict_proba(features), columns=list(coded))
    for found in (scorer, reloaded(scorer, tmp_path / "files")):
        assert found.predict(rows) == pytest.approx(own[list(scorer.classes)].to_numpy(), abs=1e-6)


def test_codes_in_another_order_than_the_file_are_refused(tmp_path):
    rows = make_rows("multiclass")
    codes = frame(rows)["label"].map({"low": 0, "middle": 1, "high": 2})
    xgboost.XGBClassifier(n_estimators=10).fit(frame(rows)[["x", "noise"]], codes).save_model(tmp_path / "model.ubj")
    with pytest.raises(
        ForeignModelError,
        match=r"read as high, low, middle it predicts worse than a constant on 1,000 labelled rows, and read as low, "
        r"middle, high better than it; list them in columns.classes: \[low, middle, high\]",
    ):
        foreign.take_in(config_of("multiclass", **numeric()), str(tmp_path / "model.ubj"), rows)


@pytest.mark.parametrize("flip", [False, True])
def test_positive_label_does_not_change_the_codes(flip, tmp_path):
    """Codes are those of LabelEncoder, bad and good; a model with good as 0 is refused."""
    rows = with_labels(make_rows(), np.where(frame(make_rows())["label"] == 1, "bad", "good"))
    features, bad = frame(rows)[["x", "noise"]], frame(rows)["label"] == "bad"
    model = xgboost.XGBClassifier(n_estimators=10).fit(features, (bad if flip else ~bad).astype(int))
    model.save_model(tmp_path / "model.ubj")
    config = config_of(**numeric(positive_label="bad"))
    if flip:
        with pytest.raises(ForeignModelError, match=r"list them in columns.classes: \[good, bad\]"):
            foreign.take_in(config, str(tmp_path / "model.ubj"), rows)
        config = config_of(**numeric(positive_label="bad", classes=["good", "bad"]))
    scorer = foreign.take_in(config, str(tmp_path / "model.ubj"), rows).scorer
    assert scorer.predict(rows) == pytest.approx(model.predict_proba(features)[:, int(flip)], abs=1e-6)


def test_lightgbm_file_predicts_as_its_maker(tmp_path):
    lightgbm = pytest.importorskip("lightgbm", reason="uv pip install 'perennial[lightgbm]'")
    rows = make_rows()
    table = frame(rows)[FEATURES].assign(colour=frame(rows)["colour"].astype("category"))
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(table, frame(rows)["label"])
    model.booster_.save_model(str(tmp_path / "model.txt"))
    scorer = foreign.take_in(config_of(), str(tmp_path / "model.txt"), rows).scorer
    assert scorer.predict(rows) == pytest.approx(model.predict_proba(table)[:, 1])
    assert scorer.predict(rows.slice(3, 1)) == pytest.approx(model.predict_proba(table)[3:4, 1])


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_lightgbm_file_of_an_own_objective_is_refused(task, tmp_path):
    """The file does not hold the function, and what its scores mean is not known."""
    lightgbm = pytest.importorskip("lightgbm", reason="uv pip install 'perennial[lightgbm]'")
    rows = make_rows(task)
    table, label = frame(rows)[["x", "noise"]], frame(rows)["label"]
    settings = {"verbosity": -1, "objective": lambda score, data: (score - data.get_label(), np.ones_like(score))}
    lightgbm.train(settings, lightgbm.Dataset(table, label), 5).save_model(str(tmp_path / "model.txt"))
    with pytest.raises(ForeignModelError, match=r"objective of the team's own.*expected one of LightGBM's"):
        foreign.take_in(config_of(task, **NUMERIC), str(tmp_path / "model.txt"), rows)


@pytest.mark.parametrize("task", TASKS)
def test_catboost_file_predicts_as_its_maker(task, tmp_path):
    catboost = pytest.importorskip("catboost", reason="uv pip install 'perennial[catboost]'")
    rows = make_rows(task)
    table = frame(rows)[FEATURES].assign(colour=frame(rows)["colour"].astype(object))
    kind = catboost.CatBoostRegressor if task == "regression" else catboost.CatBoostClassifier
    model = kind(iterations=10, verbose=False, cat_features=["colour"], train_dir=str(tmp_path / "info"))
    model.fit(table, frame(rows)["label"])
    model.save_model(str(tmp_path / "model.cbm"))
    scorer = foreign.take_in(config_of(task), str(tmp_path / "model.cbm"), rows).scorer
    answer = model.predict(table) if task == "regression" else model.predict_proba(table)
    assert scorer.predict(rows) == pytest.approx(answer[:, 1] if task == "binary" else answer)


@pytest.mark.parametrize("loss", ["RMSE", "Poisson", "Tweedie:variance_power=1.5", "LogLinQuantile"])
def test_catboost_regression_is_served_in_the_label_s_unit(loss, tmp_path):
    catboost = pytest.importorskip("catboost", reason="uv pip install 'perennial[catboost]'")
    rows = make_rows("regression")
    features = frame(rows)[["x", "noise"]]
    counts = np.random.default_rng(1).poisson(np.exp(features["x"] * 0.5 + 1)).astype(float)
    model = catboost.CatBoostRegressor(
        iterations=30, loss_function=loss, verbose=False, train_dir=str(tmp_path / "info")
    )
    model.fit(features, counts).save_model(str(tmp_path / "model.cbm"))
    config = config_of("regression", **NUMERIC)
    scorer = foreign.take_in(config, str(tmp_path / "model.cbm"), with_labels(rows, counts)).scorer
    raw = model.predict(features, prediction_type="RawFormulaVal")
    assert scorer.predict(rows) == pytest.approx(raw if loss == "RMSE" else np.exp(raw))


def test_catboost_loss_of_several_values_is_refused(tmp_path):
    catboost = pytest.importorskip("catboost", reason="uv pip install 'perennial[catboost]'")
    rows = make_rows("regression")
    model = catboost.CatBoostRegressor(
        iterations=5, loss_function="RMSEWithUncertainty", verbose=False, train_dir=str(tmp_path / "info")
    )
    model.fit(frame(rows)[["x", "noise"]], frame(rows)["label"]).save_model(str(tmp_path / "model.cbm"))
    with pytest.raises(ForeignModelError, match=r"its loss RMSEWithUncertainty.* gives several values a row"):
        foreign.take_in(config_of("regression", **NUMERIC), str(tmp_path / "model.cbm"), rows)


@pytest.mark.parametrize("missing", [False, True])
def test_lightgbm_file_with_whole_numbers_as_categories(missing, tmp_path):
    lightgbm = pytest.importorskip("lightgbm", reason="uv pip install 'perennial[lightgbm]'")
    rows = make_rows()
    store = pd.Series(np.random.default_rng(0).integers(3, 8, len(rows)), dtype="Int64")
    store[:20] = pd.NA if missing else 3
    features = frame(rows)[["x"]].assign(store=store.astype("float" if missing else "int64").astype("category"))
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1, min_child_samples=5)
    model.fit(features, (frame(rows)["x"] + store.fillna(0) % 2 * 2 > 1).astype(int)).booster_.save_model(
        str(tmp_path / "model.txt")
    )
    labelled = rows.append_column("store", pa.array(store, pa.int64(), from_pandas=True))
    given = {**NUMERIC["columns"], "features": {"numeric": ["x"], "categorical": ["store"]}}
    config = config_of(**{**NUMERIC, "columns": given})
    scorer = foreign.take_in(config, str(tmp_path / "model.txt"), labelled).scorer
    assert scorer.predict(labelled) == pytest.approx(model.predict_proba(features)[:, 1])


@pytest.mark.parametrize("zipped", [True, False])
def test_onnx_file_predicts_as_its_maker(zipped, tmp_path):
    pytest.importorskip("onnxruntime", reason="uv pip install 'perennial[onnx]'")
    convert = pytest.importorskip("skl2onnx", reason="uv pip install skl2onnx")
    rows = make_rows()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(
        frame(rows)[["x", "noise"]].to_numpy(np.float32), frame(rows)["label"]
    )
    shape = [("input", convert.common.data_types.FloatTensorType([None, 2]))]
    content = convert.convert_sklearn(model, initial_types=shape, options={"zipmap": zipped})
    (tmp_path / "model.onnx").write_bytes(content.SerializeToString())
    scorer = foreign.take_in(config_of(**NUMERIC), str(tmp_path / "model.onnx"), rows).scorer
    own = model.predict_proba(frame(rows)[["x", "noise"]].to_numpy(np.float32))[:, 1]
    assert scorer.predict(rows) == pytest.approx(own, abs=1e-5)


def test_onnx_pipeline_of_named_columns(tmp_path):
    pytest.importorskip("onnxruntime", reason="uv pip install 'perennial[onnx]'")
    convert = pytest.importorskip("skl2onnx", reason="uv pip install skl2onnx")
    types, rows = convert.common.data_types, make_rows()
    names = ["x", "noise", "colour"]
    columns = make_column_transformer((StandardScaler(), ["x", "noise"]), (OneHotEncoder(), ["colour"]))
    model = make_pipeline(columns, LogisticRegression()).fit(frame(rows)[names], frame(rows)["label"])
    floats = [(name, types.FloatTensorType([None, 1])) for name in ("x", "noise")]
    given = [*floats, ("colour", types.StringTensorType([None, 1]))]
    content = convert.convert_sklearn(model, initial_types=given, options={"zipmap": False})
    (tmp_path / "model.onnx").write_bytes(content.SerializeToString())
    scorer = foreign.take_in(config_of(), str(tmp_path / "model.onnx"), rows).scorer
    assert scorer.inputs.given == ("x", "noise", "colour")
    assert scorer.predict(rows) == pytest.approx(model.predict_proba(frame(rows)[names])[:, 1], abs=1e-5)


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(ForeignModelError, match=r"needs onnxruntime, .* uv pip install 'perennial\[onnx\]'"):
        foreign.take_in(config_of(), str(tmp_path / "model.onnx"), make_rows())


def logged(workspace: Path, model: object, flavour: str, **given: object) -> str:
    """Log a model to the workspace's MLflow and return its run's address."""
    uri = current_workspace().mlflow
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = client.create_experiment("elsewhere", str(workspace / "artifacts"))
    run = client.create_run(found).info
    folder = workspace / f"logged-{flavour}"
    getattr(mlflow, flavour).save_model(model, str(folder), pip_requirements=[], **given)
    client.log_artifacts(run.run_id, str(folder), "model")
    client.create_registered_model("theirs")
    client.create_model_version("theirs", f"{run.artifact_uri}/model", run.run_id)
    client.set_registered_model_alias("theirs", "champion", "1")
    return run.run_id


def test_mlflow_xgboost_model_needs_no_trust(workspace):
    rows = make_rows()
    model = xgboost_model("binary", rows)
    run = logged(workspace, model, "xgboost")
    for address in (
        "models:/theirs@champion",
        "models:/theirs/1",
        f"runs:/{run}/model",
        str(workspace / "logged-xgboost"),
    ):
        fitted = foreign.take_in(config_of(), address, rows)
        assert fitted.parameters["format"] == "xgboost"
    own = frame(rows)[FEATURES].assign(colour=frame(rows)["colour"].astype("category"))
    assert fitted.scorer.predict(rows) == pytest.approx(model.predict_proba(own)[:, 1], abs=1e-6)
    fitted = foreign.take_in(config_of(), "models:/theirs@champion", rows)
    assert (fitted.parameters["original_version"], fitted.parameters["original_run"]) == ("theirs 1", run)


def registered_by_mlflow(workspace: Path, model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log and register a model as most people do, by `log_model`, in the workspace's MLflow."""
    uri = current_workspace().mlflow
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("theirs", str(workspace / "artifacts" / "theirs")))
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", serialization_format="skops", registered_model_name="theirs", pip_requirements=[]
        )
    mlflow.MlflowClient().set_registered_model_alias("theirs", "champion", "1")
    mlflow.set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)


def test_model_registered_by_log_model_is_found_in_the_workspace(workspace, tmp_path, monkeypatch):
    """Its version names the model by MLflow's id, which MLflow itself would look up in its global store."""
    rows, model = make_rows(), pipeline()
    registered_by_mlflow(workspace, model, monkeypatch)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = mlflow.MlflowClient(current_workspace().mlflow).get_model_version("theirs", "1")
    assert found.source.startswith("models:/m-")
    for address in ("models:/theirs@champion", "models:/theirs/1", f"runs:/{found.run_id}/model", found.source):
        fitted = foreign.take_in(config_of(), address, rows)
        assert fitted.scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
        assert fitted.parameters["adopted_from"] == address
    assert not list(Path.cwd().iterdir())


def test_model_registered_by_log_model_is_found_after_a_move(workspace, monkeypatch):
    rows, model = make_rows(), pipeline()
    registered_by_mlflow(workspace, model, monkeypatch)
    moved = workspace.rename(workspace.with_name("moved"))
    monkeypatch.setenv("PERENNIAL_HOME", str(moved))
    fitted = foreign.take_in(config_of(), "models:/theirs@champion", rows)
    assert fitted.scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))


def test_missing_files_of_a_registered_model_name_the_address_that_was_given(workspace, monkeypatch):
    registered_by_mlflow(workspace, pipeline(), monkeypatch)
    shutil.rmtree(workspace / "artifacts")
    with pytest.raises(ForeignModelError, match=r"models:/theirs@champion: cannot be read from MLflow"):
        foreign.take_in(config_of(), "models:/theirs@champion", make_rows())


def test_mlflow_sklearn_model_needs_trust_and_gives_probabilities(workspace):
    rows, model = make_rows(), pipeline()
    logged(workspace, model, "sklearn", serialization_format="cloudpickle")
    with pytest.raises(ForeignModelError, match=r"theirs@champion is an MLflow model, which can run any code"):
        foreign.take_in(config_of(), "models:/theirs@champion", rows)
    scorer = foreign.take_in(config_of(trust=True), "models:/theirs@champion", rows).scorer
    assert scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
    gc.collect()


def test_mlflow_lightgbm_classifier_gives_probabilities(workspace):
    """MLflow stores it as a pickle; its pyfunc would predict classes."""
    lightgbm = pytest.importorskip("lightgbm", reason="uv pip install 'perennial[lightgbm]'")
    rows = make_rows()
    features = frame(rows)[["x", "noise"]]
    model = lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(features, frame(rows)["label"])
    logged(workspace, model, "lightgbm")
    config = config_of(trust=True, **NUMERIC)
    scorer = foreign.take_in(config, str(workspace / "logged-lightgbm"), rows).scorer
    assert scorer.predict(rows) == pytest.approx(model.predict_proba(features)[:, 1])


def test_mlflow_model_of_classes_is_refused(workspace):
    rows = make_rows()

    class Rule(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return (model_input["x"] > 0).astype(int).to_numpy()

    mlflow.pyfunc.save_model(str(workspace / "rule"), python_model=Rule(), pip_requirements=[])
    with pytest.raises(ForeignModelError, match="are all 0 or 1, which are classes, expected probabilities"):
        foreign.take_in(config_of(trust=True, **NUMERIC), str(workspace / "rule"), rows)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (SVC(), "its SVC gives no probabilities.* probability=True .*CalibratedClassifierCV"),
        (DecisionTreeRegressor(), "its DecisionTreeRegressor was trained for regression, expected task binary"),
    ],
)
def test_joblib_model_without_probabilities_is_refused(model, message, tmp_path):
    rows = make_rows()
    address = stored(tmp_path, model.fit(frame(rows)[["x", "noise"]], frame(rows)["label"]), "model.joblib")
    with pytest.raises(ForeignModelError, match=message):
        foreign.take_in(config_of(trust=True, **NUMERIC), address, rows)


def test_mlflow_signature_is_compared_with_the_features(workspace):
    rows = make_rows()
    wide = frame(rows).assign(income=1.0)[["x", "income"]]
    model = LinearRegression().fit(wide, frame(rows)["label"])
    logged(workspace, model, "sklearn", serialization_format="cloudpickle", signature=infer_signature(wide))
    with pytest.raises(
        ForeignModelError, match=r"signature reads income, which columns.features does not list.*x, noise"
    ):
        foreign.take_in(config_of("regression", trust=True), "models:/theirs@champion", make_rows("regression"))


def test_unknown_mlflow_address_says_what_to_check(workspace):
    with pytest.raises(
        ForeignModelError, match=r"models:/nobody@champion: cannot be read from MLflow.*MLFLOW_TRACKING_URI"
    ):
        foreign.take_in(config_of(), "models:/nobody@champion", make_rows())


def numbers(tmp_path: Path, model: object) -> str:
    return stored(tmp_path, model, "model.skops")


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        (lambda table: LinearRegression().fit(table[["x", "noise"]], table["x"]), "binary", "was trained for regression, expected task binary"),
        (lambda table: LogisticRegression().fit(table[["x", "noise"]], table["label"]), "regression", "was trained for binary, expected task regression"),
        (lambda table: LogisticRegression().fit(table[["x", "noise"]], pd.cut(table["x"], 3, labels=["a", "b", "c"]).astype(str)), "multiclass", r"knows 3 classes \(a, b, c\), expected the 3 of label"),
        (lambda table: LogisticRegression().fit(table[["x", "noise"]], pd.cut(table["x"], 4, labels=["low", "middle", "q", "r"]).astype(str)), "multiclass", "knows 4 classes"),
        (lambda table: LinearSVC().fit(table[["x", "noise"]], table["label"]), "binary", "gives no probabilities"),
        (lambda table: LogisticRegression().fit(table[["x", "noise"]].rename(columns={"noise": "income"}), table["label"]), "binary", "reads income, which columns.features does not list"),
        (lambda table: LogisticRegression().fit(table[["x", "noise"]].to_numpy(), table["label"]), "binary", "cannot predict rows of this model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(model, task, message, tmp_path):
    address = numbers(tmp_path, model(frame(make_rows("regression" if task == "regression" else "binary")).assign(
        label=lambda table: (table["label"] > 0.5).astype(int))))  # fmt: skip
    with pytest.raises(ForeignModelError, match=message):
        foreign.take_in(config_of(task), address, make_rows(task))


def test_rows_without_a_feature_are_named(tmp_path):
    address = stored(tmp_path, pipeline(), "model.skops")
    with pytest.raises(FeatureError, match="column colour: not among"):
        foreign.take_in(config_of(), address, make_rows().drop(["colour"]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.bin", b"\x00\x01\x02", "is of no format that can be taken in"),
        ("model.json", b"", "is empty, expected a model"),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "cannot be read as xgboost"),
        ("model.skops", b"PK\x03\x04 schema.json", "cannot be read as skops"),
    ],
)
def test_unreadable_file_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ForeignModelError, match=message):
        foreign.take_in(config_of(), str(tmp_path / name), make_rows())


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ForeignModelError, match="does not exist"):
        foreign.take_in(config_of(), str(tmp_path / "model.skops"), make_rows())


def test_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(artefact, "MAX_BYTES", 1000)
    (tmp_path / "model.ubj").write_bytes(b"{" * 1001)
    with pytest.raises(ForeignModelError, match="holds 1,001 bytes, expected at most 1,000"):
        foreign.take_in(config_of(), str(tmp_path / "model.ubj"), make_rows())


@pytest.mark.attack("whoever sends a folder with a model")
def test_folder_with_a_link_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").symlink_to("/etc/passwd")
    with pytest.raises(ForeignModelError, match="holds the link MLmodel"):
        foreign.take_in(config_of(), str(tmp_path / "model"), make_rows())


def test_model_in_a_bucket(tmp_path, monkeypatch):
    rows, model = make_rows(), pipeline()
    with object_store("s3", monkeypatch) as bucket:
        content = Path(stored(tmp_path, model, "model.skops")).read_bytes()
        obstore.put(store_at(bucket), "models/model.skops", content)
        fitted = foreign.take_in(config_of(), f"{bucket}/models/model.skops", rows)
        assert fitted.scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
        with pytest.raises(
            ForeignModelError,
            match=r"nothing.skops: does not exist, expected a file or an MLflow model; check the address",
        ):
            foreign.take_in(config_of(), f"{bucket}/models/nothing.skops", rows)


@on_each_store
def test_mlflow_folder_in_a_bucket(scheme, tmp_path, monkeypatch):
    rows, model = make_rows(), pipeline()
    mlflow.sklearn.save_model(model, str(tmp_path / "model"), serialization_format="skops", pip_requirements=[])
    with object_store(scheme, monkeypatch) as bucket:
        for path in (tmp_path / "model").rglob("*"):
            if path.is_file():
                obstore.put(store_at(bucket), f"jobs/model/{path.relative_to(tmp_path / 'model')}", path.read_bytes())
        obstore.put(store_at(bucket), "jobs/model-of-others/MLmodel", b"not read")
        for address in (f"{bucket}/jobs/model", f"{bucket}/jobs/model/"):
            fitted = foreign.take_in(config_of(), address, rows)
            assert fitted.scorer.predict(rows) == pytest.approx(expected(model, "binary", rows))
        assert fitted.parameters["original_format"] == "MLflow sklearn"
        monkeypatch.setattr(artefact, "MAX_BYTES", 1000)
        with pytest.raises(ForeignModelError, match=r"jobs/model: holds [\d,]+ bytes, expected at most 1,000"):
            foreign.take_in(config_of(), f"{bucket}/jobs/model", rows)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://example.com/model.skops", r"is of the scheme https://, expected a file, models:/, .*; download it"),
        ("s3://bucket", "names a bucket, expected a file or an MLflow model in it"),
    ],
)
def test_address_that_cannot_be_read_says_what_can(address, message):
    with pytest.raises(ForeignModelError, match=message):
        foreign.take_in(config_of(), address, make_rows())


def test_password_of_an_address_is_not_shown(tmp_path):
    with pytest.raises(ForeignModelError) as refused:
        foreign.take_in(config_of(), "s3://key:secret@bucket/model.skops?signature=abc", make_rows())
    assert "secret" not in str(refused.value) and "abc" not in str(refused.value)


class Guess(ClassifierMixin, BaseEstimator):
    """An estimator of a package that skops does not know."""


@pytest.mark.parametrize(
    "model",
    [
        Guess(),
        make_pipeline(FunctionTransformer(np.testing.measure), LogisticRegression()),
        make_pipeline(FunctionTransformer(np.load), LogisticRegression()),
    ],
)
@pytest.mark.attack("whoever sends a skops file")
def test_skops_file_with_foreign_types_or_functions_is_refused(model, tmp_path):
    """`numpy.testing.measure` runs code that is given as text, though it belongs to a trusted package."""
    with pytest.raises(ForeignModelError, match=r"it holds .*, expected classes of sklearn, numpy, scipy only"):
        foreign.take_in(config_of(), stored(tmp_path, model, "model.skops"), make_rows())


@pytest.mark.attack("whoever sends a model file")
def test_any_other_archive_counts_as_one_that_runs_code(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("archive/data.pkl", b"cos\nsystem\n")
    (tmp_path / "model.pt").write_bytes(archive.getvalue())
    with pytest.raises(ForeignModelError, match="which can run any code"):
        foreign.take_in(config_of(), str(tmp_path / "model.pt"), make_rows())


def test_nulls_are_refused_by_a_model_that_cannot_read_them(tmp_path):
    rows = make_rows()
    scorer = foreign.take_in(config_of(), stored(tmp_path, pipeline(), "model.skops"), rows).scorer
    assert not scorer.inputs.accepts_nulls
    gaps = rows.set_column(rows.column_names.index("x"), "x", pa.array([None, *frame(rows)["x"][1:]]))
    with pytest.raises(
        FeatureError, match=r"column x \(1\): holds nulls, which the adopted LogisticRegression cannot read"
    ):
        scorer.predict(gaps)
    assert not any(column.null_count for column in scorer.synthetic_rows(32).columns)
    assert np.isfinite(scorer.predict(scorer.synthetic_rows(32))).all()


def test_changed_file_is_not_loaded(tmp_path):
    scorer = foreign.take_in(config_of(), stored(tmp_path, pipeline(), "model.skops"), make_rows()).scorer
    (tmp_path / "files").mkdir()
    foreign.scorer.save(scorer, tmp_path / "files")
    found = model_files.read(tmp_path / "files")
    assert set(found) == {"scorer.json", "original/model.skops"}
    registered = model_files.sha256(found)
    with pytest.raises(ModelFileError, match="as recorded when they were registered"):
        foreign.scorer.load({**found, "original/model.skops": b"other"}, registered)
    assert replace(scorer).classes == ("0", "1")
