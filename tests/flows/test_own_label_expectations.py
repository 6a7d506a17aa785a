"""Expectations on the label in an owner's suite: not asked of rows, which come first, but of labels once they are known."""

import json

import great_expectations as gx
import great_expectations.expectations as gxe
import pytest
from prefect.logging import disable_run_logger

from deployments.config.loading import load_model_config
from tasks.data.snapshot import land_labels
from tasks.monitoring.performance import measure_performance
from tasks.policy.evidence.monitoring import History, WindowEvidence, newest_labels
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.reports import LabelReport, PerformanceReport
from tests.flows.test_performance_stage import HOURS, serve
from tests.support.monitor_runs import run_of
from tests.support.small_model import rows, write_model

PLAUSIBLE = gxe.ExpectColumnValuesToBeBetween(column="y", min_value=-20, max_value=20, mostly=0.99)
CENTRED = gxe.ExpectColumnMeanToBeBetween(column="y", min_value=-0.5, max_value=0.5)
ON_ROWS = gxe.ExpectColumnValuesToBeInSet(column="colour", value_set=["red", "green", "blue"])


@pytest.fixture
def measure(tmp_path):
    """Measures the first window of a model with a suite of its own, as its labels arrive; `change` is applied to y."""

    def measured(hours: float, change=lambda y: y, *expectations: gxe.Expectation) -> PerformanceReport:
        table = rows()
        suite = gx.ExpectationSuite(name="own", expectations=list(expectations or (PLAUSIBLE, CENTRED, ON_ROWS)))
        folder = tmp_path / f"{hours}"
        folder.mkdir(exist_ok=True)
        (folder / "own.json").write_text(json.dumps(suite.to_json_dict()), encoding="utf-8")
        path = write_model(
            folder, table.assign(y=change(table["y"])), **{"performance:": "quality: {suite: own.json}\nperformance:"}
        )
        config = load_model_config(path)
        window = config.windows()[0]
        with disable_run_logger():
            serve(config, window, off_by=0.5)
            land_labels.fn(config, window.end + hours * HOURS)
            return measure_performance.fn(config, run_of(window, window.end + hours * HOURS))[0]

    return measured


def test_sound_labels_pass_and_the_report_names_the_suite(measure):
    labels = measure(12).labels
    assert (labels.verdict, labels.reasons) == ("pass", ())
    names = [check.name for check in labels.checks if check.name.startswith("expect_")]
    assert names == ["expect_column_values_to_be_between", "expect_column_mean_to_be_between"]
    assert len(labels.own_suite_sha256) == 64


def test_labels_that_break_an_expectation_fail_the_label_gate_with_its_words(measure):
    labels = measure(12, lambda y: y.where(y.index % 20 != 0, 40.0)).labels
    assert labels.verdict == "fail"
    (reason,) = (
        reason for reason in labels.reasons if "y values must be between" in reason or "expect_column_values" in reason
    )
    assert reason.startswith(
        "labels (y): y values must be greater than or equal to -20 and less than or equal to 20, at least 99 %"
    )
    assert reason.endswith("15 of 300 rows (5 %) (expect_column_values_to_be_between), from quality.suite")


def test_the_mean_is_judged_once_labels_are_due_and_single_labels_before(measure):
    early, late = (measure(hours, lambda y: y + 1.0).labels for hours in (0, 12))
    assert (early.verdict, late.verdict) == ("pass", "fail")
    assert "y mean must be" in late.reasons[0] and "y mean" not in str(early.checks)
    assert measure(1, lambda y: y.where(y.index % 20 != 0, 40.0)).labels.verdict == "fail"


def test_severity_warning_only_warns(measure):
    centred = gxe.ExpectColumnMeanToBeBetween(column="y", min_value=2, max_value=3, severity="warning")
    labels = measure(12, lambda y: y, centred).labels
    assert labels.verdict == "warn" and "y mean must be" in labels.reasons[0]


def test_a_failed_expectation_on_labels_stands_in_the_way_of_a_decision(measure):
    report = measure(12, lambda y: y + 1.0)
    assert newest_labels(WindowEvidence(report.window, 300, performance=report), History()) == report.labels
    assert not report.has_sound_labels


def test_without_an_expectation_on_labels_nothing_changes(measure):
    labels = measure(12, lambda y: y, ON_ROWS).labels
    assert labels.own_suite_sha256 is None and not any(check.name.startswith("expect_") for check in labels.checks)


def test_a_report_from_before_is_read(measure):
    labels = measure(12, lambda y: y, ON_ROWS).labels
    before = json.loads(to_json(labels))
    del before["own_suite_sha256"]
    assert from_json(LabelReport, json.dumps(before)) == labels
