"""The same model from rows in memory, in external memory and, nearly, on a Dask cluster; each asks for what it needs."""

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from xgboost import Booster

from deployments.config.blocks.training import Training
from tasks.adapters import lake
from tasks.adapters.checkpoints.store import CheckpointStore
from tasks.adapters.checkpoints.training import TrainingCheckpoints
from tasks.adapters.engines import dask_cluster, device, external_memory, mapped_rows
from tasks.adapters.engines.row_batches import Engine, RowBatches
from tasks.adapters.models import estimators
from tasks.adapters.models.estimators import FitPlan
from tasks.adapters.orchestration.server import free_port
from tasks.adapters.storage.workspace import workspace as places
from tasks.policy.records.base import Window
from tasks.policy.records.errors import EstimatorError, LakeError
from tests.support.landed_model import CONFIG, DAY, SECOND, labels
from tests.support.monitored_model import WINDOW, model, rows as monitored_rows
from tests.support.trained_models import make_config, make_rows

SAMPLED = {"n_estimators": 15, "max_depth": 3, "subsample": 0.7, "colsample_bytree": 0.7}
EXTERNAL = Engine("binary_model", "external")


@pytest.fixture
def _small_batches(monkeypatch):
    monkeypatch.setattr("tasks.adapters.engines.row_batches.ROWS_PER_BATCH", 300)


def booster(fitted) -> bytes:
    return bytes(fitted.scorer.estimator.get_booster().save_raw("ubj"))


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_external_memory_gives_the_model_of_memory(task):
    config = make_config(task, training={"parameters": {"n_estimators": 40, "max_depth": 3}, "min_rows": 200})
    for rows in (
        make_rows(task),
        pa.concat_tables([make_rows(task).slice(0, 850), make_rows(task, turn=-1).slice(850)]),
    ):
        memory, external = estimators.fit(config, rows), estimators.fit(config, rows, plan=FitPlan(engine=EXTERNAL))
        assert (external.rounds, external.remarks, external.fitted_rows) == (
            memory.rounds,
            memory.remarks,
            memory.fitted_rows,
        )
        np.testing.assert_allclose(external.scorer.predict(rows), memory.scorer.predict(rows), atol=0.01)
        assert external.metrics == pytest.approx(memory.metrics, abs=0.01)
    assert list(places().home.glob("external-*")) == []


@pytest.mark.usefixtures("_small_batches")
def test_external_memory_continues_from_a_checkpoint(monkeypatch):
    config, rows = make_config(training={"parameters": SAMPLED, "min_rows": 200}), make_rows()

    def fit(decision_id: str) -> bytes:
        checkpoints = TrainingCheckpoints(CheckpointStore(config.name, decision_id), "hash", 0.0)
        return booster(estimators.fit(config, rows, plan=FitPlan(checkpoints=checkpoints, engine=EXTERNAL)))

    update, counted, ends = Booster.update, [], []

    def counting(self, dtrain, iteration, fobj=None):
        update(self, dtrain, iteration, fobj)
        counted.append(iteration)
        if len(counted) in ends:
            raise KeyboardInterrupt

    monkeypatch.setattr(Booster, "update", counting)
    undisturbed, rounds = fit("undisturbed"), len(counted)
    ends += [rounds + 9, rounds + 20]  # in early stopping, and in the final fit
    for _ in ends:
        with pytest.raises(KeyboardInterrupt):
            fit("interrupted")
    assert fit("interrupted") == undisturbed
    assert len(counted) == 2 * rounds + 1, (
        "a round whose loss is not measured yet is repeated; the final fit measures none"
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise, which is ignored where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_while_rows_are_read_is_not_their_end():
    """XGBoost's callback loses exceptions that are not of type Exception, and takes the rows so far for all rows."""

    def end(_: pa.Table) -> np.ndarray:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal's handler raises before")

    rows = RowBatches(make_rows(), np.zeros(1000), np.ones(1000, bool), end, EXTERNAL)
    with pytest.raises(KeyboardInterrupt), external_memory.cache_folder() as folder:
        external_memory.matrices(folder, rows, None, {}, None)


def land_two_windows() -> None:
    """Land two windows whose labels are partly unknown, the later one first, each with a column that the other lacks."""
    for window, seed, extra in ((SECOND, 1, "channel"), (WINDOW, 0, "shop")):
        config = model(columns={"label_delay_hours": 24, "protected": [extra]})
        lake.land_rows(config, window, monitored_rows(500, seed, window).append_column(extra, pa.array(["a"] * 500)))
        ids = [f"{seed}-{number}" for number in range(0, 500, 2)]
        known = labels(ids, [number % 2 for number in range(250)], [window.end] * 250, window.start)
        lake.land_labels(CONFIG, known, window.end)


@pytest.mark.parametrize("start", [WINDOW.start, WINDOW.start + DAY])
def test_mapped_rows_are_the_labelled_rows(start):
    land_two_windows()
    snapshot = lake.labelled_snapshot(CONFIG, Window(start, SECOND.end - DAY), SECOND.end)
    with mapped_rows.map_labelled(snapshot) as mapped:
        expected = lake.read_labelled(snapshot)
        assert mapped.num_rows > 300
        assert mapped.equals(expected.select(mapped.column_names))
        assert set(mapped.column_names) == set(expected.column_names)
    assert list(places().home.glob("rows-*")) == []


def test_overlapping_windows_are_refused():
    lake.land_rows(CONFIG, WINDOW, monitored_rows(50))
    lake.land_rows(CONFIG, Window(WINDOW.start + DAY, SECOND.end), monitored_rows(50, 1, SECOND))
    snapshot = lake.labelled_snapshot(CONFIG, Window(WINDOW.start, SECOND.end), SECOND.end)
    with pytest.raises(LakeError, match=r"overlap.*training.engine: memory"), mapped_rows.map_labelled(snapshot):
        pass


@pytest.mark.usefixtures("_small_batches")
def test_a_dask_cluster_trains_nearly_the_same_model(monkeypatch):
    from distributed import LocalCluster  # takes a second, and only this test needs it

    config = make_config(training={"parameters": {"n_estimators": 20, "max_depth": 3}, "min_rows": 200})
    rows = make_rows()
    memory = estimators.fit(config, rows)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        monkeypatch.setenv("OUR_SCHEDULER", cluster.scheduler_address)
        trained = estimators.fit(config, rows, plan=FitPlan(engine=Engine("binary_model", "dask", "OUR_SCHEDULER")))
    difference = np.abs(trained.scorer.predict(rows) - memory.scorer.predict(rows))
    assert difference.mean() < 0.02
    assert trained.metrics["log_loss"] == pytest.approx(memory.metrics["log_loss"], abs=0.02)


@pytest.mark.parametrize("check", [True, False])
def test_a_scheduler_that_is_not_there_is_refused(monkeypatch, check):
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    config = make_config(training={"engine": "dask", "dask_scheduler": address, "min_rows": 200})
    with pytest.raises(
        EstimatorError, match=f"binary_model: training.dask_scheduler: no Dask scheduler answers at {address}"
    ):
        if check:
            estimators.try_out(config)
        else:
            estimators.fit(config, make_rows(), plan=FitPlan(engine=Engine(config.name, "dask", address)))


def test_an_environment_variable_that_is_not_set_is_refused():
    with (
        pytest.raises(EstimatorError, match="the environment variable OUR_SCHEDULER is not set"),
        dask_cluster.connected(Engine("churn", "dask", "OUR_SCHEDULER")),
    ):
        pass


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a CUDA device")
def test_a_missing_gpu_is_refused():
    config = make_config(training={"device": "cuda", "min_rows": 200})
    for attempt in (lambda: estimators.try_out(config), lambda: estimators.fit(config, make_rows())):
        with pytest.raises(EstimatorError, match=r"training.device is cuda, found .* no CUDA device on this machine"):
            attempt()
    device.require("cpu", "churn")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"engine": "external", "estimator": "sklearn.linear_model:LogisticRegression"},
            "expected it with XGBoost alone",
        ),
        ({"engine": "external", "pipeline": "shop.churn:build"}, "expected it with XGBoost alone"),
        ({"engine": "external", "function": "shop.churn:fit"}, "expected it with XGBoost alone"),
        ({"engine": "external", "estimator": "xgboost:XGBRFClassifier"}, "expected it with XGBoost alone"),
        ({"engine": "dask"}, "expected both engine: dask and the address of its scheduler"),
        ({"dask_scheduler": "tcp://10.0.0.5:8786"}, "expected both engine: dask and the address of its scheduler"),
        ({"device": "cuda", "estimator": "lightgbm:LGBMClassifier"}, "expected it with XGBoost"),
        ({"device": "cuda", "command": ["python", "train.py"]}, "expected it with XGBoost"),
    ],
)
def test_only_xgboost_has_engines_and_devices(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        Training.model_validate(settings)


def test_xgboost_may_be_named():
    for settings in ({"engine": "external"}, {"device": "cuda"}):
        assert Training.model_validate({**settings, "estimator": "xgboost:XGBClassifier"}).model_dump()["seed"] == 7
    assert "engine" not in Training().model_dump()
    assert "checkpoint_seconds" not in Training().model_dump()


def test_snapshot_without_a_label_in_its_span_is_read_as_it_was_taken():
    """Only the second window has labels, and none of its rows lie in the span, which ends a moment after the first."""
    lake.land_rows(CONFIG, WINDOW, monitored_rows(500, 0, WINDOW))
    later = Window(SECOND.start + timedelta(hours=1), SECOND.end)
    lake.land_rows(CONFIG, SECOND, monitored_rows(500, 1, later))
    known = labels([f"1-{number}" for number in range(500)], [1] * 500, [SECOND.end] * 500, later.start)
    lake.land_labels(CONFIG, known, SECOND.end)
    snapshot = lake.labelled_snapshot(CONFIG, Window(WINDOW.start, SECOND.start + timedelta(minutes=1)), SECOND.end)
    assert (snapshot.rows, snapshot.labelled_rows) == (500, 0)
    assert lake.read_labelled(snapshot).num_rows == 0


@pytest.mark.parametrize("values", [[1, 0], ["yes", "no"]])
def test_labels_keep_their_type_where_the_window_that_they_lie_under_is_left_out(values):
    """A label lies under the first window of its time, also once a longer one holds the same rows."""
    wide = Window(WINDOW.start, SECOND.end)
    for window in (WINDOW, wide):
        lake.land_rows(CONFIG, window, monitored_rows(3, 0, WINDOW))
    lake.land_labels(CONFIG, labels(["0-0", "0-1"], values, [WINDOW.end] * 2, WINDOW.start), SECOND.end)
    for excluded in (WINDOW.name, wide.name):
        snapshot = lake.labelled_snapshot(CONFIG, wide, SECOND.end, [excluded])
        label = lake.read_labelled(snapshot).column(-1)
        assert label.type == pa.array(values).type
        assert sorted(label.to_pylist(), key=str) == sorted(values, key=str)
