"""Evidently's results on a sample are translated, weighted and reported; the verdict is that of all rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tasks.policy.monitoring.second_opinion import Scale, combine_features, with_own_tests, with_second_opinion
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.reports import (
    DriftReport,
    FeatureDrift,
    FeatureOpinion,
    OwnTest,
    SecondOpinion,
    UncomputedTest,
)
from tests.support.monitored_model import WINDOW


def feature(name: str, verdict: str = "stable", effect: float = 0.05, importance: float | None = None) -> FeatureDrift:
    return FeatureDrift(name, "numeric", verdict, "wasserstein", effect, 0.1, 0.001, 0.001, importance=importance)


def report(*features: FeatureDrift, verdict: str = "stable", share: float = 0.0) -> DriftReport:
    return DriftReport(WINDOW, verdict, features, share, 100_000, 1_204_331, ("the summary",))


def opinion(name: str, verdict: str, effect: float, **found) -> FeatureOpinion:
    return FeatureOpinion(name, verdict, "wasserstein", effect, 0.1, **found)


@pytest.mark.parametrize("method", ["psi", "kl", "ks", "wasserstein"])
@pytest.mark.parametrize("effect", [0.02, 0.1, 0.4])
def test_score_at_threshold_is_the_effect(method, effect):
    scale = Scale(method, 5000, 3000, bins=12, sigma_ratio=0.7)
    assert scale.effect(scale.threshold(effect)) == pytest.approx(effect)


def test_ks_threshold_is_p_value_of_that_distance():
    first, second = np.arange(2000.0), np.arange(2000.0) + 200  # distance 0.1
    assert Scale("ks", 2000, 2000).threshold(0.1) == pytest.approx(
        stats.ks_2samp(first, second, method="asymp").pvalue, rel=0.15
    )  # scipy corrects for the sample size


def test_distances_keep_evidentlys_noise_floor_and_sigma():
    assert Scale("psi", 1000, 1000, bins=11).threshold(0.1) == pytest.approx(0.1 + 10 * (1 / 1000 + 1 / 1000))
    assert Scale("kl", 1000, 1000, bins=11).threshold(0.1) == pytest.approx(0.1 + 5 * (1 / 1000 + 1 / 1000))
    assert Scale("wasserstein", 1000, 1000, sigma_ratio=2.0).threshold(0.1) == pytest.approx(0.2)


def test_zero_p_value_is_a_large_finite_effect():
    assert 0.2 < Scale("ks", 5000, 5000).effect(0.0) < 1


@pytest.mark.parametrize(("weight", "verdict"), [(0.2, "stable"), (0.4, "drifted")])
def test_features_weigh_by_importance(weight, verdict):
    found = report(feature("a", importance=weight), feature("b", importance=1 - weight))
    weighed = combine_features(found, [opinion("a", "drifted", 0.2), opinion("b", "stable", 0.0)], 5000, 5000, 0.3)
    assert (weighed.verdict, weighed.drifted_share) == (verdict, pytest.approx(weight))


def test_nothing_measured_is_insufficient():
    assert combine_features(report(feature("a")), [], 5000, 5000, 0.3).verdict == "insufficient"


def test_agreement_is_reported_without_warning():
    found = report(feature("a"))
    combined = with_second_opinion(found, combine_features(found, [opinion("a", "stable", 0.04)], 5000, 5000, 0.3), 0.3)
    assert combined.reasons == ("the summary", combined.second_opinion.summary) and combined.warnings == ()
    assert combined.second_opinion.summary == (
        "Evidently on 5,000 rows: stable, a drifted share of 0.00; on all 1,204,331 rows: stable, 0.00 against 0.3; "
        "features measured by Evidently: 1, in disagreement: 0, beyond sampling error: 0"
    )


@pytest.mark.parametrize(
    ("verdict", "low", "high", "warns"),
    [
        ("stable", 0.03, 0.09, True),
        ("stable", 0.03, 0.11, False),
        ("drifted", 0.11, 0.2, True),
        ("drifted", 0.09, 0.2, False),
    ],
)
def test_disagreement_beyond_interval_warns(verdict, low, high, warns):
    ours = "drifted" if verdict == "stable" else "stable"
    found = report(feature("a", ours, 0.12), verdict=ours, share=float(ours == "drifted"))
    one = opinion("a", verdict, (low + high) / 2, disagrees=True, low=low, high=high)
    combined = with_second_opinion(found, combine_features(found, [one], 5000, 5000, 0.3), 0.3)
    assert (len(combined.warnings) == 1, combined.verdict) == (warns, ours)
    assert combined.reasons[-1].endswith(f"in disagreement: 1, beyond sampling error: {int(warns)}")
    if warns:
        assert combined.warnings[0].startswith(f"a: Evidently on 5,000 rows: {verdict}, wasserstein")
        assert f"on all 1,204,331 rows: {ours}, wasserstein 0.12 against 0.1" in combined.warnings[0]


def test_many_disagreements_are_summarised():
    found = report(*(feature(str(number), "drifted", 0.2) for number in range(9)), verdict="drifted", share=1.0)
    apart = [opinion(str(number), "stable", 0.02, disagrees=True, low=0.01, high=0.03) for number in range(9)]
    warnings = with_second_opinion(found, combine_features(found, apart, 5000, 5000, 0.3), 0.3).warnings
    assert len(warnings) == 6 and warnings[-1].endswith("on 4 more features")


@pytest.mark.parametrize(("fails_as", "verdict"), [("warn", "stable"), ("drifted", "drifted")])
def test_failed_user_test_counts_as_configured(fails_as, verdict):
    failed = OwnTest("MeanValue of a", False, "Actual value 3 < 5", fails_as)
    uncomputed = [UncomputedTest("not computed")]
    found = with_own_tests(report(feature("a")), [failed, OwnTest("MaxValue of a", True, "")], uncomputed)
    assert found.verdict == verdict and found.failed_as_drifted == ((failed,) if fails_as == "drifted" else ())
    words = found.reasons[0] if fails_as == "drifted" else found.warnings[0]
    assert words.startswith("Evidently's MeanValue of a fails its test: Actual value 3 < 5")
    assert found.warnings[-1] == "not computed"


GATE = UncomputedTest("Evidently's MeanValue of a was not computed (drift.evidently.0): no such table", "drifted")
FAILED = OwnTest("MeanValue of b", False, "3 < 5", "drifted")


@pytest.mark.parametrize(
    ("before", "tests", "verdict"),
    [("stable", [], "insufficient"), ("insufficient", [], "insufficient"), ("drifted", [], "drifted"), ("stable", [FAILED], "drifted")],
)  # fmt: skip
def test_a_test_that_counts_as_drift_and_was_not_computed_is_neither_drift_nor_its_absence(before, tests, verdict):
    found = with_own_tests(report(feature("a"), verdict=before), tests, [GATE])
    assert found.verdict == verdict and found.failed_as_drifted == tuple(tests)
    assert found.unknown_tests[0] in found.reasons[:2] and found.warnings == ()
    assert found.unknown_tests[0].startswith(
        f"{GATE.reason}; it counts as drift, so drift is not ruled out in this window"
    )


def test_the_same_test_only_warns_where_the_file_says_so():
    found = with_own_tests(report(feature("a")), [], [replace(GATE, fails_as="warn")])
    assert (found.verdict, found.unknown_tests, found.warnings) == ("stable", (), (GATE.reason,))


def test_report_round_trips_and_old_report_loads():
    found = report(feature("a"))
    combined = with_second_opinion(found, SecondOpinion("insufficient", 0, 0, unavailable="no sample"), 0.3)
    assert from_json(DriftReport, to_json(combined)) == combined
    before = to_json(found)
    for name in (
        '"second_opinion":null,',
        '"unknown_tests":[],',
        ',"warnings":[]',
        ',"own_tests":[]',
        '"own_tests":[],',
    ):
        before = before.replace(name, "")
    assert "own_tests" not in before and "unknown_tests" not in before and "second_opinion" not in before
    assert from_json(DriftReport, before) == found
