"""Calendar parts of a row's time, in UTC: hour, weekday, month and day of the year, as numbers or on a circle.

Sine and cosine are looked up in tables, so a single row of a request gets the same bits as a batch.
"""

import math
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.policy.records.errors import FeatureError
from tasks.policy.training.recipe import CALENDAR_PARTS

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]
Form = Literal["numbers", "cyclic"]

STEPS = {"hour": 1440, "weekday": 7, "month": 12, "day_of_year": 366}
"""Steps of each circle: the hour counts minutes, the others count themselves."""
_CIRCLES = {
    part: np.array(
        [[function(2 * math.pi * step / steps) for function in (math.sin, math.cos)] for step in range(steps)]
    )
    for part, steps in STEPS.items()
}


def calendar_names(form: Form) -> tuple[str, ...]:
    """Return the names of the columns of `calendar_columns`."""
    if form == "numbers":
        return CALENDAR_PARTS
    return tuple(f"{part} {function}" for part in CALENDAR_PARTS for function in ("sine", "cosine"))


def calendar_columns(times: Times, form: Form) -> Floats:
    """Return the parts of times (n,) in UTC, of shape (n, parts); NaN where a time is missing."""
    known = ~np.isnat(times)
    moments = np.where(known, times, np.datetime64(0, "us")).astype("datetime64[us]")
    days, months = moments.astype("datetime64[D]"), moments.astype("datetime64[M]")
    steps = {
        "hour": (moments - days).astype("timedelta64[m]").astype(np.int64),
        "weekday": (days.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        "month": months.astype(np.int64) % 12,
        "day_of_year": (days - moments.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64),
    }
    if form == "numbers":
        columns = np.column_stack([steps["hour"] / 60, steps["weekday"], steps["month"] + 1, steps["day_of_year"] + 1])
    else:
        columns = np.hstack([_CIRCLES[part][steps[part]] for part in CALENDAR_PARTS])
    columns[~known] = np.nan
    return columns


def utc_times(column: pa.ChunkedArray, name: str) -> Times:
    """Return a column of times as numpy times in UTC, (n,). Raises FeatureError for another type; text is parsed."""
    found = column.type
    if not (pa.types.is_timestamp(found) or pa.types.is_date(found) or _is_text(found) or pa.types.is_null(found)):
        raise FeatureError(f"column {name}: is of type {found}, expected a time, from which the model derives features")
    try:
        if _is_text(found):
            column = pa.chunked_array([_parsed(column)])
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        kind = pa.timestamp("us", "UTC") if zoned else pa.timestamp("us")
        values = pc.cast(column, kind, safe=False).to_numpy()
    except pa.ArrowInvalid:
        raise FeatureError(f"column {name}: holds text that is no time, expected ISO 8601") from None
    return np.asarray(values, "datetime64[us]")


def _parsed(column: pa.ChunkedArray) -> pa.Array:
    """Parse text with or without a zone; without one it is UTC."""
    zoned = pc.any(pc.match_substring_regex(column.cast(pa.string()), r"(Z|[+-]\d\d:?\d\d)$"), min_count=0).as_py()
    kind = pa.timestamp("us", "UTC") if zoned else pa.timestamp("us")
    return pc.cast(column, kind).combine_chunks()


def _is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
