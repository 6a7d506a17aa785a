"""Tests and intervals against independent computations, hand-worked cases and their nominal levels."""

import numpy as np
import pytest
from scipy import signal, stats
from sklearn.metrics import roc_auc_score
from statsmodels.api import OLS

from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import (
    MOST_GROUPS,
    SHRINKAGE,
    Interval,
    Resampling,
    bootstrap_means,
    cluster_uncertainty,
    jackknife_uncertainty,
    moving_block_interval,
    percentile_interval,
    skewed_quantile,
)


def mean_interval(rows: np.ndarray, *how: float, **named: float) -> Interval:
    resampling = Resampling(*how, **named)
    return percentile_interval(bootstrap_means(rows, resampling), resampling.confidence)


def test_wilson_equals_its_formula_and_stays_inside_the_unit_interval():
    z, hits, n = 1.959963984540054, 8, 10
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert intervals.wilson_interval(hits, n) == pytest.approx((centre - half, centre + half))
    low, high = intervals.wilson_interval(10, 10)
    assert 0.69 < low < 0.73  # the textbook case: 10 of 10 is not proof of certainty
    assert high == pytest.approx(1)
    assert np.isnan(intervals.wilson_interval(0, 0).low)


def test_bootstrap_of_a_mean_agrees_with_scipy():
    rows = np.random.default_rng(0).exponential(size=400)
    independent = stats.bootstrap((rows,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(5))
    low, high = mean_interval(rows, draws=4000, seed=3)
    assert low == pytest.approx(independent.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(independent.confidence_interval.high, abs=0.01)


def test_interval_depends_on_the_seed():
    rows = np.random.default_rng(0).normal(size=200)
    assert mean_interval(rows, seed=1) == mean_interval(rows, seed=1)
    assert mean_interval(rows, seed=1) != mean_interval(rows, seed=2)


@pytest.mark.parametrize("count", [100, 5000])
def test_bootstrap_draws_have_the_standard_error_of_the_mean_and_stay_paired(count):
    rows = np.random.default_rng(0).exponential(size=count)
    draws = bootstrap_means(rows, Resampling(draws=4000))
    assert draws.std() == pytest.approx(rows.std() / np.sqrt(count), rel=0.05)
    assert draws.mean() == pytest.approx(rows.mean(), abs=4 * rows.std() / np.sqrt(count) / np.sqrt(4000))
    pairs = bootstrap_means(np.stack([rows, rows + 1000], axis=1), Resampling(draws=50))
    assert pairs.shape == (50, 2)
    assert pairs[:, 1] - pairs[:, 0] == pytest.approx(1000)


def test_both_resampling_methods_agree():
    rows = np.random.default_rng(1).exponential(size=500)
    fewer = mean_interval(rows[:499], draws=20_000)
    assert mean_interval(rows, draws=20_000) == pytest.approx(fewer, abs=0.01)


@pytest.mark.parametrize("rows", [4096, 4097])
def test_weights_cached_for_windows_of_similar_size_cover_as_well_as_those_drawn_for_one(rows):
    """Weights for 1,000 draws of 4,096 rows are cached, of 4,097 rows not; 150 windows of mean 1: 10 % ± 3.5 binomial σ miss."""
    random = np.random.default_rng(4)
    windows = (random.exponential(size=rows) for _ in range(150))
    missed = sum(not low <= 1 <= high for low, high in (mean_interval(one, 0.9) for one in windows))
    assert 0.02 <= missed / 150 <= 0.18


def test_intervals_cover_at_their_nominal_level():
    """300 windows of 200 rows each, mean 1: a 90 % interval must miss in about 10 % (binomial 3.5 σ: 4 % to 16 %)."""
    random = np.random.default_rng(4)
    missed = 0
    for seed in range(300):
        low, high = mean_interval(random.exponential(size=200), 0.9, draws=400, seed=seed)
        missed += not low <= 1 <= high
    assert 0.04 <= missed / 300 <= 0.16


def test_delong_equals_published_variance():
    random = np.random.default_rng(6)
    score = np.round(random.random(300), 2)
    y_true = (random.random(300) < score).astype(int)
    other = np.round(np.clip(score + random.normal(0, 0.3, 300), 0, 1), 2)
    areas, covariance = intervals.delong(y_true, [score, other])
    assert areas == pytest.approx([roc_auc_score(y_true, score), roc_auc_score(y_true, other)])
    x, y = score[y_true == 1][:, None], score[y_true == 0][None, :]  # psi over all pairs: DeLong et al., eq. 3 to 6
    psi = (x > y) + 0.5 * (x == y)
    by_pairs = psi.mean(1).var(ddof=1) / len(x) + psi.mean(0).var(ddof=1) / y.size
    assert covariance[0, 0] == pytest.approx(by_pairs)
    assert covariance[0, 1] == pytest.approx(covariance[1, 0])


@pytest.mark.parametrize("name", [*metrics.CLASS_METRICS, *metrics.REGRESSION_METRICS])
def test_intervals_contain_value_and_narrow_with_rows(name):
    random = np.random.default_rng(7)
    y_pred = random.random(4000)
    y_true = (random.random(4000) < y_pred).astype(float)
    widths = []
    for rows in (250, 4000):
        low, high = intervals.metric_interval(Metric(name), y_true[:rows], y_pred[:rows], Resampling(draws=300))
        assert low < metrics.compute(Metric(name), y_true[:rows], y_pred[:rows]) < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.5)  # a sixteenth of the rows, four times the width


@pytest.mark.parametrize("name", [*metrics.CLASS_METRICS, *metrics.REGRESSION_METRICS])
def test_better_challenger_gains_in_any_metric(name):
    """Other tools compare a model with itself, or hard-code `>`; both fail here."""
    random = np.random.default_rng(8)
    better = random.random(1500)
    y_true = (random.random(1500) < better).astype(float)
    worse = np.clip(better + random.normal(0, 0.4, 1500), 0, 1)
    forth, back, none = (
        intervals.paired_bootstrap(Metric(name), PairedPredictions(y_true, *both), Resampling(draws=300))
        for both in ((worse, better), (better, worse), (better, better))
    )
    assert 0 < forth.low < forth.gain < forth.high
    assert back.high < 0
    assert back.gain == pytest.approx(-forth.gain)
    assert none == pytest.approx((0, 0, 0))


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier"])
def test_multiclass_gains_have_intervals_too(name):
    random = np.random.default_rng(9)
    better = random.dirichlet([1, 1, 1], 800)
    y_true = np.array([random.choice(3, p=row) for row in better])
    worse = 0.5 * better + 0.5 * random.dirichlet([1, 1, 1], 800)
    gain = intervals.paired_bootstrap(Metric(name), PairedPredictions(y_true, worse, better), Resampling(draws=200))
    assert 0 < gain.low < gain.gain < gain.high


def test_pairing_narrows_the_interval_of_a_gain():
    random = np.random.default_rng(10)
    hard = random.exponential(5, 1000)  # both models find the same rows hard
    old, new = hard + 0.5, hard + 0.4
    pairs = PairedPredictions(np.zeros(1000), old, new)
    gain = intervals.paired_bootstrap(Metric("mae"), pairs, Resampling(draws=2000))
    assert gain == pytest.approx((0.1, 0.1, 0.1))
    alone = intervals.metric_interval(Metric("mae"), np.zeros(1000), old)
    assert alone.high - alone.low > 0.5


def test_mcnemar_is_binomial_test_of_discordant_rows():
    y_true = np.ones(20)
    old, new = np.ones(20), np.ones(20)
    old[:8], new[8:10] = 0, 0  # 8 rows only the challenger gets right, 2 only the champion
    assert intervals.mcnemar_exact(PairedPredictions(y_true, old, new)) == pytest.approx(stats.binomtest(2, 10).pvalue)
    assert intervals.mcnemar_exact(PairedPredictions(y_true, old, old)) == 1.0


def test_two_proportions_by_hand_and_one_sided():
    pooled = (80 + 90) / 200
    z = (0.8 - 0.9) / np.sqrt(pooled * (1 - pooled) * 2 / 100)
    assert intervals.two_proportion_test(80, 100, 90, 100) == pytest.approx(stats.norm.cdf(z))
    assert intervals.two_proportion_test(95, 100, 90, 100) > 0.5
    assert intervals.two_proportion_test(100, 100, 100, 100) == 1.0
    assert np.isnan(intervals.two_proportion_test(0, 0, 1, 2))


def test_moving_blocks_widen_with_autocorrelation():
    """The mean of n independent values has error σ/√n; of an AR(1) with ρ = 0.8 it is 3 times as large."""
    random = np.random.default_rng(11)
    noise = random.normal(size=400)
    low, high = moving_block_interval(noise)
    assert (high - low) / 2 == pytest.approx(1.96 * noise.std() / 20, rel=0.2)
    series = signal.lfilter([1], [1, -0.8], random.normal(size=4000))
    low, high = moving_block_interval(series)
    independent = mean_interval(series)
    assert (high - low) > 1.8 * (independent.high - independent.low)
    assert moving_block_interval([3.0, np.nan, 3.0]) == (3.0, 3.0)
    assert np.isnan(moving_block_interval([3.0, np.nan])).all()


@pytest.mark.parametrize(("values", "correlation"), [(12, 0.0), (40, 0.0), (40, 0.4), (150, 0.4)])
def test_moving_blocks_keep_level_with_autocorrelation(values, correlation):
    """Without the correction, coverage is 86, 91, 84 and 89 instead of 95 %."""
    random, covered = np.random.default_rng(11), 0
    for _ in range(400):
        series = signal.lfilter([1], [1, -correlation], random.normal(size=values + 50))[50:]
        low, high = moving_block_interval(series, Resampling(draws=500, seed=7))
        covered += low <= 0 <= high
    assert 0.915 <= covered / 400 <= 0.975


@pytest.mark.parametrize(("positives", "known"), [(0, False), (1, False), (2, True), (399, False), (400, False)])
def test_auc_interval_needs_two_rows_per_class(positives, known):
    y_true, score = (np.arange(400) < positives).astype(float), np.random.default_rng(4).random(400)
    interval = intervals.metric_interval(Metric("roc_auc"), y_true, score)
    assert (interval.low < interval.high) == known
    assert np.isnan(interval).all() != known


@pytest.mark.parametrize(("positives", "known"), [(1, False), (2, True), (399, False)])
def test_auc_gain_interval_needs_two_rows_per_class(positives, known):
    random = np.random.default_rng(4)
    y_true = (np.arange(400) < positives).astype(float)
    old, new = random.random(400), random.random(400)
    gain = intervals.paired_bootstrap(Metric("roc_auc"), PairedPredictions(y_true, old, new), Resampling())
    assert np.isfinite(gain.gain)
    assert (np.isfinite(gain.low) and gain.low < gain.high) == known


def test_clustered_error_of_a_mean_equals_statsmodels():
    random = np.random.default_rng(5)
    clusters = random.integers(0, 30, 400)
    values = random.normal(size=30)[clusters] + random.normal(size=400)
    fit = OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False})
    found = cluster_uncertainty((values - values.mean()) / 400, clusters)
    assert found.standard_error == pytest.approx(fit.bse[0] * (30 / 29) ** 0.5)
    assert found.degrees_of_freedom == 29
    assert np.isnan(cluster_uncertainty([1.0, -1.0], ["a", "a"]).standard_error)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(6).normal(size=MOST_GROUPS)
    found = jackknife_uncertainty(np.arange(len(values)), lambda rows: float(values[rows].mean()))
    assert found.standard_error == pytest.approx(values.std(ddof=1) / len(values) ** 0.5)
    assert found.degrees_of_freedom == len(values) - 1
    shrunk = len(values) / (len(values) + SHRINKAGE)
    assert found.skewness == pytest.approx(shrunk * stats.skew(values) / len(values) ** 0.5)


def test_skewness_of_a_mean_and_the_quantiles_it_bends():
    """With exponential rows, a corrected one-sided t-test at 2.5 % keeps its level; the plain one has 6 % or 1 %."""
    rows = np.random.default_rng(8).exponential(1, (20_000, 40)) - 1
    found = cluster_uncertainty((rows[0] - rows[0].mean()) / 40, np.arange(40))
    assert found.skewness == pytest.approx(40 / (40 + SHRINKAGE) * stats.skew(rows[0]) / 40**0.5)
    statistic = rows.mean(axis=1) / (rows.std(axis=1, ddof=1) / 40**0.5)
    skewness, z = stats.skew(rows, axis=1) / 40**0.5, stats.t.ppf(0.975, 39)
    plain = [(statistic < -z).mean(), (statistic > z).mean()]
    low, high = (skewed_quantile(bound, skewness) for bound in (-z, z))
    assert plain == pytest.approx([0.06, 0.01], abs=0.012)
    assert [(statistic < low).mean(), (statistic > high).mean()] == pytest.approx([0.025, 0.025], abs=0.009)
    assert skewed_quantile([-2.0, 2.0], 0.0) == pytest.approx([-2, 2])


def test_jackknife_deletes_whole_clusters_in_a_bounded_number_of_groups():
    clusters, seen = np.repeat(np.arange(500), 3), []

    def estimate(rows: np.ndarray) -> float:
        seen.append(rows)
        return 0.0

    jackknife_uncertainty(clusters, estimate)
    assert len(seen) == MOST_GROUPS
    assert all(len(set(rows[clusters == cluster])) == 1 for rows in seen[:2] for cluster in range(500))
    assert np.isnan(jackknife_uncertainty(np.zeros(9), lambda rows: 1.0).standard_error)
