"""Read production rows from files, Delta tables, SQL queries and functions, one window at a time.

Only the columns that the YAML names and the rows of the window are requested. Problems of a source raise a SourceError
that names the place, what was found, what was expected and a remedy, without passwords. A window without rows raises
SourceEmpty, which a stage may handle: landing an empty window would be final. Rows without a time belong to no window
and are dropped. Times without a zone are not assumed to be UTC; `source.options.time_zone` sets their zone.
"""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.blocks.data import imported
from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import TimeForm, moment
from tasks.adapters.lake.row_identity import remedy_for_repeated_ids, repeats
from tasks.adapters.lake.schemas import conform_rows, label_columns, row_columns, sort_labels
from tasks.adapters.sources.files import read_files, without_credentials
from tasks.adapters.sources.sql import read_query
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceEmpty, SourceError
from tasks.policy.records.text import raised, reason_of

__all__ = [
    "check_function",
    "read_labels",
    "read_sorted_labels",
    "read_window",
]

TIMES = ("time_zone", "time_format", "time_unit")
OPTIONS = {
    "csv": (*TIMES, "delimiter", "quote_char", "decimal_point", "encoding", "null_values"),
    "parquet": TIMES,
    "delta": TIMES,
    "sql": TIMES,
}

TABLES = "a pyarrow, pandas or Polars table, or another one with __arrow_c_stream__"
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)


def read_window(config: ModelConfig, window: Window) -> pa.Table:
    """Read the rows of one window, without labels, in the columns and types of `schemas.conform_rows`.

    Raises SourceEmpty, SourceUnreachable (a retry may help) or SourceError. Repeated or missing ids in the history are
    a SourceError; in later windows the quality gate reports them.
    """
    found = read_columns(config, window, row_columns(config))
    rows = inside(conform_rows(config, found, where(config), time_form(config)), window)
    if rows.num_rows == 0:
        raise SourceEmpty(
            f"{where(config)}: no rows in window {window.name} (read {found.num_rows} in all), expected some; "
            "nothing was landed, so run again once they have arrived"
        )
    if window == config.history():
        _require_ids(config, rows)
    return rows


def _require_ids(config: ModelConfig, rows: pa.Table) -> None:
    """Raise SourceError for repeated or missing ids in the history, which no quality gate checks.

    Training and evaluation depend on the join of rows and labels.
    """
    found = repeats(rows.column(0))
    if found:
        names = config.columns.id_columns
        remedy = f"; {remedy_for_repeated_ids(rows, names)}" if found.repeated else "; fix the source"
        raise SourceError(
            f"{where(config)}: columns.id is {', '.join(names)}: {found} in the history {config.history().name}; expected "
            f"each id once, because labels and predictions are joined on it{remedy}. "
            "Nothing has landed"
        )


def read_labels(config: ModelConfig, window: Window, with_unknown: bool = False) -> pa.Table:
    """Read id, time, label and `label_at` of the window's rows that have a label; may be empty.

    `with_unknown` includes rows without a label, as null, because the source may have withdrawn it.
    """
    return read_sorted_labels(config, window, with_unknown)[0]


def read_sorted_labels(config: ModelConfig, window: Window, with_unknown: bool = False) -> tuple[pa.Table, pa.Table]:
    """Return the labels as `read_labels` does, and the window's rows with an unusable label and its `fault`."""
    found = read_columns(config, window, label_columns(config))
    labels, broken = sort_labels(config, found, where(config), time_form(config), with_unknown)
    return inside(labels, window), inside(broken, window)


def where(config: ModelConfig) -> str:
    """Return the name of the model's source for messages, without a password."""
    source = config.source
    return f"{config.name}: source {source.function or source.url_env or without_credentials(source.path or '')}"


def read_columns(config: ModelConfig, window: Window, columns: Sequence[str]) -> pa.Table:
    """Read columns of a window's rows, which may include some outside it. Raises SourceError, SourceUnreachable."""
    source = config.source
    accepted = OPTIONS.get(source.kind)
    unknown = [name for name in source.options if accepted is not None and name not in accepted]
    if unknown and accepted:
        raise SourceError(
            f"{where(config)}: option {unknown[0]!r} is unknown for kind {source.kind}, expected {', '.join(accepted)}"
        )
    if source.kind == "python":
        return _call(config, window)
    if source.kind == "sql":
        return read_query(source, window, columns, where(config))
    return read_files(config, window, columns, where(config))


def time_form(config: ModelConfig) -> TimeForm:
    """Return the format of the source's times. A function must return times with a zone."""
    return TimeForm(is_returned=True) if config.source.kind == "python" else TimeForm.of(config.source.options)


def check_function(config: ModelConfig) -> None:
    """Raise SourceError if the source is a function that cannot be imported."""
    elsewhere = [own.source for own in (config.labels, config.predictions) if own is not None]
    for source in (config.source, *elsewhere):
        if source.kind == "python":
            _function(config.model_copy(update={"source": source}))


def _function(config: ModelConfig) -> Callable[..., Any]:
    function: Callable[..., Any] = imported(
        str(config.source.function),
        lambda reason: SourceError(
            f"{where(config)}: cannot be imported ({reason}); expected module:function, installed or on PYTHONPATH"
        ),
    )
    return function


def _call(config: ModelConfig, window: Window) -> pa.Table:
    function = _function(config)
    try:
        return _as_table(function(window.start, window.end, **config.source.options), where(config))
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 – user code may raise anything; re-raised as SourceError
        called = traceback.extract_tb(error.__traceback__)
        ends = [called[min(1, len(called) - 1)], called[-1]]  # the line in the function, and the line that raised
        places = dict.fromkeys(f"{at.name}, {Path(at.filename).name} line {at.lineno}" for at in ends)
        raise SourceError(
            f"{where(config)}: the function {raised(error)} on window {window.name} (in "
            f"{', through '.join(reversed(places))}); expected {TABLES}"
        ) from None  # the cause may quote a URL with credentials and signature, as clients do


def _as_table(found: Any, at: str) -> pa.Table:
    """Return what a function returned as an Arrow table, by the Arrow PyCapsule protocol where it is not Arrow already.

    https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html: Polars, DuckDB, Ibis and others speak it.
    """
    if isinstance(found, pd.DataFrame):
        return _from_pandas(found, at)
    if hasattr(found, "collect") and not hasattr(found, "__arrow_c_stream__"):  # a lazy query of Polars
        found = found.collect()
    if isinstance(found, pa.RecordBatch):
        found = pa.Table.from_batches([found])
    if not hasattr(found, "__arrow_c_stream__"):
        raise SourceError(f"{at}: returned {type(found).__name__}, expected {TABLES}")
    try:
        reader = pa.RecordBatchReader.from_stream(found)
    except UNREADABLE as error:
        raise SourceError(
            f"{at}: returned a {type(found).__name__} that Arrow cannot read ({reason_of(error)}), expected {TABLES}, with "
            "numbers, text, booleans and times; cast or drop the column"
        ) from None
    table = reader.read_all()
    for place, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type) and pa.types.is_string_view(column.type.value_type):
            table = table.set_column(place, table.column_names[place], _without_views(column))
    return table


def _from_pandas(found: pd.DataFrame, at: str) -> pa.Table:
    """Convert a pandas table; an index with a name is a column, as after `groupby` and `set_index`, any other is dropped."""
    named = [name for name in found.index.names if name is not None and name not in found.columns]
    found = found.reset_index(level=named) if named else found
    try:
        return pa.Table.from_pandas(found, preserve_index=False)
    except (*UNREADABLE, ValueError):  # a name that occurs twice
        for name in found.columns[~found.columns.duplicated()]:
            _require_readable(found[name], f"{at}: column {name!r} of the pandas table")
        raise SourceError(
            f"{at}: returned a pandas table in which a column's name occurs twice, expected once"
        ) from None


def _require_readable(column: "pd.Series[Any] | pd.DataFrame", at: str) -> None:
    try:
        pa.array(column, from_pandas=True) if column.ndim == 1 else None
    except UNREADABLE:  # Arrow quotes the value, which may identify a person
        raise SourceError(
            f"{at} is {column.dtype} and holds mixed types, or a type that Arrow does not have; expected one of numbers, text, "
            "booleans or times"
        ) from None


def _without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return Polars' categories as a dictionary of text; Arrow cannot cast one of string views (pyarrow 25)."""
    chunks = [pa.DictionaryArray.from_arrays(one.indices, one.dictionary.cast(pa.string())) for one in column.chunks]
    return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, pa.string()))


def inside(rows: pa.Table, window: Window) -> pa.Table:
    """Return the rows whose time, the second column, lies in the window."""
    time = rows.column(1)
    return rows.filter(pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end))))
