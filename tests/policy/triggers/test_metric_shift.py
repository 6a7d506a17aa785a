"""`metric_shift`: it keeps its level over a year of looks and detects lasting changes."""

import math
import re

import numpy as np
import pytest

from tests.policy.triggers.test_series_triggers import STABLE, judged

ALWAYS = "{trigger: metric_shift, metric: mae, alpha: 0.05}"
PLAIN = "{trigger: metric_shift, metric: mae, alpha: 0.05, always_valid: false}"
FIRST = 6


def first_alarm(rule: str, values: list[float], champion_from: int = 0) -> int | None:
    """Return the first window at which the rule holds, checked after each window."""
    looks = range(max(FIRST, champion_from + 1), len(values) + 1)
    return next((n - 1 for n in looks if judged(rule, values[:n], champion_from=champion_from).retrain), None)


@pytest.mark.slow("200 series with 45 looks each; fewer would not show a level of 5 %")
def test_stable_model_alarms_at_its_level_over_a_year():
    """200 stable series, each checked after each of 50 windows."""
    random = np.random.default_rng(0)
    series = [list(5 + 0.1 * random.normal(size=50)) for _ in range(200)]
    ever = np.mean([first_alarm(ALWAYS, values) is not None for values in series])
    plain = np.mean([first_alarm(PLAIN, values) is not None for values in series[:40]])
    assert ever <= 0.05
    assert plain > 0.5


def test_level_holds_for_later_champions_and_rising_metrics():
    random = np.random.default_rng(1)
    alarms = 0
    for _ in range(60):
        values = list(0.9 - 0.01 * random.normal(size=40))
        rule = "{trigger: metric_shift, metric: accuracy, alpha: 0.05}"
        alarms += any(judged(rule, values[:n], 20, metric="accuracy").retrain for n in range(21, 41))
    assert alarms / 60 <= 0.05


@pytest.mark.parametrize(("sigmas", "within"), [(3, 10), (5, 5)])
def test_larger_fall_is_detected_sooner(sigmas, within):
    random, delays, early = np.random.default_rng(2), [], 0
    for _ in range(25):
        values = 5 + 0.1 * random.normal(size=45)
        values[30:] += 0.1 * sigmas
        alarm = first_alarm(ALWAYS, list(values), champion_from=27)
        early += alarm is not None and alarm < 30
        delays.append(99 if alarm is None else alarm - 29)
    assert early <= 1, "alpha is 0.05"
    assert np.median(delays) <= within


def test_fall_must_exceed_margin_significantly():
    fall = [*STABLE, *STABLE, 7.0, 7.1, 6.9, 7.0]
    rule = "{trigger: metric_shift, metric: mae, margin: %s, alpha: 0.05}"
    assert judged(rule % 0.1, fall, champion_from=16).retrain
    assert not judged(rule % 2.0, fall, champion_from=16).retrain
    assert not judged(rule % 0.0, [*STABLE, *STABLE, 3.0, 3.1, 2.9], champion_from=16).retrain


def test_it_needs_k_of_the_last_m_windows():
    fall = [*STABLE, *STABLE, 9.0]
    rule = "{trigger: metric_shift, metric: mae, alpha: 0.05, k: 2, m: 3}"
    assert judged(ALWAYS, fall, champion_from=16).retrain
    assert not judged(rule, fall, champion_from=16).retrain
    assert judged(rule, [*fall, 9.1], champion_from=16).retrain


def test_sentences_are_exact_at_the_limit():
    fall = [*STABLE, *STABLE, 9.0]
    rule = "{trigger: metric_shift, metric: mae, alpha: 0.05, k: %s, m: 3%s}"
    waiting = judged(rule % (3, ""), fall, champion_from=16)
    assert "is between 8.589 and 9.411" in waiting.reasons[0]
    wish = "would retrain once the entire interval of that mean is past 5.22 in 3 of the last 3 windows, including the latest"
    assert (waiting.retrain, waiting.would_change) == (False, (wish,))
    assert judged(rule % (3, ""), [*fall, 9.0, 9.0], champion_from=16).retrain
    assert judged(rule % (1, ""), fall, champion_from=16).retrain


@pytest.mark.parametrize("metric", ["mae", "accuracy"])
def test_average_past_limit_is_displayed_as_past(metric):
    """Place the champion's window so that the interval's end just misses the limit, and just meets it."""
    stable, sign = [*STABLE, *STABLE], 1 if metric == "mae" else -1

    def at(fall: float) -> tuple[bool, float, float]:
        rule = f"{{trigger: metric_shift, metric: {metric}, alpha: 0.05, margin: 0.1}}"
        values = [*(value if metric == "mae" else 10 - value for value in stable), 5 + sign * fall]
        decision = judged(rule, values, champion_from=16, metric=metric)
        low, high, limit = (
            re.search(pattern, " ".join((*decision.reasons, *decision.would_change)))
            for pattern in (r"between ([\d.]+)", r"between [\d.]+ and ([\d.]+)", r"mean is past ([\d.]+)")
        )
        return decision.retrain, float((low if metric == "mae" else high)[1]), float(limit[1]) if limit else math.nan

    held, missed = 4.0, 0.0
    while held - missed > 1e-7:
        middle = (held + missed) / 2
        held, missed = (middle, missed) if at(middle)[0] else (held, middle)
    _, near, limit = at(missed)
    assert (near < limit) if metric == "mae" else (near > limit)
    assert at(held)[0] and not at(missed)[0]


def test_sentences_state_evidence_and_limit():
    decision = judged(ALWAYS, [*STABLE, *STABLE, 5.1, 5.0], champion_from=16)
    assert "mean mae of the champion's latest 2 windows is between" in decision.reasons[0]
    assert "anytime-valid intervals, alpha 0.05, margin 0)" in decision.reasons[0]
    assert decision.would_change[0].startswith("would retrain once the entire interval of that mean is past 5")
    early = judged(ALWAYS, [5.0, 5.1, 5.0], champion_from=0)
    assert not early.retrain and "four closed windows are needed" in early.reasons[0]


def test_default_policy_keeps_decision_ids():
    from tasks.policy.decision.retraining import RetrainingPolicy

    text = {"when": {"trigger": "metric_shift", "metric": "mae"}}
    assert "always_valid" not in RetrainingPolicy.model_validate(text).model_dump_json()
    off = {"when": {**text["when"], "always_valid": False}}
    assert "always_valid" in RetrainingPolicy.model_validate(off).model_dump_json()


def test_jump_in_latest_window_is_not_averaged_away():
    """Months near 3.2, then one of 5.5, eight windows after the promotion."""
    months = [3.2, 3.25, 3.15, 3.2, 3.22, 3.18, 3.2, 3.24, 3.16, 3.2, 3.21, 5.5]
    rule = "{trigger: metric_shift, metric: mae, margin: 0.5}"
    jumped = judged(rule, months, champion_from=4)
    assert jumped.retrain
    assert "mae of the champion's latest window is" in jumped.reasons[0]
    assert "1 of the last 1 windows shifted" in jumped.reasons[0]
    assert not judged(rule, [*months[:-1], 3.3], champion_from=4).retrain
