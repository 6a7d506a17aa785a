"""The race of training strategies: the adaptive window, the tournament and what the winner must show."""

import math
from datetime import timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.training.race import (
    Entrant,
    RacePolicy,
    RaceReport,
    Strategy,
    adaptive_window,
    decide_race,
    describe_race,
    gain_over,
    tournament,
)

START = utc("2024-01-01")
DAY = timedelta(days=1)


def windows(first: int, count: int) -> tuple[Window, ...]:
    return tuple(Window(START + day * DAY, START + (day + 1) * DAY) for day in range(first, first + count))


def race(first: int, losses: dict[Strategy, list[float | None]]) -> RaceReport:
    count = len(next(iter(losses.values())))
    entrants = tuple(Entrant(strategy, tuple(values), 1.0) for strategy, values in losses.items())
    return RaceReport(windows(first, count), "log_loss", entrants, Strategy(), 0, 0, 0, 0, (), cpu_s=2.0)


USUAL, RECENT, TRAILING = Strategy(), Strategy("recency_weighted", 12), Strategy("trailing", 16)
POLICY = RacePolicy()


def test_adaptive_window_is_everything_without_a_change():
    values = np.random.default_rng(0).normal(0, 1, 60)
    assert adaptive_window(values) > 40


@pytest.mark.parametrize("recent", [6, 12])
def test_adaptive_window_ends_at_the_change(recent):
    values = np.concatenate(
        [np.random.default_rng(1).normal(5, 0.1, 40), np.random.default_rng(2).normal(0, 0.1, recent)]
    )
    assert 2 <= adaptive_window(values) <= recent


def test_adaptive_window_of_two_values():
    assert adaptive_window(np.array([0.0, 9.0])) == 2


def test_tournament_of_three():
    losses = {"a": np.array([3.0, 3.1, 3.0]), "b": np.array([1.0, 1.1, 1.0]), "c": np.array([2.0, 2.1, 2.0])}
    assert tournament(losses) == "b"
    assert tournament({"c": losses["c"], "a": losses["a"], "b": losses["b"]}) == "b"


@pytest.mark.parametrize("wrong", [{"half_life_windows": [12, 0]}, {"trailing_windows": [-3]}])
def test_spans_that_are_no_spans_are_refused(wrong):
    with pytest.raises(ValidationError, match="greater than"):
        RacePolicy.model_validate(wrong)


def test_equal_entrants_keep_the_earlier_one():
    assert tournament({"first": np.ones(4), "second": np.ones(4)}) == "first"


def test_clear_winner_wins():
    """Gains of 0.2, 0.3, 0.2, 0.3: mean 0.25, standard deviation 0.0577, standard error 0.0289."""
    report = decide_race(POLICY, race(0, {USUAL: [0.5, 0.6, 0.5, 0.6], RECENT: [0.3, 0.3, 0.3, 0.3]}), ())
    assert report.winner == RECENT
    assert report.gain == pytest.approx(0.25)
    assert (report.high - report.low) / 2 == pytest.approx(POLICY.errors_needed(4) * 0.05 / math.sqrt(3))
    assert report.compared == 4
    assert report.reasons[0].startswith(
        "race: recency weighted, half-life 12 windows wins, ahead of the file's settings by +0.25"
    )
    assert from_json(RaceReport, to_json(report)) == report


def test_noise_leaves_the_settings():
    """The best of the others is ahead on average, but by less than two standard errors."""
    losses = {USUAL: [0.5, 0.5, 0.5, 0.5], RECENT: [0.3, 0.65, 0.35, 0.6], TRAILING: [0.6, 0.7, 0.6, 0.7]}
    report = decide_race(POLICY, race(0, losses), ())
    assert report.winner == USUAL
    assert "no gain: the best other entrant, recency weighted, half-life 12 windows" in report.reasons[0]
    assert decide_race(RacePolicy(min_gain_se=0), race(0, losses), ()).winner == RECENT


def test_two_windows_need_more_than_two_standard_errors():
    """Gains of 0.08 and 0.1 are nine standard errors ahead; on two windows, one race in 28 of equal entrants shows as much."""
    losses = {USUAL: [0.58, 0.6], RECENT: [0.5, 0.5]}
    report = decide_race(POLICY, race(0, losses), ())
    assert report.winner == USUAL and report.low < 0 < report.gain
    assert "over 2 windows, expected more than 14 standard errors" in report.reasons[0]
    again = [0.58, 0.6, 0.59, 0.6]
    assert decide_race(POLICY, race(0, {USUAL: again, RECENT: [0.5] * 4}), ()).winner == RECENT


def test_earlier_races_count():
    """Four windows alone do not show the gain of 0.1; with those of three races before, they do."""
    gains = [0.28, -0.12, 0.25, 0.0]
    each = {USUAL: [0.5] * 4, RECENT: [0.5 - gain for gain in gains]}
    assert decide_race(POLICY, race(12, each), ()).winner == USUAL
    report = decide_race(POLICY, race(12, each), [race(0, each), race(4, each), race(8, each)])
    assert report.winner == RECENT and report.compared == 16


def test_earlier_races_before_a_change_do_not_count():
    old = {USUAL: [0.9, 0.91, 0.9, 0.91], RECENT: [0.1, 0.1, 0.1, 0.1]}
    new = {USUAL: [0.5, 0.51, 0.5, 0.51], RECENT: [0.6, 0.6, 0.6, 0.6]}
    report = decide_race(POLICY, race(8, new), [race(0, old), race(4, old)])
    assert report.winner == USUAL and report.compared < 8


def test_other_metric_does_not_count():
    old = {USUAL: [0.9] * 4, RECENT: [0.1, 0.2, 0.1, 0.2]}
    earlier = RaceReport(windows(0, 4), "mae", race(0, old).entrants, RECENT, 0, 0, 0, 0, ())
    now = {USUAL: [0.5, 0.51, 0.5, 0.51], RECENT: [0.6, 0.6, 0.6, 0.6]}
    assert decide_race(POLICY, race(4, now), [earlier]).compared == 4


def test_refused_entrants_are_named_and_cannot_win():
    entrants = (Entrant(USUAL, (0.5, 0.6)), Entrant(RECENT, refused="too few rows"))
    report = decide_race(POLICY, RaceReport(windows(0, 2), "mae", entrants, USUAL, 0, 0, 0, 0, ()), ())
    assert report.winner == USUAL
    assert report.reasons[1] == "race: recency weighted, half-life 12 windows did not run: too few rows"


def test_undefined_windows_are_left_out():
    report = decide_race(POLICY, race(0, {USUAL: [0.5, None, 0.6, 0.5], RECENT: [0.3, 0.1, 0.3, 0.35]}), ())
    assert report.compared == 3
    usual, recent = report.entrants
    assert gain_over(usual, recent) == pytest.approx((0.2 + 0.3 + 0.15) / 3)


def test_preview_names_the_entrants_and_the_cost():
    last = race(0, {USUAL: [0.5, 0.6], RECENT: [0.3, 0.3]})
    assert describe_race(POLICY, (USUAL, RECENT), last) == (
        "race: 2 strategies on the latest 4 closed windows (the file's settings; recency weighted, half-life 12 windows); "
        "the last race took 2.0 CPU s"
    )
    assert "costs that many trainings" in describe_race(POLICY, (USUAL,), None)
