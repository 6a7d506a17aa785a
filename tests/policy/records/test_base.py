"""Windows on the calendar, and the ways in which a person writes a duration or a share."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, ValidationError

from tasks.policy.records.base import Settings, WindowGrid, utc

MONTHS = WindowGrid(utc("2025-11-01"), None)
MOMENTS = st.integers(0, 70 * 365 * 24 * 60).map(lambda minutes: utc("1990-01-01") + timedelta(minutes=minutes))


class Limits(Settings):
    delay_hours: float = Field(0, le=1000)
    days: int = 1
    max_share: float | None = Field(None, gt=0, le=1)
    shares: tuple[float, ...] = ()
    ratio: float = 1.0


@pytest.mark.parametrize(
    ("key", "written", "expected"),
    [
        ("delay_hours", "14 days", 336),
        ("delay_hours", "1.5h", 1.5),
        ("delay_hours", "90 min", 1.5),
        ("delay_hours", "2 weeks", 336),
        ("delay_hours", "1 Day", 24),
        ("delay_hours", "12", 12),
        ("days", "2 weeks", 14),
        ("max_share", "1 %", 0.01),
        ("max_share", "12.5%", 0.125),
        ("max_share", 0.3, 0.3),
    ],
)
def test_quantities_are_read_as_a_person_writes_them(key: str, written: object, expected: float) -> None:
    assert getattr(Limits(**{key: written}), key) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("delay_hours", "14 months"),  # of which length?
        ("delay_hours", "5 %"),
        ("delay_hours", "50 days"),  # past its limit
        ("delay_hours", "-1 days"),
        ("days", "36 hours"),  # no whole number of days
        ("max_share", "14 days"),
        ("max_share", "120 %"),
        ("ratio", "5 %"),  # no share
        ("ratio", "2 days"),
    ],
)
def test_other_quantities_are_refused(key: str, written: object) -> None:
    with pytest.raises(ValidationError):
        Limits(**{key: written})


def test_months_follow_the_calendar() -> None:
    found = MONTHS.between(utc("2025-12-15"), utc("2026-04-01"))
    assert [window.name for window in found] == [
        "2026-01-01..2026-02-01", "2026-02-01..2026-03-01", "2026-03-01..2026-04-01",
    ]  # fmt: skip


@pytest.mark.parametrize("days", [None, 7, 0.25])
@given(anchor=st.integers(0, 23), moment=MOMENTS)
def test_every_moment_is_in_one_window(days: float | None, anchor: int, moment: datetime) -> None:
    grid = WindowGrid(utc("2025-01-01") + timedelta(days=0 if days is None else anchor), days)
    window = grid.window(grid.number_at(moment))
    assert window.start <= moment < window.end
    assert grid.between(window.start, window.end) == (window,)
    assert grid.window(grid.number_at(window.end)).start == window.end


@given(start=MOMENTS, length=st.timedeltas(timedelta(), timedelta(days=900)))
def test_complete_months_are_consecutive_and_inside(start: datetime, length: timedelta) -> None:
    found = MONTHS.between(start, start + length)
    assert all(start <= window.start and window.end <= start + length for window in found)
    assert all(one.end == other.start for one, other in pairwise(found))
    assert length < timedelta(days=62) or found
