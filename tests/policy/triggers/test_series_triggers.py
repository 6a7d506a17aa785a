"""Triggers on the champion's series: decay, adaptive change, regret, hysteresis."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.monitoring import Decision
from tests.policy.triggers.judged_windows import evidence, history, report, window

PRICED = Budget(value_usd_per_metric_unit_per_day=10.0)


@cache  # simulations request the same policy thousands of times
def policy(text: str, **settings: object) -> RetrainingPolicy:
    return RetrainingPolicy.model_validate({"when": yaml.safe_load(text), **settings})


def judged(text: str, values: list[float], champion_from: int = 0, metric: str = "mae", **known: object) -> Decision:
    """Return the decision on the last of a series of windows; the champion serves from window `champion_from`."""
    reports = [report(number, **{metric: value}) for number, value in enumerate(values)]
    past = history(*reports[:-1], champion_since=window(champion_from).start, **known.pop("past", {}))
    seen = evidence(len(values) - 1, performance=reports[-1])
    return decide_retraining("air_time", policy(text), policy(text).case(seen, past, seen.window.end, **known))


STABLE = [5.0, 5.2, 4.9, 5.1, 5.0, 5.2, 5.1, 4.9]


class TestDecay:
    rule = "{trigger: metric_decay, metric: mae, margin: 0.1}"
    plain = "{trigger: metric_decay, metric: mae}"

    def test_lasting_loss_is_detected_but_one_bad_window_is_not(self):
        assert judged(self.rule, [*STABLE, 6.0, 6.1, 5.9, 6.0, 6.1], champion_from=8).retrain
        assert not judged(self.rule, [*STABLE, 5.0, 5.1, 5.5], champion_from=8).retrain

    def test_decay_respects_metric_direction(self):
        values = [*[0.9, 0.91, 0.89, 0.9, 0.91] * 2, 0.8, 0.79, 0.81, 0.8]
        rule = "{trigger: metric_decay, metric: accuracy, margin: 0.01}"
        assert judged(rule, values, 10, "accuracy").retrain
        assert not judged(rule, [1 - value for value in values], 10, "accuracy").retrain

    @pytest.mark.parametrize("champion_from", [0, 12])
    def test_stable_champion_is_not_retrained(self, champion_from):
        """Champions without a margin, each checked every third window. Against the best three-window mean as if
        it were known, two of three alarm, and all of those that served from the first window."""
        random, ever = np.random.default_rng(0), 0
        for _ in range(60):
            values = list(5 + 0.1 * random.normal(size=42))
            looks = (judged(self.plain, values[:length], champion_from).retrain for length in range(15, 43, 3))
            ever += any(looks)
        assert ever / 60 <= 0.05

    @pytest.mark.parametrize(("sigmas", "within"), [(2, 14), (3, 6)])
    def test_worse_champion_is_detected_sooner(self, sigmas, within):
        random, delays = np.random.default_rng(1), []
        for _ in range(15):
            values = 5 + 0.1 * random.normal(size=44)
            values[24:] += 0.1 * sigmas
            alarms = (n - 24 for n in range(25, 45) if judged(self.plain, list(values[:n]), 24).retrain)
            delays.append(next(alarms, 99))
        assert np.median(delays) <= within

    def test_two_equal_windows_are_no_noise_estimate(self):
        """Three windows have closed and one is maturing: the estimated window noise would be 0.0."""
        reports = [*[report(number, mae=5.0) for number in range(3)], report(3, "maturing", mae=5.1)]
        past = history(*reports, champion_since=window(3).start)
        seen = evidence(4, performance=report(4, mae=5.1))
        decision = decide_retraining(
            "air_time", policy(self.plain), policy(self.plain).case(seen, past, seen.window.end)
        )
        assert not decision.retrain and "four closed windows are needed" in decision.reasons[0]


class TestAdaptive:
    rule = "{trigger: adaptive, metric: mae, delta: 0.05}"

    def test_large_lasting_worsening_is_detected(self):
        quiet = [5.0 + 0.02 * (-1) ** i for i in range(24)]
        assert judged(self.rule, [*quiet, *[6.0 + 0.02 * (-1) ** i for i in range(10)]]).retrain
        better = judged(self.rule, [*quiet, *[4.0 + 0.02 * (-1) ** i for i in range(10)]])
        assert not better.retrain
        assert "changed from" in better.reasons[0]

    def test_noise_is_no_change(self):
        random = np.random.default_rng(1)
        assert not any(judged(self.rule, list(5 + random.normal(0, 0.2, 40))).retrain for _ in range(30))


class TestRegret:
    rule = "{trigger: regret_exceeds_cost}"

    def regret(self, *values: float, cost: float | None = 90.0, budget: Budget = PRICED, text: str = "") -> Decision:
        """Return the decision with best past level 5 and windows of five days at 10 USD per unit and day: each unit of loss costs 50 USD."""
        return judged(text or self.rule, [5.0, 5.0, 5.0, *values], 3, budget=budget, cost_usd=cost)

    def test_regret_accumulates_until_it_reaches_the_cost(self):
        assert not self.regret(6.0).retrain
        decision = self.regret(6.0, 6.0)
        assert decision.retrain
        assert (
            "regret of 100.00 USD since the champion took over (2 windows against mae 5 of fresh models)"
            in decision.reasons[0]
        )
        assert not self.regret(6.0, 6.0, text="{trigger: regret_exceeds_cost, factor: 1.2}").retrain

    def test_stable_champion_rarely_reaches_an_expensive_retrain(self):
        """A retrain costs the loss of 20 windows at one sigma, over 30 windows of service. Against the best past
        level, as lucky as it is, more than half of such champions are retrained."""
        random, ever = np.random.default_rng(5), 0
        for _ in range(60):
            values = list(5 + 0.1 * random.normal(size=42))
            known = {"budget": PRICED, "cost_usd": 20 * 0.1 * 50}
            ever += any(judged(self.rule, values[:length], 12, **known).retrain for length in range(18, 43, 6))
        assert ever / 60 <= 0.15

    def test_regret_states_when_it_would_trigger(self):
        assert self.regret(6.0).would_change == (
            "would retrain from a regret of 90.00 USD, in 4 days if the latest window's loss persists",
        )

    def test_good_windows_reduce_regret_to_zero_at_most(self):
        assert not self.regret(6.5, 4.0, 6.0, 5.0).retrain  # 75, 25, 75, 75
        assert self.regret(1.0, 6.0, 6.0).retrain  # a very good window gives no credit: 0, 50, 100

    @pytest.mark.parametrize(
        ("cost", "budget", "lacking"), [(None, PRICED, "cost of a retrain"), (90.0, Budget(), "value_usd_per_metric")]
    )
    def test_regret_names_missing_prices(self, cost, budget, lacking):
        decision = self.regret(9.0, cost=cost, budget=budget)
        assert not decision.retrain
        assert lacking in decision.reasons[0]


class TestHysteresis:
    rule = "{trigger: metric_breach, metric: mae, limit: 8, release: 7, k: 3, m: 3}"

    @pytest.mark.parametrize(
        ("values", "retrain"),
        [((8.5, 7.5, 7.5), True), ((7.5, 7.5, 7.5), False), ((8.5, 6.5, 7.5), False), ((8.5, 7.5, 6.9), False)],
    )
    def test_a_breach_lasts_until_it_is_released(self, values, retrain):
        assert judged(self.rule, list(values)).retrain is retrain

    @pytest.mark.parametrize(
        ("values", "level"),
        [((0.75, 0.82), 0.85), ((0.75, 0.86), 0.85), ((0.82, 0.82), 0.8), ((0.75, 0.86, 0.82), 0.8)],
    )
    def test_quoted_level_in_force_is_exact(self, values, level):
        def at(value: float) -> Decision:
            rule = "{trigger: metric_breach, metric: accuracy, limit: 0.8, release: 0.85}"
            return judged(rule, [*values[:-1], value], metric="accuracy")

        decision = at(values[-1])
        released = ", the release level after a breach of the limit 0.8" if level == 0.85 else ""
        position = "is below" if decision.retrain else "is not below"
        assert f"{position} {'' if released else 'the limit '}{level:g}{released};" in decision.reasons[0]
        sentence = (
            f"would not retrain at accuracy ≥ {level:g}"
            if decision.retrain
            else f"would retrain at accuracy < {level:g}"
        )
        assert decision.would_change == (sentence,)
        assert not at(level).retrain
        assert at(level - 0.001).retrain

    def test_release_on_the_wrong_side_is_refused(self):
        for text in (self.rule.replace("release: 7", "release: 9"), self.rule.replace("mae", "accuracy")):
            with pytest.raises(ValidationError, match="expected"):
                policy(text)


def test_series_is_of_the_current_champion():
    """A champion that starts badly must not set its own baseline."""
    values = [5.0, 5.0, 5.0, 7.0, 7.0, 7.0, 7.0]
    rule = "{trigger: regret_exceeds_cost}"
    assert judged(rule, values, champion_from=3, budget=PRICED, cost_usd=300.0).retrain
    assert not judged(rule, values, champion_from=6, budget=PRICED, cost_usd=300.0).retrain


def test_series_ignores_estimates_and_open_windows():
    rule = policy("{trigger: regret_exceeds_cost}")
    past = history(*[report(number, mae=5.0) for number in range(3)], champion_since=window(3).start)
    poor = report(3, mae=50.0)
    for silent in (replace(poor, maturity="open"), replace(poor, metrics=(replace(poor.metrics[0], estimated=True),))):
        seen = evidence(3, performance=silent)
        known = {"budget": PRICED, "cost_usd": 10.0}
        assert not decide_retraining("air_time", rule, rule.case(seen, past, seen.window.end, **known)).retrain
