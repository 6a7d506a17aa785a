"""The search's settings, its limits in seconds and USD, and the judgement of its best trial."""

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.versions import Usage
from tasks.policy.records.base import from_json, to_json
from tasks.policy.training.recipe import FeatureRecipe, Interaction
from tasks.policy.training.search import (
    SearchGain,
    SearchPolicy,
    SearchRange,
    SearchReport,
    SearchTrial,
    best_so_far,
    expected_search_usd,
    judge_gain,
    limit_s,
)

PRICES = Budget(compute_usd_per_hour=3.6, cpu_usd_per_hour=0.0)


def trial(number: int, losses: tuple[float, ...], state: str = "complete") -> SearchTrial:
    origin = "sampled" if number else "champion"
    return SearchTrial(
        number, origin, state, {"depth": number}, {"depth": number}, FeatureRecipe(), 7, losses, 1.0, 1.0
    )


def report(*trials: SearchTrial, gain: SearchGain | None = None, fault: str = "") -> SearchReport:
    confirmed = trials[-1] if gain else None
    return SearchReport(
        "d1", "hash", 7, 1000, 1000, "mae", "5 minutes", 294.0, 290.0, 0.01, trials, "", {}, FeatureRecipe(),
        confirmed, gain, fault,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "none of minutes, usd and trials"),
        ({"trials": 5, "parameters": {"a": {"low": 3, "high": 1}}}, "expected low ≤ high"),
        ({"trials": 5, "parameters": {"a": {"low": 0, "high": 1, "log": True}}}, "expected a number > 0"),
        ({"trials": 5, "parameters": {"a": {"low": 0}}}, "not both given"),
        ({"trials": 5, "parameters": {"a": {"low": 0, "high": 1, "choices": [1]}}}, "expected either"),
        ({"trials": 5, "folds": 2}, "greater than or equal to 3"),
    ],
)
def test_unusable_settings_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        SearchPolicy.model_validate(given)


def test_range_includes_the_present_value():
    assert SearchRange(low=2, high=6).including(9).bounds == (2, 9)
    assert SearchRange(choices=("a",)).including("b").choices == ("a", "b")
    assert SearchRange(low=0.1, high=1.0, log=True).including(0.0).bounds == (0.1, 1.0)


def test_tighter_limit_counts():
    """A USD buys 1,000 s at 3.6 USD an hour; 10 minutes are less, 60 minutes are more."""
    assert limit_s(SearchPolicy(minutes=10, usd=1), PRICES) == 600
    assert limit_s(SearchPolicy(minutes=60, usd=1), PRICES) == pytest.approx(1000)
    assert limit_s(SearchPolicy(trials=5), PRICES) is None


def test_forecast_is_the_budget_or_the_latest_search():
    assert expected_search_usd(SearchPolicy(minutes=10), PRICES, ()) == pytest.approx(0.6)
    past = (Usage(10, 900, 0, search_wall_s=500), Usage(10, 100, 0))
    assert expected_search_usd(SearchPolicy(trials=5), PRICES, past) == pytest.approx(0.5)
    assert expected_search_usd(SearchPolicy(trials=5), PRICES, ()) is None
    assert past[0].without_search == Usage(10, 400, 0)


def test_gain_beyond_two_standard_errors_is_adopted():
    """Differences 1, 2, 3, 4, 5: mean 3, standard error √2.5 / √5 = 0.707; twice that is 1.41."""
    found = judge_gain([11, 12, 13, 14, 15], [10, 10, 10, 10, 10])
    assert (found.gain, found.error) == (pytest.approx(3), pytest.approx(0.5**0.5))
    assert found.is_adopted


@pytest.mark.parametrize(
    ("champion", "best"),
    [
        ([10, 10, 10, 10, 10], [9, 11, 9, 11, 9.9]),  # ahead by less than two standard errors
        ([10, 10, 10, 10, 10], [11, 12, 13, 14, 15]),  # worse
        ([10, 10, 10, 10, 10], [10, 10, 10, 10, 10]),  # equal
        ([11, 12, 13], [10, 10, 10]),  # too few blocks
        ([11, 12, 13, np.nan, np.nan], [10, 10, 10, 10, 10]),  # undefined blocks do not count
        ([], []),
    ],
)
def test_no_gain_is_not_adopted(champion, best):
    assert not judge_gain(champion, best).is_adopted


def test_chance_alone_is_rarely_adopted():
    """Among 1,000 pairs without a difference, about 1 in 28 is ahead by two standard errors (Student's t, 11 d.f.)."""
    random = np.random.default_rng(0)
    adopted = sum(judge_gain(random.normal(size=12), random.normal(size=12)).is_adopted for _ in range(1000))
    assert adopted < 60


def test_sentences_name_the_numbers():
    trials = trial(0, (1.0, 1.0)), trial(4, (0.9, 0.8))
    found = report(*trials, gain=SearchGain(0.012, 0.003, 12, 1.0, 0.988))
    assert found.sentence == (
        "search: 2 trials in 4.9 minutes of 5 minutes; best depth 4; gain 0.012 ± 0.003 mae on the latest folds; adopted"
    )
    assert "no gain: gain 0.005 ± 0.003" in report(*trials, gain=SearchGain(0.005, 0.003, 12, 1.0, 0.995)).sentence
    assert "no trial was better" in report(*trials).sentence
    assert report(fault="too few rows").sentence.startswith("search: nothing was searched: too few rows")


def test_report_round_trips():
    recipe = FeatureRecipe(calendar="cyclic", interactions=(Interaction(kind="ratio", left="a", right="b"),))
    found = report(trial(0, (1 / 3,)), trial(1, (), "failed"), gain=SearchGain(0.1, 1e-17, 12, 1.0, 0.9))
    found = SearchReport(**{name: getattr(found, name) for name in found.__dataclass_fields__} | {"recipe": recipe})
    assert from_json(SearchReport, to_json(found)) == found


def test_best_so_far_never_rises():
    trials = [trial(0, (3.0,)), trial(1, (4.0,)), trial(2, (1.0,), "pruned"), trial(3, (2.0,))]
    assert best_so_far(trials) == (3.0, 3.0, 3.0, 2.0)
