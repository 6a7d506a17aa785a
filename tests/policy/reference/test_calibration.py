"""Calibrated limits, calendar matching and the domain classifier's verdict."""

import numpy as np
import pytest

from tasks.policy.records.base import Window, utc
from tasks.policy.reference import calibration


def test_limits_by_hand():
    effects = np.arange(1, 100) / 100
    assert calibration.calibrated_threshold(effects, 0.05) == 0.95
    assert calibration.calibrated_threshold(effects, 0.001) == 0.99
    assert calibration.calibrated_threshold(effects, 0.05, at_least=2.0) == 2.0


def test_rows_of_same_season_in_earlier_years_are_found():
    july = Window(utc("2013-07-01"), utc("2013-07-06"))
    days = {"2012-06-12": False, "2012-06-20": True, "2011-07-20": True, "2011-07-25": False, "2012-12-24": False}
    days |= {"2013-06-26": False, "2013-07-01": False}
    hours = [int(utc(day).timestamp() // 3600) for day in days]
    assert calibration.in_season(hours, july).tolist() == list(days.values())
    assert not calibration.in_season([-1], july).any()


def test_calendar_match_avoids_false_alarm_for_daily_season():
    """Values follow the hour; the current window holds mornings only."""
    random = np.random.default_rng(1)
    hours, mornings = random.uniform(0, 24 * 50, 20_000), 24 * random.integers(0, 5, 2000) + random.uniform(6, 10, 2000)
    reference = np.sin(hours / 24 * 2 * np.pi) + random.normal(0, 0.1, 20_000)
    current = np.sin(mornings / 24 * 2 * np.pi) + random.normal(0, 0.1, 2000)
    weights = calibration.calendar_weights(hours, mornings, "day")
    assert abs(current.mean() - reference.mean()) > 0.8
    assert current.mean() == pytest.approx(np.average(reference, weights=weights), abs=0.03)
    assert weights.mean() == pytest.approx(1)
    assert calibration.effective_rows(weights) == pytest.approx(20_000 * 4 / 24, rel=0.1)
    assert calibration.effective_rows([1, 1, 0, 0]) == 2


def test_phases_missing_in_reference_are_left_out():
    assert calibration.calendar_weights([1, 2], [2, 3], "day") == pytest.approx([0, 2])
    assert calibration.calendar_weights([1, 2], [3], "day") == pytest.approx([0, 0])


def test_distances_of_stable_windows_by_hand():
    """Four days of two values; window of one day. Day 0 has 3:1 against 5:7 elsewhere: KS |3/4 - 5/12| = 1/3."""
    counts = [[3, 1], [2, 2], [2, 2], [1, 3]]
    found = calibration.stable_distances(counts, 1, "ks")
    assert found == pytest.approx([1 / 3, 0.0, 0.0, 1 / 3])
    assert calibration.stable_distances(counts, 1, "wasserstein", [2.0])[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", ["ks", "psi", "wasserstein"])
def test_calibrated_limit_keeps_its_alarm_rate(method):
    """Days drift together by a random amount; new windows of the same process rarely exceed the limit."""
    random = np.random.default_rng(1)
    edges = np.linspace(-3, 3, 30)

    def days(count):
        moved = random.normal(0, 0.3, count)
        rows = [np.searchsorted(edges, random.normal(shift, 1, 200)) for shift in moved]
        return np.array([np.bincount(row, minlength=31) for row in rows])

    widths = np.diff(edges)
    limit = calibration.calibrated_threshold(calibration.stable_distances(days(120), 5, method, widths), 0.05)
    fresh = np.concatenate([calibration.stable_distances(days(120), 5, method, widths)[::5] for _ in range(10)])
    assert 0.005 <= (fresh > limit).mean() <= 0.15


def test_too_few_days_give_no_limit():
    with pytest.raises(ValueError, match="expected more than the 5"):
        calibration.stable_distances(np.ones((5, 2)), 5, "ks")


def test_local_distances_ignore_other_seasons():
    """Two seasons of 30 days with disjoint values; within each, all days are equal."""
    counts = np.repeat([[10, 0], [0, 10]], 30, axis=0)
    distances = calibration.stable_distances(counts, 5, "ks")
    around = calibration.stable_distances(counts, 5, "ks", around_days=10)
    assert distances[:20].min() > 0.5
    assert around[:15] == pytest.approx(np.zeros(15))
    assert around[25] == pytest.approx(0.5)  # the next ten days belong to the other season
