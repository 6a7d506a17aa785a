"""Which versions can be exported, and what the manifest says."""

import json

import pytest

from tasks.adapters.edge import device
from tasks.adapters.edge.folder import check_exportable
from tasks.adapters.models import estimators, files
from tasks.policy.records.errors import ExportRefused
from tests.support.edge_folders import exported_model
from tests.support.trained_models import make_config, make_rows


def contents_of(tmp_path, **training):
    """Return the files of a model that these settings train."""
    training = {"parameters": {"n_estimators": 5}, "min_rows": 200, "early_stopping_rounds": None} | training
    scorer = estimators.fit(make_config(training=training), make_rows()).scorer
    files.save(scorer, tmp_path)
    return files.read(tmp_path)


def test_xgboost_model_can_be_exported(tmp_path):
    check_exportable("churn version 1", contents_of(tmp_path))


def test_other_estimators_are_refused_by_name(tmp_path):
    contents = contents_of(tmp_path, estimator="sklearn.linear_model:LogisticRegression", parameters={})
    with pytest.raises(ExportRefused, match=r"holds model\.skops, scorer\.json, expected an XGBoost model"):
        check_exportable("churn version 1", contents)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"booster": "dart"}, "the model is dart"), ({"objective": "binary:hinge"}, "with binary:hinge")],
)
def test_trees_that_cannot_adapt_are_refused(parameters, expected, tmp_path):
    with pytest.raises(ExportRefused, match=expected):
        check_exportable("churn version 1", contents_of(tmp_path, parameters={"n_estimators": 5, **parameters}))


def test_manifest_names_the_files_and_the_ranges_of_the_reference(tmp_path):
    _, folder = exported_model(tmp_path)
    manifest = json.loads((folder / device.MANIFEST).read_bytes())
    assert set(manifest["files"]) == {"model.ubj", "model.json", "perennial_edge.py"}
    x = make_rows()["x"].to_pylist()
    assert manifest["reference"]["x"] == [min(x), max(x)]
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], device.MANIFEST, device.KEY}


def test_ranges_of_personal_features_stay_here(tmp_path):
    config = make_config()
    config = config.model_copy(update={"columns": config.columns.model_copy(update={"personal": ("noise",)})})
    _, folder = exported_model(tmp_path, config=config)
    assert set(json.loads((folder / device.MANIFEST).read_bytes())["reference"]) == {"x"}
