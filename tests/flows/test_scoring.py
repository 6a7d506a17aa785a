"""Scoring a window: predictions, idempotent storage and measured latency."""

from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pyarrow as pa
import pytest
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.evaluation import challenger as trial
from tasks.adapters.evaluation.rollout_evidence import measure_answers
from tasks.adapters.registry import version_files
from tasks.policy.comparison.guardrails import Guardrails, judge_guardrails
from tasks.policy.comparison.predictions import MISSING_PREDICTION, NOT_A_PROBABILITY
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.reports import Scoring, Snapshot
from tasks.policy.rollout.traffic import TrafficSplit
from tasks.rollout.scoring import is_answered, score_window
from tests.support.trained_models import HOLDOUT, make_config, make_rows, prepare_registry, register


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def score(config: ModelConfig, snapshot: Snapshot, version: ModelVersion) -> Scoring:
    with disable_run_logger():
        return score_window.fn(config, snapshot, version)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_row_gets_the_models_prediction(task):
    config = make_config(task)
    version = register(config)
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(task, rows=700, window=HOLDOUT, seed=3))
    scoring = score(config, snapshot, version)
    rows, logged = lake.read_rows(snapshot), lake.read_predictions(config, HOLDOUT)
    assert logged.column("id").to_pylist() == rows.column("id").to_pylist()
    assert set(logged.column("model_version").to_pylist()) == {"1"}
    predicted = np.array(logged.column("prediction").to_pylist())
    np.testing.assert_allclose(predicted, version_files.load_scorer(version).predict(rows))
    assert (scoring.rows, scoring.model_version, scoring.window) == (700, "1", HOLDOUT)


def test_latency_is_measured_per_batch():
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=1000, window=HOLDOUT))
    version = register(config)
    begun = perf_counter()
    scoring = score(config, snapshot, version)
    took_s = perf_counter() - begun
    assert 0 < scoring.latency.p50_s <= scoring.latency.p95_s <= scoring.latency.p99_s < took_s
    assert 50 < scoring.latency.peak_memory_mb < 10_000
    assert from_json(Scoring, to_json(scoring)) == scoring


def test_scoring_is_idempotent_per_version():
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=300, window=HOLDOUT))
    first = score(config, snapshot, register(config, "one"))
    assert score(config, snapshot, register(config, "one")).snapshot == first.snapshot
    assert lake.read_predictions(config, HOLDOUT).num_rows == 300
    score(config, snapshot, register(config, "two", turn=-1.0))
    assert lake.read_predictions(config, HOLDOUT).num_rows == 600


@pytest.mark.parametrize("answered", [0, 1])
def test_a_window_that_the_gateway_answered_is_not_scored_again(answered):
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=10, window=HOLDOUT))
    rows = lake.read_rows(snapshot).slice(0, answered)
    log = {
        "id": rows["id"].cast(pa.string()),
        "time": rows.column(1),
        "prediction": pa.array([0.5] * answered, pa.float64()),
    }
    log |= {name: pa.array(["1"] * answered, pa.string()) for name in ("model_version", "request_id")}
    lake.land_prediction_segment(config, "gateway", 1, pa.table(log))
    with disable_run_logger():
        assert is_answered(config, snapshot) == bool(answered)
    score(config, snapshot, register(config))
    with disable_run_logger():
        assert is_answered(config, snapshot) == bool(answered), "what was scored here is no answer of the gateway"


def test_empty_window_is_not_scored():
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=10, window=HOLDOUT).slice(0, 0))
    scoring = score(config, snapshot, register(config))
    assert (scoring.rows, scoring.latency.p99_s) == (0, 0.0)


def test_a_missing_prediction_is_no_refusal(monkeypatch):
    """The guardrails have a limit of their own for predictions that are not finite; the champion answers instead."""
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=300, window=HOLDOUT))
    champion, challenger = register(make_config(), "one"), register(make_config(), "two", turn=-1.0)
    predict = trial.try_predict_rows

    def sometimes(version, rows, estimator):
        found = predict(version, rows, estimator)
        found[:1], found[1:2] = np.nan, 1.5
        return found

    monkeypatch.setattr(trial, "try_predict_rows", sometimes)
    split = TrafficSplit(config.name, "1", "2", "canary", 1.0, step="canary 1")
    with disable_run_logger():
        scoring = score_window.fn(config, snapshot, champion, split, challenger)
    logged = lake.read_predictions(config, HOLDOUT).to_pandas()
    tried = logged[logged["role"] == "challenger"]
    assert tried["error"].value_counts().to_dict() == {MISSING_PREDICTION: 2, NOT_A_PROBABILITY: 2}, "two batches"
    assert tried["error"][tried["prediction"].isna()].unique().tolist() == [MISSING_PREDICTION]
    assert int((logged["role"] == "champion").sum()) == 4
    assert (scoring.latency.batches, scoring.challenger.latency.batches) == (1, 2)


@pytest.mark.parametrize("rows", [1, 700])
@pytest.mark.parametrize("slow", [False, True])
def test_a_slow_challenger_is_found_in_one_window_of_any_size(monkeypatch, rows, slow):
    """A batch model has one batch of 256 rows a window, or a few; both versions are timed on 20 smaller ones."""
    config = make_config()
    snapshot = lake.land_rows(config, HOLDOUT, make_rows(rows=rows, window=HOLDOUT))
    champion, challenger = register(make_config(), "one"), register(make_config(), "two", turn=-1.0)
    predict, sizes = trial.try_predict_rows, []

    def slowly(version, rows, estimator):
        sizes.append(len(rows))
        if slow and version.version == "2":
            sleep(0.2)
        return predict(version, rows, estimator)

    monkeypatch.setattr(trial, "try_predict_rows", slowly)
    split = TrafficSplit(config.name, "1", "2", "shadow", step="shadow")
    with disable_run_logger():
        scoring = score_window.fn(config, snapshot, champion, split, challenger)
    assert sizes[-40:] == [max(1, rows // 20)] * 40
    compared = scoring.challenger.compared
    assert (len(compared.champion), len(compared.challenger)) == (20, 20)
    assert from_json(Scoring, to_json(scoring)) == scoring
    validation = ValidationReport("2", "1", "pass", (), (), 1000)
    found = judge_guardrails(Guardrails(), measure_answers(config, HOLDOUT, validation, compared))
    assert [breach.guardrail for breach in found if breach.guardrail == "latency"] == ["latency"] * slow


def test_units_of_a_part_of_the_id_stay_with_one_version():
    """A customer of a composite id is stored, so that the split can be followed and judged by customer."""
    features = {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]}
    columns = {"id": ["customer", "id"], "time": "time", "label": "label", "features": features}
    config = make_config(columns=columns, rollout={"unit": "customer"})
    rows = make_rows(rows=600, window=HOLDOUT, seed=3)
    rows = rows.append_column("customer", pa.array([f"c{row % 40}" for row in range(600)]))
    snapshot = lake.land_rows(config, HOLDOUT, rows)
    champion, challenger = register(make_config(), "one"), register(make_config(), "two", turn=-1.0)
    split = TrafficSplit(config.name, "1", "2", "canary", 0.5, "customer", "salt", "canary 50 %")
    with disable_run_logger():
        scoring = score_window.fn(config, snapshot, champion, split, challenger)
    log = lake.read_predictions(config, HOLDOUT)
    versions: dict[str, set[str]] = {}
    for key, version in zip(log["id"].to_pylist(), log["model_version"].to_pylist(), strict=True):
        versions.setdefault(key.split("+")[0].strip('["'), set()).add(version)
    assert {len(each) for each in versions.values()} == {1}
    assert set(log["unit"].to_pylist()) == {f"c{number}" for number in range(40)}
    assert 0 < scoring.challenger.rows < 600
    assert {version for each in versions.values() for version in each} == {"1", "2"}
