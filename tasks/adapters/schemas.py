"""Which columns and types rows, labels and predictions have here, and how a source's types become them or are refused.

A wrong type that is cast in silence turns up months later as a model that got worse, so only casts that lose nothing
are made: integers to floats, dictionaries to text, any zone to UTC, NaN to null (one kind of missing). Text that looks
like numbers, booleans among numbers and clocks without a zone are refused, with the change that makes them right.
"""

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from deployments.model_config import ModelConfig
from tasks.policy.errors import PerennialError

MOMENT = pa.timestamp("us", "UTC")
NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)


class SourceError(PerennialError, ValueError):
    """A source of rows is missing, cannot be read, or holds something else than the model's YAML says."""


class SourceUnreachable(SourceError):
    """A host, bucket or database did not answer; trying again may help."""


class SourceEmpty(SourceError):
    """No row of the window is there (yet)."""


def row_columns(config: ModelConfig) -> tuple[str, ...]:
    """What lands with a row: id and time first, then features and protected columns. Never the label."""
    columns = config.columns
    own = {columns.label, columns.label_time} - {columns.time}
    named = (columns.id, columns.time, *columns.features.names, *columns.protected)
    return tuple(dict.fromkeys(name for name in named if name not in own))


def label_columns(config: ModelConfig) -> tuple[str, ...]:
    columns = config.columns
    return tuple(dict.fromkeys((columns.id, columns.time, columns.label, columns.label_time or columns.time)))


def require_columns(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise SourceError naming the first column that is missing or there twice, and what may have been meant."""
    for name in wanted:
        if name in found and list(found).count(name) == 1:
            continue
        if name in found:
            raise SourceError(f"{where}: column {name!r} is there {list(found).count(name)} times, expected it once")
        near = difflib.get_close_matches(name, list(found), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(found)[:12]) or 'no columns'}."
        raise SourceError(f"{where}: column {name!r} is missing; {hint} Mend the source or the YAML's columns.")


def conform_rows(config: ModelConfig, table: pa.Table, where: str, time_zone: str | None = None) -> pa.Table:
    """The columns that land with a row, in their order and types. Raises SourceError on what would lose something."""
    columns, wanted = config.columns, row_columns(config)
    require_columns(table.column_names, wanted, where)
    numeric, boolean = set(columns.features.numeric), set(columns.features.boolean)
    categorical = set(columns.features.categorical)
    arrays = []
    for name in wanted:
        at = f"{where}: column {name!r}"
        if name == columns.time:
            arrays.append(to_utc(table[name], at, time_zone))
        elif name == columns.id:
            arrays.append(_as_key(table[name], at))
        elif name in numeric:
            arrays.append(_as_number(table[name], at))
        elif name in boolean:
            arrays.append(_as_boolean(table[name], at))
        else:
            arrays.append(_as_category(table[name], at) if name in categorical else _as_stored(table[name], at))
    return pa.table(dict(zip(wanted, arrays, strict=True)))


def conform_labels(config: ModelConfig, table: pa.Table, where: str, time_zone: str | None = None) -> pa.Table:
    """id, time, label and `label_at` (when the label could be known); rows without a label or its time are left out."""
    columns = config.columns
    require_columns(table.column_names, label_columns(config), where)
    time = to_utc(table[columns.time], f"{where}: column {columns.time!r}", time_zone)
    label_time = columns.label_time or columns.time
    known = time
    if label_time != columns.time:
        known = to_utc(table[label_time], f"{where}: column {label_time!r}", time_zone)
    labels = pa.table(
        {
            columns.id: _as_key(table[columns.id], f"{where}: column {columns.id!r}"),
            columns.time: time,
            columns.label: as_label(config, table[columns.label], f"{where}: column {columns.label!r}"),
            "label_at": pc.add(known, pa.scalar(columns.label_delay, pa.duration("us"))).cast(MOMENT),
        }
    )
    return labels.filter(pc.and_(pc.is_valid(labels[columns.label]), pc.is_valid(labels["label_at"])))


def as_label(config: ModelConfig, column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """Regression: float64. Classes: text, or int64 (false and true become 0 and 1)."""
    if config.task == "regression":
        return _as_number(column, at)
    if _is_text(column.type):
        return column.cast(pa.string())
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int8()).cast(pa.int64())
    if pa.types.is_integer(column.type):
        return _as_int64(column, at)
    number = _as_number(column, at)
    whole = pc.and_(pc.equal(number, pc.round(number)), pc.less(pc.abs(number), 2.0**53))
    if not pc.all(whole, min_count=0).as_py():
        raise SourceError(
            f"{at} holds fractions, or numbers past 2^53, expected classes; a regression needs task: regression"
        )
    return number.cast(pa.int64())


def to_utc(column: pa.ChunkedArray, at: str, time_zone: str | None = None) -> pa.ChunkedArray:
    """Times in UTC with microseconds. A time with a zone is converted; one without needs `time_zone`, an IANA name."""
    if _is_text(column.type):
        column = _parsed(column.cast(pa.string()), at)
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
    try:  # an hour that a clock change repeats or skips is read as the earlier one, since nothing tells them apart
        return pc.assume_timezone(micros, time_zone, ambiguous="earliest", nonexistent="earliest").cast(MOMENT)
    except pa.ArrowInvalid as error:
        raise SourceError(f"{at}: time_zone is {time_zone!r}, expected an IANA name such as Europe/Berlin") from error


def _parsed(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    for kind in (MOMENT, pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ns")):  # finer ones are cut later
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    raise SourceError(
        f"{at} is text that is not all ISO 8601, expected 2013-05-01T10:15:00Z, all with a zone or all without; "
        "mend the source"
    )


def moment(value: datetime) -> pa.Scalar:
    return pa.scalar(value.astimezone(UTC), MOMENT)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as_number(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    kind = column.type
    if not any(check(kind) for check in NUMERIC):
        hint = "text that looks like numbers is not converted; mend the source" if _is_text(kind) else "mend the source"
        hint = "list it under features.boolean" if pa.types.is_boolean(kind) else hint
        raise SourceError(f"{at} is {kind}, expected numbers; {hint}, or list it under another kind in the YAML")
    number = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(number), pa.scalar(None, pa.float64()), number)


def _as_boolean(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    if pa.types.is_integer(column.type):  # SQLite and some exports have no booleans
        if pc.all(pc.is_in(column, value_set=pa.array([0, 1, None], column.type)), min_count=0).as_py():
            return column.cast(pa.bool_())
    elif pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.bool_())
    raise SourceError(f"{at} is {column.type}, expected true or false, or integers 0 and 1; mend the source")


def _as_category(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    if _is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    hint = "list it under features.boolean" if pa.types.is_boolean(column.type) else "store it as text"
    raise SourceError(f"{at} is {column.type}, expected text or integers for a category; {hint}")


def _as_key(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    if _is_text(column.type):
        return column.cast(pa.string())
    if pa.types.is_integer(column.type):
        return _as_int64(column, at)
    raise SourceError(f"{at} is {column.type}, expected text or integers to identify rows by")


def _as_int64(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise SourceError(
            f"{at} is {column.type} and holds what 64 bits with a sign cannot, expected signed 64-bit integers; "
            "store it as text"
        ) from None  # Arrow quotes the value, which may identify a person


def _as_stored(column: pa.ChunkedArray, at: str) -> pa.ChunkedArray:
    """A column that is no feature (protected): kept as it is, in one of the types that the lake has."""
    if pa.types.is_boolean(column.type):
        return column
    if _is_text(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    return _as_int64(column, at) if pa.types.is_integer(column.type) else _as_number(column, at)
