"""The verdict of a rollout: both sides of each bound, clusters, drifting shares, no traffic, and the level under looks."""

import math
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from tasks.policy.comparison.arms import ServedArm
from tasks.policy.comparison.evidence import (
    Evidence,
    paired_evidence,
    served_evidence,
    unknown_evidence,
    why_not_paired,
)
from tasks.policy.comparison.plan import (
    LEAST_UNITS,
    ExpectedTraffic,
    RolloutForecast,
    VerdictPolicy,
    forecast,
    horizon_warning,
    unit_sigma,
)
from tasks.policy.comparison.verdict import RolloutVerdict, decide_verdict
from tasks.policy.records.base import from_json, to_json, utc
from tasks.policy.statistics.group_sequential import boundaries
from tasks.policy.statistics.intervals import PairedPredictions, delong
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import SHRINKAGE

UNTIL = utc("2026-01-01")
POLICY = VerdictPolicy()
PLAN = RolloutForecast(units=1000, days=20.0, looks=5, margin=0.1, sigma=1.1)
MAE = Metric("mae")


def evidence(gain: float, units: int, error: float | None = None, **changed: object) -> Evidence:
    """The evidence of `units` pairs with a standard deviation of 1, after one day per 50 units."""
    error = 1 / math.sqrt(units) if error is None else error
    found = Evidence(UNTIL + timedelta(days=units / 50), gain, error, units, units, True, 1.0, 1.0 - gain)
    return replace(found, **changed)


def judge(
    gain: float, units: int, policy: VerdictPolicy = POLICY, earlier: tuple[Evidence, ...] = ()
) -> RolloutVerdict:
    return decide_verdict(policy, PLAN, earlier, evidence(gain, units))


def losses(values: np.ndarray, units: np.ndarray, windows: np.ndarray | None = None) -> ServedArm:
    """An arm whose rows have these absolute errors."""
    return ServedArm(np.zeros(len(values)), values, units, np.zeros(len(values)) if windows is None else windows)


class TestPairedEvidence:
    def test_rows_that_are_units_give_the_t_test(self):
        y_true, champion, challenger = np.random.default_rng(0).normal(size=(3, 50))
        found = paired_evidence(MAE, PairedPredictions(y_true, champion, challenger), np.arange(50), UNTIL)
        expected = stats.ttest_rel(np.abs(y_true - champion), np.abs(y_true - challenger))
        assert found.gain / found.standard_error == pytest.approx(expected.statistic)
        assert (found.degrees_of_freedom, found.units, found.rows) == (expected.df, 50, 50)
        assert found.gain == pytest.approx(found.champion - found.challenger)

    def test_a_metric_that_is_better_if_higher(self):
        y_true = np.array([1.0, 1, 1, 0])
        pairs = PairedPredictions(y_true, champion=np.array([0.0, 0, 1, 0]), challenger=y_true)
        assert paired_evidence(Metric("accuracy"), pairs, np.arange(4), UNTIL).gain == 0.5

    @pytest.mark.parametrize("name", ["log_loss", "rmse", "roc_auc", "f1", "balanced_accuracy"])
    def test_duplicated_rows_do_not_narrow_the_interval(self, name):
        random = np.random.default_rng(1)
        y_true = (random.random(80) < 0.5).astype(float)
        pairs = PairedPredictions(
            y_true, *np.clip(0.5 + 0.3 * (y_true - 0.5) + random.normal(0, 0.2, (2, 80)), 0.01, 0.99)
        )
        once = paired_evidence(Metric(name), pairs, np.arange(80), UNTIL)
        rows = np.repeat(np.arange(80), 9)
        many = PairedPredictions(pairs.y_true[rows], pairs.champion[rows], pairs.challenger[rows])
        repeated = paired_evidence(Metric(name), many, rows, UNTIL)
        assert repeated.standard_error == pytest.approx(once.standard_error)
        assert (repeated.units, repeated.rows) == (80, 720)
        naive = paired_evidence(Metric(name), many, np.arange(720), UNTIL)
        assert naive.standard_error < 0.6 * once.standard_error

    def test_the_jackknife_of_an_auc_agrees_with_delong(self):
        random = np.random.default_rng(2)
        y_true = (random.random(3000) < 0.3).astype(float)
        scores = y_true + random.normal(0, 1, (2, 3000))
        found = paired_evidence(Metric("roc_auc"), PairedPredictions(y_true, *scores), np.arange(3000), UNTIL)
        _, covariance = delong(y_true, scores)
        expected = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        assert found.standard_error == pytest.approx(expected, rel=0.25)  # 39 degrees of freedom

    def test_no_rows_and_an_undefined_metric_are_unknown(self):
        none = PairedPredictions(np.zeros(0), np.zeros(0), np.zeros(0))
        assert paired_evidence(MAE, none, np.zeros(0), UNTIL).undefined == "no labelled rows yet"
        one_class = PairedPredictions(np.zeros(20), np.linspace(0, 1, 20), np.linspace(1, 0, 20))
        found = paired_evidence(Metric("roc_auc"), one_class, np.arange(20), UNTIL)
        assert found.undefined
        assert from_json(Evidence, to_json(found)) == found


class TestServedEvidence:
    def test_one_window_gives_the_welch_test(self):
        random = np.random.default_rng(0)
        old, new = random.exponential(1.0, 400), random.exponential(1.5, 40)
        found = served_evidence(MAE, losses(old, np.arange(400)), losses(new, 1000 + np.arange(40)), UNTIL)
        expected = stats.ttest_ind(old, new, equal_var=False)
        assert found.gain / found.standard_error == pytest.approx(expected.statistic, rel=0.002)
        assert found.degrees_of_freedom == pytest.approx(expected.df, rel=0.005)
        assert (found.units, found.rows, found.paired) == (40, 440, False)
        assert found.effective_units == pytest.approx(2 * 400 * 40 / 440)

    @pytest.mark.parametrize("name", ["mae", "rmse"])
    def test_a_growing_share_while_the_metric_drifts_does_not_confound(self, name):
        """Simpson: losses triple while the challenger's share grows. It is better in each window and worse in total."""
        random, arms = np.random.default_rng(3), []
        for sizes, factor in (((900, 500), 1.0), ((100, 500), 0.8)):
            level = factor * np.repeat([1.0, 3.0], sizes)
            arms.append(
                losses(
                    level * random.uniform(0.9, 1.1, sum(sizes)), random.random(sum(sizes)), np.repeat([1, 2], sizes)
                )
            )
        found = served_evidence(Metric(name), *arms, UNTIL)
        assert arms[0].y_pred.mean() < arms[1].y_pred.mean()
        assert found.gain > 10 * found.standard_error
        assert (found.champion, found.challenger) == pytest.approx((2.5, 2.0), abs=0.3)

    @pytest.mark.parametrize("name", ["mae", "rmse"])
    def test_duplicated_rows_do_not_narrow_the_interval(self, name):
        random = np.random.default_rng(4)
        old, new, windows = random.exponential(1, 60), random.exponential(1, 60), np.repeat([0, 1], 30)
        units = np.arange(60)
        once = served_evidence(Metric(name), losses(old, units, windows), losses(new, units + 60, windows), UNTIL)
        rows = np.repeat(units, 5)
        many = [losses(v[rows], rows + start, windows[rows]) for v, start in ((old, 0), (new, 60))]
        repeated = served_evidence(Metric(name), *many, UNTIL)
        assert repeated.standard_error == pytest.approx(once.standard_error)
        assert repeated.effective_units == pytest.approx(once.effective_units)

    def test_days_as_clusters_compare_both_versions_within_days(self):
        """What is common to a day cancels, and the error is that of the differences between days."""
        random = np.random.default_rng(5)
        day = np.repeat(np.arange(20), 30)
        common = 10 + 5 * random.normal(size=20)[day]
        apart = random.normal(0, 0.5, 20)
        old = losses(common + random.normal(0, 0.1, 600), day, day)
        new = losses(common + apart[day] + random.normal(0, 0.1, 600), day, day)
        found = served_evidence(MAE, old, new, UNTIL)
        assert found.standard_error == pytest.approx(apart.std(ddof=1) / math.sqrt(20), rel=0.1)
        assert (found.units, found.effective_units, found.degrees_of_freedom) == (20, None, 19)

    def test_a_window_of_one_version_does_not_count(self):
        old = losses(np.ones(40), np.arange(40), np.repeat([0, 1], 20))
        new = losses(np.ones(10), 100 + np.arange(10), np.ones(10))
        assert served_evidence(MAE, old, new, UNTIL).rows == 30
        nothing = served_evidence(MAE, old, losses(np.zeros(0), np.zeros(0)), UNTIL)
        assert nothing.undefined == "no window has labelled rows of both versions"

    @pytest.mark.parametrize(("name", "draws", "tolerance"), [("mae", 300, 0.05), ("balanced_accuracy", 80, 0.09)])
    def test_intervals_cover(self, name, draws, tolerance):
        """A nominal 90 % interval of small arms with clusters."""
        covered, metric = 0, Metric(name)
        for seed in range(draws):
            random = np.random.default_rng(seed)
            arms = []
            for units, start in ((40, 0), (25, 100)):
                unit = np.repeat(np.arange(units), 3)
                ease = random.normal(0, 1, units)[unit]
                y_true = (random.random(3 * units) < 0.5).astype(float)
                predicted = np.where(ease + random.normal(size=len(unit)) > -0.5, y_true, 1 - y_true)
                arms.append(ServedArm(y_true, predicted, unit + start, random.integers(0, 2, len(unit))))
            found = served_evidence(metric, *arms, UNTIL)
            covered += abs(found.gain) < stats.t.ppf(0.95, found.degrees_of_freedom) * found.standard_error
        assert covered / draws == pytest.approx(0.9, abs=tolerance)


class TestVerdict:
    def test_passes_is_stopped_and_waits(self):
        """At 500 of 1,000 units, bounds are 2.963 standard errors below and 2.157 above the gain."""
        error = 1 / math.sqrt(500)
        efficacy, harm = (boundaries((0.5,), 0.025, shape)[0] for shape in ("obrien_fleming", "pocock"))
        assert (efficacy, harm) == pytest.approx((2.963, 2.157), abs=1e-3)
        assert judge(efficacy * error + 0.001, 500).conclusion == "superior"
        assert judge(efficacy * error - 0.001, 500).conclusion == "non_inferior"
        assert judge(efficacy * error - 0.1 + 0.001, 500).conclusion == "non_inferior"
        assert judge(efficacy * error - 0.1 - 0.001, 500).conclusion == "undecided"
        assert judge(-harm * error + 0.001, 500).conclusion == "undecided"
        assert judge(-harm * error - 0.001, 500).conclusion == "worse"

    def test_a_loss_shown_to_lie_within_the_margin_is_accepted(self):
        found = decide_verdict(POLICY, PLAN, (), evidence(-0.05, 500, error=0.005))
        assert found.high < 0
        assert found.conclusion == "non_inferior"

    def test_reasons(self):
        assert judge(0.2, 500).reason == (
            "superior at look 1 of 5: the gain is 0.2 and at least 0.06751, above 0 (500 units)"
        )
        assert judge(0.1, 500).reason == (
            "not inferior at look 1 of 5: the gain is 0.1 and at least -0.03249, above -0.1 (500 units)"
        )
        assert judge(-0.2, 500).reason == (
            "worse at look 1 of 5: the gain is -0.2 and at most -0.1035, below 0 (500 units)"
        )
        waiting = judge(0.0, 500, earlier=(evidence(0.0, 250),))
        assert waiting.reason == (
            "inconclusive, 2 of 5 looks, about 10 days to go: the gain is 0 (-0.1325 to 0.1059), "
            "its lower bound must exceed -0.1"
        )
        ended = judge(-0.06, 1000)
        assert (ended.conclusion, ended.information) == ("undecided", 1.0)
        assert ended.reason == (
            "inconclusive, the planned 1,000 units are reached (look 1 of 5): the gain is -0.06 (-0.122 to 0.00198), "
            "its lower bound must exceed -0.1"
        )

    def test_few_clusters_widen_the_interval(self):
        few = decide_verdict(POLICY, PLAN, (), evidence(0.0, 1000, error=0.04, degrees_of_freedom=9.0))
        assert few.low == pytest.approx(stats.t.ppf(0.025, 9) * 0.04)
        assert judge(0.0, LEAST_UNITS - 1).reason.endswith("9 units, expected at least 10")

    @pytest.mark.parametrize("method", ["group_sequential", "confidence_sequence", "t_test"])
    def test_no_traffic_no_verdict(self, method):
        found = decide_verdict(
            VerdictPolicy(method=method), PLAN, (), unknown_evidence(UNTIL, True, "no labelled rows yet")
        )
        assert (found.conclusion, found.information, found.look) == ("undecided", 0.0, 0)
        assert found.reason == "no verdict, 0 of 5 looks: no traffic (no labelled rows yet)"
        assert from_json(RolloutVerdict, to_json(found)) == found

    def test_versions_that_never_differ_wait_for_the_planned_end(self):
        assert (
            "did equally well on each of 500 units" in decide_verdict(POLICY, PLAN, (), evidence(0.0, 500, 0.0)).reason
        )
        assert decide_verdict(POLICY, PLAN, (), evidence(0.0, 1000, 0.0)).conclusion == "non_inferior"

    def test_a_look_without_new_information_tests_nothing(self):
        first = evidence(0.0, 500)
        late = replace(evidence(1.0, 505), until=first.until + timedelta(days=1))
        assert decide_verdict(POLICY, PLAN, (first,), late).conclusion == "undecided"
        assert decide_verdict(POLICY, PLAN, (first,), evidence(1.0, 520)).conclusion == "superior"

    def test_a_repeated_run_and_other_kinds_of_evidence_are_no_earlier_looks(self):
        alone = judge(0.05, 500)
        again = judge(0.05, 500, earlier=(evidence(0.05, 500), evidence(0.0, 300, paired=False)))
        assert again == alone

    def test_after_the_planned_end_nothing_more_is_tested(self):
        end = evidence(-0.06, 1050)
        later = decide_verdict(POLICY, PLAN, (end,), evidence(0.5, 2000))
        assert (later.conclusion, later.look) == ("undecided", 1)
        assert "are reached" in later.reason

    @pytest.mark.parametrize(("gain", "conclusion"), [(0.0, "non_inferior"), (-0.2, "worse")])
    def test_a_tiny_standard_error_is_a_number(self, gain, conclusion):
        """Probabilities near 0 of both versions differ by less than the square of a float resolves."""
        found = replace(evidence(gain, 200, error=1e-300), repeated=True)
        assert decide_verdict(POLICY, PLAN, (), found).conclusion == conclusion

    def test_units_that_return_add_information(self):
        """A fleet of 200 machines is complete on the first day; the standard error falls all the same."""
        first = replace(evidence(0.0, 200, error=PLAN.sigma / math.sqrt(250)), repeated=True)
        later = replace(first, until=first.until + timedelta(days=9), standard_error=PLAN.sigma / math.sqrt(1000))
        found = decide_verdict(POLICY, PLAN, (first,), later)
        assert (found.conclusion, found.information, found.look) == ("non_inferior", 1.0, 2)
        days = decide_verdict(VerdictPolicy(cluster="day"), PLAN, (first,), later)
        assert (days.conclusion, days.information, days.look) == ("undecided", 0.2, 1)

    def test_a_t_test_is_made_once(self):
        policy = VerdictPolicy(method="t_test")
        assert judge(5.0, 900, policy).conclusion == "undecided"
        assert judge(-5.0, 900, policy).conclusion == "undecided"
        at_end = judge(0.0, 1000, policy, earlier=(evidence(0.0, 900),))
        assert at_end.conclusion == "non_inferior"
        assert at_end.low == pytest.approx(-1.959964 / math.sqrt(1000))
        assert judge(-5.0, 1100, policy, earlier=(evidence(0.0, 1000),)).conclusion == "non_inferior"

    def test_a_confidence_sequence_goes_on_after_the_planned_end(self):
        policy = VerdictPolicy(method="confidence_sequence")
        assert judge(-0.02, 1000, policy).conclusion == "undecided"
        assert judge(-0.02, 4000, policy, earlier=(evidence(-0.02, 1000),)).conclusion == "non_inferior"
        rho = 1 / (2 * math.log(20) + math.log(1 + 2 * math.log(20)))  # Waudby-Smith et al. 2024, tuned for 1,000 units
        half = math.sqrt((1 + rho / 4) * math.log((4 + rho) / (rho * 0.05**2)) / 4000)
        found = judge(-0.02, 4000, policy)
        assert (found.low, found.high) == pytest.approx((-0.02 - half, -0.02 + half))

    @pytest.mark.parametrize("method", ["group_sequential", "confidence_sequence"])
    def test_looking_every_day_keeps_the_level(self, method):
        """300 equal challengers with skewed gains, 20 looks each: both errors keep their level; a t-test does not."""
        policy, units = VerdictPolicy(method=method, confidence=0.9), 50 * np.arange(1, 21)
        values = np.random.default_rng(7).exponential(1, (300, 1000)) - 1
        superior = worse = often = 0
        for row in values:
            means, squares, cubes = ((row**power).cumsum()[units - 1] / units for power in (1, 2, 3))
            variances = squares - means**2
            errors = np.sqrt(variances / (units - 1))
            skewness = (
                (cubes - 3 * means * squares + 2 * means**3)
                / variances**1.5
                / np.sqrt(units)
                * units
                / (units + SHRINKAGE)
            )
            often += bool((np.abs(means) > stats.norm.ppf(0.95) * errors).any())
            looks: list[Evidence] = []
            for mean, error, skew, n in zip(means, errors, skewness, units, strict=True):
                now = evidence(float(mean), int(n), float(error), degrees_of_freedom=n - 1.0, skewness=float(skew))
                conclusion = decide_verdict(policy, PLAN, looks, now).conclusion
                if conclusion in ("superior", "worse"):
                    superior, worse = superior + (conclusion == "superior"), worse + (conclusion == "worse")
                    break
                looks.append(now)
        assert max(superior, worse) / 300 <= 0.05 + 2 * 0.0126
        assert often / 300 > 0.25


class TestForecast:
    def test_a_fixed_test_needs_what_the_formula_says(self):
        traffic = ExpectedTraffic(units_per_day=100, window_days=7)
        found = forecast(VerdictPolicy(method="t_test"), 0.1, 1.0, traffic)
        assert found.units == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / 0.01, rel=0.01)
        assert (found.days, found.looks, found.exposed_usd) == (14.0, 2, None)

    def test_looks_cost_a_few_units_and_the_delay_some_days(self):
        traffic = ExpectedTraffic(units_per_day=100, window_days=1, label_delay_days=3)
        one, looked, any_time = (
            forecast(VerdictPolicy(method=method), 0.1, 1.0, traffic)
            for method in ("t_test", "group_sequential", "confidence_sequence")
        )
        assert 1.03 < looked.units / one.units < 1.06
        assert 1.7 < any_time.units / one.units < 2.0
        assert looked.days == math.ceil(looked.units / 100) + 3

    def test_a_smaller_share_takes_more_days_and_fewer_units_of_the_challenger(self):
        tenth, half = (
            forecast(POLICY, 0.1, 1.0, ExpectedTraffic(1000, 1, share=share, usd_per_metric_unit=30))
            for share in (0.1, 0.5)
        )
        assert half.effective_units == pytest.approx(half.units, abs=1)
        assert tenth.units == pytest.approx(half.units / 1.8, rel=0.05)
        assert tenth.days >= 2.5 * half.days
        assert half.exposed_usd == pytest.approx(30 * 0.1 * 0.5 * half.days)

    def test_few_units_are_planned_with_the_t_distribution(self):
        found = forecast(VerdictPolicy(method="t_test"), 1.0, 1.3, ExpectedTraffic(1, 1))
        power = stats.nct.sf(stats.t.ppf(0.975, found.units - 1), found.units - 1, math.sqrt(found.units) / 1.3)
        assert power == pytest.approx(0.8, abs=0.02)

    def test_no_traffic_and_no_margin_never_end(self):
        assert "about 100,000 days" in str(horizon_warning(forecast(POLICY, 0.1, 1.0, ExpectedTraffic(0, 1)), 60))
        assert to_json(forecast(POLICY, 0.0, 1.0, ExpectedTraffic(1, 1)))

    def test_a_horizon_that_is_too_long_is_reported(self):
        found = forecast(POLICY, 0.01, 1.0, ExpectedTraffic(1000, 1))
        assert horizon_warning(found, found.days) is None
        assert str(horizon_warning(found, 60)).startswith("expect this rollout to end inconclusive: ")

    def test_sigma_of_a_unit_from_an_interval(self):
        half = 1.959964 * 2.0 / math.sqrt(500)
        limit = 2.0 * math.sqrt(499 / stats.chi2.ppf(0.1, 499))
        assert unit_sigma(0.3 - half, 0.3 + half, 500, 0.95) == pytest.approx(limit)


def test_pairs_are_refused_with_feedback():
    assert why_not_paired(False) is None
    assert "answers can change the labels" in str(why_not_paired(True))


def test_records_of_before_are_read():
    old = '{"until":"2026-01-01T00:00:00Z","gain":0.1,"standard_error":0.1,"units":5,"rows":5,"paired":true,"champion":1,"challenger":1}'
    assert from_json(Evidence, old) == Evidence(UNTIL, 0.1, 0.1, 5, 5, True, 1.0, 1.0)
