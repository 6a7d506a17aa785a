"""Lossless casts of a source's column to the types of the lake.

A wrong type that is cast silently shows months later as a worse model, so only lossless casts are made: integers to
floats, whole floats to integers where integers are expected, yes and no to booleans, dictionaries and UUIDs to text,
any time zone to UTC, NaN to null (one kind of missing value). Numeric text, booleans in numeric columns and times
without a zone are rejected, with a remedy. `at` names source and column in messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from tasks.policy.records.errors import SourceError

MOMENT = pa.timestamp("us", "UTC")
TIME_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
LATEST_SECOND = 1e11
"""A larger number of seconds since 1970 must have another unit, because it is past the year 5138."""
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
FORMATS = tuple(
    f"{day}{time}"
    for day in ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y", "%d %b %Y", "%Y%m%d")
    for time in (" %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "")
)
"""Formats that a message suggests for text times; the first that reads all of them. 03/04 may be either, so US comes first."""
GUESSED_FROM = 1000
"""Values that a format must read to be suggested."""
EXACT = 2**53
"""Below it, float64 holds every integer."""
UUID_BYTES = 16
NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)


@dataclass(frozen=True, slots=True)
class TimeForm:
    """Time format of a source: zone of times without one (IANA name), format of text (strptime), unit of numbers.

    `is_returned`: a function returned the times; its options are its own, so none of them describes times.
    """

    zone: str | None = None
    format: str | None = None
    unit: str | None = None
    is_returned: bool = False

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "TimeForm":
        given = (options.get(name) for name in ("time_zone", "time_format", "time_unit"))
        zone, form, unit = (None if value is None else str(value) for value in given)
        return cls(zone, form, unit)

    def remedy(self, found: str, options: str) -> str:
        """Return what to do about times that are not read: set `options`, or, for a function, return others."""
        if self.is_returned:
            return "return times with a zone, as timestamps (pandas: dt.tz_localize, Polars: dt.replace_time_zone)"
        return f"{found}: source.options: {options}"


def to_utc(column: pa.ChunkedArray, at: str, form: TimeForm | str | None = None) -> pa.ChunkedArray:
    """Convert times to UTC in microseconds. Times without a zone need `form.zone`, an IANA name. Raises SourceError."""
    form = form if isinstance(form, TimeForm) else TimeForm(form)
    time_zone = form.zone
    if (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and form.format and not form.unit:
        column = _digits(column, at)
    if is_text(column.type):
        column = _parsed(column.cast(pa.string()), at, form)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _since_1970(column, at, form)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise SourceError(f"{at} is {column.type}, expected times; store timestamps, or ISO 8601 text with a zone")
    micros = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if column.type.tz is not None:
        return micros.cast(MOMENT)
    if time_zone is None:
        raise SourceError(
            f"{at} has times without a zone, expected UTC or a zone; "
            + form.remedy("store them with one, or set their zone", "{time_zone: UTC} (or America/New_York, …)")
        )
    if time_zone == "UTC":
        return micros.cast(MOMENT)
    try:  # an ambiguous or nonexistent hour at a clock change is read as the earlier one
        return pc.assume_timezone(micros, time_zone, ambiguous="earliest", nonexistent="earliest").cast(MOMENT)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{at}: time_zone is {time_zone!r}, expected an IANA name such as Europe/Berlin") from error


def _parsed(column: pa.ChunkedArray, at: str, form: TimeForm) -> pa.ChunkedArray:
    if form.format is not None:
        return _by_format(column, at, form.format)
    for text in (column, _as_iso(column)):
        for kind in (
            MOMENT,
            pa.timestamp("us"),
            pa.timestamp("ns", "UTC"),
            pa.timestamp("ns"),
        ):  # nanoseconds are truncated later
            try:
                return text.cast(kind)
            except pa.ArrowInvalid:
                continue
    guess = next((each for each in FORMATS if _all_match(column, each)), FORMATS[0])
    raise SourceError(
        f"{at} is text that is not all ISO 8601, expected 2013-05-01T10:15:00Z, all with a zone or all without; "
        + form.remedy("fix the source, or set its format", f'{{time_format: "{guess}", time_zone: UTC}}')
    )


def _digits(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Return days as numbers, such as 20240131, as text; also those that nulls made floats. Raises SourceError."""
    try:
        return pc.if_else(pc.is_finite(column), column, None).cast(pa.int64()).cast(pa.string())
    except pa.ArrowInvalid:
        raise SourceError(f"{at} holds fractions, expected whole numbers such as 20240131 for time_format") from None


def _all_match(column: pa.ChunkedArray, form: str) -> bool:
    import pandas as pd  # only to suggest a format

    known = column.drop_null().slice(0, GUESSED_FROM).to_pandas()
    return len(known) > 0 and not pd.to_datetime(known, format=form, errors="coerce").isna().any()


def _as_iso(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Rewrite BigQuery's ` UTC` and PostgreSQL's `+00` as ISO 8601."""
    text = pc.replace_substring_regex(text, r"\s*(UTC|GMT)$", "Z")
    text = pc.replace_substring_regex(text, r"(:\d\d(?:\.\d+)?)\s*([+-]\d\d)$", r"\1\2:00")
    return pc.replace_substring_regex(text, r"(:\d\d(?:\.\d+)?)\s*([+-]\d\d)(\d\d)$", r"\1\2:\3")


def _by_format(column: pa.ChunkedArray, at: str, form: str) -> pa.ChunkedArray:
    import pandas as pd  # only where a format is given

    texts = column.to_pandas()
    times = pd.to_datetime(texts, format=form, errors="coerce", utc="%z" in form or "%Z" in form)
    unread = int((times.isna() & texts.notna()).sum())
    if unread:
        raise SourceError(
            f"{at}: {unread:,} of {len(texts):,} values do not match source.options.time_format {form!r}, "
            "expected all of them to match; fix the format or the source"
        )
    return pa.chunked_array([pa.Array.from_pandas(times)])


def _since_1970(column: pa.ChunkedArray, at: str, form: TimeForm) -> pa.ChunkedArray:
    """Convert numbers since 1970 to UTC times. The unit is required: seconds read as milliseconds are times in 1970."""
    unit = form.unit
    if unit not in TIME_UNITS:
        most = pc.max(pc.abs(column.cast(pa.float64(), safe=False))).as_py() or 0.0
        guess = next((name for name, factor in TIME_UNITS.items() if most / factor < LATEST_SECOND), "ns")
        found = f"{at} is {column.type}, expected times" if unit is None else f"{at}: time_unit is {unit!r}"
        raise SourceError(
            f"{found}; "
            + form.remedy("if they count from 1970, UTC, set their unit", f"{{time_unit: {guess}}} (s, ms, us or ns)")
            + (
                ""
                if form.is_returned
                else "; if they are days such as 20240131, set {time_format: '%Y%m%d', time_zone: UTC}"
            )
            + "; else store timestamps, or ISO 8601 text with a zone"
        )
    micros = pc.multiply(column.cast(pa.float64(), safe=False), 1e6 / TIME_UNITS[unit])
    if pa.types.is_integer(column.type):  # current times in microseconds are exact as floats, nanoseconds are not
        factor = int(1_000_000 // TIME_UNITS[unit]) if TIME_UNITS[unit] <= 1_000_000 else None
        number = column.cast(pa.int64())
        micros = pc.multiply(number, factor) if factor else pc.divide(number, TIME_UNITS[unit] // 1_000_000)
    known = pc.if_else(pc.is_finite(micros), micros, None) if pa.types.is_floating(micros.type) else micros
    return known.cast(pa.int64(), safe=False).cast(MOMENT)


def moment(value: datetime) -> pa.Scalar:
    """Return a time as a scalar of the lake's type."""
    return pa.scalar(value.astimezone(UTC), MOMENT)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text, also where it is stored as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_number(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert numbers to float64; NaN becomes null. Raises SourceError for text and booleans."""
    kind = column.type
    if not any(check(kind) for check in NUMERIC):
        hint = "text that looks like numbers is not converted; fix the source" if is_text(kind) else "fix the source"
        hint = "list it under features.boolean" if pa.types.is_boolean(kind) else hint
        if pa.types.is_temporal(kind):
            hint = "derive numbers from it in the source, such as an hour, a weekday, or seconds"
        raise SourceError(f"{at} is {kind}, expected numbers; {hint}, or list it under another kind in the YAML")
    number = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)


def as_boolean(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert true and false, 1 and 0, yes and no, t and f to booleans. Raises SourceError for any other value."""
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return column.cast(pa.bool_())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):  # SQLite has no booleans; pandas has none with nulls
        number = column.cast(pa.float64(), safe=False)
        number = pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)
        if pc.all(pc.is_in(number, value_set=pa.array([0.0, 1.0, None])), min_count=0).as_py():
            return pc.equal(number, 1.0)
    if is_text(kind):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        is_true, is_false = (pc.is_in(text, value_set=pa.array(values)) for values in (TRUE, FALSE))
        if pc.all(pc.or_(pc.or_(is_true, is_false), pc.is_null(text)), min_count=0).as_py():
            return pc.if_else(pc.is_null(text), pa.scalar(None, pa.bool_()), is_true)
    raise SourceError(
        f"{at} is {kind} and holds values other than true and false, expected true or false, yes or no, t or f, or 1 and 0; "
        "fix the source, or list it under another kind in the YAML"
    )


def as_category(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert text, integers and whole floats to text. Raises SourceError for other types."""
    if pa.types.is_floating(column.type) or pa.types.is_decimal(
        column.type
    ):  # pandas converts integers with nulls to floats
        column = _as_integers(column, f"{at} is {column.type}", "text or integers for a category", "store it as text")
    if is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    hint = "list it under features.boolean" if pa.types.is_boolean(column.type) else "store it as text"
    raise SourceError(f"{at} is {column.type}, expected text or integers for a category; {hint}")


def _as_integers(column: pa.ChunkedArray, found: str, expected: str, remedy: str) -> pa.ChunkedArray:
    """Convert whole floats to integers; NaN becomes null. Raises SourceError for fractions and numbers past 2^53."""
    number = column.cast(pa.float64(), safe=False)
    number = pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)
    is_integer = pc.and_(pc.equal(number, pc.round(number)), pc.less(pc.abs(number), float(EXACT)))
    if not pc.all(is_integer, min_count=0).as_py():
        raise SourceError(f"{found} and holds fractions, or numbers past 2^53, expected {expected}; {remedy}")
    return number.cast(pa.int64())


def as_key(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert an id to text or int64; UUIDs become text. Raises SourceError for other types."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES:
        texts = [None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if is_text(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind):
        return as_int64(column, at)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        expected = "text or integers to identify rows by"
        return _as_integers(column, f"{at} is {kind}", expected, "store it as text or as integers")
    raise SourceError(f"{at} is {kind}, expected text, integers or UUIDs to identify rows by; store it as text")


def as_int64(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert integers to int64. Raises SourceError if a value does not fit."""
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise SourceError(
            f"{at} is {column.type} and holds values that do not fit, expected signed 64-bit integers; store it as text"
        ) from None  # Arrow quotes the value, which may identify a person


def as_other(column: pa.ChunkedArray, at: str, form: TimeForm | str | None = None) -> pa.ChunkedArray:
    """Convert text, times, dates, numbers, booleans and lists of them to a type of the lake. Raises SourceError for others."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    column = column.cast(kind)
    if pa.types.is_timestamp(kind):
        return to_utc(column, at, form)
    if pa.types.is_date(kind):
        return column.cast(pa.date32())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return column.cast(pa.list_(_item_type(kind.value_type, at)))
    if is_text(kind) or pa.types.is_null(kind) or pa.types.is_boolean(kind) or is_number(kind):
        return as_stored(column, at)
    raise SourceError(
        f"{at} is {kind}, expected text, dates, times, numbers, booleans or lists of them; store it as one of these, such as "
        "JSON text"
    )


def _item_type(kind: pa.DataType, at: str) -> pa.DataType:
    if is_text(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_boolean(kind) or is_number(kind):
        return pa.bool_() if pa.types.is_boolean(kind) else pa.float64()
    raise SourceError(
        f"{at} is a list of {kind}, expected a list of text, numbers or booleans; convert it in the source"
    )


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_stored(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert a column that is not a feature, such as a protected one, to a type of the lake without loss."""
    if pa.types.is_boolean(column.type):
        return column
    if is_text(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    return as_int64(column, at) if pa.types.is_integer(column.type) else as_number(column, at)
