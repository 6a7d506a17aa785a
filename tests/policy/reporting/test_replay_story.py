"""A replay's summary sentences, whether the loop won or lost; values by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tasks.policy.evidence.replay import EventKind, Replay, ReplayEvent, ReplayWindow, RolloutProgress
from tasks.policy.records.base import Window
from tasks.policy.records.reports import MetricValue
from tasks.policy.reporting.replay_story import (
    bargain,
    comparison,
    counted,
    duration_text,
    eventful,
    headline,
    next_steps,
    period,
    refusals,
    rollouts,
    share_text,
    shown,
    title,
    version_name,
    window_length,
)

FIRST = Window(datetime(2013, 4, 21, tzinfo=UTC), datetime(2013, 4, 26, tzinfo=UTC))


def replayed(
    loop: float | None,
    never: float,
    every: float,
    *events: EventKind,
    windows: int = 10,
    metric: str = "mae",
    unit: str = "minutes",
    higher: bool = False,
) -> Replay:
    """Return a replay whose windows all have these values; the events happen in the first."""
    value = None if loop is None else MetricValue(metric, loop, loop - 0.1, loop + 0.1, 900, higher)
    one = ReplayWindow(
        window=FIRST, rows=1000, labelled_rows=900, maturity="closed", champion="1", metric=value, never=never,
        every=every, quality="pass", drift="stable", drifted_share=0.0, worst_feature=None, worst_effect=None,
        diagnosis="none", retrain=False, reasons=(), decision_id="d",
    )  # fmt: skip
    served, window = [one], FIRST
    for _ in range(windows - 1):
        window = window.next()
        served.append(replace(one, window=window))
    served[0] = replace(one, events=tuple(ReplayEvent(kind, "It happened.") for kind in events))
    task = "regression" if unit else "binary"
    return Replay("m", "p", task, metric, higher, tuple(served), (("score", 1.0),), unit)


def test_winning_loop_states_all_three_numbers() -> None:
    replay = replayed(8.1, 9.4, 8.0, "retrained", windows=51)
    assert headline(replay) == (
        "The loop kept MAE at 8.1 minutes; never retraining would have been 9.4; "
        "retraining every window 8.0, with 51 retrains instead of 1."
    )


def test_losing_loop_is_reported() -> None:
    assert "8.5 minutes was worse than never retraining, 8.2;" in headline(replayed(8.5, 8.2, 8.0, "retrained"))
    assert bargain(replayed(8.5, 8.2, 8.0, "retrained")) is None


def test_comparison_respects_metric_direction() -> None:
    better = replayed(0.91, 0.88, 0.92, "retrained", metric="accuracy", unit="", higher=True)
    assert headline(better).startswith("The loop kept accuracy at 91.0 %; never retraining would have been 88.0;")
    worse = replayed(0.88, 0.91, 0.92, "retrained", metric="accuracy", unit="", higher=True)
    assert "worse than never retraining" in headline(worse)


def test_equal_displayed_values_are_called_equal() -> None:
    assert "8.1 minutes, the same as never retraining" in headline(replayed(8.1, 8.1, 8.0, "retrained"))


def test_loop_without_retrains_claims_no_gain() -> None:
    sentence = headline(replayed(8.1, 8.1, 8.0))
    assert sentence.startswith("The loop did not retrain: MAE 8.1 minutes, never retraining 8.1;")
    assert sentence.endswith("with 10 retrains instead of 0.")


def test_without_windows_or_labels_nothing_is_compared() -> None:
    empty = replace(replayed(8.1, 9.4, 8.0), windows=())
    assert headline(empty) == "No window was replayed, so there is nothing to compare yet."
    assert bargain(empty) is None
    unlabelled = replayed(None, 9.4, 8.0, "retrained")
    assert headline(unlabelled) == "10 windows served with 1 retrain; no labels to compare by yet."


def test_nan_value_is_not_compared() -> None:
    replay = replayed(float("nan"), 9.4, 8.0, "retrained")
    assert comparison(replay) == {}
    assert shown(float("nan"), replay) == "–"


def test_gain_share_is_stated_per_retrain_share() -> None:
    # the loop gains 1.2 of the 1.6 that retraining every window gains, with 2 of 10 retrains
    share = bargain(replayed(8.4, 9.6, 8.0, "retrained", "retrained"))
    assert share == "That is 75 % of what retraining every window gains, for 20 % of its retrains."
    beats = bargain(replayed(7.9, 9.6, 8.0, "retrained"))
    assert beats == "Better than retraining every window, with 10 % of its retrains."


@pytest.mark.parametrize(
    ("loop", "verdict"),
    [(7.9999, "Better than"), (8.0, "As good as"), (8.00001, "As good as"), (8.0001, "That is 100 % of what")],
)
def test_loop_is_better_only_if_its_displayed_value_is(loop, verdict):
    assert bargain(replayed(loop, 9.6, 8.0, "retrained")).startswith(f"{verdict} retraining every window")


@pytest.mark.parametrize(
    ("loop", "never", "expected"),
    [(8.1, 9.4, "8.1"), (8.12, 8.16, "8.12"), (8.123, 8.128, "8.123"), (8.0, 8.0, "8.0")],
)
def test_numbers_get_enough_decimals_to_differ(loop: float, never: float, expected: str) -> None:
    assert shown(loop, replayed(loop, never, never)) == expected


def test_unitless_metric_has_three_decimals() -> None:
    assert shown(0.43, replayed(0.43, 0.47, 0.42, metric="log_loss", unit="")) == "0.430"


def test_refusals_count_gates_and_budget() -> None:
    assert refusals(replayed(8.1, 9.4, 8.0, "refused", "budget_refused", "retrained")) == 2


def test_only_windows_with_events_are_eventful() -> None:
    replay = replayed(8.1, 9.4, 8.0, "promoted", windows=4)
    wanting = replace(replay.windows[2], quality="fail")
    decided = replace(replay.windows[3], retrain=True)
    replay = replace(replay, windows=(*replay.windows[:2], wanting, decided))
    assert eventful(replay) == [replay.windows[0], wanting, decided]


def test_the_period_ends_on_the_last_day_served() -> None:
    replay = replayed(8.1, 9.4, 8.0, windows=51)
    assert period([replay]) == "21 April – 31 December 2013"
    assert title([replay]) == "1 model, 21 April – 31 December 2013"
    assert period([replayed(8.1, 9.4, 8.0, windows=52)]) == "21 April 2013 – 5 January 2014"
    assert title([]) == title([replace(replay, windows=())]) == "Nothing was replayed"


def test_a_window_is_called_by_its_length() -> None:
    replay = replayed(8.1, 9.4, 8.0, windows=1)
    assert window_length(replay) == "5 days"
    short = replace(replay.windows[0], window=Window(FIRST.start, FIRST.start.replace(hour=6)))
    assert window_length(replace(replay, windows=(short,))) == "6 hours"


def test_plurals_and_articles_are_correct() -> None:
    assert [counted(n, "retrain") for n in (0, 1, 4738)] == ["no retrains", "1 retrain", "4,738 retrains"]
    assert [share_text(share) for share in (0.0, 0.004, 0.333, 1.0)] == ["0 %", "0.4 %", "33 %", "100 %"]
    assert [duration_text(seconds) for seconds in (0.42, 12.4, 185.0)] == ["0.4 s", "12 s", "3 min 5 s"]
    assert [version_name(name) for name in ("3", "canary", "")] == ["v3", "canary", "–"]


def test_next_steps_lead_to_page_decision_and_dashboards() -> None:
    replay = replayed(8.1, 9.4, 8.0, "refused")
    promoted = replace(replay.windows[3], events=(ReplayEvent("promoted", "version 2 in place of 1"),))
    with_promotion = replace(replay, windows=(*replay.windows[:3], promoted, *replay.windows[4:]))
    page, decision, served = next_steps([with_promotion], "file:///page.html")
    assert page.endswith("file:///page.html")
    assert f"{replay.model}, {promoted.window.name} on that page: version 2 in place of 1" in decision
    assert served.startswith("`make serve`")
    assert replay.windows[0].window.name in next_steps([replay], "page")[1], "without a promotion, the first event"
    assert len(next_steps([replayed(8.1, 9.4, 8.0)], "page")) == 2, "without events, no decision"


def test_a_rollout_takes_the_windows_until_it_ended() -> None:
    replay = replayed(8.0, 9.0, 7.9, windows=4)
    shadow = RolloutProgress("d", "2", "1", "shadow", 0.0, "running", "")
    canary = replace(shadow, step="canary 10 %", share=0.1)
    ended = replace(canary, status="returned", share=0.0)
    progress = (shadow, canary, ended, ended)
    windows = tuple(replace(w, rollout=p) for w, p in zip(replay.windows, progress, strict=True))
    (found,) = rollouts(replace(replay, windows=windows))
    assert found.period == Window(FIRST.start, FIRST.start + timedelta(days=15))
    assert found.steps == "shadow (1 window), canary 10 % (2 windows)"
    assert found.has_ended
    assert rollouts(replay) == ()
