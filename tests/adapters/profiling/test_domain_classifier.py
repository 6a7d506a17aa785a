"""Joint drift: changed relations are detected, and equal distributions alarm at the nominal rate."""

import numpy as np
import pytest

from tasks.adapters.profiling.domain_classifier import COLUMNS, ROWS, measure_joint_drift, with_stable_auc
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.profile import ReferenceProfile
from tests.support.monitored_model import HISTORY, model


def pairs(count: int, correlation: float, seed: int, more: int = 3) -> CodedRows:
    """Return two related features of 20 equal bins each, and unrelated ones."""
    random = np.random.default_rng(seed)
    x, noise = random.normal(size=(2, count))
    both = {"x": x, "y": correlation * x + np.sqrt(1 - correlation**2) * noise}
    both |= {f"n{number}": random.normal(size=count) for number in range(more)}
    edges = np.linspace(-2, 2, 19)
    return CodedRows(
        np.zeros(count, np.int64), {n: np.searchsorted(edges, v).astype(np.uint16) for n, v in both.items()}
    )


def test_flipped_correlation_is_detected():
    before, now = pairs(4000, 0.8, 1), pairs(4000, -0.8, 2)
    for name in ("x", "y"):
        shares = [np.bincount(rows.codes[name], minlength=20) / 4000 for rows in (before, now)]
        assert np.abs(np.cumsum(shares[0]) - np.cumsum(shares[1])).max() < 0.04
    found = measure_joint_drift(before, now, 0.55, 200)
    assert (found.verdict, set(found.features[:2])) == ("drifted", {"x", "y"})
    assert found.auc > 0.8


def test_equal_distributions_alarm_at_the_rate():
    """Without the limit on the AUC, half of the 1 % outside a 99 % interval would alarm; 120 windows."""
    verdicts = [
        measure_joint_drift(pairs(800, 0.5, seed), pairs(800, 0.5, 1000 + seed, more=1), 0.5, 200).verdict
        for seed in range(120)
    ]
    assert verdicts.count("drifted") <= 4
    assert verdicts.count("stable") >= 112


def unrelated(count: int, random: np.random.Generator, shift: int = 0) -> CodedRows:
    """Return six features of 50 equal bins, shifted by `shift` bins each."""
    codes = {f"f{number}": (random.integers(0, 50, count) + shift).astype(np.uint16) for number in range(6)}
    return CodedRows(np.zeros(count, np.int64), codes)


@pytest.mark.parametrize(("count", "windows"), [(210, 250), (500, 120), (1500, 60)])
def test_auc_interval_covers_window_variation(count, windows):
    """For rows of one distribution, an interval of ± 2.5758 standard errors contains 0.5."""
    random = np.random.default_rng(1)
    found = [
        measure_joint_drift(unrelated(1500, random), unrelated(count, random), 0.501, 200) for seed in range(windows)
    ]
    claimed = np.mean([joint.high - joint.low for joint in found]) / 2 / 2.5758
    assert np.std([joint.auc for joint in found]) < 1.02 * claimed
    assert sum(joint.low > 0.5 for joint in found) <= 0.01 * windows
    assert sum(joint.high < 0.5 for joint in found) <= 0.01 * windows
    assert not any(joint.verdict == "error" for joint in found)


@pytest.mark.parametrize(("count", "shift"), [(210, 10), (500, 6), (1500, 3)])
def test_shift_is_found_in_windows_of_any_size(count, shift):
    random = np.random.default_rng(2)
    found = [
        measure_joint_drift(unrelated(1500, random), unrelated(count, random, shift), 0.55, 200) for _ in range(10)
    ]
    assert [joint.verdict for joint in found] == ["drifted"] * 10


@pytest.mark.parametrize("count", [210, 500, 1500])
def test_shared_rows_are_an_error(count):
    rows = unrelated(count, np.random.default_rng(3))
    assert measure_joint_drift(rows, rows, 0.55, 200).verdict == "error"


def test_few_rows_or_no_common_column_is_insufficient():
    before = pairs(1000, 0.5, 1)
    assert measure_joint_drift(before, pairs(150, -0.9, 2), 0.55, 200).verdict == "insufficient"
    assert measure_joint_drift(before, two_kinds(np.zeros(1000)), 0.55, 200).verdict == "insufficient"


def test_weights_select_reference_rows():
    """Half of the reference has the opposite relation; only the other half counts."""
    one, other, now = pairs(3000, 0.8, 1), pairs(3000, -0.8, 2), pairs(3000, -0.8, 3)
    both = CodedRows(np.zeros(6000, np.int64), {n: np.concatenate([one.codes[n], other.codes[n]]) for n in one.codes})
    weights = np.repeat([0.0, 1.0], 3000)
    assert measure_joint_drift(both, now, 0.55, 200).verdict == "drifted"
    assert measure_joint_drift(both, now, 0.55, 200, weights).verdict == "stable"


def two_kinds(kinds: np.ndarray) -> CodedRows:
    return CodedRows(np.zeros(len(kinds), np.int64), {"kind": kinds.astype(np.uint16)})


def test_weights_apply_to_a_small_reference():
    """1000 rows of weight 0.1 and 400 of weight 10: 4000 of 4100 parts are of the second kind, as in the window."""
    random = np.random.default_rng(1)
    before, weights = two_kinds(np.repeat([0, 1], [1000, 400])), np.repeat([0.1, 10.0], [1000, 400])
    now = two_kinds(random.random(1400) < 4000 / 4100)
    found = measure_joint_drift(before, now, 0.55, 200, weights)
    assert found.verdict == "stable" and found.auc == pytest.approx(0.5, abs=0.02)
    assert found.rows == pytest.approx(410, abs=15), "400 of the second kind and one in a hundred of the first"
    assert measure_joint_drift(before, now, 0.55, 200).verdict == "drifted"


@pytest.mark.parametrize(
    ("heaviest", "rows"),
    [
        pytest.param(3000.0, 0, id="as much as all others: what they would be worth is about one more row"),
        pytest.param(25.0, ROWS, id="less than a hundredth of all: the others are not rejected for it"),
    ],
)
def test_dominant_weight_is_insufficient(heaviest, rows):
    weights = np.where(np.arange(3000) == 0, heaviest, 1.0)
    both = two_kinds(np.arange(3000) % 2), two_kinds(np.arange(3000) % 2)
    found = measure_joint_drift(*both, 0.55, 200, weights)
    assert found.verdict == ("stable" if rows else "insufficient")
    assert found.rows == pytest.approx(rows, abs=10)
    assert measure_joint_drift(*both, 0.55, 200, np.zeros(3000)).verdict == "insufficient"


@pytest.mark.parametrize("rows", [2000, 50_000])
def test_rows_and_columns_are_bounded(rows):
    wide = pairs(rows, 0.5, 1, more=COLUMNS + 20)
    found = measure_joint_drift(wide, pairs(rows, 0.5, 2, more=COLUMNS + 20), 0.55, 200)
    assert found.rows == ROWS


def days_of_weather(seed: int, first: int, days: int) -> CodedRows:
    """Return rows that share the weather of their day: a few days can be distinguished without any drift."""
    random = np.random.default_rng(seed)
    weather = np.repeat(random.integers(0, 20, days), 200)
    hours = np.repeat(np.arange(first, first + days) * 24, 200)
    return CodedRows(
        hours, {"weather": weather.astype(np.uint16), "load": random.integers(0, 20, len(hours), np.uint16)}
    )


def test_daily_correlation_sets_the_limit():
    config = model({"numeric": ["weather", "load"]}, drift={"calibrated": True})
    history, now = days_of_weather(1, 0, 100), days_of_weather(2, 100, 5)
    empty = ReferenceProfile("m", HISTORY, len(history), "h", (), ())
    calibrated = with_stable_auc(config, empty, history, {"weather": 1.0})
    assert calibrated.stable_auc > 0.8
    assert measure_joint_drift(history, now, 0.55, 200).verdict == "drifted"
    assert measure_joint_drift(history, now, calibrated.stable_auc + 0.03, 200).verdict == "stable"
    moved = CodedRows(now.hours, now.codes | {"load": now.codes["load"] // 4 + np.uint16(20)})
    assert measure_joint_drift(history, moved, calibrated.stable_auc + 0.03, 200).verdict == "drifted"


def test_short_history_keeps_the_configured_limit():
    empty = ReferenceProfile("m", HISTORY, 1, "h", (), ())
    short, long = days_of_weather(1, 0, 20), days_of_weather(1, 0, 100)
    untimed = CodedRows(np.full(len(long), -1, np.int64), long.codes)
    off = model({"numeric": ["weather", "load"]}, drift={"calibrated": False})
    on = model({"numeric": ["weather", "load"]})
    for config, rows in ((on, short), (off, long), (on, untimed)):
        assert with_stable_auc(config, empty, rows, {}).stable_auc is None
