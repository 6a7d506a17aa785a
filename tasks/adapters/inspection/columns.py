"""What a column holds, judged by all of its values: numbers, yes and no, categories, times, free text, or one value.

A number is written as text in CSV, a flag as 0 and 1, and a time as text or as a number since 1970. The conversion is
the one that the model's source makes later.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.tseries.api import guess_datetime_format

from tasks.adapters.inspection.personal import words
from tasks.adapters.lake.casts import FALSE, TRUE
from tasks.policy.statistics.metrics import Floats

Kind = Literal["numeric", "boolean", "text", "time", "empty", "other"]
WORDS_OF_TEXT = 4
"""Mean number of words from which varied text is prose and not a category."""
EPOCHS: dict[Literal["s", "ms", "us", "ns"], float] = {"s": 1e9, "ms": 1e12, "us": 1e15, "ns": 1e18}
TIME_NAME = re.compile(r"(^|_)(time|timestamp|ts|date|datetime|epoch|at|on|dt|day|week|month|hour)(_|$)")
_NINES = (999.0, 9999.0, 99999.0, 999999.0, 9999999.0, 99999999.0)
SENTINELS = (-1.0, -9.0, -99.0, *(-number for number in _NINES), *_NINES)
SENTINEL_SHARE = 0.001
SENTINEL_ROWS, SENTINEL_RANGES = 5, 10
"""Repeats that suffice where the number lies this many ranges outside of all other values, as no tail does."""
MOST_TESTED = 50_000
"""Different values on which a format of times is tested."""
LIKE_TIME = r"^(?:19|20)\d{6}$|\d{1,4}[-/.:]\d{1,2}|\d{1,2}[- ][A-Za-z]{3}|[A-Za-z]{3,9} \d{1,2}, \d{4}"
DAY = "%Y%m%d"
"""A day as a number, such as 20240131."""
SHORT_YEAR = re.compile(r"^(\d{1,2}([-/ ])(?:\d{1,2}|[A-Za-z]{3})\2|\d{2}\.\d{2}\.)(\d{2})(?![\d.:])")
"""A date that may end in a year of two digits, such as 1/31/24; versions such as 10.1.22 are none."""
YEAR_FIRST = re.compile(r"^\d{2}-\d{2}-\d{2}(?!\d)")
NULL_WORDS = ("-", "--", "?", "n/a", "N/A", "na", "none", "None", "unknown", "missing", "null", ".")


@dataclass(frozen=True)
class ColumnFacts:
    """A column's converted values, in the order of the sample, and what they are."""

    name: str
    kind: Kind
    values: pd.Series
    distinct: int
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the source that this column needs: `time_zone`, `time_format`, `time_unit`, `null_values`."""
    has_zone: bool = True
    order: str = ""
    """How the order of day and month was found, where the values alone allow both."""
    unclear: str = ""
    """A date whose day and month cannot be told apart in this column, which is then text."""

    @property
    def null_share(self) -> float:
        return float(self.values.isna().mean()) if len(self.values) else 1.0

    @property
    def is_unique(self) -> bool:
        return self.distinct == len(self.values) and self.null_share == 0

    @property
    def is_constant(self) -> bool:
        return self.distinct <= 1

    @property
    def is_whole(self) -> bool:
        """Whether all numbers are whole."""
        known = self.values.dropna()
        return self.kind == "numeric" and bool(len(known)) and bool((known % 1 == 0).all())

    @property
    def is_prose(self) -> bool:
        if self.kind != "text":
            return False
        sample = self.values.dropna().head(2000).astype(str)
        varied = sample.nunique() > 0.3 * len(sample)
        return bool(len(sample) and varied and (sample.str.count(r"\S+").mean() >= WORDS_OF_TEXT))

    @property
    def snake(self) -> str:
        return words(self.name)


def describe_columns(
    table: pa.Table, is_text: bool, decimal_point: str = ".", time_format: str = ""
) -> dict[str, ColumnFacts]:
    """Describe each column of a sample; `is_text` says that numbers are written as text, as in CSV."""
    return {
        name: _describe(name, table.column(name), is_text, decimal_point, time_format) for name in table.column_names
    }


def decimal_comma(table: pa.Table, may_be_thousands: bool) -> bool:
    """Whether a text column holds numbers such as 1,5; 1,234 is not enough if it may be one thousand."""
    decimal = r"-?(0,\d+|\d{4,},\d+|\d+,(\d{1,2}|\d{4,}))" if may_be_thousands else r".*,.*"
    for column in table.columns:
        texts = column.slice(0, 500).drop_null().to_pylist()
        numbers = len(texts) >= 10 and all(re.fullmatch(r"-?\d+(,\d+)?", str(text)) for text in texts)
        if numbers and any(re.fullmatch(decimal, str(text)) for text in texts):
            return True
    return False


def _describe(name: str, column: pa.ChunkedArray, is_text: bool, decimal_point: str, time_format: str) -> ColumnFacts:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count == len(column):
        return ColumnFacts(name, "empty", column.to_pandas(), 0)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _times(name, column)
    if pa.types.is_boolean(kind):
        return _facts(name, "boolean", column.to_pandas().astype("boolean"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(
            name, column.cast(pa.float64(), safe=False).to_pandas() if pa.types.is_decimal(kind) else column.to_pandas()
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _texts(name, column.cast(pa.string()).to_pandas(), is_text, decimal_point, time_format)
    return ColumnFacts(name, "other", pd.Series([None] * len(column), dtype=object), 0)


def _facts(name: str, kind: Kind, values: pd.Series, **more: Any) -> ColumnFacts:
    if kind == "time":
        values = values.dt.as_unit("us")  # nanoseconds end in 2262, and 9999-12-31 often stands for a missing time
    return ColumnFacts(name, kind, values, int(values.nunique()), **more)


def _numbers(name: str, values: pd.Series, **more: Any) -> ColumnFacts:
    known = values.dropna()
    if set(known.unique()[:3].tolist()) <= {0, 1} and known.nunique() == 2 and not more:
        return _facts(
            name, "boolean", values.astype("Int8").astype("boolean") if values.isna().any() else values.astype(bool)
        )
    if TIME_NAME.search(words(name)) and len(known) and (known % 1 == 0).all():
        low, high = float(known.min()), float(known.max())
        if low >= 19_000_101 and high <= 21_001_231:
            days = pd.to_datetime(values.astype("Int64").astype("string"), format=DAY, errors="coerce", utc=True)
            if days.notna().equals(values.notna()):
                return _facts(name, "time", days, options={"time_zone": "UTC", "time_format": DAY}, has_zone=False)
        for unit, scale in EPOCHS.items():
            if 0.2 * scale <= low and high <= 4.2 * scale:
                times = pd.Series(pd.to_timedelta(values.astype("Int64"), unit=unit)) + pd.Timestamp(0, tz="UTC")
                return _facts(name, "time", times, options={"time_unit": unit})
    return _facts(name, "numeric", values, **more)


def _times(name: str, column: pa.ChunkedArray) -> ColumnFacts:
    has_zone = pa.types.is_timestamp(column.type) and column.type.tz is not None
    values = pd.to_datetime(
        column.cast(pa.timestamp("us", column.type.tz if has_zone else None), safe=False).to_pandas(), utc=True
    )
    return _facts(name, "time", values, options={} if has_zone else {"time_zone": "UTC"}, has_zone=has_zone)


def _texts(name: str, values: pd.Series, is_text: bool, decimal_point: str, time_format: str) -> ColumnFacts:
    values = values.astype(object).where(values.notna(), None)
    known = values.dropna()
    once = pd.Series(known.unique(), dtype=object)
    lower = set(once.head(5).str.strip().str.casefold())
    if len(once) == 2 and lower <= {*TRUE, *FALSE} and len(lower & set(TRUE)) == 1:
        flags = known.str.strip().str.casefold().isin(TRUE)
        return _facts(name, "boolean", flags.reindex(values.index).astype("boolean"))
    if is_text:
        numbers = _as_numbers(once, decimal_point)
        if numbers is not None:
            found, null_word = numbers
            read = values.map(dict(zip(once, found, strict=True))).astype(float)
            return _numbers(name, read, **({"options": {"null_values": null_word}} if null_word else {}))
    return _parsed_times(name, values, once, time_format) or _facts(name, "text", values)


def _as_numbers(once: pd.Series, decimal_point: str) -> tuple[pd.Series, str] | None:
    """Return different texts as numbers, with the one word that means a missing value; None if they are no numbers."""
    plain = once.str.strip()
    if plain.str.fullmatch(r"0\d+").any():  # codes such as 007
        return None
    plain = plain.str.replace(decimal_point, ".", regex=False) if decimal_point != "." else plain
    found = pd.to_numeric(plain, errors="coerce")
    broken = once[found.isna()]
    if broken.empty:
        return found, ""
    if len(broken) == 1 and len(once) > 3 and broken.iloc[0].strip() in NULL_WORDS:
        return found, str(broken.iloc[0])
    return None


def _parsed_times(name: str, values: pd.Series, once: pd.Series, time_format: str) -> ColumnFacts | None:
    head = once.head(200)
    if not head.str.contains(LIKE_TIME).all():
        return None
    zoned = once.str.contains(r"(?:Z|UTC|GMT|[+-]\d\d:?(?:\d\d)?)$", regex=True) & once.str.contains(":")
    options: dict[str, Any] = {} if bool(zoned.all()) else {"time_zone": "UTC"}
    order = ""
    if _is_iso(head):
        form = "ISO8601"
    else:
        forms = _formats(once)
        forms = [time_format] if time_format in forms else forms
        if len(forms) > 1:
            forms, order = _evenly_spaced(once, forms), "read in the order that spaces the dates evenly"
            if not forms:
                return _facts(name, "text", values, unclear=str(head.iloc[0]))
        if not forms:
            return None
        form = forms[0]
        options["time_format"] = form
    parsed = pd.to_datetime(once, format=form, utc=True, errors="coerce")
    if parsed.isna().mean() > 0.05:
        return None
    found = pd.Series(pd.to_datetime(values.map(dict(zip(once, parsed, strict=True))), utc=True))
    return _facts(name, "time", found, options=options, has_zone=bool(zoned.all()), order=order)


def _is_iso(texts: pd.Series) -> bool:
    """Whether these are times as ISO 8601 writes them, with dashes; pandas takes others for it, too."""
    if not texts.str.contains(r"^\d{4}-").all():
        return False
    try:
        pd.to_datetime(texts, format="ISO8601", utc=True)
    except ValueError:
        return False
    return True


def _formats(once: pd.Series) -> list[str]:
    """Return the format in which most values can be read; several if day, month or year can change places."""
    tested = once.head(MOST_TESTED)
    missed: dict[str, float] = {}
    for form in dict.fromkeys(form for text in tested.head(20) for form in _formats_of(str(text))):
        missed[form] = float(pd.to_datetime(tested, format=form, errors="coerce").isna().mean())
    least = min(missed.values(), default=1.0)
    best = [form for form, share in missed.items() if share == least and share <= 0.05]
    return best[:1] if tested.str.contains(r"^\d+\.").all() else best


def _formats_of(text: str) -> Iterator[str]:
    """Yield the formats in which one date can be read; pandas guesses none for a year of two digits."""
    if SHORT_YEAR.match(text):
        for longer in (SHORT_YEAR.sub(r"\g<1>20\3", text), *([f"20{text}"] if YEAR_FIRST.match(text) else [])):
            yield from (form.replace("%Y", "%y") for form in _formats_of(longer))
        return
    for dayfirst in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pandas warns where the text allows one order only
            form = guess_datetime_format(text, dayfirst=dayfirst)
        if form:
            yield form


def _evenly_spaced(once: pd.Series, forms: list[str]) -> list[str]:
    """Return the only format in which the times are a fixed time or number of months apart; empty if it is not one."""
    tested = once.head(MOST_TESTED)
    even = [form for form in forms if _is_even(pd.to_datetime(tested, format=form, errors="coerce", utc=True))]
    return even if len(even) == 1 else []


def _is_even(times: pd.Series) -> bool:
    once = pd.Series(sorted(times.dropna().unique()))
    if len(once) < 3:
        return False
    months = (12 * once.dt.year + once.dt.month).diff().dropna()
    monthly = once.dt.day.nunique() == 1 and once.dt.time.nunique() == 1 and months.nunique() == 1
    return bool(once.diff().dropna().nunique() == 1 or monthly)


def sentinel_of(facts: ColumnFacts) -> tuple[float, float] | None:
    """Return a number that seems to stand for a missing value, and its share of the rows; None without one.

    It occurs in at least `SENTINEL_SHARE` of the rows and lies outside of the range of the other values by half of that
    range's width. Far outside, `SENTINEL_ROWS` rows are enough.
    """
    if facts.kind != "numeric":
        return None
    known = facts.values.dropna().to_numpy(float)
    for number in SENTINELS:
        is_code = known == number
        share, others = float(is_code.mean()) if len(known) else 0.0, known[~is_code]
        if not share or len(others) < 20:
            continue
        if is_code.sum() >= SENTINEL_ROWS and _is_far_outside(number, known):
            return number, share
        if share < SENTINEL_SHARE:
            continue
        low, high = np.quantile(others, [0.001, 0.999])
        apart = max(low - number, number - high)
        negative_code = number == -1.0 and low >= 0 and len(np.unique(others)) > 10 and share > 0.01
        if apart > 0.5 * max(high - low, 1e-9) or negative_code:
            return number, share
    return None


def _is_far_outside(number: float, known: Floats) -> bool:
    """Whether a number lies `SENTINEL_RANGES` ranges outside of all values that are no possible sentinels."""
    rest = known[~np.isin(known, SENTINELS) & np.isfinite(known)]
    if not len(rest):
        return False
    low, high = float(rest.min()), float(rest.max())
    return max(low - number, number - high) >= SENTINEL_RANGES * max(high - low, 1e-9)


def share_of_rows(share: float) -> str:
    """Return a share as text; a small one is not shown as 0.

    >>> share_of_rows(0.02), share_of_rows(0.0001)
    ('2.0%', 'less than 0.1%')
    """
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
