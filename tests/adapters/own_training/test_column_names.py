"""Features with names that XGBoost or LightGBM refuse in a data frame: every way to train that gives them none takes them."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.models import files
from tasks.adapters.own_training import trainer
from tasks.policy.records.errors import EstimatorError
from tests.support.trained_models import make_config, make_rows

NAMES = {"x": "amount [EUR]", "noise": "left < 10", "flag": "shares, {both}: net"}
ESTIMATORS = (
    "xgboost:XGBClassifier",
    "lightgbm:LGBMClassifier",
    "catboost:CatBoostClassifier",
    "sklearn.ensemble:HistGradientBoostingClassifier",
    "sklearn.ensemble:RandomForestClassifier",
    "sklearn.linear_model:LogisticRegression",
    "sklearn.neighbors:KNeighborsClassifier",
)
MODULE = """
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from xgboost import XGBClassifier


def named(config):
    return StandardScaler().set_output(transform="pandas")


def sparse(config):
    return make_column_transformer((KBinsDiscretizer(8), list(config.columns.features.names)[:2]), sparse_threshold=1.0)


def xgb(rows, config):
    return XGBClassifier(n_estimators=20).fit(rows[list(config.columns.features.names)], rows["label"])


def lgb(rows, config):
    return LGBMClassifier(n_estimators=20, verbosity=-1).fit(rows[list(config.columns.features.names)], rows["label"])


def xgb_array(rows, config):
    return XGBClassifier(n_estimators=20).fit(rows[list(config.columns.features.names)].to_numpy(), rows["label"])


def lgb_array(rows, config):
    return LGBMClassifier(n_estimators=20, verbosity=-1).fit(rows[list(config.columns.features.names)].to_numpy(), rows["label"])
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_training.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "named_training", raising=False)


def model(**training: object) -> ModelConfig:
    columns = {"id": "id", "time": "time", "label": "label", "features": {"numeric": list(NAMES.values())}}
    return make_config(columns=columns, training={"min_rows": 200, "parameters": {}, **training}, validation={})


def rows(seed: int = 0) -> pa.Table:
    found = make_rows(seed=seed).drop_columns(["colour"])
    found = found.set_column(found.column_names.index("flag"), "flag", found["flag"].cast(pa.float64()))
    return found.rename_columns([NAMES.get(name, name) for name in found.column_names])


def learns(config: ModelConfig, folder: Path) -> None:
    """Fit, store, load, and predict other rows."""
    trainer.check(config)
    scorer = trainer.fit(config, rows()).scorer
    place = folder / "files"
    place.mkdir()
    files.save(scorer, place)
    stored, packages = files.read(place), files.trusted_packages(config.training.imported)
    again = files.load(stored, files.sha256(stored), files.scorer_types(scorer, packages), packages)
    np.testing.assert_array_equal(again.predict(rows(1)), scorer.predict(rows(1)))
    y_true, y_pred = again.predict_labelled(rows(1), rows(1)["label"])
    assert ((y_pred > 0.5) == y_true).mean() > 0.8


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_takes_them(estimator, tmp_path):
    learns(model(estimator=estimator), tmp_path)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_pipeline_may_make_a_data_frame_of_them(estimator, tmp_path):
    learns(model(estimator=estimator, pipeline="named_training:named"), tmp_path)


@pytest.mark.parametrize("estimator", ESTIMATORS[:3])
def test_a_pipeline_may_make_a_sparse_matrix(estimator, tmp_path):
    learns(model(estimator=estimator, pipeline="named_training:sparse"), tmp_path)


@pytest.mark.parametrize("name", ["xgb_array", "lgb_array"])
def test_a_function_may_train_on_an_array(name, tmp_path):
    learns(model(function=f"named_training:{name}"), tmp_path)


@pytest.mark.parametrize(
    ("name", "message"), [("xgb", r"ValueError: .* may not contain \["), ("lgb", "LightGBMError: ")]
)
def test_a_function_that_gives_them_to_a_library_is_refused_by_it(name, message):
    with pytest.raises(EstimatorError, match=f"training.function is named_training:{name}, which raised {message}"):
        trainer.fit(model(function=f"named_training:{name}"), rows())
