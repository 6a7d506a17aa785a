"""Promotion: each gate on both sides of its limit, and defects seen in other tools."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.policy.comparison.differences import DRAWS, against_constant, difference, own_value, slice_differences
from tasks.policy.comparison.predictions import prediction_fault, prediction_histogram, shares_in
from tasks.policy.evidence.validation import MetricDifference, ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.reports import MetricValue
from tasks.policy.rollout.validation import (
    Comparison,
    PromotionPolicy,
    ValidationPolicy,
    decide_validation,
    why_not_promote,
)
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling

HOLDOUT = Window(utc("2024-03-01"), utc("2024-03-06"))
POLICY = ValidationPolicy(min_rows=100, non_inferiority_margin=0.01, slice_margin=0.05, slice_min_rows=50)
RESAMPLING = Resampling(0.95, DRAWS, seed=7)


def version(number: str, until: str = "2024-03-01") -> ModelVersion:
    return ModelVersion(
        "m", number, f"run{number}", f"d{number}", Window(utc("2024-01-01"), utc(until)), 1000, "0" * 64
    )


def gained(gain: float, low: float, high: float, rows: int = 500, slice_name: str | None = None) -> MetricDifference:
    return MetricDifference("log_loss", 0.5, 0.5 - gain, gain, low, high, rows, None, slice_name)


def compared(primary: MetricDifference | None, *slices: MetricDifference, rows: int = 500, **changes) -> Comparison:
    comparison = Comparison(version("2"), version("1", "2024-02-01"), HOLDOUT, rows, primary=primary, slices=slices)
    return replace(comparison, **changes)


BETTER = gained(0.03, 0.02, 0.04)


def test_a_significant_gain_passes_with_its_numbers():
    report = decide_validation(POLICY, compared(BETTER))
    assert report.verdict == "pass"
    assert report.reasons == (
        "log_loss: challenger 0.47, champion 0.5, gain +0.03 (+0.02 to +0.04) on 500 rows, margin -0.01 log_loss",
    )
    assert from_json(ValidationReport, to_json(report)) == report


@pytest.mark.parametrize(("low", "verdict"), [(-0.01, "pass"), (-0.0101, "fail")])
def test_interval_must_lie_above_margin(low, verdict):
    assert decide_validation(POLICY, compared(gained(0.0, low, 0.02))).verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "pass"), (0.0199, "fail")])
def test_minimum_gain_applies_to_the_mean(gain, verdict):
    policy = POLICY.model_copy(update={"min_gain": 0.02})
    assert decide_validation(policy, compared(gained(gain, 0.0, 0.03))).verdict == verdict


@pytest.mark.parametrize(("rows", "verdict"), [(100, "pass"), (99, "fail")])
def test_too_few_rows_fail_validation(rows, verdict):
    assert decide_validation(POLICY, compared(BETTER, rows=rows)).verdict == verdict


@pytest.mark.parametrize(
    ("slice_difference", "verdict"),
    [
        (gained(-0.2, -0.3, -0.0501, slice_name="origin=JFK"), "fail"),
        (gained(-0.2, -0.3, -0.05, slice_name="origin=JFK"), "warn"),
        (gained(-0.05, -0.3, 0.1, slice_name="origin=JFK"), "pass"),
        (gained(-0.2, -0.3, -0.1, rows=49, slice_name="origin=JFK"), "pass"),
        (gained(-0.2, -0.3, -0.1, rows=50, slice_name="origin=JFK"), "fail"),
    ],
)
def test_slice_loss_beyond_margin_fails(slice_difference, verdict):
    report = decide_validation(POLICY, compared(BETTER, slice_difference))
    assert report.verdict == verdict
    if verdict != "pass":
        assert "origin=JFK" in report.reasons[0]


@pytest.mark.parametrize("role", ["challenger", "champion"])
def test_training_rows_in_holdout_fail(role):
    touching = compared(BETTER, **{role: version("2" if role == "challenger" else "1", "2024-03-01")})
    overlapping = compared(BETTER, **{role: version("2" if role == "challenger" else "1", "2024-03-02")})
    assert decide_validation(POLICY, touching).verdict == "pass"
    report = decide_validation(POLICY, overlapping)
    assert report.verdict == "fail"
    assert "expected rows that neither model has seen" in report.reasons[0]


def test_a_model_compared_with_itself_fails():
    """A published sample reads the challenger's evaluation twice and so compares it with itself."""
    report = decide_validation(POLICY, compared(gained(0.0, 0.0, 0.0), champion=version("2")))
    assert report.verdict == "fail"
    assert "is the champion itself" in report.reasons[0]


def test_equal_predictions_are_no_gain():
    y_true, same = np.array([0, 1] * 200), np.array([0.3, 0.6] * 200)
    item = difference(Metric("log_loss"), PairedPredictions(y_true, same, same), RESAMPLING)
    assert (item.gain, item.low, item.high, item.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert decide_validation(POLICY.model_copy(update={"min_gain": 1e-6}), compared(item)).verdict == "fail"
    assert decide_validation(POLICY, compared(item)).verdict == "pass"


@pytest.mark.parametrize(
    ("metric", "y_true", "worse", "better"),
    [
        ("accuracy", [1, 1, 0, 0], [0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]),
        ("log_loss", [1, 1, 0, 0], [0.6, 0.6, 0.4, 0.4], [0.9, 0.9, 0.1, 0.1]),
        ("roc_auc", [1, 1, 0, 0], [0.9, 0.2, 0.3, 0.1], [0.9, 0.8, 0.3, 0.1]),
        ("mae", [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0], [1.5, 2.5, 3.5, 4.5]),
        ("rmse", [1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0], [1.5, 2.5, 3.5, 4.5]),
    ],
)
def test_gain_is_positive_for_improvement(metric, y_true, worse, better):
    """A published breach test hard-codes `>`, wrong for accuracy."""
    labels, old, new = (np.tile(values, 50) for values in (y_true, worse, better))
    forward = difference(Metric(metric), PairedPredictions(labels, old, new), RESAMPLING)
    backward = difference(Metric(metric), PairedPredictions(labels, new, old), RESAMPLING)
    assert forward.gain > 0
    assert backward.gain == pytest.approx(-forward.gain)
    assert forward.low - 1e-9 <= forward.gain <= forward.high + 1e-9
    assert decide_validation(POLICY, compared(forward)).verdict == "pass"
    assert decide_validation(POLICY, compared(backward)).verdict == "fail"


def test_the_gain_in_mae_is_worked_by_hand():
    """|2-1|, |4-2| = 1, 2 → 1.5; |1-1|, |3-2| = 0, 1 → 0.5; so the gain is 1."""
    pairs = PairedPredictions(*np.array([[1.0, 2.0], [2.0, 4.0], [1.0, 3.0]]))
    item = difference(Metric("mae"), pairs, RESAMPLING)
    assert (item.champion, item.challenger, item.gain, item.p_value) == (1.5, 0.5, 1.0, None)


def test_mcnemar_is_worked_by_hand():
    """Ten rows that only the challenger gets right: p = 2 · 0.5^10."""
    pairs = PairedPredictions(np.ones(20), champion=np.r_[np.zeros(10), np.ones(10)], challenger=np.ones(20))
    assert difference(Metric("accuracy"), pairs, RESAMPLING).p_value == pytest.approx(2 * 0.5**10)


def test_slices_are_compared_each_on_its_own_rows():
    pairs = PairedPredictions(*np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 4.0, 4.0]]))
    slices = slice_differences(Metric("mae"), pairs, {"origin": np.array(["A", "A", "B", "B"])}, RESAMPLING)
    assert [(item.slice_name, item.gain, item.rows) for item in slices] == [("origin=A", 1.0, 2), ("origin=B", -3.0, 2)]


def test_an_undefined_metric_fails_and_the_report_can_still_be_written():
    pairs = PairedPredictions(np.ones(200), np.full(200, 0.4), np.full(200, 0.6))
    item = difference(Metric("roc_auc"), pairs, RESAMPLING)
    report = decide_validation(POLICY, compared(item))
    assert report.verdict == "fail"
    assert "not a finite number" in report.reasons[0]
    assert from_json(ValidationReport, to_json(report)) == report


@pytest.mark.parametrize("positives", [0, 1, 200])
def test_undefined_slice_is_named_but_does_not_fail(positives):
    """Without positives there is no AUC, and with one positive row no interval."""
    y_true = np.r_[np.ones(positives), np.zeros(200 - positives)]
    pairs = PairedPredictions(y_true, np.linspace(0.1, 0.4, 200), np.linspace(0.9, 0.2, 200))
    item = difference(Metric("roc_auc"), pairs, RESAMPLING, slice_name="plan=free")
    report = decide_validation(POLICY, compared(BETTER, item))
    assert report.verdict == "pass"
    assert report.reasons[-1] == "roc_auc of plan=free is not compared: the metric is undefined on its 200 rows"
    assert from_json(ValidationReport, to_json(report)) == report


def test_an_infinite_loss_in_a_slice_still_fails():
    item = replace(BETTER, slice_name="plan=free", challenger=np.inf, gain=-np.inf, low=-np.inf, high=-np.inf)
    report = decide_validation(POLICY, compared(BETTER, item))
    assert report.verdict == "fail"
    assert "plan=free is not a finite number" in report.reasons[0]


def test_missing_measurement_fails():
    assert decide_validation(POLICY, compared(None)).verdict == "fail"
    report = decide_validation(POLICY, compared(BETTER, faults=("version 2 does not serve: files were changed",)))
    assert report.verdict == "fail"
    assert report.reasons[0] == "version 2 does not serve: files were changed"


@pytest.mark.parametrize(
    ("name", "higher", "value", "floor", "verdict"),
    [
        ("accuracy", True, 0.8, 0.8, "pass"),
        ("accuracy", True, 0.79, 0.8, "fail"),
        ("mae", False, 8.0, 8.0, "pass"),
        ("mae", False, 8.1, 8.0, "fail"),
        ("mae", False, 8.1, None, "pass"),
        ("mae", False, float("nan"), None, "fail"),
    ],
)
def test_first_model_is_compared_with_its_floor(name, higher, value, floor, verdict):
    first = MetricValue(name, value, value - 0.01, value + 0.01, 500, higher)
    policy = POLICY.model_copy(update={"first_model_floor": floor})
    report = decide_validation(policy, compared(None, champion=None, first=first))
    assert (report.verdict, report.first_model, report.champion) == (verdict, True, None)
    assert report.reasons[-1].startswith("first model:")


def test_unknown_interval_of_first_model_is_named():
    first = MetricValue("roc_auc", 0.9, float("nan"), float("nan"), 500, True)
    report = decide_validation(POLICY, compared(None, champion=None, first=first))
    assert "roc_auc 0.9 (interval unknown) on 500 rows" in report.reasons[-1]


def test_the_first_models_value_has_its_interval():
    value = own_value(Metric("mae"), [1.0, 2.0], [2.0, 4.0], RESAMPLING)
    assert (value.value, value.rows, value.higher_is_better) == (1.5, 2, False)
    assert value.low == pytest.approx(1.0)
    assert value.high == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("y_pred", "task", "fault"),
    [
        ([0.0, 1.0], "binary", None),
        ([0.0, 1.1], "binary", "expected probabilities"),
        ([0.0, 1.1], "regression", None),
        ([0.0, np.nan], "regression", "1 of 2 predictions are not finite"),
        ([0.0, np.inf], "regression", "1 of 2 predictions are not finite"),
        ([[0.5, 0.5], [np.nan, np.nan]], "multiclass", "1 of 2 predictions are not finite"),
        ([0.5], "binary", "1 predictions for 2 rows"),
    ],
)
def test_invalid_predictions_fail(y_pred, task, fault):
    found = prediction_fault(np.array(y_pred), 2, task)
    assert found is None if fault is None else fault in found


PASSED = decide_validation(POLICY, compared(BETTER))


def refusal(validation: ValidationReport, champion: str | None = "1", challenger: str = "2", **promotion) -> str | None:
    return why_not_promote(POLICY, PromotionPolicy(**promotion), version(challenger), champion, validation)


def test_a_passed_challenger_may_be_promoted():
    assert refusal(PASSED) is None


@pytest.mark.parametrize("verdict", ["fail", "warn"])
def test_only_a_passed_verdict_promotes(verdict):
    assert f"validation says {verdict}" in (refusal(replace(PASSED, verdict=verdict)) or "")


def test_warning_promotes_if_policy_accepts():
    assert refusal(replace(PASSED, verdict="warn"), accept_warnings=True) is None
    assert refusal(replace(PASSED, verdict="fail"), accept_warnings=True) is not None


def test_validation_of_another_version_is_refused():
    assert "validation is for version 2, not for 3" in (refusal(PASSED, challenger="3") or "")


@pytest.mark.parametrize("champion", ["7", None])
def test_changed_champion_requires_new_validation(champion):
    assert "validate again" in (refusal(PASSED, champion=champion) or "")


@pytest.mark.parametrize(
    ("differences", "rows"),
    [
        ((gained(0.0, -0.5, 0.5),), 500),
        ((BETTER, gained(-0.2, -0.3, -0.1, slice_name="origin=JFK")), 500),
        ((), 500),
        ((BETTER,), 99),
    ],
)
def test_inconsistent_passed_report_is_refused(differences, rows):
    """A published approval record says approved with two checks false."""
    assert refusal(replace(PASSED, differences=differences, rows=rows)) is not None


def test_first_model_validation_promotes_without_champion():
    first = MetricValue("mae", 8.0, 7.9, 8.1, 500, False)
    report = decide_validation(POLICY, compared(None, champion=None, first=first))
    assert refusal(report, champion=None) is None
    assert refusal(replace(report, first_model=False), champion=None) is not None


def test_model_worse_than_constant_is_never_promoted():
    worse = gained(-0.2, -0.25, -0.15)
    first = MetricValue("log_loss", 0.7, 0.65, 0.75, 500, False)
    alone = replace(compared(None), champion=None, first=first, constant=worse)
    for comparison in (alone, compared(BETTER, constant=worse)):
        report = decide_validation(POLICY, comparison)
        assert report.verdict == "fail"
        assert "which a constant prediction reaches on the same 500 rows" in report.reasons[0]
        forged = replace(report, verdict="pass")
        refusal = why_not_promote(POLICY, PromotionPolicy(), version("2"), forged.champion, forged)
        assert "a constant prediction" in refusal
    unsure = compared(BETTER, constant=gained(-0.01, -0.03, 0.01))
    assert decide_validation(POLICY, unsure).verdict == "pass"
    off = POLICY.model_copy(update={"beats_constant": False})
    assert decide_validation(off, compared(BETTER, constant=worse)).verdict == "pass"


def test_margins_default_to_share_of_champion_metric():
    policy = ValidationPolicy(min_rows=100)
    slightly = MetricDifference("mae", 6.0, 5.92, 0.08, -0.07, 0.23, 500)
    report = decide_validation(policy, compared(slightly))
    assert report.verdict == "pass"
    assert report.reasons[0].endswith("margin -0.12 mae (0.02 of the champion's)")
    assert decide_validation(policy, compared(replace(slightly, low=-0.13))).verdict == "fail"
    given = policy.model_copy(update={"non_inferiority_margin": 0.05})
    assert decide_validation(given, compared(slightly)).verdict == "fail"
    assert policy.margin("mae", 20_000.0) == 400.0
    assert policy.margin("accuracy", 0.2) == 0.01, "a metric between 0 and 1 has at least 0.01"


def test_model_is_compared_with_constant_on_same_rows():
    random = np.random.default_rng(0)
    y_true = (random.random(600) < 0.4).astype(float)
    good, flipped = 0.1 + 0.8 * y_true, 0.9 - 0.8 * y_true
    for metric in ("accuracy", "log_loss", "brier", "roc_auc", "balanced_accuracy", "f1"):
        assert against_constant(Metric(metric), y_true, good, RESAMPLING).low > 0
        assert against_constant(Metric(metric), y_true, flipped, RESAMPLING).high < 0
    minutes = random.normal(30, 5, 600)
    assert against_constant(Metric("mae"), minutes * 1000, minutes, RESAMPLING).high < 0
    assert against_constant(Metric("mae"), minutes, minutes + random.normal(size=600), RESAMPLING).low > 0


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "roc_auc"])
def test_holdout_with_one_positive_is_inconclusive(metric):
    """Both models miss it, so their F1 of 0 would be equal for certain."""
    y_true, random = np.array([1.0] + [0.0] * 599), np.random.default_rng(0)
    old, new = random.uniform(0, 0.4, 600), random.uniform(0, 0.4, 600)
    found = difference(Metric(metric), PairedPredictions(y_true, old, new), RESAMPLING)
    assert math.isnan(found.gain) and found.rows == 600
    assert decide_validation(ValidationPolicy(), compared(found)).verdict == "fail"
    assert against_constant(Metric(metric), y_true, new, RESAMPLING) is None


def test_model_equal_to_constant_is_reported():
    """With one positive row in twenty, accuracy can hardly show more: it is reported but does not fail."""
    equal = MetricDifference("accuracy", 0.95, 0.951, 0.001, -0.003, 0.005, 600)
    report = decide_validation(ValidationPolicy(), compared(gained(0.01, 0.0, 0.02), constant=equal))
    assert report.verdict == "pass"
    sentence = "accuracy 0.951 is not significantly better than 0.95, which a constant prediction"
    assert any(sentence in one for one in report.reasons)
    better = MetricDifference("accuracy", 0.5, 0.8, 0.3, 0.25, 0.35, 600)
    report = decide_validation(ValidationPolicy(), compared(gained(0.01, 0.0, 0.02), constant=better))
    assert not any("a constant prediction" in one for one in report.reasons)


@pytest.mark.parametrize(
    ("champion", "words"),
    [
        (0.8, "margin -0.016 accuracy (0.02 of the champion's)"),
        (0.4, "-0.01 accuracy (the minimum, more than 0.02 of the"),
    ],
)
def test_margin_is_printed_in_its_unit(champion, words):
    primary = MetricDifference("accuracy", champion, champion + 0.05, 0.05, 0.04, 0.06, 600)
    assert any(words in one for one in decide_validation(ValidationPolicy(), compared(primary)).reasons)


def test_constant_uses_training_shares():
    """Delays fall from 22 to 8 % with the season: an earlier model is no worse than a constant of the same time."""
    random = np.random.default_rng(0)
    y_true = (random.random(4000) < 0.08).astype(float)
    sound = np.clip(0.2 + 0.06 * (y_true - 0.08) + random.normal(0, 0.02, 4000), 0.01, 0.99)
    assert against_constant(Metric("log_loss"), y_true, sound, RESAMPLING).high < 0
    assert against_constant(Metric("log_loss"), y_true, sound, RESAMPLING, prior=np.array([0.78, 0.22])).low > 0
    flipped = 1 - sound
    assert against_constant(Metric("log_loss"), y_true, flipped, RESAMPLING, prior=np.array([0.78, 0.22])).high < 0


def test_histogram_has_ten_bins_of_equal_counts():
    values = np.arange(1000) / 1000
    found = prediction_histogram("4", np.random.default_rng(0).permutation(values))
    assert found.shares == (0.1,) * 10
    np.testing.assert_allclose(found.edges, np.arange(1, 10) / 10 - 0.0005)
    assert (found.version, found.rows) == ("4", 1000)


def test_equal_predictions_share_a_bin():
    """Edges lie between predictions: rounding in another process moves no row to another bin."""
    values = np.repeat([0.1, 0.2, 0.9], [100, 800, 100])
    found = prediction_histogram("4", values)
    assert found.edges == pytest.approx((0.15, 0.55))
    assert found.shares == (0.1, 0.8, 0.1)
    assert shares_in(found.edges, values + 1e-7) == found.shares


def test_a_constant_prediction_has_one_bin():
    assert prediction_histogram("4", np.full(20, 0.3)).shares == (1.0,)
    assert prediction_histogram("4", np.empty(0)) is None


def test_histogram_of_several_classes_is_that_of_the_largest_probability():
    y_pred = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    assert prediction_histogram("4", y_pred).edges == prediction_histogram("4", np.array([0.7, 0.8, 0.5])).edges


def test_reports_from_before_histograms_keep_their_json():
    report = decide_validation(POLICY, compared(BETTER))
    assert "predictions" not in to_json(report)
    found = prediction_histogram("2", np.arange(100) / 100)
    report = decide_validation(POLICY, compared(BETTER, challenger_predictions=found))
    assert report.challenger_predictions == found
    assert from_json(ValidationReport, to_json(report)) == report
