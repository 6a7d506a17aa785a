"""Columns and types of rows, labels and predictions in the lake, and the conversion of a source's types.

A wrong type that is cast silently shows months later as a worse model, so only lossless casts are made: integers to
floats, whole floats to integers where integers are expected, yes and no to booleans, dictionaries and UUIDs to text,
any time zone to UTC, NaN to null (one kind of missing value). Numeric text, booleans in numeric columns and times
without a zone are rejected, with a remedy.
"""

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.lake.label_spellings import places_of, read_numbers, spelled_column, unknown_words
from tasks.adapters.lake.row_identity import joined_key
from tasks.policy.records.errors import SourceError

MOMENT = pa.timestamp("us", "UTC")
TIME_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
LATEST_SECOND = 1e11
"""A larger number of seconds since 1970 must have another unit, because it is past the year 5138."""
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
EXACT = 2**53
UUID_BYTES = 16
INFINITE, NO_NUMBER, NOT_LISTED = "infinite", "no number", "not in columns.classes"
"""Faults that make a label unusable. For a missing-value word such as NA, the fault is the word itself."""
NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)


def row_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return a source's required row columns: id, time, features, protected and extra columns, but never the label."""
    return tuple(dict.fromkeys((*config.columns.id_columns, *_landed_columns(config)[1:])))


def _landed_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return the columns that land with a row: those of `row_columns`, with a single column for the id."""
    columns = config.columns
    own = {columns.label, columns.label_time} - {columns.time}
    named = (columns.key, columns.time, *columns.features.names, *columns.protected, *columns.extra)
    return tuple(dict.fromkeys(name for name in named if name not in own))


def label_columns(config: ModelConfig) -> tuple[str, ...]:
    columns = config.columns
    return tuple(dict.fromkeys((*columns.id_columns, columns.time, columns.label, columns.label_time or columns.time)))


def stored_label_columns(config: ModelConfig) -> tuple[str, str, str]:
    """Return the stored names of id, label and label time; the last gets a prefix `_` if the model uses its name."""
    columns, label_at = config.columns, "label_at"
    while label_at in (columns.key, columns.time, columns.label):
        label_at = f"_{label_at}"
    return columns.key, columns.label, label_at


def require_columns(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise SourceError for the first missing or duplicated column, with a similar column name if one exists."""
    for name in wanted:
        if name in found and list(found).count(name) == 1:
            continue
        if name in found:
            raise SourceError(f"{where}: column {name!r} is there {list(found).count(name)} times, expected it once")
        near = difflib.get_close_matches(name, list(found), n=1)
        known = set(found) & set(wanted)  # a table with none of the columns is another file; its names are not quoted
        listed = ", ".join(sorted(found)[:12]) if known else f"{len(found)} columns, none of those wanted"
        meant = f"did you mean {near[0]!r}{_other_letters(name, near[0])}?" if near else ""
        hint = meant or f"it has {listed if found else 'no columns'}."
        raise SourceError(f"{where}: column {name!r} is missing; {hint} Fix the source or the YAML's columns.")


def _other_letters(name: str, near: str) -> str:
    """Explain the difference between two names that look the same; empty for other names."""
    if unicodedata.normalize("NFKC", name) != unicodedata.normalize("NFKC", near):
        return ""
    return f", which looks the same but is written with other characters ({near.encode('unicode_escape').decode()})"


def conform_rows(config: ModelConfig, table: pa.Table, where: str, form: "TimeForm | str | None" = None) -> pa.Table:
    """Return the columns that land with a row, in stored order and types. Raises SourceError for a lossy conversion.

    `where` names the source in messages; `form` describes times without a zone (`TimeForm` or an IANA zone).
    """
    columns, wanted = config.columns, _landed_columns(config)
    require_columns(table.column_names, row_columns(config) if _in_parts(config, table) else wanted, where)
    require_text(
        table.select([name for name in table.column_names if name in row_columns(config) or name in wanted]), where
    )
    numeric, boolean = set(columns.features.numeric), set(columns.features.boolean)
    categorical = set(columns.features.categorical)
    arrays = []
    for name in wanted:
        at = f"{where}: column {name!r}"
        if name == columns.time:
            arrays.append(to_utc(table[name], at, form))
        elif name == columns.key:
            arrays.append(_key(config, table, where, form))
        elif name in numeric:
            arrays.append(_as_number(table[name], at))
        elif name in boolean:
            arrays.append(_as_boolean(table[name], at))
        else:
            arrays.append(_as_category(table[name], at) if name in categorical else _as_stored(table[name], at))
    return pa.table(dict(zip(wanted, arrays, strict=True)))


def require_text(table: pa.Table, where: str) -> None:
    """Raise SourceError if a text column holds invalid UTF-8, so unreadable data never lands."""
    texts = [
        (name, column) for name, column in zip(table.column_names, table.columns, strict=True) if _may_be_text(column)
    ]
    for name, column in texts:
        for row, chunk in zip(_starts(column), column.chunks, strict=True):
            try:
                chunk.validate(full=True)
            except pa.ArrowInvalid:
                raise SourceError(
                    f"{where}: column {name!r} holds bytes that are no UTF-8 text, within rows {row} to {row + len(chunk) - 1}; "
                    "expected text in UTF-8; write the file anew in UTF-8, and run this again, as nothing was landed"
                ) from None


def _may_be_text(column: pa.ChunkedArray) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _starts(column: pa.ChunkedArray) -> list[int]:
    """Return the row number of each chunk's first row."""
    return [0, *accumulate(len(chunk) for chunk in column.chunks)][: column.num_chunks]


def conform_labels(
    config: ModelConfig, table: pa.Table, where: str, form: "TimeForm | str | None" = None, with_unknown: bool = False
) -> pa.Table:
    """Return id, time, label and `label_at` (when the label could be known). Rows lacking label or time are left out.

    `with_unknown` includes rows without a label, because the source may have withdrawn it.
    """
    return sort_labels(config, table, where, form, with_unknown)[0]


def sort_labels(
    config: ModelConfig, table: pa.Table, where: str, form: "TimeForm | str | None" = None, with_unknown: bool = False
) -> tuple[pa.Table, pa.Table]:
    """Return (labels as in `conform_labels`, rows with an unusable label and its `fault`)."""
    columns = config.columns
    require_columns(table.column_names, label_columns(config), where)
    require_text(table.select(label_columns(config)), where)
    time = to_utc(table[columns.time], f"{where}: column {columns.time!r}", form)
    label_time = columns.label_time or columns.time
    known = time
    if label_time != columns.time:
        known = to_utc(table[label_time], f"{where}: column {label_time!r}", form)
    _, _, label_at = stored_label_columns(config)
    values, faults = read_label(config, table[columns.label], f"{where}: column {columns.label!r}")
    labels = pa.table(
        {
            columns.key: _key(config, table, where, form),
            columns.time: time,
            columns.label: values,
            label_at: pc.add(known, pa.scalar(columns.label_delay, pa.duration("us"))).cast(MOMENT),
        }
    )
    broken = labels.append_column("fault", faults).filter(pc.is_valid(faults))
    unknown = pc.is_null(labels[columns.label])
    dated = pc.is_valid(labels[label_at])
    kept = pc.or_(unknown, dated) if with_unknown else pc.and_(pc.invert(unknown), dated)
    return labels.filter(pc.and_(kept, pc.or_(pc.is_valid(labels[columns.label]), pc.is_null(faults)))), broken


def read_label(config: ModelConfig, column: pa.ChunkedArray, at: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return (labels, fault of each label or null). Unusable labels are null; in a regression, infinite ones stay.

    Raises SourceError if the column's type does not fit the task.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if config.task == "regression":
        return _as_amount(config, column, at)
    if _is_text(column.type):
        return _as_class(config, column.cast(pa.string()))
    if pa.types.is_boolean(column.type):
        return _listed(config, column.cast(pa.int8()).cast(pa.int64()))
    if pa.types.is_integer(column.type):
        return _listed(config, _as_int64(column, at))
    number, infinite = _finite(_as_number(column, at))
    whole = pc.and_(pc.equal(number, pc.round(number)), pc.less(pc.abs(number), 2.0**53))
    if not pc.all(whole, min_count=0).as_py() or number.null_count == len(number) > column.null_count:
        raise SourceError(
            f"{at} holds fractions, or numbers past 2^53, expected classes; a regression needs task: regression"
        )
    labels, strange = _listed(config, number.cast(pa.int64()))
    return labels, pc.coalesce(infinite, strange)


def _as_amount(config: ModelConfig, column: pa.ChunkedArray, at: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return numeric labels and faults. In CSV files, labels are read as text and may not be numbers."""
    if config.source.kind != "csv" or not _is_text(column.type):
        number = _as_number(column, at)
        return number, _finite(number)[1]
    number = read_numbers(column.cast(pa.string()), str(config.source.options.get("decimal_point", ".")))
    unread = pc.fill_null(pc.is_nan(number), False)
    labels = pc.if_else(unread, None, number)
    return labels, pc.coalesce(pc.if_else(unread, NO_NUMBER, pa.scalar(None, pa.string())), _finite(labels)[1])


def _as_class(config: ModelConfig, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    named = config.columns.named_classes
    point = str(config.source.options.get("decimal_point", ".")) if config.source.kind == "csv" else "."
    labels, strange = _listed(config, spelled_column(column, named, point))
    return labels, pc.coalesce(strange, unknown_words(column, named))


def _listed(config: ModelConfig, labels: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return labels and faults; if the model's file lists classes, other labels are null with fault `NOT_LISTED`."""
    none = pa.chunked_array([pa.nulls(len(labels), pa.string())])
    if not config.columns.classes:
        return labels, none
    strange = pc.equal(places_of(labels.cast(pa.string()), config.columns.classes), -1)
    strange = pc.fill_null(strange, False)
    return pc.if_else(strange, None, labels), pc.if_else(strange, NOT_LISTED, none)


def _finite(number: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    infinite = pc.fill_null(pc.is_inf(number), False)
    none = pa.scalar(None, pa.string())
    return pc.if_else(infinite, None, number), pc.if_else(infinite, INFINITE, none)


@dataclass(frozen=True, slots=True)
class TimeForm:
    """Time format of a source: zone of times without one (IANA name), format of text (strptime), unit of numbers."""

    zone: str | None = None
    format: str | None = None
    unit: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "TimeForm":
        zone, form, unit = (options.get(name) for name in ("time_zone", "time_format", "time_unit"))
        return cls(*(None if value is None else str(value) for value in (zone, form, unit)))


def to_utc(column: pa.ChunkedArray, at: str, form: "TimeForm | str | None" = None) -> pa.ChunkedArray:
    """Convert times to UTC in microseconds. Times without a zone need `form.zone`, an IANA name. Raises SourceError."""
    form = form if isinstance(form, TimeForm) else TimeForm(form)
    time_zone = form.zone
    if _is_text(column.type):
        column = _parsed(column.cast(pa.string()), at, form.format)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _since_1970(column, at, form.unit)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    if not pa.types.is_timestamp(column.type):
        raise SourceError(f"{at} is {column.type}, expected times; store timestamps, or ISO 8601 text with a zone")
    micros = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if column.type.tz is not None:
        return micros.cast(MOMENT)
    if time_zone is None:
        raise SourceError(
            f"{at} has times without a zone, expected UTC or a zone; store them with one, or say which it is: "
            "source.options: {time_zone: UTC} (or America/New_York, …)"
        )
    if time_zone == "UTC":
        return micros.cast(MOMENT)
    try:  # an ambiguous or nonexistent hour at a clock change is read as the earlier one
        return pc.assume_timezone(micros, time_zone, ambiguous="earliest", nonexistent="earliest").cast(MOMENT)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{at}: time_zone is {time_zone!r}, expected an IANA name such as Europe/Berlin") from error


def _parsed(column: pa.ChunkedArray, at: str, form: str | None = None) -> pa.ChunkedArray:
    if form is not None:
        return _by_format(column, at, form)
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
    raise SourceError(
        f"{at} is text that is not all ISO 8601, expected 2013-05-01T10:15:00Z, all with a zone or all without; fix the "
        'source, or say how it is written: source.options: {time_format: "%d.%m.%Y %H:%M", time_zone: UTC}'
    )


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
            f"{at}: {unread:,} of {len(texts):,} values are not written as source.options.time_format {form!r} says, "
            "expected all of them to be; fix the format or the source"
        )
    return pa.chunked_array([pa.Array.from_pandas(times)])


def _since_1970(column: pa.ChunkedArray, at: str, unit: str | None) -> pa.ChunkedArray:
    """Convert numbers since 1970 to UTC times. The unit is required: seconds read as milliseconds are times in 1970."""
    if unit not in TIME_UNITS:
        most = pc.max(pc.abs(column.cast(pa.float64(), safe=False))).as_py() or 0.0
        guess = next((name for name, factor in TIME_UNITS.items() if most / factor < LATEST_SECOND), "ns")
        found = f"{at} is {column.type}, expected times" if unit is None else f"{at}: time_unit is {unit!r}"
        raise SourceError(
            f"{found}; if they count since 1970, UTC, say in what: source.options: {{time_unit: {guess}}} (s, ms, us or ns); "
            "else store timestamps, or ISO 8601 text with a zone"
        )
    micros = pc.multiply(column.cast(pa.float64(), safe=False), 1e6 / TIME_UNITS[unit])
    if pa.types.is_integer(column.type):  # current times in microseconds are exact as floats, nanoseconds are not
        factor = int(1_000_000 // TIME_UNITS[unit]) if TIME_UNITS[unit] <= 1_000_000 else None
        whole = column.cast(pa.int64())
        micros = pc.multiply(whole, factor) if factor else pc.divide(whole, TIME_UNITS[unit] // 1_000_000)
    known = pc.if_else(pc.is_finite(micros), micros, None) if pa.types.is_floating(micros.type) else micros
    return known.cast(pa.int64(), safe=False).cast(MOMENT)


def moment(value: datetime) -> pa.Scalar:
    return pa.scalar(value.astimezone(UTC), MOMENT)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as_number(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    kind = column.type
    if not any(check(kind) for check in NUMERIC):
        hint = "text that looks like numbers is not converted; fix the source" if _is_text(kind) else "fix the source"
        hint = "list it under features.boolean" if pa.types.is_boolean(kind) else hint
        raise SourceError(f"{at} is {kind}, expected numbers; {hint}, or list it under another kind in the YAML")
    number = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)


def _as_boolean(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return column.cast(pa.bool_())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):  # SQLite has no booleans; pandas has none with nulls
        number = column.cast(pa.float64(), safe=False)
        number = pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)
        if pc.all(pc.is_in(number, value_set=pa.array([0.0, 1.0, None])), min_count=0).as_py():
            return pc.equal(number, 1.0)
    if _is_text(kind):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        is_true, is_false = (pc.is_in(text, value_set=pa.array(values)) for values in (TRUE, FALSE))
        if pc.all(pc.or_(pc.or_(is_true, is_false), pc.is_null(text)), min_count=0).as_py():
            return pc.if_else(pc.is_null(text), pa.scalar(None, pa.bool_()), is_true)
    raise SourceError(
        f"{at} is {kind} and holds other values than true and false, expected true or false, yes or no, t or f, or 1 and 0; "
        "fix the source, or list it under another kind in the YAML"
    )


def _as_category(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type) or pa.types.is_decimal(
        column.type
    ):  # pandas converts integers with nulls to floats
        column = _whole(column, f"{at} is {column.type}", "text or integers for a category", "store it as text")
    if _is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    hint = "list it under features.boolean" if pa.types.is_boolean(column.type) else "store it as text"
    raise SourceError(f"{at} is {column.type}, expected text or integers for a category; {hint}")


def _whole(column: pa.ChunkedArray, found: str, expected: str, cure: str) -> pa.ChunkedArray:
    """Convert whole floats to integers; NaN becomes null. Raises SourceError for fractions and numbers past 2^53."""
    number = column.cast(pa.float64(), safe=False)
    number = pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)
    whole = pc.and_(pc.equal(number, pc.round(number)), pc.less(pc.abs(number), float(EXACT)))
    if not pc.all(whole, min_count=0).as_py():
        raise SourceError(f"{found} and holds fractions, or numbers past 2^53, expected {expected}; {cure}")
    return number.cast(pa.int64())


def _as_key(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        kind = column.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES:
        texts = [None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if _is_text(kind):
        return column.cast(pa.string())
    if pa.types.is_integer(kind):
        return _as_int64(column, at)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        expected = "text or integers to identify rows by"
        return _whole(column, f"{at} is {kind}", expected, "store it as text or as integers")
    raise SourceError(f"{at} is {kind}, expected text, integers or UUIDs to identify rows by; store it as text")


def _in_parts(config: ModelConfig, table: pa.Table) -> bool:
    """Return whether the id still has several columns, as in a source's rows before they are conformed."""
    return len(config.columns.id_columns) > 1 and config.columns.key not in table.column_names


def _key(config: ModelConfig, table: pa.Table, where: str, form: "TimeForm | str | None") -> pa.ChunkedArray:
    """Return the id of each row; several columns become one text."""
    columns = config.columns
    if not _in_parts(config, table):
        return _as_key(table[columns.key], f"{where}: column {columns.key!r}")
    parts = ((name, table[name], f"{where}: column {name!r}") for name in columns.id_columns)
    return joined_key([_key_part(part, at, form, name == columns.time) for name, part, at in parts])


def _key_part(column: pa.ChunkedArray, at: str, form: "TimeForm | str | None", is_time: bool) -> pa.ChunkedArray:
    """Convert one id column to text that is equal for equal values in rows and labels."""
    kind = column.type
    if is_time or pa.types.is_timestamp(kind):
        return to_utc(column, at, form).cast(pa.string())
    if pa.types.is_date(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    return _as_key(column, at).cast(pa.string())


def _as_int64(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise SourceError(
            f"{at} is {column.type} and holds what 64 bits with a sign cannot, expected signed 64-bit integers; "
            "store it as text"
        ) from None  # Arrow quotes the value, which may identify a person


def _as_stored(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Convert a column that is not a feature, such as a protected one, to a type of the lake without loss."""
    if pa.types.is_boolean(column.type):
        return column
    if _is_text(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    return _as_int64(column, at) if pa.types.is_integer(column.type) else _as_number(column, at)
