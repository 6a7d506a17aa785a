"""Drift scores against independent computations, and verdicts from both sides of each gate."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from deployments.config.blocks.monitoring import Drift
from tasks.policy.monitoring.drift import describe, drifted_share, measure
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.profile import (
    FeatureCounts,
    FeatureReference,
    ReferenceProfile,
    WindowProfile,
    choose_edges,
    with_missing,
)
from tasks.policy.statistics import distances
from tasks.policy.statistics.binning import BinGuide, count_values
from tasks.policy.statistics.distances import Table
from tests.support.monitored_model import HISTORY, WINDOW

ANY = (-np.inf, np.inf)


def numeric(values: np.ndarray, name: str = "x") -> FeatureReference:
    ordered = np.sort(values)
    edges = choose_edges(ordered)
    counts = count_values(name, "double", ordered, BinGuide.of(np.array(edges)), ANY)
    return FeatureReference(name, "numeric", counts, edges)


def current(values: np.ndarray, frozen: FeatureReference) -> FeatureCounts:
    return count_values(frozen.feature, "double", values, BinGuide.of(np.array(frozen.edges)), ANY)


def judged(frozen: list[FeatureReference], counted: list[FeatureCounts], importances=None, **settings):
    before = ReferenceProfile("m", HISTORY, max((f.counts.rows for f in frozen), default=0), "h", tuple(frozen), ())
    now = WindowProfile(WINDOW, max((c.rows for c in counted), default=0), tuple(counted), ())
    return measure(now, before, Drift(**settings), importances)


SHAPES = {
    "normal": lambda random, n, shift: random.normal(shift, 1, n),
    "lognormal": lambda random, n, shift: random.lognormal(shift, 1, n),
    "integers": lambda random, n, shift: random.poisson(3 + shift, n).astype(float),
    "outliers": lambda random, n, shift: np.where(random.random(n) < 0.01, 1000, random.normal(shift, 1, n)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.1, 0.5, 3.0])
def test_scores_from_counts_equal_scipy(shape: str, shift: float):
    random = np.random.default_rng(5)
    before, now = SHAPES[shape](random, 30_000, 0.0), SHAPES[shape](random, 8_000, shift)
    frozen = numeric(before)
    counts = current(now, frozen)
    assert distances.ks(Table(frozen.counts.counts, counts.counts)) == pytest.approx(
        stats.ks_2samp(before, now)[0], abs=1 / 255
    )
    expected = stats.wasserstein_distance(before, now) / before.std()
    assert distances.wasserstein(frozen, counts) == pytest.approx(expected, rel=0.05, abs=0.01)
    assert counts.mean == pytest.approx(now.mean()) and counts.std == pytest.approx(now.std())


def test_psi_and_kl_worked_by_hand():
    table = Table((60, 40), (30, 70))
    p, q = np.array([60.5, 40.5]) / 101, np.array([30.5, 70.5]) / 101
    floor = (2 - 1) * (1 / 100 + 1 / 100)
    assert distances.psi(table) == pytest.approx(((q - p) * np.log(q / p)).sum() - floor)
    assert distances.kl(table) == pytest.approx((q * np.log(q / p)).sum() - floor / 2)


def test_psi_of_equal_distributions_is_its_noise_floor():
    random = np.random.default_rng(0)
    above_floor, plain = [], []
    for _ in range(200):
        before, now = random.multinomial(2000, [0.05] * 20), random.multinomial(500, [0.05] * 20)
        above_floor.append(distances.psi(Table(before.tolist(), now.tolist())))
        plain.append(above_floor[-1] + distances.noise_floor(20, 2000, 500) if above_floor[-1] else np.nan)
    assert distances.noise_floor(20, 2000, 500) == pytest.approx(19 * 0.0025)
    assert np.mean(above_floor) < 0.01
    assert np.max(above_floor) < 0.06


def test_chi2_equals_scipy_without_rare_bins():
    table = Table((50, 30, 20), (30, 30, 40))
    expected = stats.chi2_contingency([table.reference, table.current], correction=False)
    assert distances.chi2(table) == pytest.approx((expected.statistic, expected.pvalue))


def test_single_row_of_unseen_category_is_not_drift():
    assert distances.chi2(Table((5000, 5000, 0), (500, 499, 1)))[1] > 0.5
    assert distances.chi2(Table((5000, 5000, 0), (450, 450, 100)))[1] < 1e-6


def test_coarse_bins_have_similar_shares():
    table = Table((10,) * 200 + (0,), (0,) * 200 + (50,)).coarse()
    assert list(table.reference) == [100] * 20
    assert list(table.current) == [0] * 19 + [50]


def test_empty_side_is_no_drift():
    for table in (Table((0, 0), (1, 2)), Table((1, 2), (0, 0)), Table((), ())):
        assert (distances.ks(table), distances.ks_p_value(table), distances.psi(table), distances.kl(table)) == (
            0,
            1,
            0,
            0,
        )
        assert distances.chi2(table) == (0, 1)


def test_shift_past_threshold_is_drift():
    random = np.random.default_rng(1)
    frozen = numeric(random.normal(0, 2, 20_000))
    for shift, verdict in ((0.05, "stable"), (0.2, "drifted")):
        report = judged([frozen], [current(random.normal(shift * 2, 2, 20_000), frozen)])
        assert report.features[0].verdict == verdict
        assert report.features[0].mean_shift_sigma == pytest.approx(shift, abs=0.03)
        assert report.features[0].wasserstein_sigma == pytest.approx(shift, abs=0.03)


def test_large_effect_explained_by_chance_is_not_drift():
    """One outlier of 1e6 moves mean and Wasserstein by hundreds of σ; the distribution is where it was."""
    random = np.random.default_rng(2)
    frozen, values = numeric(random.normal(0, 1, 20_000)), random.normal(0, 1, 5000)
    values[0] = 1e6
    feature = judged([frozen], [current(values, frozen)]).features[0]
    assert feature.effect_size > 100 and feature.q_value > 0.01
    assert feature.verdict == "stable"


def test_shift_is_detected_despite_an_outlier():
    random = np.random.default_rng(3)
    frozen, values = numeric(random.normal(0, 1, 20_000)), random.normal(2, 1, 5000)
    values[0] = 1e6
    for method in ("wasserstein", "psi", "ks", "kl"):
        feature = judged([frozen], [current(values, frozen)], method=method).features[0]
        assert feature.verdict == "drifted" and feature.psi > 2


def test_few_rows_are_insufficient_and_enough_are_not():
    random = np.random.default_rng(4)
    frozen = numeric(random.normal(0, 1, 5000))
    few, enough = (judged([frozen], [current(random.normal(3, 1, n), frozen)], max_share=0.5) for n in (199, 200))
    assert (few.verdict, few.features[0].verdict, few.drifted_share) == ("insufficient", "insufficient", 0)
    assert "199 rows" in few.reasons[0]
    assert (enough.verdict, enough.features[0].verdict, enough.drifted_share) == ("drifted", "drifted", 1)


def test_mostly_null_feature_is_insufficient():
    random = np.random.default_rng(4)
    frozen = numeric(random.normal(0, 1, 5000))
    frozen = replace(frozen, counts=with_missing(frozen.counts, nulls=45_000))
    counts = with_missing(current(random.normal(3, 1, 100), frozen), nulls=900)
    assert judged([frozen], [counts]).features[0].verdict == "insufficient"


def test_many_stable_features_raise_no_false_alarm():
    random = np.random.default_rng(6)
    frozen = [numeric(random.normal(0, 1, 3000), f"x{number}") for number in range(200)]
    report = judged(frozen, [current(random.normal(0, 1, 250), one) for one in frozen], threshold=0.02)
    assert report.drifted_share == 0


def test_q_values_equal_benjamini_hochberg():
    random = np.random.default_rng(7)
    frozen = [numeric(random.normal(0, 1, 3000), f"x{number}") for number in range(5)]
    report = judged(frozen, [current(random.normal(0.03 * i, 1, 1000), one) for i, one in enumerate(frozen)])
    features = sorted(report.features, key=lambda feature: feature.feature)
    expected = stats.false_discovery_control([feature.p_value for feature in features])
    assert [feature.q_value for feature in features] == pytest.approx(expected.tolist())


def test_jump_of_nulls_is_drift():
    random = np.random.default_rng(8)
    frozen, values = numeric(random.normal(0, 1, 5000)), random.normal(0, 1, 2000)
    counts = with_missing(current(values, frozen), nulls=3000)
    feature = judged([frozen], [counts]).features[0]
    assert (feature.verdict, feature.method, feature.null_share) == ("drifted", "null share psi", 0.6)
    assert "nulls 60.0% (reference 0.0%)" in describe(feature)


def test_a_reference_of_one_value_is_measured_by_ks():
    frozen = numeric(np.zeros(1000))
    moved = judged([frozen], [current(np.repeat([0.0, 5.0], 500), frozen)]).features[0]
    assert (moved.method, moved.effect_size, moved.verdict) == ("ks", 0.5, "drifted")
    assert moved.mean_shift_sigma is None and moved.wasserstein_sigma is None
    assert judged([frozen], [current(np.zeros(1000), frozen)]).features[0].verdict == "stable"


def test_drifted_share_is_weighted_by_importance():
    random = np.random.default_rng(9)
    frozen = [numeric(random.normal(0, 1, 2000), name) for name in ("used", "unused")]
    counts = [current(random.normal(shift, 1, 2000), one) for shift, one in zip((0, 3), frozen, strict=True)]
    report = judged(frozen, counts, importances={"used": 0.9, "unused": 0.1}, threshold=0.2)
    assert report.drifted_share == pytest.approx(0.1) and report.verdict == "stable"
    assert judged(frozen, counts).drifted_share == 0.5
    assert "by importance" in report.reasons[0]


@pytest.mark.parametrize("method", ["wasserstein", "ks", "psi", "kl"])
def test_small_window_is_insufficient_and_states_needed_rows(method):
    """With the stated number of rows, the same stable feature is stable."""
    random = np.random.default_rng(12)
    frozen = numeric(random.normal(0, 1, 20_000))
    settings = {"method": method, "threshold": 0.01 if method in ("psi", "kl") else 0.1}
    small = judged([frozen], [current(random.normal(0, 1, 250), frozen)], **settings)
    feature = small.features[0]
    assert (small.verdict, feature.verdict, small.drifted_share) == ("insufficient", "insufficient", 0)
    assert feature.smallest_effect > feature.threshold and feature.rows_needed > 250
    assert f"about {feature.rows_needed:,} rows would be enough" in small.reasons[1]
    assert f"smallest detectable effect in x is {method} {feature.smallest_effect:.2g}" in small.reasons[1]
    large = judged([frozen], [current(random.normal(0, 1, feature.rows_needed + 50), frozen)], **settings)
    assert (large.verdict, large.features[0].verdict) == ("stable", "stable")
    assert len(large.reasons) == 1


def test_huge_effect_in_a_small_window_is_drift():
    random = np.random.default_rng(13)
    frozen = [numeric(random.normal(0, 1, 20_000), f"x{number}") for number in range(4)]
    report = judged(frozen, [current(random.normal(3.5 if one is frozen[0] else 0, 1, 250), one) for one in frozen])
    assert [feature.verdict for feature in report.features] == ["drifted", *["insufficient"] * 3]
    assert report.verdict == "insufficient" and report.is_conclusive  # the other features may have moved too
    alone = judged(frozen[:1], [current(random.normal(3.5, 1, 250), frozen[0])])
    assert (alone.verdict, alone.drifted_share) == ("drifted", 1)


def test_more_rows_do_not_help_with_a_small_reference():
    random = np.random.default_rng(14)
    frozen = numeric(random.normal(0, 1, 300))
    report = judged([frozen], [current(random.normal(0, 1, 50_000), frozen)])
    assert report.features[0].verdict == "insufficient" and report.features[0].rows_needed is None
    assert "a larger reference would be enough" in report.reasons[1]


def test_no_features_give_no_share():
    assert drifted_share([]) == 0
    assert judged([], []).verdict == "insufficient"


def test_values_near_float_max_serialise_as_json():
    random = np.random.default_rng(11)
    frozen, values = numeric(random.normal(0, 1e-9, 2000)), random.normal(0, 1e-9, 2000)
    values[:900] = 1.7e308
    report = judged([frozen], [current(values, frozen)])
    assert report.features[0].verdict == "drifted"
    assert from_json(type(report), to_json(report)) == report


def test_a_report_round_trips_through_json():
    random = np.random.default_rng(10)
    frozen = numeric(random.normal(0, 1, 2000))
    report = judged([frozen], [current(random.normal(9, 1, 2000), frozen)])
    assert from_json(type(report), to_json(report)) == report


@pytest.mark.parametrize("now", [5.0, -5.0])
def test_moved_constant_is_drift_in_either_direction(now):
    frozen = numeric(np.zeros(1000))
    assert judged([frozen], [current(np.full(1000, now), frozen)]).features[0].verdict == "drifted"
    assert judged([frozen], [current(np.zeros(1000), frozen)]).features[0].verdict == "stable"
