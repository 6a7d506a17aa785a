"""A model's stored history: rows, late labels and predictions, each an append-only Delta table with time travel.

Landing is idempotent: rows by window, predictions by window and model version, labels by id and value. The first
landing wins, also when two processes land concurrently. A snapshot names table, version, window and content hash;
reading it returns the same rows bit for bit or raises LakeError. Rows are ordered by time, then id.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.delta.content_hash import column_hashes, combined
from tasks.adapters.delta.parquet_file import LandedParquet
from tasks.adapters.delta.table import LandedFile, LandedTable, retry_on_conflict, stored_names
from tasks.adapters.lake.casts import MOMENT, moment, to_utc
from tasks.adapters.lake.label_faults import cast_to_stored_type, land_label_faults, read_label_faults
from tasks.adapters.lake.label_times import label_lag, labels_arrived, labels_due_by
from tasks.adapters.lake.late_labels import (
    labelled_rows,
    labelled_snapshot,
    labels_due,
    land_labels,
    read_labelled,
)
from tasks.adapters.lake.schemas import conform_rows, require_columns
from tasks.adapters.lake.window_scan import overlap, parse_window, read_span
from tasks.adapters.storage import lease
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
from tasks.policy.records.reports import Snapshot

__all__ = [
    "cast_to_stored_type",
    "label_lag",
    "labelled_rows",
    "labelled_snapshot",
    "labels_arrived",
    "labels_due",
    "labels_due_by",
    "land_label_faults",
    "land_labels",
    "land_prediction_segment",
    "land_predictions",
    "land_rows",
    "landed_keys",
    "landed_rows",
    "landed_until",
    "predicted_windows",
    "read_batches",
    "read_label_faults",
    "read_labelled",
    "read_predictions",
    "read_rows",
]  # fmt: skip

logger = logging.getLogger(__name__)


def land_rows(config: ModelConfig, window: Window, table: pa.Table) -> Snapshot:
    """Store a window's rows once. Columns are those of `schemas.row_columns`; others, such as the label, are dropped.

    A window that has landed keeps its first rows; different rows in `table` cause a warning. Raises SourceError for a
    missing column or a wrong type, LakeError for times outside the window or another id column than before,
    WorkspaceError if nothing can be written.
    """
    where = f"{config.name}, window {window.name}"
    rows = conform_rows(config, table, where)
    landed = LandedTable.open(workspace().table(config.name, "rows"))
    if landed and landed.key not in stored_names([config.columns.key]).values():
        raise LakeError(
            f"{landed.uri}: rows are identified by {landed.key!r}, found columns.id {config.columns.key!r}; expected the "
            "same id column, because labels and predictions are joined on it; give the model a new name"
        )
    landing = _Landing(config.name, "rows", window, window.name)
    return _land_once(landing, rows, {"label": config.columns.label})


def landed_rows(config: ModelConfig, window: Window) -> Snapshot | None:
    """Return the snapshot of a landed window, or None."""
    table = LandedTable.open(workspace().table(config.name, "rows"))
    return _landed(table, window, window.name) if table else None


def landed_until(config: ModelConfig, as_of: datetime, excluding: Sequence[str] = ()) -> datetime | None:
    """Return the end of the landed rows, at most `as_of`, without windows named in `excluding`; None without rows."""
    table = LandedTable.open(workspace().table(config.name, "rows"))
    names = {file.window for file in table.files()} - {*excluding} if table else ()
    return max((min(window.end, as_of) for window in map(parse_window, names) if window.start < as_of), default=None)


def land_predictions(config: ModelConfig, window: Window, model_version: str, table: pa.Table) -> Snapshot:
    """Store a window's predictions, once per champion.

    `table` has `id`, `time` and `prediction` (float64: a value or the probability of class 1; list<float64>: one
    probability per class); further columns are stored too. `model_version` names the champion; a column of that name
    says which version made each prediction, where a challenger made some. The type of the prediction cannot change
    later.
    """
    where = f"{config.name}, predictions of version {model_version} for window {window.name}"
    require_columns(table.column_names, ("id", "time", "prediction"), where)
    prediction = table["prediction"]
    listed = pa.types.is_list(prediction.type) or pa.types.is_fixed_size_list(prediction.type)
    columns = {
        "id": table["id"].cast(pa.int64() if pa.types.is_integer(table["id"].type) else pa.string()),
        "time": to_utc(table["time"], f"{where}: column 'time'"),
        "prediction": prediction.cast(pa.list_(pa.float64()) if listed else pa.float64()),
        "model_version": table["model_version"]
        if "model_version" in table.column_names
        else pa.array([model_version] * table.num_rows, pa.string()),
    }
    further = {name: table[name] for name in table.column_names if name not in columns}
    landing = _Landing(config.name, "predictions", window, f"{window.name}/{model_version}")
    return _land_once(landing, pa.table(columns | further), {})


def landed_keys(config: ModelConfig, span: Window) -> pa.Table:
    """Return id and time of the rows that landed in a time; empty if none have."""
    table = LandedTable.open(workspace().table(config.name, "rows"))
    if table is None:
        return pa.table({config.columns.key: pa.array([], pa.string()), config.columns.time: pa.array([], MOMENT)})
    near = [file for file in table.files() if overlap(parse_window(file.window), span)]
    return read_span(table, near, span, [config.columns.key, config.columns.time])[0]


def land_prediction_segment(config: ModelConfig, writer: str, number: int, rows: pa.Table) -> None:
    """Store a segment of an online prediction log once; its rows may lie in several windows.

    `rows` has the columns of `land_predictions` and `model_version`, with ids as text. A writer numbers its segments, and
    lands them in that order.
    """
    uri, key = workspace().table(config.name, "predictions"), f"gateway/{writer}"
    if not rows.num_rows:
        return
    rows = rows.set_column(0, "id", _stored_ids(config, rows["id"]))
    times, first = rows["time"].cast(pa.int64()).to_numpy(), config.grid.number_at(pc.min(rows["time"]).as_py())
    last = config.grid.number_at(pc.max(rows["time"]).as_py())
    starts = [config.grid.window(number).start for number in range(first, last + 1)]
    places = np.searchsorted(pa.array(starts, MOMENT).cast(pa.int64()).to_numpy(), times, side="right")
    parts = {}
    for place in np.unique(places):
        part = _ordered(rows.filter(pa.array(places == place)), ("time", "id"))
        window = config.window_at(part["time"][0].as_py())
        _require_inside(window, part, uri)
        parts[window.name] = part

    def attempt() -> None:
        table = LandedTable.open_or_create(uri, rows.schema)
        landed = table.number(key)
        if landed is None or landed < number:
            table.files()  # raises if another tool removed rows, so nothing lands on a damaged table
            table.append(parts, {key: number}, {})

    retry_on_conflict(attempt, uri)


def _stored_ids(config: ModelConfig, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return ids that came as text in the type in which the model's ids are stored; null where that is impossible."""
    stored = [
        table.kind_of(name)
        for name, table in (
            ("id", LandedTable.open(workspace().table(config.name, "predictions"))),
            (config.columns.key, LandedTable.open(workspace().table(config.name, "rows"))),
        )
        if table is not None
    ]
    if pa.int64() not in stored[:1]:
        return ids
    whole = pc.match_substring_regex(ids, r"^-?[0-9]{1,18}$")
    return pc.if_else(whole, ids, None).cast(pa.int64())


def read_predictions(config: ModelConfig, window: Window) -> pa.Table:
    """Read a window's predictions of all model versions: id, time, prediction, model_version and further columns.

    Returns an empty table with these columns if none have landed.
    """
    table = LandedTable.open(workspace().table(config.name, "predictions"))
    files = [file for file in table.files() if file.window == window.name] if table else []
    if table is None or not files:
        return _EMPTY_PREDICTIONS
    rows = pa.concat_tables([table.opened(file).table() for file in files], promote_options="default")
    return _ordered(rows, ("time", "id", "model_version"))


def predicted_windows(config: ModelConfig, span: Window) -> tuple[Window, ...]:
    """Return the windows that have predictions and overlap the span, oldest first."""
    table = LandedTable.open(workspace().table(config.name, "predictions"))
    windows = {parse_window(file.window) for file in table.files()} if table else set()
    return tuple(sorted(window for window in windows if overlap(window, span)))


def read_rows(snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a snapshot's rows, in stored column order. Raises LakeError if they are missing or differ from it."""
    return _opened(snapshot).table(columns)


def read_batches(snapshot: Snapshot, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield a snapshot's rows in batches of at most 64k rows; hashes are verified after the last batch."""
    return _opened(snapshot).batches(columns)


def _opened(snapshot: Snapshot) -> LandedParquet:
    table = LandedTable.open(snapshot.uri, snapshot.version)
    if table is None:
        raise LakeError(f"{snapshot.uri}: no table found, expected version {snapshot.version}; check PERENNIAL_LAKE")
    file = _landed_file(table, snapshot.window, snapshot.version)
    if file is None or file.content_hash != snapshot.content_hash:
        raise LakeError(
            f"{snapshot.uri}: version {snapshot.version} did not land window {snapshot.window.name} with content hash "
            f"{snapshot.content_hash[:16]}, found {file.content_hash[:16] if file else 'none'}; expected the table "
            "that this snapshot was taken from; restore it from a backup"
        )
    return table.opened(file)


@dataclass(frozen=True, slots=True)
class _Landing:
    """One landing in one of a model's tables; `key` is the transaction key under which it is committed once."""

    model: str
    table: str
    window: Window
    key: str


def _land_once(landing: _Landing, rows: pa.Table, notes: Mapping[str, str]) -> Snapshot:
    """Commit rows unless this landing was committed before; return the snapshot of the first commit."""
    uri, window, key = workspace().table(landing.model, landing.table), landing.window, landing.key
    ordered = _ordered(rows, rows.column_names[1::-1])
    _require_inside(window, ordered, uri)

    def attempt() -> Snapshot:
        table = LandedTable.open_or_create(uri, ordered.schema)
        landed = _landed(table, window, key)
        table.files()  # raises if another tool removed rows, so nothing lands on a damaged table
        lease.check(landing.model)
        return landed or _snapshot(uri, window, table.append({window.name: ordered}, {key: None}, notes)[window.name])

    snapshot = retry_on_conflict(attempt, uri)
    found = combined(column_hashes(ordered))
    if snapshot.content_hash != found:
        logger.warning(
            "%s: %s landed before with %d rows (hash %s), which are kept; %d different rows (hash %s) are ignored",
            uri, key, snapshot.rows, snapshot.content_hash[:16], ordered.num_rows, found[:16],
        )  # fmt: skip
    return snapshot


def _landed(table: LandedTable, window: Window, key: str) -> Snapshot | None:
    version = table.number(key)
    if version is None:
        return None
    file = _landed_file(table, window, version)
    if file is None:
        raise LakeError(
            f"{table.uri}: {window.name} landed at version {version}, but the table no longer holds it; expected landed "
            f"rows to stay; another tool removed them: DeltaTable({table.uri!r}).restore({version}) brings them back while "
            "their file exists, otherwise restore the table from a backup"
        )
    return _snapshot(table.uri, window, file)


def _snapshot(uri: str, window: Window, file: LandedFile) -> Snapshot:
    return Snapshot(uri, file.version, window, file.rows, file.content_hash)


def _landed_file(table: LandedTable, window: Window, version: int) -> LandedFile | None:
    return next((file for file in table.files() if file.version == version and file.window == window.name), None)


def _ordered(rows: pa.Table, by: Sequence[str]) -> pa.Table:
    return rows.take(pc.sort_indices(rows, [(name, "ascending") for name in by]))


def _require_inside(window: Window, rows: pa.Table, where: str) -> None:
    if window.start.microsecond or window.end.microsecond:
        raise LakeError(
            f"{where}: window {window.start}..{window.end} has fractions of seconds, expected whole seconds"
        )
    time = rows.column(1)
    inside = pc.and_(pc.greater_equal(time, moment(window.start)), pc.less(time, moment(window.end)))
    outside = rows.num_rows - (pc.sum(inside).as_py() or 0)
    if outside:
        raise LakeError(f"{where}: {outside} of {rows.num_rows} rows lie outside window {window.name}, expected none")


_EMPTY_PREDICTIONS = pa.table(
    {
        "id": pa.array([], pa.string()),
        "time": pa.array([], MOMENT),
        "prediction": pa.array([], pa.float64()),
        "model_version": pa.array([], pa.string()),
    }
)
