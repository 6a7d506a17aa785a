"""Training a challenger from the lake: once per decision, and refused on unusable rows."""

import json
from datetime import timedelta
from pathlib import Path

import great_expectations as gx
import pyarrow as pa
import pytest
from prefect import flow, task
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.gates.expectation_suite import learned_suite
from tasks.adapters.lake.schemas import sort_labels
from tasks.adapters.orchestration.retry_conditions import is_transient
from tasks.adapters.registry import version_files
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.errors import NoChampion, RegistryError, TrainingRefused
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import Snapshot
from tasks.training.train import train_challenger
from tests.support.trained_models import TRAINING, land, make_config, make_rows, prepare_registry


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def train(config: ModelConfig, snapshot: Snapshot, decision_id: str = "d1") -> ModelVersion:
    with disable_run_logger():
        return train_challenger.fn(config, snapshot, decision_id)


def with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_challenger_of_each_task_is_trained(task):
    config = make_config(task)
    snapshot = land(config, TRAINING, make_rows(task))
    version = train(config, snapshot)
    assert (version.version, version.trained, version.training_rows) == ("1", TRAINING, 1000)
    assert registry.aliases(config.name) == {"challenger": "1"}
    assert version_files.reference_profile(version).content_hash == snapshot.content_hash
    sample = version_files.coded_rows(version)
    assert set(sample.codes) == {one.feature for one in version_files.reference_profile(version).features} and len(
        sample
    )


def test_version_stores_the_learned_suite():
    config = make_config()
    version = train(config, land(config, TRAINING, make_rows()))
    stored = version_files.expectation_suite(version)
    assert stored == learned_suite(config, version_files.reference_profile(version))
    suite = gx.ExpectationSuite(**json.loads(stored))
    assert {one.column for one in suite.expectations if hasattr(one, "column")} >= {*config.columns.features.names}


def test_training_is_idempotent_per_decision():
    config = make_config()
    snapshot = land(config, TRAINING, make_rows())
    first = train(config, snapshot)
    assert train(config, snapshot) == first
    assert train(config, snapshot, "d2").version == "2"


def test_serving_version_does_not_become_challenger():
    config = make_config()
    snapshot = land(config, TRAINING, make_rows())
    version = train(config, snapshot)
    registry.set_aliases(config.name, {"champion": "1", "challenger": None})
    registry.tag(config.name, "1", status="champion")
    assert train(config, snapshot).version == version.version
    assert registry.aliases(config.name) == {"champion": "1"}


@pytest.mark.parametrize(("rows", "refused"), [(200, False), (199, True)])
def test_too_few_labelled_rows_are_refused(rows, refused):
    config = make_config()
    snapshot = land(config, TRAINING, make_rows(rows=rows))
    if not refused:
        assert train(config, snapshot).training_rows == rows
        return
    with pytest.raises(TrainingRefused, match=r"199 labelled rows, expected at least 200 \(training\.min_rows\)"):
        train(config, snapshot)
    assert registry.aliases(config.name) == {}


def test_unknown_labels_are_not_trained_on():
    config = make_config()
    lake.land_rows(config, TRAINING, make_rows())
    snapshot = lake.labelled_snapshot(config, TRAINING, TRAINING.end)
    with pytest.raises(TrainingRefused, match="no row has a label in label"):
        train(config, snapshot)


def test_all_null_label_is_refused():
    config = make_config()
    rows = with_column(make_rows(), "label", pa.nulls(1000, pa.int64()))
    with pytest.raises(TrainingRefused, match="no row has a label"):
        train(config, land(config, TRAINING, rows))


@pytest.mark.parametrize(("task", "value"), [("binary", 1), ("multiclass", "only")])
def test_single_class_is_refused(task, value):
    config = make_config(task)
    rows = with_column(make_rows(task), "label", pa.array([value] * 1000))
    with pytest.raises(TrainingRefused, match="a single class in these rows, expected at least 2"):
        train(config, land(config, TRAINING, rows))


def test_constant_label_is_refused():
    config = make_config("regression")
    rows = with_column(make_rows("regression"), "label", pa.array([3.0] * 1000))
    with pytest.raises(TrainingRefused, match="same value in all rows"):
        train(config, land(config, TRAINING, rows))


def test_infinite_labels_are_refused():
    config = make_config("regression")
    rows = make_rows("regression")
    labels = [float("inf"), *rows.column("label").to_pylist()[1:]]
    with pytest.raises(TrainingRefused, match="1 values that are not finite"):
        train(config, land(config, TRAINING, with_column(rows, "label", pa.array(labels))))


def test_label_in_two_units_is_refused_until_accepted():
    config = make_config("regression")
    rows = make_rows("regression")
    labels = rows.column("label").to_numpy().copy()
    labels[700:] *= 1000
    landed = land(config, TRAINING, with_column(rows, "label", pa.array(labels)))
    with pytest.raises(TrainingRefused, match=r"label label jumped at about 2024-02-.*, as if its unit changed"):
        train(config, landed)
    accepted = make_config("regression", quality={"labels": {"on_unit_change": "warn"}})
    assert train(accepted, landed).version == "1"


def test_refusal_explains_class_spelled_like_missing():
    config = make_config("binary")
    rows = make_rows("binary")
    rows = with_column(rows, "label", pa.array(["None" if label else "some" for label in rows["label"].to_pylist()]))
    landed = land(config, TRAINING, rows)
    lake.land_label_faults(config, TRAINING, *sort_labels(config, rows, "test"), landed.as_of)
    with pytest.raises(
        TrainingRefused, match=r"'None' \d+ times count as missing; if one is a class, list the classes"
    ):
        train(config, landed)


@pytest.mark.parametrize(("unusable", "refused"), [(20, False), (200, True)])
def test_too_many_unusable_labels_are_refused(unusable, refused):
    config = make_config("binary", columns=make_config().columns.model_dump() | {"classes": ["0", "1"]})
    rows = make_rows("binary")
    texts = ["pending"] * unusable + [str(label) for label in rows["label"].to_pylist()[unusable:]]
    rows = with_column(rows, "label", pa.array(texts))
    landed = land(config, TRAINING, rows)
    lake.land_label_faults(config, TRAINING, *sort_labels(config, rows, "test"), landed.as_of)
    if not refused:
        assert train(config, landed).training_rows == 980
        return
    with pytest.raises(
        TrainingRefused, match=r"200 of 1,000 labels in label cannot be used \(200 not in columns.classes"
    ):
        train(config, landed)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_feature_equal_to_label_is_named(task):
    config = make_config(task)
    rows = make_rows(task)
    leaking = with_column(rows, "noise", rows.column("label").cast(pa.float64()))
    with pytest.raises(TrainingRefused, match="noise determines the label"):
        train(config, land(config, TRAINING, leaking))
    assert registry.find(config.name, "d1") is None


def test_all_null_and_constant_features_still_train():
    config = make_config()
    rows = with_column(make_rows(), "noise", pa.nulls(1000, pa.float64()))
    rows = with_column(rows, "flag", pa.array([True] * 1000))
    version = train(config, land(config, TRAINING, rows))
    importance = version_files.feature_importance(version)
    assert (importance["noise"], importance["flag"]) == (0.0, 0.0)


def test_outage_is_retried_but_refusal_is_not():
    from prefect.states import Failed

    def state_of(error: Exception):
        return Failed(message="failed", data=error)

    assert not is_transient(None, None, state_of(TrainingRefused("too few rows")))
    assert is_transient(None, None, state_of(ConnectionError("reset")))
    assert is_transient(None, None, state_of(RegistryError("gone for a moment")))
    assert not is_transient(None, None, state_of(NoChampion("never there")))


def test_training_uses_labels_known_at_as_of():
    """Labels known after `as_of` are not used: no look-ahead."""
    config = make_config()
    early = make_rows(rows=600)
    land(config, TRAINING, early)
    snapshot = lake.labelled_snapshot(config, TRAINING, TRAINING.start + timedelta(days=30))
    assert train(config, snapshot).training_rows == snapshot.labelled_rows < 600


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("error", "attempts"), [(TrainingRefused("too few rows"), 1), (ConnectionError("reset"), 2)])
def test_task_in_a_flow_retries_only_outages(error, attempts):
    calls = []

    @task(retries=1, retry_delay_seconds=0, retry_condition_fn=is_transient)
    def fail() -> None:
        calls.append(1)
        raise error

    @flow(name="fails")
    def run() -> None:
        fail()

    with pytest.raises(type(error)):
        run()
    assert len(calls) == attempts


def test_checkpoints_last_until_the_version_is_registered(monkeypatch):
    config = make_config(training={"min_rows": 200, "parameters": {"n_estimators": 12}, "checkpoint_seconds": 0.0})
    snapshot = land(config, TRAINING, make_rows())
    lake_folder = Path(workspace().table(config.name, "checkpoints"))

    def fail(*_: object) -> None:
        assert sorted(path.name for path in lake_folder.rglob("*") if path.is_file()) == [
            "early-stopping-0-150",
            "final-fit",
        ]
        raise RegistryError("the registry is away")

    with monkeypatch.context() as patch, pytest.raises(RegistryError):
        patch.setattr("tasks.adapters.registry.registration.register", fail)
        train(config, snapshot)
    assert lake_folder.exists()
    continued = train(config, snapshot)
    assert not lake_folder.exists()
    assert continued.sha256 == train(config, snapshot, "d2").sha256


def test_external_memory_registers_the_same_model():
    settings = {"min_rows": 200, "parameters": {"n_estimators": 12}}
    snapshot = land(make_config(), TRAINING, make_rows())
    in_memory = train(make_config(training=settings), snapshot)
    external = train(make_config(training={**settings, "engine": "external"}), snapshot, "d2")
    assert external.sha256 == in_memory.sha256
    assert version_files.reference_profile(external) == version_files.reference_profile(in_memory)


def test_a_replay_writes_no_checkpoints(monkeypatch):
    config = make_config(training={"min_rows": 200, "checkpoint_seconds": 0.0})
    snapshot = land(config, TRAINING, make_rows())
    monkeypatch.setattr("tasks.adapters.orchestration.runs.run_mode", lambda: RunMode.REPLAY)
    monkeypatch.setattr("tasks.adapters.checkpoints.store.CheckpointStore.put", lambda *_: pytest.fail("written"))
    assert train(config, snapshot).version == "1"
