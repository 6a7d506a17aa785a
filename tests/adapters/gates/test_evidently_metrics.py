"""User metrics, presets and reports: found by name, computed on the samples, their tests counted as configured."""

import sys
from pathlib import Path

import numpy as np
import pytest
from evidently import Report
from evidently.metrics import MaxValue
from evidently.tests import lt

from tasks.adapters.gates.evidently_metrics import check_items
from tasks.monitoring.drift import DriftReference, report_drift
from tasks.policy.records.errors import ModelConfigError
from tests.support.monitored_model import COUNT, amounts, judge, model

MEAN = {"metric": "MeanValue", "parameters": {"column": "amount"}, "tests": {"lt": 150}}


@pytest.fixture(autouse=True)
def in_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))


def own(*items: dict):
    return model(drift={"plots": 0, "threshold": 0.15, "evidently": list(items)})


def report(folder: Path, *items: dict, **replaced):
    return judge(folder, own(*items), **replaced).drift


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"metric": "MeanValu"}, "metric is MeanValu, which is not in evidently.metrics; did you mean MeanValue?"),
        ({"metric": "DataDriftPreset"}, "which is not in evidently.metrics"),
        (
            {"preset": "DataDrift"},
            "preset is DataDrift, which is not in evidently.presets; did you mean DataDriftPreset?",
        ),
        (
            {"metric": "QuantileValue", "parameters": {"column": "amount", "quantil": 0.9}},
            "parameters.quantil is not known to QuantileValue; did you mean quantile?",
        ),
        ({"metric": "MeanValue"}, "parameters do not fit MeanValue"),
        (
            {"metric": "MeanValue", "parameters": {"column": "amount"}, "share_tests": {"lt": 1}},
            "share_tests does not fit",
        ),
        (
            {"preset": "DataDriftPreset", "fails_as": "drifted"},
            "fails_as is drifted, but the item has no test; expected tests, share_tests or default_tests: true",
        ),
        ({"report": "no_such_module:made"}, "report is no_such_module:made, which cannot be imported"),
        ({"report": "json:made"}, "report is json:made, which cannot be imported"),
    ],
)
def test_unknown_evidently_names_are_refused_by_check(item, message):
    """Evidently itself accepts a misspelt parameter silently."""
    with pytest.raises(ModelConfigError, match=r"churn: drift\.evidently\.0") as raised:
        check_items(own(item))
    assert message in str(raised.value)


def test_known_metrics_presets_and_functions_pass_the_check():
    check_items(own(MEAN, {"preset": "DataSummaryPreset"}, {"report": "json:dumps"}))
    check_items(own(MEAN | {"fails_as": "drifted"}, {"report": "json:dumps", "fails_as": "drifted"}))
    check_items(own({"preset": "DataDriftPreset", "default_tests": True, "fails_as": "drifted"}))


def test_passed_test_changes_nothing(tmp_path):
    found = report(tmp_path, MEAN | {"fails_as": "drifted"})
    assert (found.verdict, found.warnings) == ("stable", ())
    assert [(test.metric, test.passed) for test in found.own_tests] == [("MeanValue of amount", True)]


@pytest.mark.parametrize(("fails_as", "verdict"), [("warn", "stable"), ("drifted", "drifted")])
def test_failed_test_warns_or_drifts_as_configured(tmp_path, fails_as, verdict):
    found = report(tmp_path, MEAN | {"tests": {"lt": 50}, "fails_as": fails_as})
    assert found.verdict == verdict
    sentence = found.reasons[0] if fails_as == "drifted" else found.warnings[0]
    assert sentence.startswith(
        "Evidently's MeanValue of amount fails its test: Mean value of 'amount': Actual value 100."
    )
    assert "Evidently's MeanValue of amount fails" in page_of(found)


def page_of(found) -> str:
    return Path(found.report_uri).read_text(encoding="utf-8").replace("&#x27;", "'")


def test_a_limit_may_be_relative_to_the_reference(tmp_path):
    near = MEAN | {"tests": {"eq": {"relative": 0.2}}}
    assert report(tmp_path, near).warnings == ()
    assert len(report(tmp_path, near, amount=[1.3 * value for value in amounts()]).warnings) == 1


def test_counts_may_be_tested_as_shares_and_see_nulls(tmp_path):
    item = {"metric": "MissingValueCount", "parameters": {"column": "amount"}, "share_tests": {"lte": 0.1}}
    assert report(tmp_path, item).warnings == ()
    nulls = [None if number < 600 else value for number, value in enumerate(amounts())]
    assert "missing values" in report(tmp_path, item, amount=nulls).warnings[0]


def test_failed_computation_is_a_warning(tmp_path):
    found = report(
        tmp_path,
        {"metric": "MeanValue", "parameters": {"column": "country"}, "tests": {"lt": 1}},
        {"preset": "ClassificationPreset"},
        MEAN,
    )
    assert found.verdict == "stable" and len(found.own_tests) == 1
    assert [warning.split(":")[0] for warning in found.warnings] == [
        "Evidently's MeanValue of country was not computed (drift.evidently.0)",
        "Evidently's ClassificationPreset was not computed (drift.evidently.1)",
    ]


def test_nan_value_counts_as_not_computed(tmp_path):
    found = report(tmp_path, MEAN, amount=[None] * COUNT)
    assert "MeanValue of amount was not computed" in found.warnings[0] and found.own_tests == ()


UNCOMPUTED = {
    "metric that raises": {"metric": "MeanValue", "parameters": {"column": "country"}, "tests": {"lt": 1}},
    "function that raises": {"report": "own_reports:broken"},
    "test without a value": {"metric": "UniqueValueCount", "parameters": {"column": "country"}},
    "item without a test": {"report": "own_reports:untested"},
}


@pytest.mark.parametrize("kind", UNCOMPUTED)
def test_a_gate_that_cannot_be_computed_is_neither_stable_nor_drifted(tmp_path, monkeypatch, kind):
    """Unknown fails closed in both directions: it claims no stability, and it triggers no retrain."""
    monkeypatch.setitem(sys.modules, "own_reports", sys.modules[__name__])
    item = UNCOMPUTED[kind]
    assert report(tmp_path, item).verdict == "stable"
    found = report(tmp_path, item | {"fails_as": "drifted"}, MEAN | {"fails_as": "drifted"})
    assert (found.verdict, found.failed_as_drifted, found.is_conclusive) == ("insufficient", (), False)
    (unknown,) = found.unknown_tests
    assert found.reasons[0] == unknown and "was not computed (drift.evidently.0): " in unknown
    assert "drift is not ruled out in this window; repair the item" in unknown and "fails_as: warn" in unknown
    assert "was not computed (drift.evidently.0)" in page_of(found)


def test_a_gate_that_cannot_be_computed_hides_no_drift(tmp_path):
    broken_gate = UNCOMPUTED["metric that raises"] | {"fails_as": "drifted"}
    failed = MEAN | {"tests": {"lt": 50}, "fails_as": "drifted"}
    assert report(tmp_path, broken_gate, failed).verdict == "drifted"
    moved = report(tmp_path, broken_gate, amount=[None] * COUNT, age=[500.0] * COUNT)
    assert moved.verdict == "drifted" and moved.unknown_tests


def made(limit: float) -> Report:
    return Report([MaxValue(column="amount", tests=[lt(limit)])])


def untested() -> Report:
    return Report([MaxValue(column="amount")])


def broken() -> Report:
    raise RuntimeError("no such table")


def test_user_function_returns_a_report(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_reports", sys.modules[__name__])
    item = {"report": "own_reports:made", "parameters": {"limit": 10}, "fails_as": "drifted"}
    assert report(tmp_path, item).verdict == "drifted"
    assert report(tmp_path, item | {"parameters": {"limit": 1e9}}).verdict == "stable"
    for name, reason in (
        ("broken", "RuntimeError: no such table"),
        ("own", "TypeError: the function returned ModelConfig"),
    ):
        (warning,) = report(tmp_path, {"report": f"own_reports:{name}"}).warnings
        assert warning.startswith(f"Evidently's own_reports:{name} was not computed (drift.evidently.0): {reason}")


def test_preset_has_tests_only_on_request(tmp_path):
    shift = {"amount": np.random.default_rng(0).gamma(2, 150, COUNT)}
    assert report(tmp_path, {"preset": "DataDriftPreset"}, **shift).own_tests == ()
    tested = report(tmp_path, {"preset": "DataDriftPreset", "default_tests": True}, **shift)
    failed = [test.description for test in tested.own_tests if not test.passed]
    assert any(description.startswith("Value Drift for column amount: Drift score is") for description in failed)


def test_samples_hold_original_values_and_names(tmp_path):
    """The samples are not the ranks and pooled names used in Evidently's drift tests."""
    largest = {"metric": "MaxValue", "parameters": {"column": "amount"}, "tests": {"eq": 1e6}}
    listed = {
        "metric": "InListValueCount",
        "parameters": {"column": "country", "values": ["<new>"]},
        "share_tests": {"eq": 1.0},
    }
    found = report(tmp_path, largest, listed, amount=[1e6, *amounts()[1:]], country=["<new>"] * COUNT)
    assert [test.passed for test in found.own_tests] == [True, True]


def test_version_without_sample_computes_no_metrics(tmp_path):
    judged = judge(tmp_path, own(MEAN))
    found = report_drift(judged.config, judged.profiled, DriftReference(judged.frozen))
    assert found.second_opinion.unavailable and found.verdict == "stable"
    assert "was registered before a sample of its training rows was stored" in found.warnings[0]
    judged = judge(tmp_path, own(MEAN | {"fails_as": "drifted"}))
    gated = report_drift(judged.config, judged.profiled, DriftReference(judged.frozen))
    assert gated.verdict == "insufficient" and "the next retrain stores one" in gated.unknown_tests[0]
    assert "Evidently did not measure this window" in page_of(found)
