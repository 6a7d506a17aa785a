"""Diagnoses on both sides of their limits, and a confusion table."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from deployments.config.blocks.monitoring import ColumnQuality
from tasks.policy.monitoring.diagnosis import Diagnosis, DiagnosisLimits, decide_diagnosis
from tasks.policy.monitoring.estimate_errors import Estimate
from tasks.policy.monitoring.performance import best_past_level, window_noise
from tasks.policy.records.reports import DriftReport, MetricValue, PerformanceReport
from tests.policy.triggers.judged_windows import drift, evidence, quality, report, valued

STILL = drift(0, wind=0.1, pressure=0.1, distance=0.1, hour=0.1, day=0.1, humidity=0.1)
MOVED = drift(0, wind=2.0, pressure=1.5, distance=1.2, hour=1.1, day=0.1, humidity=0.1)


def performed(mae: float, p_value: float | None, half: float = 0.05) -> PerformanceReport:
    """A closed window against a best past level of 5."""
    level = None if p_value is None else valued("mae", 5.0, 0.05)
    return replace(report(0, half=half, mae=mae), baseline=level, shift_p_value=p_value)


def diagnosed(
    found: DriftReport | None, performance: PerformanceReport | None, estimate: MetricValue | None = None, **settings
) -> Diagnosis:
    """The diagnosis of a window that passed its quality checks."""
    seen = evidence(0, drift=found, performance=performance)
    return decide_diagnosis(seen, Estimate(estimate) if estimate else None, **settings)


FELL, STOOD = performed(6.0, 1e-9), performed(5.02, 0.3)


def changed(found: DriftReport, name: str, **changes: object) -> DriftReport:
    features = tuple(
        replace(feature, verdict="drifted", **changes) if feature.feature == name else feature
        for feature in found.features
    )
    return replace(found, features=features)


def weighed(found: DriftReport, **weights: float) -> DriftReport:
    """The same drift of a model that uses its features so much; those without a weight not at all."""
    features = (replace(feature, importance=weights.get(feature.feature, 0.0)) for feature in found.features)
    return replace(found, features=tuple(features))


def estimated(mae: float, half: float = 0.05) -> MetricValue:
    return replace(valued("mae", mae, half), estimated=True)


@pytest.mark.parametrize(
    ("moved", "performance", "estimate", "kind"),
    [
        (STILL, STOOD, None, "none"),
        (STILL, FELL, None, "concept_drift"),
        (MOVED, STOOD, None, "harmless_covariate_shift"),
        (MOVED, FELL, estimated(5.98), "harmful_covariate_shift"),
        (MOVED, FELL, estimated(5.05), "concept_drift"),
        (MOVED, FELL, None, "harmful_covariate_shift"),
        (MOVED, None, None, "insufficient_evidence"),
        (MOVED, performed(5.0, None), estimated(6.0), "insufficient_evidence"),
        (STILL, None, None, "none"),
        (None, STOOD, None, "none"),
        (None, FELL, None, "concept_drift"),
        (None, None, None, "insufficient_evidence"),
        (drift(0, rows=50, verdict="insufficient", wind=9.0), None, None, "insufficient_evidence"),
    ],
)
def test_kinds(moved, performance, estimate, kind):
    found = diagnosed(moved, performance, estimate)
    assert found.kind == kind
    assert found.reasons


def test_an_improvement_is_never_harm():
    assert diagnosed(MOVED, performed(4.0, 1e-9)).kind == "harmless_covariate_shift"


def test_estimate_is_used_before_labels_arrive():
    waiting = replace(performed(5.0, 0.5), maturity="open", metrics=())
    assert diagnosed(MOVED, waiting, estimated(6.0)).kind == "harmful_covariate_shift"
    assert diagnosed(MOVED, waiting, estimated(5.0)).kind == "harmless_covariate_shift"


@pytest.mark.parametrize(("harm", "least", "most"), [(0.0, 0.0, 0.05), (0.6, 0.95, 1.0)])
def test_estimate_is_judged_against_window_noise(harm, least, most):
    """Inputs moved; windows vary by 0.1, the standard error of their rows is 0.005. The estimate used the latest three windows.

    By the rows' error alone, nearly every stable model would be harmed, as the level is the luckiest of the past.
    """
    random, found = np.random.default_rng(3), Counter()
    for _ in range(200):
        values = list(random.normal(5, 0.1, 12))
        level = best_past_level([report(number, mae=value) for number, value in enumerate(values)], "mae")[0]
        expected = estimated(np.mean(values[-3:]) + harm + random.normal(0, 0.01), 0.01)
        waiting = replace(report(12, "open", mae=5.0), metrics=(), baseline=level)
        waiting = replace(waiting, noise=window_noise(values).sigma, noise_windows=len(values), primary="mae")
        found[diagnosed(MOVED, waiting, expected).kind] += 1
    assert least <= found["harmful_covariate_shift"] / 200 <= most


def test_failed_gate_is_a_fault_with_its_reasons():
    found = decide_diagnosis(
        evidence(0, quality=quality(0, "fail", "wind is 100 % null"), drift=MOVED, performance=FELL)
    )
    assert (found.kind, found.reasons) == ("upstream_data_fault", ("wind is 100 % null",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"null_share": 0.25, "reference_null_share": 0.02}, "nulls rose from 2% to 25%"),
        ({"unseen_share": 0.6}, "60% of its values are in categories never seen before"),
        ({"suspicion": "as if stuck", "suspicion_sure": True}, "as if stuck"),
        ({"mean_shift_sigma": -7.0}, "its mean moved by -7.0 σ alone"),
    ],
)
def test_one_broken_feature_is_a_fault_even_if_performance_falls(changes, words):
    found = diagnosed(changed(STILL, "wind", **changes), FELL)
    assert found.kind == "upstream_data_fault"
    assert words in found.reasons[0]
    assert found.features == ("wind",)


@pytest.mark.parametrize(("on_failure", "kind"), [("warn", "harmful_covariate_shift"), ("fail", "upstream_data_fault")])
def test_a_column_whose_violations_only_warn_is_no_fault(on_failure, kind):
    shifted = changed(MOVED, "wind", unseen_share=1.0, null_share=0.9)
    rules = {"wind": ColumnQuality(on_failure=on_failure)}
    assert diagnosed(shifted, FELL, allowed=rules).kind == kind


def test_shift_of_most_features_is_not_a_feed_fault():
    assert diagnosed(changed(MOVED, "wind", mean_shift_sigma=7.0), FELL).kind != "upstream_data_fault"


def test_unused_features_explain_nothing():
    unused = weighed(MOVED, day=0.6, humidity=0.4)
    assert diagnosed(unused, FELL).kind == "concept_drift"
    assert diagnosed(unused, STOOD).kind == "none"


def test_features_are_named_by_drift_times_importance():
    found = diagnosed(weighed(MOVED, wind=0.1, pressure=0.1, distance=0.6, hour=0.2), STOOD)
    assert found.features == ("distance", "hour", "wind", "pressure")
    assert "most important first: distance (wasserstein 1.2" in found.reasons[1]


def test_confusion_table_of_injected_changes(capsys):
    """Noisy evidence of known changes: shifts of inputs, with or without explained loss. Most must be diagnosed correctly."""
    random, table = np.random.default_rng(0), Counter()
    kinds_injected = {
        "none": (0.0, 0.0, 0.0),
        "harmless_covariate_shift": (1.6, 0.0, 0.0),
        "harmful_covariate_shift": (1.6, 0.6, 0.6),
        "concept_drift": (0.0, 0.6, 0.0),
    }
    names = ("wind", "pressure", "distance", "hour", "day", "humidity")
    for injected, (shift, loss, explained) in kinds_injected.items():
        for _ in range(100):
            moved = random.choice([0, 1], len(names), p=[0.4, 0.6]) if shift else np.zeros(len(names))
            shifts = {n: float(abs(random.normal(shift * m, 0.15))) for n, m in zip(names, moved, strict=True)}
            value, expected = 5 + loss + random.normal(0, 0.1), 5 + explained + random.normal(0, 0.05)
            p_value = float(1 - _normal_cdf((value - 5) / 0.11))
            found = diagnosed(drift(0, **shifts), performed(value, p_value, half=0.2), estimated(expected, 0.1))
            table[injected, found.kind] += 1
    kinds = sorted({kind for _, kind in table})
    print("injected".ljust(26), *(kind[:14].rjust(15) for kind in kinds))
    for injected in kinds_injected:
        print(injected.ljust(26), *(str(table[injected, kind]).rjust(15) for kind in kinds))
    assert min(table[injected, injected] for injected in kinds_injected) >= 90


def _normal_cdf(z: float) -> float:
    from scipy import stats

    return float(stats.norm.cdf(z))


def test_weak_suspicion_needs_stable_other_features():
    alone = changed(drift(0, wind=2.4, rain=0.1, sun=0.3), "wind", suspicion="as if °F were given in °C")
    season = changed(drift(0, wind=2.4, rain=1.5, sun=1.2), "wind", suspicion="as if °F were given in °C")
    assert diagnosed(alone, FELL).kind == "upstream_data_fault"
    assert diagnosed(season, FELL).kind != "upstream_data_fault"


def test_gap_within_window_noise_is_not_concept_drift():
    """Realised 6.0, estimated 5.5 with errors of 0.05: 7 σ of the rows, but half a σ of windows that vary by 1."""
    calm = replace(FELL, noise=0.05)
    assert diagnosed(MOVED, calm, estimated(5.5)).kind == "concept_drift"
    assert diagnosed(MOVED, replace(FELL, noise=1.0), estimated(5.5)).kind == "harmful_covariate_shift"


def test_allowed_change_is_no_fault_and_fault_names_its_setting():
    nulls = changed(drift(0, wind=2.4, rain=0.1, sun=0.3), "wind", null_share=0.45, reference_null_share=0.0)
    found = diagnosed(nulls, None)
    assert found.kind == "upstream_data_fault"
    assert found.reasons == (
        "wind: nulls rose from 0% to 45%, a rise of 20% or more counts as a fault (diagnosis.null_share_increase; "
        "quality.columns.wind.max_null_share allows them)",
    )
    allowed = {"wind": ColumnQuality(max_null_share=0.5)}
    assert diagnosed(nulls, None, allowed=allowed).kind != "upstream_data_fault"
    strict = {"wind": ColumnQuality(max_null_share=0.4)}
    assert diagnosed(nulls, None, allowed=strict).kind == "upstream_data_fault"
    loose = DiagnosisLimits(null_share_increase=0.6)
    assert diagnosed(nulls, None, limits=loose).kind != "upstream_data_fault"


def test_possible_unit_change_blocks_nothing_and_check_can_be_disabled():
    suspect = changed(
        drift(0, wind=2.4, rain=0.1, sun=0.3), "wind", suspicion="as if pounds were given in kg", suspicion_sure=True
    )
    assert diagnosed(suspect, None).kind == "upstream_data_fault"
    assert "diagnosis.unit_faults" in diagnosed(suspect, None).reasons[0]
    off = DiagnosisLimits(unit_faults=False)
    assert diagnosed(suspect, None, limits=off).kind != "upstream_data_fault"
    possible = changed(suspect, "wind", suspicion_possible=True)
    assert diagnosed(possible, None).kind != "upstream_data_fault"
