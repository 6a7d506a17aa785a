"""The label gate: it accepts sound labels and names number, limit and setting of faults."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tasks.policy.data_quality.label_jumps import find_jump, label_levels
from tasks.policy.data_quality.label_quality import LabelFacts, judge_labels
from tasks.policy.data_quality.label_rules import LabelRules
from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.evidence.ledger import LABELS_QUARANTINED, LABELS_SOUND, LabelVerdicts, LedgerEntry, windows_in_doubt
from tasks.policy.evidence.monitoring import History, WindowEvidence, newest_labels
from tasks.policy.monitoring.diagnosis import decide_diagnosis
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.profile import LabelProfile
from tasks.policy.records.reports import LabelReport, MetricValue, PerformanceReport, QualityReport

WINDOW = Window(utc("2024-03-04"), utc("2024-03-11"))
RULES = LabelRules()
RANDOM = np.random.default_rng(1)
MINUTES = RANDOM.normal(20, 3, 800)
LEARNED = LabelProfile(5000, levels=label_levels(RANDOM.normal(20, 3, 5000)), labelled_share=0.97)


def facts(y_true, y_pred=None, **known) -> LabelFacts:
    y_true = np.asarray(y_true, float)
    y_pred = y_true if y_pred is None else np.asarray(y_pred, float)
    found = {"rows": len(y_true), "due": False, "classes": ()} | known
    return LabelFacts(WINDOW, "y", y_true=y_true, y_pred=y_pred, **found)


def broken(report: LabelReport | None) -> dict[str, str]:
    assert report is not None
    return {check.name: check.verdict for check in report.checks if check.verdict != "pass"}


# --- arrival


def test_no_verdict_while_labels_may_still_arrive():
    assert judge_labels(facts([], rows=800), RULES) is None


def test_missing_due_labels_are_overdue():
    report = judge_labels(facts([], rows=841, due=True, usual_share=0.98), RULES)
    assert report.verdict == "fail"
    assert report.reasons == (
        "labels (y): 0 of 841 rows of 2024-03-04..2024-03-11 have a label, although all are due, expected at least 19.6% of "
        "the rows, as usually 98% have one by then (quality.labels.min_usual_share)",
    )


@pytest.mark.parametrize(
    ("labelled", "rows", "usual", "overdue"),
    [
        (160, 1000, 0.98, True),
        (260, 1000, 0.98, False),
        (30, 1000, 0.03, False),
        (0, 1000, 0.03, True),
        (0, 40, 0.03, False),
        (0, 1000, None, True),
        (1, 1000, None, False),
    ],
)
def test_unusually_few_labels_are_overdue_unless_by_chance(labelled, rows, usual, overdue):
    report = judge_labels(facts(MINUTES[:labelled], rows=rows, due=True, usual_share=usual), RULES)
    assert (broken(report) == {"labels arrived": "fail"}) == overdue


def test_nothing_is_overdue_if_no_labels_are_expected():
    rules = LabelRules(min_usual_share=0)
    assert judge_labels(facts([], rows=841, due=True, usual_share=0.98), rules).verdict == "pass"


# --- what cannot be used


@pytest.mark.parametrize(("count", "verdict"), [(0, "pass"), (8, "warn"), (80, "fail")])
def test_unusable_labels_are_reported_and_many_block(count, verdict):
    report = judge_labels(facts(MINUTES, faults=(("infinite", count),) if count else ()), RULES)
    assert report.verdict == verdict
    if count:
        assert f"{count} infinite" in report.reasons[0]
        assert "at most 5.0% (quality.labels.max_unusable_share)" in report.reasons[0]


def test_contradictory_labels_are_reported():
    assert broken(judge_labels(facts(MINUTES, conflicts=3), RULES)) == {"one label a row": "warn"}


def test_words_for_unknown_are_reported_but_not_a_fault():
    report = judge_labels(facts(MINUTES, words=(("NA", 300),)), RULES)
    assert report.verdict == "pass"
    assert any(
        "'NA' 300 times: read as unknown; list it in columns.classes" in check.observed for check in report.checks
    )


# --- classes


@pytest.mark.parametrize(("third", "verdict"), [(0, "pass"), (10, "warn"), (200, "fail")])
def test_third_class_of_a_binary_task_is_a_fault(third, verdict):
    y_true = np.r_[np.arange(600) % 2, np.full(third, 2)]
    report = judge_labels(facts(y_true, np.r_[np.arange(600) % 2, np.zeros(third)], classes=("0", "1")), RULES)
    assert report.verdict == verdict
    assert (broken(report) == {"known classes": verdict}) == bool(third)


@pytest.mark.parametrize(("new", "verdict"), [(150, "warn"), (2000, "fail")])
def test_new_class_is_a_miss_until_hardly_any_label_is_known(new, verdict):
    y_true = np.r_[np.arange(600) % 3, np.full(new, 3)].astype(float)
    report = judge_labels(facts(y_true, np.eye(3)[(y_true % 3).astype(int)], classes=("a", "b", "c")), RULES)
    assert broken(report) == {"known classes": verdict}


def test_swapped_classes_are_suspected_but_never_block():
    """A reversed concept looks the same, and must be learned."""
    y_true = RANDOM.integers(0, 2, 600)
    answered = np.where(RANDOM.random(600) < 0.8, y_true, 1 - y_true)
    swapped = judge_labels(facts(1 - y_true, answered, classes=("0", "1")), RULES)
    assert broken(swapped) == {"classes in place": "warn"}
    assert judge_labels(facts(y_true, answered, classes=("0", "1")), RULES).verdict == "pass"


def test_renumbered_classes_are_suspected():
    y_true = RANDOM.integers(0, 3, 600)
    answered = np.eye(3)[y_true]
    assert broken(judge_labels(facts((y_true + 1) % 3, answered, classes=("0", "1", "2")), RULES)) == {
        "classes in place": "warn"
    }


@pytest.mark.parametrize("scale", [-1.0, 0.3048, 0.4536, 2.2046, -3.0])
def test_changed_unit_or_sign_is_suspected_but_does_not_block(scale):
    answered = RANDOM.normal(0, 3, 800)
    y_true = scale * (answered + RANDOM.normal(0, 1, 800))
    report = judge_labels(facts(y_true, answered), RULES)
    assert broken(report) == {"labels in step": "warn"}
    assert f"labels follow {np.cov(y_true, answered)[0, 1] / answered.var(ddof=1):.3g} times" in report.reasons[0]


@pytest.mark.parametrize("scale", [1.0, 1.3, 0.75])
@pytest.mark.parametrize("noise", [0.5, 1, 3, 9])
def test_noise_growth_and_poor_model_are_not_a_unit_change(scale, noise):
    answered = RANDOM.normal(20, 3, 800)
    y_true = scale * answered + RANDOM.normal(0, noise, 800)
    assert judge_labels(facts(y_true, answered), RULES).verdict == "pass"
    unmoved = judge_labels(facts(y_true, np.full(800, 20.0)), RULES)
    assert unmoved.verdict == "pass"


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_poor_model_and_rare_classes_are_not_a_swap(share):
    y_true = (RANDOM.random(800) < share).astype(float)
    for answered in (RANDOM.random(800), np.zeros(800), np.full(800, 0.9)):
        assert judge_labels(facts(y_true, answered, classes=("0", "1")), RULES).verdict == "pass"


def test_single_label_value_is_reported_unless_by_chance():
    """It may be a quiet week, so it blocks only if the model's file says so."""
    often, rare = (LabelProfile(5000, shares=(("0", 1 - share), ("1", share))) for share in (0.3, 0.001))
    stuck = facts(np.zeros(800), RANDOM.random(800), classes=("0", "1"), reference=often)
    assert broken(judge_labels(stuck, RULES)) == {"varying labels": "warn"}
    assert judge_labels(stuck, LabelRules(on_constant="fail")).verdict == "fail"
    usual = facts(np.zeros(800), RANDOM.random(800), classes=("0", "1"), reference=rare)
    assert judge_labels(usual, RULES).verdict == "pass"
    assert "varying labels" in broken(judge_labels(facts(np.zeros(800), MINUTES, reference=LEARNED), RULES))


def test_single_label_value_is_accepted_if_predicted():
    """Solar power is zero at night, and the model predicts it."""
    often = LabelProfile(5000, shares=(("0", 0.7), ("1", 0.3)))
    assert (
        judge_labels(facts(np.zeros(800), np.full(800, 0.1), classes=("0", "1"), reference=often), RULES).verdict
        == "pass"
    )
    night = facts(np.zeros(800), RANDOM.normal(0, 0.1, 800), reference=replace(LEARNED, levels=label_levels(MINUTES)))
    assert "varying labels" not in broken(judge_labels(night, RULES))


def test_respelled_class_is_a_fault_but_new_class_is_not():
    learned = LabelProfile(5000, shares=(("setosa", 0.4), ("other", 0.35), ("virginica", 0.25)))
    classes = ("other", "setosa", "virginica")
    y_true = RANDOM.choice(3, 600, p=[0.35, 0.4, 0.25]).astype(float)
    answered = np.eye(3)[y_true.astype(int)]
    anew = facts(np.where(y_true == 1, 3, y_true), answered, classes=classes, reference=learned)
    report = judge_labels(anew, RULES)
    assert report.verdict == "fail"
    assert "as if that class were now spelled differently" in report.reasons[0]
    some = facts(np.where(np.arange(600) % 4 == 0, 3, y_true), answered, classes=classes, reference=learned)
    assert broken(judge_labels(some, RULES)) == {"known classes": "warn"}


@pytest.mark.parametrize("shares", [(0.052, 0.065), (0.048, 0.08), (0.9, 0.8)])
def test_labels_that_are_mostly_zero_are_trusted(shares):
    before, now = (np.where(RANDOM.random(3000) < share, RANDOM.gamma(2, 250, 3000), 0) for share in shares)
    learned = LabelProfile(3000, levels=label_levels(before))
    assert judge_labels(facts(now, np.full(3000, 30.0), reference=learned), RULES).verdict == "pass"
    assert judge_labels(facts(now * 1000, np.full(3000, 30.0), reference=learned), RULES).verdict == (
        "fail" if np.quantile(before, 0.95) > 0 else "pass"
    )


# --- units


@pytest.mark.parametrize("change", [lambda y: y * 1000, lambda y: y * 60, lambda y: y / 60, lambda y: y + 273.15])
def test_label_in_another_unit_is_not_trusted(change):
    report = judge_labels(facts(change(MINUTES), MINUTES, reference=LEARNED), RULES)
    assert report.verdict == "fail"
    assert "as if the unit had changed" in report.reasons[0]
    assert "quality.labels.on_unit_change: warn accepts it" in report.reasons[0]
    assert judge_labels(
        facts(change(MINUTES), MINUTES, reference=LEARNED), LabelRules(on_unit_change="warn")
    ).verdict == ("warn")


@pytest.mark.parametrize(
    "change", [lambda y: 40 - y, lambda y: y * 2, lambda y: y * 0.5, lambda y: y + 15, lambda y: 20 + (y - 20) * 4]
)
def test_concept_drift_and_level_shift_are_trusted(change):
    report = judge_labels(facts(change(MINUTES), MINUTES, reference=LEARNED), RULES)
    assert set(broken(report)) <= {"labels in step"}
    assert report.verdict != "fail"


@pytest.mark.parametrize(
    ("count", "code", "verdict"),
    [(0, 0.0, "pass"), (1, -999.0, "warn"), (8, -999.0, "fail"), (1, 20_000.0, "fail"), (60, 300.0, "fail")],
)
def test_outlying_labels_are_reported_and_block_if_dominant(count, code, verdict):
    y_true = np.r_[np.full(count, code), MINUTES[count:]]
    learned = replace(LEARNED, span=(8.0, 32.0))
    report = judge_labels(facts(y_true, MINUTES, reference=learned), RULES)
    assert report.verdict == verdict
    assert not count or "plausible labels" in broken(report)
    assert judge_labels(facts(np.r_[150.0, MINUTES], np.r_[20.0, MINUTES], reference=learned), RULES).verdict == "pass"


def test_label_shift_is_accepted_if_predictions_follow():
    assert judge_labels(facts(MINUTES * 12, MINUTES * 11, reference=LEARNED), RULES).verdict == "pass"


def test_two_units_in_training_labels_are_located():
    days = np.r_[RANDOM.normal(20, 3, 3000), RANDOM.normal(20_000, 3000, 1000)]
    place, sentence = find_jump(days, RULES)
    assert 2500 <= place <= 3100
    assert "90% lie between" in sentence
    assert find_jump(days, LabelRules(on_unit_change="warn")) is None


@pytest.mark.parametrize(
    "labels",
    [
        RANDOM.normal(0, 1, 4000) * np.where(np.arange(4000) < 2000, 1, -1),
        RANDOM.lognormal(0, 2, 4000),
        np.where(RANDOM.random(4000) < 0.8, 0, RANDOM.gamma(2, 50, 4000)),
        RANDOM.normal(100, 10, 4000) * np.exp(np.linspace(0, 4, 4000)),
        RANDOM.normal(10, 2, 4000) + 20 * np.sin(np.arange(4000) / 300),
        np.r_[RANDOM.normal(20, 3, 2000), RANDOM.normal(30, 6, 2000)],
        RANDOM.normal(0, 1, 70),
    ],
    ids=["sign", "heavy tail", "mostly zero", "growth", "season", "a step of the world", "few"],
)
def test_natural_label_change_is_not_a_jump(labels):
    assert find_jump(labels, RULES) is None


# --- what a verdict does

FAILED = judge_labels(facts([], rows=841, due=True), RULES)


def report(window: Window, labels: LabelReport | None, value: float = 5.0) -> PerformanceReport:
    metrics = (MetricValue("mae", value, value - 0.1, value + 0.1, 800, False),)
    return PerformanceReport(window, window.end, "1", 800, 800, "closed", metrics, "mae", labels=labels)


def test_untrusted_labels_decide_nothing():
    policy = RetrainingPolicy.model_validate({"when": {"trigger": "metric_breach", "metric": "mae", "limit": 1.0}})
    quality = QualityReport(WINDOW, "pass", 800, (), 0, ())
    sound = judge_labels(facts(MINUTES), RULES)
    decided = {}
    for name, labels in (("failed", FAILED), ("sound", sound), ("of an older record", None)):
        evidence = WindowEvidence(WINDOW, 800, quality, performance=report(WINDOW, labels))
        decided[name] = decide_retraining("m", policy, policy.case(evidence, History(), WINDOW.end))
    assert [decided[name].retrain for name in ("failed", "sound", "of an older record")] == [False, True, True]
    assert decided["failed"].blocked_by == "labels"
    assert (
        decided["failed"]
        .reasons[0]
        .startswith("the labels of 2024-03-04..2024-03-11 cannot be trusted (labels (y): 0 of")
    )


def test_latest_verdict_counts_and_diagnosis_names_labels():
    earlier = Window(WINDOW.start - timedelta(days=7), WINDOW.start)
    evidence = WindowEvidence(WINDOW, 800, performance=report(WINDOW, None))
    history = History(performances=(report(earlier, None),))
    assert newest_labels(evidence, history) is None
    assert newest_labels(evidence, history, [report(earlier, FAILED)]) == FAILED
    found = decide_diagnosis(WindowEvidence(WINDOW, 0), labels=FAILED)
    assert (found.kind, found.reasons) == ("upstream_data_fault", FAILED.reasons)


def test_windows_stay_untrusted_until_labels_are_sound():
    body, at = to_json(LabelVerdicts((FAILED,))), WINDOW.end
    entries = [LedgerEntry("m", 1, LABELS_QUARANTINED, at, "d", "perennial", body, "")]
    assert windows_in_doubt(entries) == (WINDOW.name,)
    assert windows_in_doubt([*entries, LedgerEntry("m", 2, LABELS_SOUND, at, "e", "perennial", body, "")]) == ()
    stored = to_json(report(WINDOW, None)).replace(',"labels":null', "")
    assert 'labels"' not in stored.replace("labelled", "")
    assert from_json(PerformanceReport, stored) == report(WINDOW, None)
