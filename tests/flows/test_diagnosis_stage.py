"""The label-free estimate and the diagnosis, on a served model in a real lake."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.monitoring.diagnosis import diagnose_window, estimate_performance
from tasks.monitoring.performance import measure_performance
from tasks.policy.evidence.monitoring import History, WindowEvidence
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import QualityReport
from tests.support.monitor_runs import run_of
from tests.support.small_model import rows, write_model

pytestmark = pytest.mark.usefixtures("quiet")
CHAMPION = ModelVersion("small", "1", "", "d1", Window(utc("2024-01-01"), utc("2024-01-19")), 2700, "")


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    return load_model_config(write_model(tmp_path / "small"))


def serve(config: ModelConfig, window: Window, error: float = 0.5) -> None:
    """Log predictions with alternating errors of ±error."""
    table = lake.read_rows(take_snapshot.fn(config, window))
    truth = rows().set_index("row").loc[table["row"].to_pylist(), "y"].to_numpy()
    sign = np.where(np.arange(len(truth)) % 2, 1, -1)
    served = {"id": table["row"], "time": table["at"], "prediction": pa.array(truth + sign * error)}
    lake.land_predictions(config, window, "1", pa.table(served))


def judged(config: ModelConfig, errors: list[float]) -> tuple[WindowEvidence, History, Window]:
    """Serve windows with these errors, close all but the last; return the evidence of the last."""
    history, windows = History(), config.windows()[: len(errors)]
    for window, error in zip(windows, errors, strict=True):
        serve(config, window, error)
        land_labels.fn(config, window.end)
        report, *revised = measure_performance.fn(config, run_of(window, window.end, history))
        history = History(performances=(*history.revised(revised).performances, report))
    last = windows[-1]
    passed = QualityReport(last, "pass", report.rows, (), 0, ())
    earlier = replace(history, performances=history.performances[:-1])
    return WindowEvidence(last, report.rows, passed, None, report), earlier, last


def test_loss_is_estimated_without_labels_of_the_window(config):
    _, history, window = judged(config, [0.5] * 5)
    estimate = estimate_performance(config, window, history.performances, window.end)
    assert estimate.estimated
    assert estimate.name == "mae"
    assert estimate.value == pytest.approx(0.5, abs=0.02)


def test_no_estimate_before_a_window_has_closed(config):
    _, _, window = judged(config, [0.5])
    assert estimate_performance(config, window, (), window.end) is None


def test_unexplained_loss_is_concept_drift(config):
    evidence, history, window = judged(config, [0.5, 0.52, 0.5, 0.52, 0.5, 3.0])
    found = diagnose_window.fn(config, run_of(window, window.end, history, CHAMPION), evidence)
    assert found.kind == "concept_drift"
    assert found.estimate.value.value < 1


def test_stable_model_has_no_diagnosis(config):
    evidence, history, window = judged(config, [0.5, 0.52, 0.5, 0.52, 0.5, 0.51])
    assert diagnose_window.fn(config, run_of(window, window.end, history, CHAMPION), evidence).kind == "none"


def test_failed_window_is_a_fault_and_not_measured(config):
    window = config.windows()[0]
    failed = QualityReport(window, "fail", 300, (), 300, ("x is all null",))
    found = diagnose_window.fn(
        config, run_of(window, window.end, History(), CHAMPION), WindowEvidence(window, 300, failed)
    )
    assert (found.kind, found.reasons, found.estimate) == ("upstream_data_fault", ("x is all null",), None)


def test_estimate_is_shown_with_its_measured_error(config):
    """Two estimated windows closed at 0.5 and 2.5; the third has no labels yet, so the estimate is judged."""
    evidence, history, window = judged(config, [0.5, 0.5, 0.5, 2.5, 0.5])
    before = config.windows()[1:4]
    estimates = tuple(
        (one, estimate_performance(config, one, history.performances[: 1 + place], one.end))
        for place, one in enumerate(before)
    )
    waiting = replace(evidence, performance=replace(evidence.performance, maturity="open", metrics=()))
    found = diagnose_window.fn(
        config, run_of(window, window.end, replace(history, estimates=estimates), CHAMPION), waiting
    )
    closed = [report for report in history.performances[1:] if report.maturity == "closed"]
    assert found.estimate.error.windows == len(closed) > 0
    assert found.estimate.value.estimated
    assert found.explanations[0].startswith("mae is estimated without labels at")
    assert "mean absolute error" in found.explanations[0]
    again = diagnose_window.fn(
        config, run_of(window, window.end, replace(history, estimates=estimates), CHAMPION), evidence
    )
    assert again.estimate.error == found.estimate.error
