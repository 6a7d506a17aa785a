"""Whether times without a zone look local: a clock change leaves its hour empty once a year, in an otherwise full table."""

import pandas as pd

ZONES = (
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Chicago",
    "America/Los_Angeles",
    "Australia/Sydney",
)
LEAST_ROWS = 3
"""Rows that the skipped hour has on the days around it, on average, so that its emptiness means something."""


def looks_local(times: pd.Series) -> str | None:
    """Return a zone whose clock changes the times show; None if they show none, or not enough to tell.

    `times` are without a zone. In the zone of the clock, the hour that is skipped in spring has no rows.
    """
    known = times.dropna()
    if known.empty:
        return None
    counts = known.dt.floor("h").value_counts()
    for zone in ZONES:
        gaps = _skipped_hours(zone, known.min(), known.max())
        usual = [_around(counts, gap) for gap in gaps]
        if gaps and sum(usual) / len(gaps) >= LEAST_ROWS and not any(counts.get(gap, 0) for gap in gaps):
            return zone
    return None


def _skipped_hours(zone: str, first: pd.Timestamp, last: pd.Timestamp) -> list[pd.Timestamp]:
    hours = pd.date_range(first.ceil("h"), last.floor("h"), freq="h")
    if hours.empty:
        return []
    local = hours.tz_localize(zone, nonexistent="NaT", ambiguous="NaT")
    doubtful = hours[local.isna()]
    return [
        hour
        for hour in doubtful
        if pd.Timestamp(hour).tz_localize(zone, nonexistent="shift_forward", ambiguous=True).tz_localize(None) != hour
    ]


def _around(counts: pd.Series, gap: pd.Timestamp) -> float:
    days = [gap + pd.Timedelta(days=day) for day in (-7, -6, -2, -1, 1, 2, 6, 7)]
    return sum(float(counts.get(day, 0)) for day in days) / len(days)
