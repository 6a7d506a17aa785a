"""LightGBM and CatBoost go through the train stage on real flights as XGBoost does."""

import numpy as np
import pyarrow as pa
import pytest
from prefect.logging import disable_run_logger

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.registry import version_files
from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import Snapshot
from tasks.policy.statistics import metrics
from tasks.training.train import train_challenger
from tests.support.trained_models import prepare_registry

LEARNED, LATER = Window(utc("2013-01-01"), utc("2013-02-15")), Window(utc("2013-02-15"), utc("2013-03-01"))
TRAINING = {"parameters": {"n_estimators": 150, "learning_rate": 0.1}, "early_stopping_rounds": 20}
LIBRARIES = {"xgboost": None, "lightgbm": "lightgbm:LGBMClassifier", "catboost": "catboost:CatBoostClassifier"}


def flights(package: str) -> ModelConfig:
    config = load_model_config("flight_delay")
    training = config.training.model_copy(update={**TRAINING, "estimator": LIBRARIES[package]})
    return config.model_copy(update={"training": training})


@pytest.fixture
def snapshot(workspace) -> Snapshot:
    prepare_registry(workspace)
    config, as_of = flights("xgboost"), utc("2013-02-17")
    lake.land_rows(config, LEARNED, read_window(config, LEARNED))
    lake.land_labels(config, read_labels(config, LEARNED), as_of)
    return lake.labelled_snapshot(config, LEARNED, as_of)


@pytest.fixture(scope="module")
def later() -> pa.Table:
    config = flights("xgboost")
    labels = read_labels(config, LATER).select([config.columns.key, config.columns.label])
    return read_window(config, LATER).join(labels, keys=config.columns.key, join_type="inner")


def train(package: str, snapshot: Snapshot, decision_id: str) -> ModelVersion:
    with disable_run_logger():
        return train_challenger.fn(flights(package), snapshot, decision_id)


def test_the_train_stage_takes_each_library(snapshot, later):
    """Every one beats the share of late flights, and none is far from XGBoost, at the same settings."""
    losses = {}
    for package in LIBRARIES:
        config, version = flights(package), train(package, snapshot, package)
        scorer = version_files.load_scorer(version, config.training.imported, fresh=True)
        y_true, y_pred = scorer.predict_labelled(later, later[config.columns.label])
        losses[package] = metrics.compute(config.primary_metric, y_true, y_pred)
        assert version_files.attribution(version) is not None, "its SHAP values are frozen"
    share = np.full(len(y_true), y_true.mean())
    assert max(losses.values()) < metrics.compute(config.primary_metric, y_true, share)
    assert max(losses.values()) < 1.03 * losses["xgboost"]


@pytest.mark.parametrize("package", ["lightgbm", "catboost"])
def test_two_runs_give_equal_bits(package, snapshot):
    first, second = (train(package, snapshot, decision_id) for decision_id in ("one", "two"))
    assert first.version != second.version
    assert first.sha256 == second.sha256
