"""Which traffic is split at random between two versions of a service, and the verdict on the groups over all looks."""

from datetime import timedelta

import numpy as np
import pytest
from scipy import stats

from tasks.policy.comparison.arms import ServedArm
from tasks.policy.comparison.evidence import served_evidence
from tasks.policy.comparison.plan import ExpectedTraffic, VerdictPolicy
from tasks.policy.comparison.side_by_side import SideBySide, judge_side_by_side
from tasks.policy.comparison.split import find_overlap, takes_over, why_not_random, why_not_unpaired
from tasks.policy.custom_metrics.rules import CustomRule
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.statistics.metrics import Metric

START = utc("2026-01-01")
MARGIN = 0.1


class TestOverlap:
    """1,000 units of one window, in order of time."""

    times = np.arange(1000)

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
    def test_a_random_split_is_one(self, share):
        of_challenger = np.random.default_rng(1).random(1000) < share
        found = find_overlap(self.times, of_challenger)
        assert found.why_not is None
        assert found.units.sum() > 900

    def test_a_canary_counts_from_its_start(self):
        of_challenger = (np.random.default_rng(2).random(1000) < 0.2) & (self.times >= 600)
        found = find_overlap(self.times, of_challenger)
        assert found.why_not is None
        assert not found.units[:600].any()

    @pytest.mark.parametrize("together", [0, 5, 200])
    def test_one_version_that_takes_over_is_none(self, together):
        """Both answer `together` units while it is deployed, as servers are replaced one by one."""
        chance = np.clip((self.times - 500 + together / 2) / max(together, 1), 0, 1)
        of_challenger = np.random.default_rng(3).random(1000) < chance
        assert find_overlap(self.times, of_challenger).why_not == "one version answered after the other"

    def test_a_share_that_grows_all_window_is_none(self):
        of_challenger = np.random.default_rng(4).random(1000) < self.times / 1000
        assert "took turns, or the share" in find_overlap(self.times, of_challenger).why_not

    def test_versions_that_take_turns_are_none(self):
        assert "took turns" in find_overlap(self.times, self.times // 20 % 2 == 1).why_not

    def test_times_by_day_have_no_order(self):
        """The log is sorted by time, then version."""
        days = np.repeat([0, 1], 500)
        assert find_overlap(days, np.tile(np.repeat([False, True], 250), 2)).why_not is None
        assert find_overlap(days, days == 1).why_not == "one version answered after the other"

    def test_one_version_alone_is_none(self):
        assert find_overlap(self.times, np.zeros(1000, bool)).why_not == "one version answered"

    def test_chance_is_rarely_taken_for_turns(self):
        random = np.random.default_rng(5)
        sides = (random.random(200) < random.choice([0.1, 0.5, 0.9]) for _ in range(1000))
        assert sum(find_overlap(np.arange(200), side).why_not is not None for side in sides) <= 5


class TestAssignment:
    def test_random_units_pass_though_the_share_grows_while_features_drift(self):
        """Simpson: in total, the challenger's units have larger values."""
        random = np.random.default_rng(6)
        windows = np.repeat([0, 1], 1000)
        side = random.random(2000) < np.array([0.1, 0.5])[windows]
        codes = {"x": random.integers(0, 10, 2000) + 3 * windows, "colour": random.integers(0, 3, 2000)}
        assert why_not_random(windows, side, codes) is None
        assert why_not_random(np.zeros(2000, int), side, codes) is not None

    @pytest.mark.parametrize("feature", ["x", "colour"])
    def test_units_that_differ_are_named(self, feature):
        random = np.random.default_rng(7)
        codes = {
            "x": random.integers(0, 40, 2000),
            "colour": random.integers(0, 3, 2000),
            "noise": random.integers(0, 9, 2000),
        }
        side = random.random(2000) < np.where(codes[feature] > np.median(codes[feature]), 0.6, 0.4)
        reason = why_not_random(np.zeros(2000, int), side, codes)
        assert f"differ in {feature} (p below 0.001)" in reason

    def test_one_window_of_two_values_is_the_chi_square_test(self):
        """With the variance of a draw without replacement: N instead of N - 1 in Pearson's. 0.02 p-values of a hundred."""
        table = np.array([[30, 20], [10, 40]])
        p_value = stats.chi2.sf(stats.chi2_contingency(table, correction=False).statistic * 99 / 100, 1)
        side, codes = np.repeat([False, True], 50), np.repeat([0, 1, 0, 1], table.ravel())
        windows = np.zeros(100, int)
        assert p_value == pytest.approx(5e-5, rel=0.2)
        assert why_not_random(windows, side, {"x": codes}) is not None
        assert why_not_random(windows, side, {f"x{number}": codes for number in range(3)}) is not None
        few = {"x": codes} | {f"n{number}": np.zeros(100, int) for number in range(30)}
        assert why_not_random(windows, side, few) is None, "as one of 31 it is not significant"

    def test_constant_and_rare_values_show_nothing(self):
        rare = np.zeros(100, int)
        rare[:4] = 1
        assert (
            why_not_random(np.zeros(100, int), np.arange(100) < 50, {"same": np.zeros(100, int), "rare": rare}) is None
        )


def test_a_metric_of_tables_is_refused():
    table = CustomRule("profit", np.sum, higher_is_better=True)
    assert "profit is one value for a table" in why_not_unpaired(Metric("profit", rule=table))
    per_row = CustomRule("profit", np.subtract, higher_is_better=True, per_row=True)
    assert why_not_unpaired(Metric("profit", rule=per_row)) is None
    assert why_not_unpaired(Metric("roc_auc")) is None


def looks(gain: float, count: int, seed: int = 0, policy: VerdictPolicy | None = None) -> list[SideBySide]:
    """Looks after each of `count` windows of 400 rows with absolute errors of mean 1, for the challenger 1 - `gain`."""
    random, share, done = np.random.default_rng(seed), 0.3, []
    errors = random.exponential(1.0, 400 * count)
    side = random.random(len(errors)) < share
    errors[side] *= 1 - gain
    windows, units = np.repeat(np.arange(count), 400), np.arange(len(errors))
    for number in range(1, count + 1):
        seen = windows < number
        old, new = (
            ServedArm(np.zeros(int(rows.sum())), errors[rows], units[rows], windows[rows])
            for rows in (seen & ~side, seen & side)
        )
        window = Window(START + timedelta(days=number - 1), START + timedelta(days=number))
        evidence = served_evidence(Metric("mae"), old, new, window.end)
        look = SideBySide("c", "1", "2", window, window.end, evidence, split=True)
        traffic = ExpectedTraffic(units_per_day=400.0, window_days=1.0, share=share)
        done.append(judge_side_by_side(policy or VerdictPolicy(), look, done, MARGIN, traffic))
    return done


@pytest.mark.parametrize(("gain", "conclusion"), [(0.6, "superior"), (0.0, "non_inferior"), (-0.3, "worse")])
def test_the_verdict_follows_the_gain(gain, conclusion):
    found = looks(gain, 20)
    assert next(each.verdict.conclusion for each in found if each.is_decided) == conclusion
    assert from_json(SideBySide, to_json(found[-1])) == found[-1]


def test_the_plan_is_that_of_two_groups():
    """Errors of standard deviation 1 and a share of 30 %: 2(z.975 + z.8)²/margin² units in each of two equal groups."""
    plan = looks(0.0, 1)[0].plan
    fixed = 2 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 / MARGIN**2
    assert plan.effective_units == pytest.approx(fixed, rel=0.5)
    assert plan.units == pytest.approx(plan.effective_units / (2 * 0.7), abs=1)


def test_looking_at_every_window_keeps_the_level():
    """100 challengers that lose the margin, 5 looks each: 10 % may pass; a test at each look passes more of them."""
    policy, passed, often = VerdictPolicy(confidence=0.8), 0, 0
    for seed in range(100):
        found = looks(-MARGIN, 5, seed, policy)
        passed += any(each.is_decided and each.verdict.conclusion != "worse" for each in found)
        evidence = (each.evidence for each in found)
        often += any(each.gain + MARGIN > stats.norm.ppf(0.9) * each.standard_error for each in evidence)
    assert passed <= 10 + 2 * 3
    assert often > 16


def test_a_verdict_and_a_mismatch_are_news_once():
    *_, decided = looks(0.3, 20)
    unfit = SideBySide("c", "1", "2", decided.window, decided.at, mismatch="they differ")
    assert decided.is_news_after([]) and not decided.is_news_after([decided])
    assert unfit.is_news_after([]) and not unfit.is_news_after([unfit])
    assert unfit.is_news_after([decided])


def test_an_even_split_does_not_alternate_the_champion():
    random = np.random.default_rng(8)
    answered = random.binomial(300, 0.5, 1000)
    assert sum(takes_over(300 - other, other) for other in answered) <= 5
    assert takes_over(0, 3), "the champion answered nothing"
    assert takes_over(100, 200)
