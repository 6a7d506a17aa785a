"""Performance of served windows in a real lake as labels arrive: late, in part, for two versions."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.monitoring.performance import describe, measure_performance
from tasks.policy.evidence.monitoring import History
from tasks.policy.records.base import Window, from_json, to_json
from tasks.policy.records.reports import Latency, PerformanceReport
from tests.support.monitor_runs import run_of
from tests.support.small_model import rows, write_model
from tests.support.trained_models import prepare_registry

pytestmark = pytest.mark.usefixtures("quiet")
HOURS = timedelta(hours=1)


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    """Return a model with windows of 2 days and 300 rows and labels 12 hours late: a window is 75 % labelled at its end."""
    return load_model_config(write_model(tmp_path / "small"))


def serve(
    config: ModelConfig, window: Window, off_by: float | Callable[[pa.Table], np.ndarray], version: str = "1"
) -> None:
    """Store the window's rows and predictions with an error of `off_by`."""
    table = lake.read_rows(take_snapshot.fn(config, window))
    truth = rows().set_index("row").loc[table["row"].to_pylist(), "y"].to_numpy()
    predicted = off_by(table) if callable(off_by) else truth + off_by
    served = pa.table({"id": table["row"], "time": table["at"], "prediction": pa.array(predicted, pa.float64())})
    lake.land_predictions(config, window, version, served)


def measure(config: ModelConfig, window: Window, as_of: datetime, history=None, latency=None, champion=None):
    land_labels.fn(config, as_of)
    return measure_performance.fn(config, run_of(window, as_of, history, champion), latency)


def test_window_closes_when_no_label_is_due(config):
    window = config.windows()[0]
    serve(config, window, off_by=0.5)
    (early,) = measure(config, window, window.end)
    assert (early.rows, early.labelled_rows, early.maturity) == (300, 226, "maturing")
    assert [metric.name for metric in early.metrics] == ["mae", "rmse", "pinball"]
    assert early.metric("mae").value == pytest.approx(0.5)
    assert early.metric("pinball").value == pytest.approx(0.25)
    (late,) = measure(config, window, window.end + 12 * HOURS)
    assert (late.labelled_rows, late.maturity, late.completeness) == (300, "closed", 1.0)
    assert late.confidence_histogram == ()
    assert from_json(PerformanceReport, to_json(late)) == late


def test_missing_labels_do_not_keep_a_window_open(tmp_path):
    table = rows()
    cancelled = table.index % 3 == 0
    config = load_model_config(write_model(tmp_path / "small", table.assign(y=table["y"].mask(cancelled))))
    window = config.windows()[0]
    serve(config, window, off_by=0.5)
    (report,) = measure(config, window, window.end + 11 * HOURS)
    assert (report.labelled_rows, report.maturity) == (200 - 4, "maturing")
    (report,) = measure(config, window, window.end + 12 * HOURS)
    assert (report.labelled_rows, report.maturity) == (200, "closed")


def test_window_closes_when_labels_with_own_time_have_arrived(tmp_path):
    """Labels 5 to 12 days after their row: windows of 2 days used to close for good with no labels."""
    table = rows()
    came = table["at"] + pd.to_timedelta(np.random.default_rng(0).uniform(5, 12, len(table)), unit="D")
    own_time = {"label_delay_hours: 12": "label_time: came"}
    config = load_model_config(write_model(tmp_path / "small", table.assign(came=came), **own_time))
    window = config.windows()[0]
    serve(config, window, off_by=0.5)
    found = [measure(config, window, window.end + days * 24 * HOURS)[0] for days in (2, 11, 12)]
    assert [report.maturity for report in found] == ["open", "maturing", "closed"]
    assert (found[0].labelled_rows, found[2].labelled_rows) == (0, 300)
    empty = table.assign(came=came, y=table["y"].mask(table.index % 3 == 0))
    config = load_model_config(write_model(tmp_path / "other", empty, **own_time, **{"name: small": "name: other"}))
    serve(config, window, off_by=0.5)
    found = [measure(config, window, window.end + days * 24 * HOURS)[0] for days in (29, 30)]
    assert [(report.maturity, report.labelled_rows) for report in found] == [("maturing", 200), ("closed", 200)]


def test_nothing_is_measured_without_labels_or_predictions(config):
    window = config.windows()[0]
    take_snapshot.fn(config, window)
    (unserved,) = measure(config, window, window.end + 24 * HOURS)
    assert (unserved.rows, unserved.maturity, unserved.metrics, unserved.model_version) == (0, "open", (), "none")
    serve(config, window, off_by=0.5)
    (unlabelled,) = measure_performance.fn(config, run_of(window, window.start + HOURS))
    assert (unlabelled.rows, unlabelled.labelled_rows, unlabelled.maturity) == (300, 0, "open")
    assert describe(unlabelled) == "mae is not known yet (0 of 300 labels, open)"


def test_open_windows_are_measured_again_until_closed(config):
    first, second, third = config.windows()[:3]
    for window in (first, second, third):
        serve(config, window, off_by=0.5)
    (one,) = measure(config, first, first.end)
    two, *revised = measure(config, second, second.end, History(performances=(one,)))
    assert [(report.window, report.maturity) for report in revised] == [(first, "closed")]
    assert two.maturity == "maturing"
    history = History(performances=(one, two)).revised(revised)
    _, *revised = measure(config, third, third.end, history)
    assert [report.window for report in revised] == [second]  # the first is closed for good


def test_corrected_labels_update_a_closed_window_once(config, tmp_path):
    first, second, third, fourth = config.windows()[:4]
    for window in (first, second, third, fourth):
        serve(config, window, off_by=0.5)
    (one,) = measure(config, first, first.end + 12 * HOURS)
    two, *revised = measure(config, second, second.end, History(performances=(one,)))
    assert (one.maturity, revised) == ("closed", [])
    table = rows()
    inside = (table["at"] >= first.start) & (table["at"] < first.end)
    table.assign(y=table["y"].where(~inside, table["y"] - 1.0)).to_parquet(tmp_path / "small" / "rows.parquet")
    three, *revised = measure(config, third, third.end, History(performances=(one, two)))
    assert [(report.window, report.maturity, report.labelled_rows) for report in revised][:1] == [
        (first, "closed", 300)
    ]
    assert revised[0].metric("mae").value == pytest.approx(1.5)
    history = History(performances=(one, two, three)).revised(revised)
    assert first not in [report.window for report in measure(config, fourth, fourth.end, history)[1:]]


def test_shift_is_measured_from_best_closed_level(config):
    windows = config.windows()[:6]
    errors = (0.5, 0.52, 0.5, 0.52, 0.5, 1.5)
    history = History()
    for window, error in zip(windows, errors, strict=True):
        serve(config, window, off_by=lambda table, error=error: _spread(table, error))
        report, *revised = measure(config, window, window.end, history)
        history = History(performances=(*history.revised(revised).performances, report))
    known = [seen.baseline for seen in history.performances]
    assert known[:3] == [None, None, None]  # the third closes only after the fourth has begun
    assert report.baseline.value == pytest.approx(0.51, abs=0.02)
    assert report.baseline_window == f"{windows[0].start:%Y-%m-%d}..{windows[2].end:%Y-%m-%d}"
    assert report.shift_p_value < 1e-4
    assert history.performances[4].shift_p_value > 0.05
    assert "best past level 0.5" in describe(report)
    (waiting,) = measure_performance.fn(
        config, run_of(windows[5], windows[5].start + HOURS, History(performances=history.performances[:5]))
    )
    assert waiting.metrics == ()  # window noise is known before labels, for judging an estimate
    assert (waiting.noise, waiting.noise_windows) == (report.noise, 5)


def _spread(table: pa.Table, error: float) -> np.ndarray:
    """Return predictions whose errors alternate around ±error, so that the metric has an interval."""
    truth = rows().set_index("row").loc[table["row"].to_pylist(), "y"].to_numpy()
    sizes = np.random.default_rng(0).uniform(0.8, 1.2, len(truth)) * error
    return truth + np.where(np.arange(len(truth)) % 2, sizes, -sizes)


def test_metric_is_shown_by_slice(tmp_path):
    """Red rows have an error of 0.9 and the others of 0.3; purple has too few rows to be reported."""
    table = rows()
    table.loc[table.index % 100 == 0, "colour"] = "purple"
    config = load_model_config(
        write_model(
            tmp_path / "small",
            table,
            **{"metric: mae}": "metric: mae, slices: [colour]}", "days: 1.5,": "days: 1.5, slice_min_rows: 30,"},
        )
    )
    window = config.windows()[0]

    def predicted(served: pa.Table) -> np.ndarray:
        known = table.set_index("row").loc[served["row"].to_pylist()]
        return known["y"].to_numpy() + np.where(known["colour"] == "red", 0.9, 0.3)

    serve(config, window, predicted)
    (early,) = measure(config, window, window.end)
    (report,) = measure(config, window, window.end + 24 * HOURS)
    assert [item.name for item in report.slices] == ["colour=blue", "colour=green", "colour=red"]
    assert [item.value.value for item in report.slices] == pytest.approx([0.3, 0.3, 0.9])
    assert sum(item.value.rows for item in report.slices) == 297
    assert sum(item.value.rows for item in early.slices) < 226, "only of rows with a label"
    reds = report.slices[2].value.rows
    assert describe(report).endswith(f"; worst of 3 slices is colour=red: mae 0.9 (0.9 to 0.9) on {reds} rows")
    assert from_json(PerformanceReport, to_json(report)) == report


def test_report_without_slices_is_readable(config):
    window = config.windows()[0]
    serve(config, window, off_by=0.5)
    (report,) = measure(config, window, window.end)
    older = json.loads(to_json(report))
    assert older.pop("slices") == []
    assert from_json(PerformanceReport, json.dumps(older)) == report


def test_version_with_most_rows_is_measured(config):
    window = config.windows()[0]
    table = lake.read_rows(take_snapshot.fn(config, window))
    truth = rows().set_index("row").loc[table["row"].to_pylist(), "y"].to_numpy()
    for version, part, off_by in (("7", slice(0, 60), 3.0), ("6", slice(60, 300), 0.5)):
        served = {"id": table["row"][part], "time": table["at"][part], "prediction": pa.array(truth[part] + off_by)}
        lake.land_predictions(config, window, version, pa.table(served))
    (report,) = measure(config, window, window.end + 24 * HOURS)
    assert (report.model_version, report.rows) == ("6", 240)
    assert report.metric("mae").value == pytest.approx(0.5)


def test_latency_is_passed_through(config):
    window, latency = config.windows()[0], Latency(0.001, 0.002, 0.003, 200.0)
    serve(config, window, off_by=0.5)
    assert measure(config, window, window.end, latency=latency)[0].latency == latency


def test_later_labels_change_nothing(config):
    window = config.windows()[0]
    serve(config, window, off_by=0.5)
    before = measure(config, window, window.end)
    land_labels.fn(config, window.end + 24 * HOURS)
    assert measure_performance.fn(config, run_of(window, window.end)) == before


@pytest.mark.parametrize(
    ("task", "classes", "texts"),
    [("binary", ("no", "yes"), ("no", "yes")), ("multiclass", ("low", "middle", "high"), ("low", "middle", "high"))],
)
def test_labels_follow_the_versions_class_order(tmp_path, workspace, task, classes, texts):
    report = sure_and_right(tmp_path, workspace, task, classes, texts)
    assert report.metric("accuracy").value == 1.0
    assert report.metric("roc_auc").value == 1.0
    assert report.metric("log_loss").value == pytest.approx(-np.log(0.7 + 0.3 / len(classes)))
    assert sum(report.confidence_histogram) == pytest.approx(1.0)


def test_unseen_class_is_a_miss(tmp_path, workspace):
    """Four alternating classes, of which the version knows three: it is right three times in four."""
    known = ("low", "middle", "high")
    report = sure_and_right(tmp_path, workspace, "multiclass", known, (*known, "brand new"))
    assert (report.rows, report.labelled_rows) == (300, 300)
    assert report.metric("accuracy").value == 0.75
    assert report.metric("log_loss").value > 5


def test_auc_needs_two_rows_per_class(tmp_path, workspace):
    report = sure_and_right(tmp_path, workspace, "binary", ("no", "yes"), ("yes", *["no"] * 299))
    assert report.metric("roc_auc") is None
    assert report.metric("log_loss") is not None


def test_third_class_is_a_miss_in_binary_tasks(tmp_path, workspace):
    """Three alternating labels, of which the version knows two; codes 0, 1, 2 are predicted no, yes, no."""
    report = sure_and_right(tmp_path, workspace, "binary", ("no", "yes"), ("no", "yes", "maybe"))
    assert (report.rows, report.labelled_rows, report.maturity) == (300, 300, "closed")
    assert report.metric("accuracy").value == pytest.approx(2 / 3)
    assert report.metric("log_loss").value > 10
    assert report.confidence_histogram[-1] == 0.0, "predictions are unchanged"


def sure_and_right(
    tmp_path: Path, workspace: Path, task: str, classes: tuple[str, ...], texts: tuple[str, ...]
) -> PerformanceReport:
    """Measure a version that gives the true class 0.7 more than the others, if it knows it."""
    prepare_registry(workspace)
    table = rows()
    codes = np.arange(len(table)) % len(texts)
    path = write_model(
        tmp_path / "small",
        table.assign(y=np.array(texts)[codes]),
        **{
            "task: regression": f"task: {task}",
            "metric: mae}": "metric: log_loss}",
            "metric: mae,": "metric: log_loss,",
        },
    )
    config = load_model_config(path)
    client = registry.client()
    client.create_registered_model("small")
    client.create_model_version("small", str(tmp_path), tags={"classes": json.dumps(classes)})
    window = config.windows()[0]
    snapshot_rows = lake.read_rows(take_snapshot.fn(config, window))
    code_of = dict(zip(table["row"], codes, strict=True))
    answers = [code_of[row] % len(classes) for row in snapshot_rows["row"].to_pylist()]
    right = np.eye(len(classes))[answers] * 0.7 + 0.3 / len(classes)
    predicted = pa.array(right[:, 1]) if task == "binary" else pa.array(list(right))
    served = pa.table({"id": snapshot_rows["row"], "time": snapshot_rows["at"], "prediction": predicted})
    lake.land_predictions(config, window, "1", served)
    (report,) = measure(config, window, window.end + 24 * HOURS)
    return report


def test_early_labels_of_one_class_are_not_representative(tmp_path):
    """Positives are known the next day, negatives after nine: judged on the first labels, a sound model looks broken."""
    table = rows()
    late = table["y"] < 0
    came = table["at"] + pd.to_timedelta(np.where(late, 9.0, 1.0), unit="D")
    own_time = {"label_delay_hours: 12": "label_time: came\n  label_delay_hours: 0"}
    config = load_model_config(write_model(tmp_path, table.assign(came=came), **own_time))
    window = config.windows()[0]
    take_snapshot.fn(config, config.history())
    serve(config, window, off_by=0.5)
    first, closed = (measure(config, window, window.end + days * 24 * HOURS)[0] for days in (2, 9))
    assert (first.maturity, first.labelled_rows, first.metrics) == ("open", 0, ())
    assert (closed.maturity, closed.labelled_rows) == ("closed", 300)
