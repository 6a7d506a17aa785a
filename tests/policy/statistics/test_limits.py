"""Quoted limits are exact: decisions change at the limit that a sentence quotes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from tasks.policy.decision.retraining import decide_retraining
from tasks.policy.evidence.monitoring import Decision
from tasks.policy.monitoring.drift import explain
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import DriftReport
from tasks.policy.statistics.numbers import beside, rounded
from tests.policy.triggers.judged_windows import drift, evidence, history
from tests.policy.triggers.test_series_triggers import judged, policy


def of_drift(rule: str, share: float | None = None, **shifts: float) -> Decision:
    """Return the decision on a window with these mean shifts, or this drifted share."""
    found = drift(0, **(shifts or {"x": 0.0}))
    seen = evidence(0, drift=found if share is None else replace(found, drifted_share=share))
    return decide_retraining("a_model", policy(rule), policy(rule).case(seen, history(), seen.window.end))


@pytest.mark.parametrize(
    ("limit", "share", "words", "wish"),
    [
        (0.3, 0.298, "29.8%", "≥ 30%"),
        (0.3, 0.2999, "29.99%", "≥ 30%"),
        (0.3, 0.3, "30%", "< 30%"),
        (0.125, 0.122, "12%", "≥ 12.5%"),
        (0.125, 0.125, "12.5%", "< 12.5%"),
        (0.07, 0.07, "7%", "< 7%"),
    ],
)
def test_share_below_limit_is_not_rounded_to_it(limit, share, words, wish):
    decision = of_drift(f"{{trigger: drifted_share, share: {limit}}}", share)
    assert f"a share of {words}; the limit is {wish[2:]}" in decision.reasons[0]
    assert decision.would_change[0].endswith(wish)
    assert decision.retrain is (share >= limit)


@pytest.mark.parametrize(
    ("share", "words"), [(0.298, "0.298, below"), (0.3, "0.30, at or above"), (0.12, "0.12, below")]
)
def test_drift_report_distinguishes_share_and_limit(share, words):
    verdict = "drifted" if share >= 0.3 else "stable"
    report = DriftReport(Window(utc("2024-03-01"), utc("2024-03-02")), verdict, (), share, 1000, 1000, ())
    reasons = explain(report, SimpleNamespace(features=()), SimpleNamespace(min_rows=200, max_share=0.3))
    assert reasons == (f"0 of 0 features drifted: a share of {words} the limit of 0.3",)


@pytest.mark.parametrize(("shift", "words"), [(2.999, "2.999"), (3.0, "3.00"), (3.0004, "3.0004"), (4.0, "4.00")])
def test_mean_shift_is_displayed_consistently(shift, words):
    decision = of_drift("{trigger: mean_shift, sigma: 3}", x=shift)
    assert f"the mean of x moved by {words} reference σ" in decision.reasons[0]
    assert decision.retrain is (shift > 3)


def test_mean_shift_ends_when_every_feature_is_back():
    rule = "{trigger: mean_shift, sigma: 3}"
    assert of_drift(rule, a=5.0, b=4.0).would_change == ("would not retrain at a mean shift ≤ 3 σ in every feature",)
    assert of_drift(rule, a=2.9, b=4.0).retrain
    assert not of_drift(rule, a=3.0, b=-3.0).retrain


@pytest.mark.parametrize(("value", "words"), [(0.79996, "0.79996"), (0.8, "0.8"), (0.80004, "0.80004")])
def test_metric_past_limit_is_not_rounded_to_it(value, words):
    decision = judged("{trigger: metric_breach, metric: accuracy, limit: 0.8}", [value], metric="accuracy")
    assert decision.reasons[0].startswith(f"accuracy {words} (")
    assert decision.retrain is (value < 0.8)


@pytest.mark.parametrize("retrain", [False, True])
@pytest.mark.parametrize(
    ("metric", "rule", "past"),
    [
        ("accuracy", "k: 1", [0.9, 0.9, 0.9]),  # two proportions, because no window noise is known
        ("accuracy", "margin: 0.1", [0.9, 0.9, 0.9]),
        ("accuracy", "k: 1", [0.9, 0.92, 0.9, 0.91, 0.9, 0.92]),  # Student's t, from window noise
        ("mae", "margin: 0.5", [5.0, 5.1, 5.0, 5.1]),
        ("mae", "margin: 0.6", [5.0, 5.1, 5.0, 5.1]),
        ("mae", "k: 1", [5.0, 5.0, 5.0]),  # the width of the interval
        ("mae", "alpha: 0.7", [5.0, 5.0, 5.0]),  # any worsening
    ],
)
def test_quoted_shift_level_is_exact(metric, rule, past, retrain):
    def at(latest: float) -> Decision:
        text = f"{{trigger: metric_shift, metric: {metric}, always_valid: false, {rule}}}"
        return judged(text, [*past, latest], metric=metric)

    decision, far = at({"accuracy": 0.2, "mae": 9.0}[metric] if retrain else past[0]), 0.005
    assert decision.retrain is retrain
    opening, sign, number = decision.would_change[0].split(" (")[0].rsplit(" ", 2)
    assert opening == f"would{' not' if retrain else ''} retrain at {metric}"
    onward = 1 if sign in ">≥" else -1
    promised = float(number) + onward * (1e-9 if sign in "≤≥" else 0.001)  # 0.9 - 0.8 is slightly less than 0.1
    assert at(promised).retrain is not retrain
    assert at(promised + onward * far).retrain is not retrain
    assert at(promised - onward * far).retrain is retrain


def test_shift_hidden_by_noise_quotes_a_reachable_level():
    """0.88 after 0.9 three times, 1,000 labels each: p = 0.037 exceeds alpha; at 0.873, z = -2.395 and p = 0.0083."""
    decision = judged(
        "{trigger: metric_shift, metric: accuracy, always_valid: false}", [0.9, 0.9, 0.9, 0.88], metric="accuracy"
    )
    assert not decision.retrain
    assert decision.would_change == ("would retrain at accuracy ≤ 0.873 (p ≤ 0.01 at this window's precision)",)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_rounding_never_crosses_the_limit(value, limit):
    for words in (beside(value, limit), beside(value, limit, 0, "f")):
        assert (float(words) < limit, float(words) > limit) == (value < limit, value > limit)


@given(st.floats(1e-6, 1e6))
def test_limit_is_rounded_in_requested_direction(limit):
    low, high = float(rounded(limit, up=False)), float(rounded(limit, up=True))
    assert low * (1 - 1e-11) <= limit <= high * (1 + 1e-11)
    assert high - low <= limit * 1.001e-3


def test_numbers_are_as_short_as_possible():
    assert [rounded(0.85, up) for up in (True, False)] == ["0.85", "0.85"]
    assert [rounded(1.9 / 3, up) for up in (True, False)] == ["0.6334", "0.6333"]
    assert rounded(0.1 + 0.2, up=True) == "0.3"
    assert beside(0.3, 0.1, 0, "%") == "30%"
    assert beside(float("nan"), 0.1) == "nan"
