"""Where new production rows come from: files, Delta tables, SQL queries and functions, read one window at a time.

Only the columns that the YAML names and only the rows of the window are asked for. Whatever is wrong with a source is
told as a SourceError that says where, what was found, what was expected and what to do; none shows a password. A window
without rows is an error too (SourceEmpty), which a stage may expect: landing nothing would settle it for good. Rows
without a time belong to no window and are not read. A clock without a zone is not taken for UTC:
`source.options.time_zone` says it.
"""

import importlib
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.lake.row_identity import how_to_tell_apart, repeats
from tasks.adapters.lake.schemas import TimeForm, conform_rows, label_columns, moment, row_columns, sort_labels
from tasks.adapters.sources.files import read_files, shown
from tasks.adapters.sources.sql import read_query
from tasks.adapters.storage.redaction import reason_of
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceEmpty, SourceError

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


def read_window(config: ModelConfig, window: Window) -> pa.Table:
    """The rows of one window, without labels, in the columns and types of `schemas.conform_rows`.

    Raises SourceEmpty, SourceUnreachable (trying again may help) or SourceError, also where ids of the history do not tell
    its rows apart; of a later window the quality gate says so.
    """
    found = _read(config, window, row_columns(config))
    rows = _inside(conform_rows(config, found, where(config), _time_form(config)), window)
    if rows.num_rows == 0:
        raise SourceEmpty(
            f"{where(config)}: no rows in window {window.name} (read {found.num_rows} in all), expected some; "
            "nothing was landed, so run again once they have arrived"
        )
    if window == config.history():
        _require_ids(config, rows)
    return rows


def _require_ids(config: ModelConfig, rows: pa.Table) -> None:
    """No gate judges the history, and whatever is learned and judged later rests on whose label is whose."""
    found = repeats(rows.column(0))
    if found:
        names = config.columns.id_columns
        told_apart = f"; {how_to_tell_apart(rows, names)}" if found.repeated else "; fix the source"
        raise SourceError(
            f"{where(config)}: columns.id is {', '.join(names)}: {found} in the history {config.history().name}; expected "
            f"each id once there, as labels and predictions are joined on it{told_apart}. "
            "Nothing has landed"
        )


def read_labels(config: ModelConfig, window: Window, with_unknown: bool = False) -> pa.Table:
    """id, time, label and `label_at` of the window's rows that have a label by now; may be empty.

    `with_unknown`: of the others as well, with a null label, as it may have been taken back.
    """
    return read_sorted_labels(config, window, with_unknown)[0]


def read_sorted_labels(config: ModelConfig, window: Window, with_unknown: bool = False) -> tuple[pa.Table, pa.Table]:
    """The same, and the window's rows whose label cannot be used, with what is wrong with it in `fault`."""
    found = _read(config, window, label_columns(config))
    labels, broken = sort_labels(config, found, where(config), _time_form(config), with_unknown)
    return _inside(labels, window), _inside(broken, window)


def where(config: ModelConfig) -> str:
    """How messages name the model's source; never with a password."""
    source = config.source
    return f"{config.name}: source {source.function or source.url_env or shown(source.path or '')}"


def _read(config: ModelConfig, window: Window, columns: Sequence[str]) -> pa.Table:
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


def _time_form(config: ModelConfig) -> TimeForm:
    """How times are written that are stored without a zone. A function has to return times with theirs."""
    return TimeForm() if config.source.kind == "python" else TimeForm.of(config.source.options)


def check_function(config: ModelConfig) -> None:
    """Raises SourceError where the source is a function that cannot be imported."""
    if config.source.kind == "python":
        _function(config)


def _function(config: ModelConfig) -> Callable[..., Any]:
    module_name, _, name = str(config.source.function).partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SourceError(
            f"{where(config)}: cannot be imported ({error}); expected module:function, installed or on PYTHONPATH"
        ) from error
    return function


def _call(config: ModelConfig, window: Window) -> pa.Table:
    function = _function(config)
    try:
        found = function(window.start, window.end, **config.source.options)
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001 – a stranger's code may raise anything; told again as what it is, never swallowed
        called = traceback.extract_tb(error.__traceback__)
        ends = [called[min(1, len(called) - 1)], called[-1]]  # where in the function, and where in what it called
        places = dict.fromkeys(f"{at.name}, {Path(at.filename).name} line {at.lineno}" for at in ends)
        raise SourceError(
            f"{where(config)}: the function failed on window {window.name} ({reason_of(error)}; raised in "
            f"{', through '.join(reversed(places))}); expected a pyarrow.Table"
        ) from None  # its cause may name an address with log-in and signature, as clients do
    if isinstance(found, pd.DataFrame):
        try:
            return pa.Table.from_pandas(found, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise SourceError(
                f"{where(config)}: returned a pandas table with a column of mixed types, expected one type a column"
            ) from None  # Arrow quotes the value, which may identify a person
    if not isinstance(found, pa.Table):
        raise SourceError(f"{where(config)}: returned {type(found).__name__}, expected a pyarrow or pandas table")
    return found


def _inside(rows: pa.Table, window: Window) -> pa.Table:
    time = rows.column(1)
    return rows.filter(pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end))))
