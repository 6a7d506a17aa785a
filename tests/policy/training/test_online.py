"""The gate of the online corrector, its sentences, and which state serves when."""

from dataclasses import replace

import pytest

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.training.online import (
    ROLLED_BACK,
    UPDATED,
    OnlineComparison,
    OnlineState,
    OnlineUpdate,
    describe_fallback,
    describe_gain,
    good_states,
    serving_state,
    updates_of,
    why_not_serving,
)

WEEK = [Window(utc(f"2024-01-{day:02}"), utc(f"2024-01-{day + 1:02}")) for day in range(1, 9)]


def gain(value: float, low: float, high: float) -> MetricDifference:
    return MetricDifference("log_loss", 0.5, 0.5 - value, value, low, high, 600)


def compared(pooled: MetricDifference, latest: MetricDifference | None = None, windows: int = 6) -> OnlineComparison:
    return OnlineComparison(windows, pooled, latest or pooled)


GOOD = compared(gain(0.012, 0.008, 0.016))


def test_a_gain_serves():
    assert why_not_serving(GOOD, margin=0.01, min_windows=2) is None


def test_no_worse_within_the_margin_serves():
    assert why_not_serving(compared(gain(-0.002, -0.009, 0.004)), margin=0.01, min_windows=2) is None


@pytest.mark.parametrize("low", [-0.011, float("nan")])
def test_a_possible_loss_beyond_the_margin_does_not_serve(low):
    assert "over the last 6 windows may be as low as" in why_not_serving(compared(gain(0.001, low, 0.02)), 0.01, 2)


def test_a_loss_on_the_latest_window_stops_an_average_gain():
    refusal = why_not_serving(compared(GOOD.pooled, gain(-0.05, -0.06, -0.04)), 0.01, 2)
    assert refusal == "it lost 0.05 in log_loss on the latest window, expected at most 0.01"


def test_too_few_windows_do_not_serve():
    assert "on 1 window, expected at least 2" in why_not_serving(replace(GOOD, windows=1), 0.01, 2)
    assert why_not_serving(OnlineComparison(4), 0.01, 2)


STATES = [OnlineState(number, "f" * 64, (window,)) for number, window in enumerate(WEEK, start=1)]


def test_sentences():
    assert describe_gain(STATES[6], GOOD) == (
        "Online corrector: state 7 serves; it lowered log_loss of the last 6 windows by 0.012 (0.008 to 0.016) compared with "
        "the frozen champion"
    )
    assert describe_gain(STATES[6], compared(gain(0.001, -0.002, 0.004))) == (
        "Online corrector: state 7 serves; log_loss of the last 6 windows is no different from the frozen champion's "
        "(-0.002 to +0.004)"
    )
    accuracy = MetricDifference("accuracy", 0.7, 0.8, 0.1, 0.05, 0.15, 600)
    assert "it raised accuracy of the last 6 windows by 0.1 (0.05 to 0.15)" in describe_gain(
        STATES[0], compared(accuracy)
    )
    assert describe_fallback(STATES[6], "it lost", STATES[4]) == (
        "Online corrector: state 5, the last good one, serves; state 7 does not: it lost"
    )


def entry(number: int, kind: str, body: object) -> LedgerEntry:
    text = body if isinstance(body, str) else to_json(body)
    return LedgerEntry("churn", number, kind, WEEK[0].start, None, "perennial", text, "0")


def update(number: int, serving: int | None, version: str = "1") -> OnlineUpdate:
    state = STATES[serving - 1] if serving else None
    return OnlineUpdate(version, WEEK[number - 1], STATES[number - 1], state, "…")


def test_record_round_trip():
    record = replace(update(2, 1), gain=GOOD.pooled)
    assert from_json(OnlineUpdate, to_json(record)) == record
    assert "gain" not in to_json(update(2, 1))


def test_updates_of_the_current_champion_only():
    entries = [
        entry(1, UPDATED, update(1, None)),
        entry(2, "champion.promoted", "{}"),
        entry(3, UPDATED, update(2, 2, version="2")),
        entry(4, ROLLED_BACK, update(3, 2, version="2")),
    ]
    assert [one.newest.number for one in updates_of(entries, "2")] == [2, 3]
    assert updates_of(entries, "1") == ()
    assert updates_of([*entries, entry(5, "champion.rolled_back", "{}")], "2") == ()


def test_state_serves_from_the_next_window_on():
    updates = (update(1, 1), update(2, 2), update(3, None))
    assert [serving_state(updates, window.start) for window in WEEK[:4]] == [None, STATES[0], STATES[1], None]
    assert serving_state(updates[:2]) == STATES[1]
    assert serving_state(()) is None


def test_good_states_are_those_that_served():
    updates = (update(1, None), update(2, 2), update(3, 3), update(4, 2), update(5, 5))
    assert [state.number for state in good_states(updates, 2)] == [5, 3]
