"""References with missing-value codes, heavy tails or a broken week: detected, named and excluded."""

import numpy as np
import pytest

from tasks.policy.reference.robust_reference import broken_days, find_sentinel, robust_scale

RANDOM = np.random.default_rng(0)
NORMAL = np.sort(RANDOM.normal(50, 10, 20_000))
DAYS = np.repeat([f"2024-01-{day:02d}" for day in range(1, 31)], 200)


@pytest.mark.parametrize("code", [-999.0, 9999.0, -999_999.0, 1e9])
@pytest.mark.parametrize("rows", [20, 2000])
def test_missing_value_code_is_found_at_either_end(code, rows):
    found = find_sentinel(np.sort(np.append(NORMAL, np.full(rows, code))))
    assert found is not None and found.value == code
    assert found.share == pytest.approx(rows / (len(NORMAL) + rows))


@pytest.mark.parametrize(
    "values",
    [
        NORMAL,
        np.append(np.zeros(15_000), RANDOM.exponential(10, 5000)),  # zero-inflated
        np.exp(3 * RANDOM.normal(size=20_000)),  # a heavy tail repeats no value
        np.repeat([0.0, 1.0], 500),
        np.append(np.zeros(9000), np.full(20, 1.0)),
        np.full(100, 7.0),
        np.empty(0),
        RANDOM.integers(0, 5, 1000).astype(float),
    ],
)
def test_ordinary_values_contain_no_missing_value_code(values):
    assert find_sentinel(np.sort(values)) is None


def test_heavy_tail_does_not_stretch_the_scale():
    assert robust_scale(NORMAL) == pytest.approx(10, rel=0.03)
    heavy = np.sort(np.exp(2 * RANDOM.normal(size=50_000)))
    assert robust_scale(heavy) < heavy.std() / 4
    assert robust_scale(np.append(np.zeros(900), np.arange(100.0))) is None, "zero-inflated: no spread of its quartiles"


@pytest.mark.parametrize("change", [lambda x: x * 100, lambda x: x + 60, lambda x: 0 * x + 1000])
def test_broken_week_is_named(change):
    values = RANDOM.normal(50, 10, len(DAYS))
    broken = (DAYS >= "2024-01-10") & (DAYS <= "2024-01-14")
    values[broken] = change(values[broken])
    assert broken_days(values, DAYS) == tuple(f"2024-01-{day}" for day in range(10, 15))


def test_season_trend_and_single_odd_days_are_not_a_broken_week():
    noise = RANDOM.normal(0, 5, len(DAYS))
    day = np.repeat(np.arange(30), 200)
    assert broken_days(50 + 40 * np.sin(day / 5) + noise, DAYS) == ()
    assert broken_days(50 + 3.0 * day + noise, DAYS) == ()
    assert broken_days(50 + 100.0 * (day == 7) + noise, DAYS) == ()
    assert broken_days(50 + 100.0 * (day > 15) + noise, DAYS) == (), "half of the days are not an exception"
    assert broken_days(np.full(len(DAYS), np.nan), DAYS) == ()
