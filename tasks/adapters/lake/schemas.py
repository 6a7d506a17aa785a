"""Columns of rows and labels in the lake, made from a source's table; types as in `casts`.

A label that cannot be used does not stop the others: it becomes null, with its fault beside it.
"""

import difflib
import unicodedata
from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import (
    EXACT,
    MOMENT,
    TimeForm,
    as_boolean,
    as_category,
    as_int64,
    as_key,
    as_number,
    as_other,
    as_stored,
    is_text,
    to_utc,
)
from tasks.adapters.lake.label_spellings import canonical_labels, class_indices, read_numbers, unknown_words
from tasks.adapters.lake.row_identity import joined_key
from tasks.policy.records.errors import SourceError

INFINITE, NO_NUMBER, NOT_LISTED = "infinite", "no number", "not in columns.classes"
"""Faults that make a label unusable. For a missing-value word such as NA, the fault is the word itself."""


def row_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return a source's required row columns: id, time, features, protected, extra, and the rollout's unit; never the label."""
    return tuple(dict.fromkeys((*config.columns.id_columns, *_landed_columns(config)[1:])))


def _landed_columns(config: ModelConfig) -> tuple[str, ...]:
    """Return the columns that land with a row: those of `row_columns`, with a single column for the id."""
    columns = config.columns
    own = {columns.label, columns.label_time} - {columns.time}
    unit = (config.rollout.unit,) if config.rollout.unit else ()
    named = (columns.key, columns.time, *columns.features.names, *columns.protected, *columns.extra, *unit)
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
            raise SourceError(f"{where}: column {name!r} occurs {list(found).count(name)} times, expected once")
        near = difflib.get_close_matches(name, list(found), n=1)
        known = set(found) & set(wanted)  # a table with none of the columns is another file; its names are not quoted
        listed = ", ".join(sorted(found)[:12]) if known else f"{len(found)} columns, none of those wanted"
        suggestion = f"did you mean {near[0]!r}{_other_letters(name, near[0])}?" if near else ""
        hint = suggestion or f"it has {listed if found else 'no columns'}."
        raise SourceError(f"{where}: column {name!r} is missing; {hint} Fix the source or the YAML's columns.")


def _other_letters(name: str, near: str) -> str:
    """Explain the difference between two names that look the same; empty for other names."""
    if unicodedata.normalize("NFKC", name) != unicodedata.normalize("NFKC", near):
        return ""
    return f", which looks the same but is written with other characters ({near.encode('unicode_escape').decode()})"


def conform_rows(config: ModelConfig, table: pa.Table, where: str, form: TimeForm | str | None = None) -> pa.Table:
    """Return the columns that land with a row, in stored order and types. Raises SourceError for a lossy conversion.

    `where` names the source in messages; `form` describes times without a zone (`TimeForm` or an IANA zone).
    """
    columns, wanted = config.columns, _landed_columns(config)
    require_columns(table.column_names, row_columns(config) if _in_parts(config, table) else wanted, where)
    require_text(
        table.select([name for name in table.column_names if name in row_columns(config) or name in wanted]), where
    )
    numeric, boolean = set(columns.features.numeric), set(columns.features.boolean)
    categorical, other = set(columns.features.categorical), set(columns.features.other)
    arrays = []
    for name in wanted:
        at = f"{where}: column {name!r}"
        if name == columns.time:
            arrays.append(to_utc(table[name], at, form))
        elif name == columns.key:
            arrays.append(row_key(config, table, where, form))
        elif name in numeric:
            arrays.append(as_number(table[name], at))
        elif name in boolean:
            arrays.append(as_boolean(table[name], at))
        elif name in other:
            arrays.append(as_other(table[name], at, form))
        else:
            arrays.append(as_category(table[name], at) if name in categorical else as_stored(table[name], at))
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
                    f"{where}: column {name!r} holds bytes that are not UTF-8 text, within rows {row} to {row + len(chunk) - 1}; "
                    "expected text in UTF-8; convert the file to UTF-8 and run this again; nothing was landed"
                ) from None


def _may_be_text(column: pa.ChunkedArray) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _starts(column: pa.ChunkedArray) -> list[int]:
    """Return the row number of each chunk's first row."""
    return [0, *accumulate(len(chunk) for chunk in column.chunks)][: column.num_chunks]


def conform_labels(
    config: ModelConfig, table: pa.Table, where: str, form: TimeForm | str | None = None, with_unknown: bool = False
) -> pa.Table:
    """Return id, time, label and `label_at` (when the label could be known). Rows lacking label or time are left out.

    `with_unknown` includes rows without a label, because the source may have withdrawn it.
    """
    return sort_labels(config, table, where, form, with_unknown)[0]


def sort_labels(
    config: ModelConfig, table: pa.Table, where: str, form: TimeForm | str | None = None, with_unknown: bool = False
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
            columns.key: row_key(config, table, where, form),
            columns.time: time,
            columns.label: values,
            label_at: pc.add(known, pa.scalar(columns.label_delay, pa.duration("us"))).cast(MOMENT),
        }
    )
    broken = labels.append_column("fault", faults).filter(pc.is_valid(faults))
    unknown = pc.is_null(labels[columns.label])
    dated = pc.is_valid(labels[label_at])
    included = pc.or_(unknown, dated) if with_unknown else pc.and_(pc.invert(unknown), dated)
    return labels.filter(pc.and_(included, pc.or_(pc.is_valid(labels[columns.label]), pc.is_null(faults)))), broken


def read_label(config: ModelConfig, column: pa.ChunkedArray, at: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return (labels, fault of each label or null). Unusable labels are null; in a regression, infinite ones stay.

    Raises SourceError if the column's type does not fit the task.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if config.task == "regression":
        return _as_amount(config, column, at)
    if is_text(column.type):
        return _as_class(config, column.cast(pa.string()))
    if pa.types.is_boolean(column.type):
        return _listed(config, column.cast(pa.int8()).cast(pa.int64()))
    if pa.types.is_integer(column.type):
        return _listed(config, as_int64(column, at))
    number, infinite = _finite(as_number(column, at))
    is_integer = pc.and_(pc.equal(number, pc.round(number)), pc.less(pc.abs(number), float(EXACT)))
    if not pc.all(is_integer, min_count=0).as_py() or number.null_count == len(number) > column.null_count:
        raise SourceError(
            f"{at} holds fractions, or numbers past 2^53, expected classes; a regression needs task: regression"
        )
    labels, unlisted = _listed(config, number.cast(pa.int64()))
    return labels, pc.coalesce(infinite, unlisted)


def _as_amount(config: ModelConfig, column: pa.ChunkedArray, at: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return numeric labels and faults. In CSV files, labels are read as text and may not be numbers."""
    if config.source.kind != "csv" or not is_text(column.type):
        number = as_number(column, at)
        return number, _finite(number)[1]
    number = read_numbers(column.cast(pa.string()), str(config.source.options.get("decimal_point", ".")))
    unread = pc.fill_null(pc.is_nan(number), False)
    labels = pc.if_else(unread, None, number)
    return labels, pc.coalesce(pc.if_else(unread, NO_NUMBER, pa.scalar(None, pa.string())), _finite(labels)[1])


def _as_class(config: ModelConfig, column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    named = config.columns.named_classes
    point = str(config.source.options.get("decimal_point", ".")) if config.source.kind == "csv" else "."
    labels, unlisted = _listed(config, canonical_labels(column, named, point))
    return labels, pc.coalesce(unlisted, unknown_words(column, named))


def _listed(config: ModelConfig, labels: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return labels and faults; if the model's file lists classes, other labels are null with fault `NOT_LISTED`."""
    none = pa.chunked_array([pa.nulls(len(labels), pa.string())])
    if not config.columns.classes:
        return labels, none
    unlisted = pc.equal(class_indices(labels.cast(pa.string()), config.columns.classes), -1)
    unlisted = pc.fill_null(unlisted, False)
    return pc.if_else(unlisted, None, labels), pc.if_else(unlisted, NOT_LISTED, none)


def _finite(number: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    infinite = pc.fill_null(pc.is_inf(number), False)
    none = pa.scalar(None, pa.string())
    return pc.if_else(infinite, None, number), pc.if_else(infinite, INFINITE, none)


def _in_parts(config: ModelConfig, table: pa.Table) -> bool:
    """Return whether the id is still to be made, as in a source's rows before they are conformed."""
    return config.columns.has_joined_id and config.columns.key not in table.column_names


def row_key(config: ModelConfig, table: pa.Table, where: str, form: TimeForm | str | None) -> pa.ChunkedArray:
    """Return the id of each row; several columns, or the time, become one text."""
    columns = config.columns
    if not _in_parts(config, table):
        return as_key(table[columns.key], f"{where}: column {columns.key!r}")
    parts = ((name, table[name], f"{where}: column {name!r}") for name in columns.id_columns)
    return joined_key([_key_part(part, at, form, name == columns.time) for name, part, at in parts])


def _key_part(column: pa.ChunkedArray, at: str, form: TimeForm | str | None, is_time: bool) -> pa.ChunkedArray:
    """Convert one id column to text that is equal for equal values in rows and labels."""
    kind = column.type
    if is_time or pa.types.is_timestamp(kind):
        return to_utc(column, at, form).cast(pa.string())
    if pa.types.is_date(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    return as_key(column, at).cast(pa.string())
