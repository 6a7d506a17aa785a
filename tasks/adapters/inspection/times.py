"""Which column is a row's time, which one says when its label became known, and how long a window should be."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from tasks.adapters.inspection.columns import ColumnFacts


@dataclass(frozen=True)
class Guess:
    """A setting's value and why; None if it cannot be guessed safely, with the values that are possible."""

    value: Any
    reason: str
    others: tuple[str, ...] = ()


GOOD = re.compile(
    r"^(time|timestamp|ts|datetime|date|ds|event_time|event_date|week|month|day|hour)$|(^|_)(hour|week|month)(_|$)|^time_|^(created|opened|scheduled|requested|observed|snapshot|event|order|pickup|placed|sent|as_of)(_|$)"
)
LATER = re.compile(
    r"(resolved|closed|label|outcome|completed|finished|returned|paid|settled|known|confirmed|ended|end|left|churned|cancel+ed|delivered|updated|modified|expires?|due|booked)(_|$)"
)
EARLIER = re.compile(r"(signup|sign_up|registered|joined|since|birth|dob|first|start(ed)?|valid_from|member)(_|$)")
LEAST_ROWS, FEWEST_ROWS = 500, 200
"""Rows of a window to aim at, and the number below which a window's data triggers nothing (`retraining.min_rows`)."""
MOST_WINDOWS, FEWEST_WINDOWS = 120, 10
LEAST_CALENDAR_DAYS, LEAST_CALENDAR_SPELL, MOST_CALENDAR_VALUES = 60, 15, 366
"""Days to look at, mean days that a value lasts, and different values of a column that follows the calendar."""
MONTH = 28.0
LENGTHS = (1 / 24, 0.25, 1.0, 7.0, 14.0, MONTH, 91.0, 182.0, 364.0)
HOLDOUT_DAYS, HOLDOUT_ROWS = 5.0, 400
"""The default of `validation.holdout_days`, and more rows than the default of `validation.min_rows`, as days differ."""


def choose_time(columns: Mapping[str, ColumnFacts]) -> Guess:
    """Choose the time of a row: complete, in the order of the rows, steady, and not named like another event."""
    found = {
        name: facts
        for name, facts in columns.items()
        if facts.kind == "time" and facts.null_share <= 0.001 and facts.distinct > 1
    }
    unclear = {name: facts.unclear for name, facts in columns.items() if facts.unclear}
    if not found and unclear:
        example = next(iter(unclear.values()))
        return Guess(
            None,
            f"{example} can be read both ways: write source.options.time_format, such as %d/%m/%Y, and the column",
            tuple(unclear),
        )
    if not found:
        return Guess(None, "no column holds a time in every row")
    scores = {name: _score(facts) for name, facts in found.items()}
    best, *others = sorted(scores, key=lambda name: -scores[name])
    if others and scores[best] - scores[others[0]] < 1:
        return Guess(None, "several columns hold a time in every row", (best, *others))
    why = "the only time that every row has" if not others else "every row has it, and rows are in its order"
    return Guess(best, "; ".join(filter(None, (why, columns[best].order))), tuple(others))


def _score(facts: ColumnFacts) -> float:
    place = pd.Series(range(len(facts.values)), index=facts.values.index)
    ordered = abs(float(place.corr(facts.values.astype("int64"), method="spearman"))) if facts.distinct > 2 else 0.0
    per_month = facts.values.dt.strftime("%Y-%m").value_counts()
    steady = float(per_month.median() / per_month.max())
    name = (
        2.0 * bool(GOOD.search(facts.snake))
        - 2.0 * bool(LATER.search(facts.snake))
        - 3.0 * bool(EARLIER.search(facts.snake))
    )
    return name + 2.0 * (ordered > 0.9) + ordered + steady


def choose_label_time(columns: Mapping[str, ColumnFacts], time: str, label: str) -> Guess:
    """Choose the time at which a label became known: never before the row, and missing where the label is."""
    row, labels = columns[time].values, columns[label].values
    for name, facts in columns.items():
        if facts.kind != "time" or name == time:
            continue
        known = facts.values.notna()
        later = (facts.values[known] >= row[known]).mean() if known.any() else 0.0
        same = (known == labels.notna()).mean()
        if later >= 0.999 and same >= 0.995 and (not known.all() or LATER.search(facts.snake)):
            delay = pd.Timedelta((facts.values[known] - row[known]).median())
            return Guess(name, f"never before {time}, filled where {label} is; half are known after {_in_words(delay)}")
    return Guess(None, "no second time belongs to the label")


def choose_delay(columns: Mapping[str, ColumnFacts], time: str, label: str) -> Guess:
    """Read the label delay from the missing labels of the latest rows; open if no label is missing there."""
    row, known = columns[time].values, columns[label].values.notna()
    newest, last_known = row.max(), row[known].max()
    tail = row > last_known
    step = _median_gap(row)
    earlier_known = float(known[~tail].mean())
    if tail.sum() < max(5, 0.001 * len(row)) or earlier_known < 0.5:
        return Guess(None, "no label is missing at the end of the table, so it does not show when labels become known")
    delay = newest - last_known
    day = pd.Timedelta(days=1)
    unit = day if delay > 2 * day or step >= day else pd.Timedelta(hours=1)
    hours = float(-(-delay // unit) * unit / pd.Timedelta(hours=1))
    return Guess(hours, f"the rows of the last {_in_words(pd.Timedelta(hours=hours))} have no label yet")


def _in_words(length: pd.Timedelta) -> str:
    days = length / pd.Timedelta(days=1)
    return f"{days:.3g} days" if days >= 2 else f"{24 * days:.3g} hours"


@dataclass(frozen=True)
class Division:
    """Windows of a table: their length in days (None: calendar months), the period, and what was considered."""

    window_days: float | None
    start: datetime
    history_until: datetime
    end: datetime
    windows: int
    rows_per_window: float

    @property
    def length(self) -> str:
        return "a month" if self.window_days is None else length_in_words(self.window_days)

    def bounds(self) -> list[pd.Timestamp]:
        """The starts of all windows, and the end of the last one."""
        return _bounds(self.start, self.end, self.window_days)


def length_in_words(days: float) -> str:
    """A window's length in words.

    >>> length_in_words(7.0), length_in_words(1 / 24)
    ('7 days', '1 hour')
    """
    number, unit = (days, "day") if days >= 1 else (24 * days, "hour")
    return f"{number:.4g} {unit}" + ("" if round(number, 6) == 1 else "s")


def divide(
    times: pd.Series, rows: int, window_days: float | None, delay_hours: float, months: bool = False
) -> Division:
    """Choose windows with enough rows each, and the history that the first model learns from: the first 40 % of them.

    `times` may be a sample of `rows`. With `window_days` or `months` the length is given.
    """
    known = times.dropna()
    weight, first, last = rows / max(1, len(known)), known.min(), known.max()
    if window_days is None and not months:
        window_days = _length(known, weight)
        months = window_days == MONTH and (last - first) >= pd.Timedelta(days=900)
    window_days = None if months else window_days
    start = _floor(first, window_days)
    bounds = _bounds(start, last, window_days)
    if len(bounds) < 4:  # too short: all that can be done is to say so
        bounds = [start + (last - start) * part / 4 for part in range(5)]
    step = bounds[1] - bounds[0]
    latest_gap = last - bounds[-1]
    if (window_days is not None and latest_gap >= 0.9 * step) or (
        latest_gap >= pd.Timedelta(0) and _is_batch(known, step)
    ):
        bounds.append(bounds[-1] + step if window_days is not None else bounds[-1] + pd.offsets.MonthBegin(1))
    count = len(bounds) - 1
    lag = -(-int(delay_hours) // max(1, int(step / pd.Timedelta(hours=1))))
    history = min(max(round(0.4 * count), lag + 3), count - 2)
    return Division(
        window_days,
        bounds[0].to_pydatetime(),
        bounds[max(1, history)].to_pydatetime(),
        bounds[-1].to_pydatetime(),
        count,
        len(known) * weight / count,
    )


def holdout_days(days: float, rows: int) -> float:
    """Return the days to hold out of a history: the default, or as many as the rows need, but at most a fifth of it."""
    return min(0.2 * days, max(HOLDOUT_DAYS, HOLDOUT_ROWS * days / max(1, rows)))


def _is_batch(times: pd.Series, step: pd.Timedelta) -> bool:
    """Whether rows come in batches of about a window's length, such as once a week; the last batch is then complete."""
    return times.nunique() > 2 and _median_gap(times) >= 0.9 * step


def _median_gap(times: pd.Series) -> pd.Timedelta:
    """Return the median time between successive different times; 0 for a single one."""
    gaps = pd.Series(sorted(times.dropna().unique())).diff().dropna()
    return pd.Timedelta(gaps.median()) if len(gaps) else pd.Timedelta(0)


def _length(times: pd.Series, weight: float) -> float:
    days = max((times.max() - times.min()) / pd.Timedelta(days=1), 1 / 24)
    batch = _median_gap(times) / pd.Timedelta(days=1) if times.nunique() < 0.2 * len(times) else 0.0
    possible = [length for length in LENGTHS if length >= 0.95 * batch and days / length >= FEWEST_WINDOWS] or [
        max(1 / 24, round(days / FEWEST_WINDOWS * 24) / 24)
    ]
    for least in (LEAST_ROWS, FEWEST_ROWS):
        for length in possible:
            if days / length <= MOST_WINDOWS and len(times) * weight * length / days >= least:
                return length
    return possible[-1]


def _floor(moment: pd.Timestamp, window_days: float | None) -> pd.Timestamp:
    if window_days is None:
        return moment.normalize().replace(day=1)
    return moment.normalize() if window_days >= 1 else moment.floor("h")


def _bounds(
    start: datetime | pd.Timestamp, end: datetime | pd.Timestamp, window_days: float | None
) -> list[pd.Timestamp]:
    if window_days is None:
        return list(pd.date_range(start, end, freq="MS"))
    return list(pd.date_range(start, end, freq=timedelta(days=window_days)))


def follows_calendar(facts: ColumnFacts, times: pd.Series) -> bool:
    """Whether a column is the same for all rows of a day and rarely changes, as a month, a season or a year does.

    A day on which it changes may have both values, as the days of another time zone are not those of UTC.
    """
    if facts.kind not in ("numeric", "boolean", "text") or facts.is_constant or facts.distinct > MOST_CALENDAR_VALUES:
        return False
    known = pd.DataFrame({"day": times.dt.floor("D"), "value": facts.values}).dropna()
    of_day = known.groupby("day")["value"].agg(["nunique", "first"])
    changes = int((of_day["first"] != of_day["first"].shift()).sum()) - 1
    return (
        len(of_day) >= LEAST_CALENDAR_DAYS
        and int((of_day["nunique"] > 1).sum()) <= max(0.01 * len(of_day), changes)
        and changes <= len(of_day) / LEAST_CALENDAR_SPELL
        and len(known) >= 2 * len(of_day)
    )


def common_options(columns: Mapping[str, ColumnFacts], used: Sequence[str]) -> dict[str, Any]:
    """Return the options of the source that the used columns need; those of the first that needs one."""
    options: dict[str, Any] = {}
    for name in used:
        for key, value in columns[name].options.items():
            options.setdefault(key, value)
    return options
