"""Labels come late, come again corrected, and some never come: what was known, and when.

A label has `label_at`, the time it could first be read. Reading takes `as_of` and never shows a label with a later
`label_at`, so that a decision replayed a year later sees what it saw; of several, the latest known wins. A correction
that a source makes without a new time is dated to the moment we saw it. Labels lie beside the landed window of their
row, so that one window's labels are read without the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.model_config import ModelConfig
from tasks.adapters import lease
from tasks.adapters.content_hash import column_hashes
from tasks.adapters.delta_table import LandedFile, LandedTable, until_first
from tasks.adapters.label_times import labels_due_by
from tasks.adapters.landed_span import overlap, read_span, window_named
from tasks.adapters.parquet_file import LakeError
from tasks.adapters.schemas import conform_labels, moment
from tasks.adapters.workspace import workspace
from tasks.policy.records import Window, digest
from tasks.policy.reports import Snapshot

# Transaction keys: the latest as_of (seconds since 1970) and version of the rows for which all labels were looked for.
SEARCHED_UNTIL, SEARCHED_ROWS = "searched_until", "searched_rows"


@dataclass(frozen=True, slots=True)
class LabelsDue:
    """Production time to look for labels in, and the version of the landed rows that this was said of."""

    window: Window
    rows_version: int


def labels_due(config: ModelConfig, as_of: datetime, lookback: timedelta) -> LabelsDue | None:
    """The production time whose labels may have become known since they were last looked for; None where there is none.

    Labels are expected `label_delay` after their time and looked for until `lookback` later.
    """
    rows, labels = _tables(config)
    files = [file for file in rows.files() if window_named(file.window).start < as_of] if rows else []
    searched_until = labels.number(SEARCHED_UNTIL) if labels else None
    searched_rows = (labels.number(SEARCHED_ROWS) if labels else None) or -1
    last = as_of if searched_until is None else min(as_of, datetime.fromtimestamp(searched_until, UTC))
    since = last - config.columns.label_delay - lookback
    unsearched = [window_named(file.window) for file in files if file.version > searched_rows]
    searched = [window_named(file.window) for file in files if file.version <= searched_rows]
    starts = [window.start for window in unsearched]
    starts += [max(window.start, since) for window in searched if window.end > since]
    end = min(as_of, max((window.end for window in unsearched + searched), default=as_of))
    return LabelsDue(Window(min(starts), end), rows.version) if rows and starts and min(starts) < end else None


def land_labels(config: ModelConfig, labels: pa.Table, as_of: datetime, due: LabelsDue | None = None) -> int:
    """Store labels that are new or corrected; how many. `labels` has id, time, label and label time, or `label_at`.

    Left out: labels that were not known at `as_of`, those stored already, and those of rows that never landed.
    With `due` these are all labels that a search for it found, so that the next one may begin where it ended. A search
    as of an earlier time than the latest one (a back-fill) did not see what came since, so it moves nothing on.
    """
    if "label_at" not in labels.column_names:
        labels = conform_labels(config, labels, f"{config.name}, labels")
    rows = LandedTable.open(_uri(config, "rows"))
    known = labels.filter(pc.less_equal(labels["label_at"], moment(as_of)))
    windows = tuple(dict.fromkeys(window_named(file.window) for file in rows.files())) if rows else ()
    places = _places(known[config.columns.time], windows)
    landed = known.filter(pa.array(places >= 0))
    candidates = landed.select([config.columns.id, config.columns.label, "label_at"])
    candidates = candidates.append_column("place", pa.array(places[places >= 0], pa.int32()))
    searched_until = int(as_of.timestamp())

    def attempt() -> int:
        table = LandedTable.open(_uri(config, "labels"))
        names = {windows[place].name for place in candidates["place"].unique().to_pylist()}
        files = [file for file in table.files() if file.window in names] if table else []
        fresh = _fresh(candidates, _stored(table, files), as_of)
        if fresh.num_rows:
            stored_columns = fresh.drop_columns(["place"])
            table = table or LandedTable.open_or_create(_uri(config, "labels"), stored_columns.schema)
            parts = {windows[place].name: stored_columns.filter(pc.equal(fresh["place"], place))
                     for place in fresh["place"].unique().to_pylist()}  # fmt: skip
            lease.check(config.name)
            is_latest = due and searched_until >= (table.number(SEARCHED_UNTIL) or searched_until)
            rows_version = max(due.rows_version, table.number(SEARCHED_ROWS) or -1) if due else -1
            numbers = {SEARCHED_UNTIL: searched_until, SEARCHED_ROWS: rows_version} if is_latest else {}
            table.append(parts, numbers, {})
        return int(fresh.num_rows)

    return until_first(attempt, _uri(config, "labels"))


def labelled_snapshot(config: ModelConfig, window: Window, as_of: datetime, excluding: Sequence[str] = ()) -> Snapshot:
    """All landed rows of `window` with their labels as known at `as_of`, pinned. It may span many landed windows.

    `excluding` names windows (quarantined) that are left out. `rows` counts all rows, `labelled_rows` those with
    a label.
    Raises LakeError where no rows have ever landed.
    """
    rows, labels = _tables(config)
    if rows is None:
        raise _nothing_landed(config)
    unlabelled = Snapshot(
        uri=rows.uri,
        version=rows.version,
        window=window,
        rows=0,
        content_hash="",
        labels_uri=labels.uri if labels else None,
        labels_version=labels.version if labels else None,
        as_of=as_of,
        excluding=tuple(sorted(excluding)),
    )
    joined, content_hash = _joined(unlabelled, rows, labels, ())
    known = joined.num_rows - joined.column(-1).null_count
    return replace(unlabelled, rows=joined.num_rows, labelled_rows=known, content_hash=content_hash)


def labelled_rows(
    config: ModelConfig, window: Window, as_of: datetime, columns: Sequence[str] | None = None
) -> pa.Table:
    """What `read_labelled` would give of these rows now, without pinning them: for measuring, not for training.

    Where each label has a time of its own, only of rows whose labels are due: labels that come first, as those of one
    class often do, do not speak for all.
    Raises LakeError where no rows have ever landed.
    """
    rows, labels = _tables(config)
    if rows is None:
        raise _nothing_landed(config)
    files = [file for file in rows.files() if overlap(window_named(file.window), window)]
    table, name = read_span(rows, files, window, columns)
    known = table.append_column(name, _label_of_each(table, labels, as_of))
    known = known.filter(pc.is_valid(known.column(-1)))
    due_by = labels_due_by(config, as_of)
    if due_by is not None:
        known = known.filter(pc.less_equal(known.column(1), moment(due_by)))
    return known if columns is None else known.select(list(columns))


def read_labelled(snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows whose label was known at `snapshot.as_of`: id, time, features, protected columns and, last, the label.

    `columns` asks for some of these, in that order. Raises LakeError when rows or labels are not what they were.
    """
    rows = LandedTable.open(snapshot.uri, snapshot.version)
    labels = LandedTable.open(snapshot.labels_uri, snapshot.labels_version) if snapshot.labels_uri else None
    if snapshot.as_of is None or rows is None or (snapshot.labels_uri and labels is None):
        raise LakeError(
            f"{snapshot.uri}: {snapshot.window.name} is no labelled snapshot, or its tables are gone; expected what "
            "labelled_snapshot gave; check PERENNIAL_LAKE"
        )
    joined, content_hash = _joined(snapshot, rows, labels, columns)
    if content_hash != snapshot.content_hash:
        raise LakeError(
            f"{snapshot.uri}: labelled rows of {snapshot.window.name} have content hash {content_hash[:16]}, expected "
            f"{snapshot.content_hash[:16]}; the tables were replaced after this snapshot was taken; restore them"
        )
    known = joined.filter(pc.is_valid(joined.column(-1)))
    return known if columns is None else known.select(list(columns))


def _joined(
    snapshot: Snapshot, rows: LandedTable, labels: LandedTable | None, columns: Sequence[str] | None
) -> tuple[pa.Table, str]:
    """All rows, ordered, with the label or null in the last column; and the hash of all that was pinned."""
    assert snapshot.as_of is not None  # noqa: S101, both callers set or check it
    near = (file for file in rows.files() if overlap(window_named(file.window), snapshot.window))
    used = [file for file in near if file.window not in snapshot.excluding]
    table, label_name = read_span(rows, used, snapshot.window, columns)
    label = _label_of_each(table, labels, snapshot.as_of)
    label_hash = column_hashes(pa.table({label_name: label}))[label_name]
    joined = table.append_column(label_name, label)
    return joined, digest(snapshot.window.name, label_hash, *(file.content_hash for file in used), length=64)


def _label_of_each(rows: pa.Table, labels: LandedTable | None, as_of: datetime) -> pa.ChunkedArray:
    """The label of each row as known at `as_of`, or null. Looked up window by window: small tables fit the cache."""
    files = labels.files() if labels else ()
    looked_up, kind = [], pa.float64()
    for batch in rows.select(rows.column_names[:2]).to_batches():
        first, last = (int(bound.as_py().timestamp()) for bound in pc.min_max(batch.column(1)).values())
        span = Window(datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last + 1, UTC))
        stored = _stored(labels, [file for file in files if overlap(window_named(file.window), span)])
        if stored is None:
            looked_up.append(pa.nulls(batch.num_rows))
            continue
        known = stored.filter(pc.less_equal(stored["label_at"], moment(as_of)))
        kind = known.column(1).type
        place = pc.index_in(batch.column(0), value_set=known.column(0))
        looked_up.append(known.column(1).combine_chunks().take(place))
    return pa.chunked_array([part.cast(kind) for part in looked_up], kind)


def _stored(table: LandedTable | None, files: Sequence[LandedFile]) -> pa.Table | None:
    """id, label and label_at of all labels in these files; of one id the latest known comes first."""
    if table is None or not files:
        return None
    return pa.concat_tables([table.opened(file).table() for file in reversed(files)])


def _fresh(candidates: pa.Table, stored: pa.Table | None, as_of: datetime) -> pa.Table:
    """Labels that are not stored with this value. A changed value without a later time of its own is dated `as_of`."""
    latest = _one_of_each(candidates)
    if stored is None:
        return latest
    match = pc.index_in(latest.column(0), value_set=stored.column(0))
    before, before_at = stored.column(1).take(match), stored["label_at"].take(match)
    fresh = latest.append_column("before_at", before_at).filter(
        pc.or_(pc.is_null(before), pc.fill_null(pc.not_equal(before, latest.column(1)), True))
    )
    after_before = pc.add(fresh["before_at"], pa.scalar(timedelta(microseconds=1), pa.duration("us")))
    seen_at = pc.if_else(pc.greater(after_before, moment(as_of)), after_before, moment(as_of))
    dated_by_source = pc.fill_null(pc.greater(fresh["label_at"], fresh["before_at"]), True)
    label_at = pc.if_else(dated_by_source, fresh["label_at"], seen_at)
    return fresh.set_column(2, "label_at", label_at).drop_columns(["before_at"])


def _one_of_each(labels: pa.Table) -> pa.Table:
    """Labels with distinct ids; where a source repeats one, the label known latest."""
    if pc.count_distinct(labels.column(0)).as_py() == labels.num_rows:
        return labels
    ordered = labels.take(pc.sort_indices(labels, [("label_at", "descending")]))
    return ordered.take(pc.index_in(pc.unique(ordered.column(0)), value_set=ordered.column(0)))


def _places(time: pa.ChunkedArray, windows: Sequence[Window]) -> np.ndarray:
    """Index of the first landed window that each time lies in, -1 where there is none."""
    places = np.full(len(time), -1, np.int32)
    moments = time.cast(pa.int64()).to_numpy()
    for index, window in enumerate(windows):
        start, end = (int(bound.timestamp()) * 1_000_000 for bound in (window.start, window.end))
        places[(places < 0) & (moments >= start) & (moments < end)] = index
    return places


def _nothing_landed(config: ModelConfig) -> LakeError:
    return LakeError(f"{_uri(config, 'rows')}: no rows have landed, expected some; take a snapshot of a window first")


def _uri(config: ModelConfig, table: str) -> str:
    return workspace().table(config.name, table)


def _tables(config: ModelConfig) -> tuple[LandedTable | None, LandedTable | None]:
    return LandedTable.open(_uri(config, "rows")), LandedTable.open(_uri(config, "labels"))
