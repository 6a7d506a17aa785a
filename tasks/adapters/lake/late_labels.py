"""Late labels: which labels were known at which time. Labels arrive late, are corrected, or never arrive.

`label_at` is the time at which a label could first be read. Reads take `as_of` and ignore labels with a later
`label_at`, so a decision replayed a year later sees the same labels. Of several labels of a row, the latest known one
counts. A correction without a new time is dated to the moment it was read. A label that the source withdraws (null in
place of a value) is unknown from then on; a row that is missing from the source keeps its label. Labels are stored with
the window of their row, because an id identifies a row only within its window (`row_identity`).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.delta.content_hash import ContentHash, column_hashes
from tasks.adapters.delta.table import LandedFile, LandedTable, retry_on_conflict
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.label_times import labels_due_by
from tasks.adapters.lake.row_identity import (
    Repeats,
    first_match,
    matches,
    repeats,
    rows_by_window,
    take_rows,
    window_indices,
)
from tasks.adapters.lake.schemas import conform_labels, stored_label_columns
from tasks.adapters.lake.window_scan import overlap, parse_window, read_span
from tasks.adapters.storage import lease
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window, digest
from tasks.policy.records.errors import LakeError
from tasks.policy.records.reports import Snapshot

# Transaction keys: the latest as_of (seconds since 1970) and rows version for which the search for labels is complete.
SEARCHED_UNTIL, SEARCHED_ROWS = "searched_until", "searched_rows"


@dataclass(frozen=True, slots=True)
class LabelsDue:
    """Production time in which to search for labels, and the version of the landed rows it was computed from."""

    window: Window
    rows_version: int


def labels_due(config: ModelConfig, as_of: datetime, lookback: timedelta) -> LabelsDue | None:
    """Return the production time whose labels may have become known since the last search, or None if there is none.

    Labels are expected `label_delay` after the time of their row, and searched for until `lookback` after that.
    """
    rows, labels = _tables(config)
    files = [file for file in rows.files() if parse_window(file.window).start < as_of] if rows else []
    searched_until = labels.number(SEARCHED_UNTIL) if labels else None
    searched_rows = (labels.number(SEARCHED_ROWS) if labels else None) or -1
    last = as_of if searched_until is None else min(as_of, datetime.fromtimestamp(searched_until, UTC))
    since = last - config.columns.label_delay - lookback
    unsearched = [parse_window(file.window) for file in files if file.version > searched_rows]
    searched = [parse_window(file.window) for file in files if file.version <= searched_rows]
    starts = [window.start for window in unsearched]
    starts += [max(window.start, since) for window in searched if window.end > since]
    end = min(as_of, max((window.end for window in unsearched + searched), default=as_of))
    return LabelsDue(Window(min(starts), end), rows.version) if rows and starts and min(starts) < end else None


def land_labels(config: ModelConfig, labels: pa.Table, as_of: datetime, due: LabelsDue | None = None) -> int:
    """Store labels that are new, corrected or withdrawn and return their number.

    `labels` is the result of `schemas.conform_labels`, or has id, time, label and label time as in the source. Labels
    not known at `as_of`, labels already stored and labels of rows that never landed are left out. With `due`, `labels`
    are all labels that the search for `due` found, and the next search starts where it ended. A search as of an earlier
    time than the latest one (a backfill) does not change that start, as it misses later labels.
    """
    names = stored_label_columns(config)
    if labels.column_names != [names[0], config.columns.time, *names[1:]]:
        labels = conform_labels(config, labels, f"{config.name}, labels")
    rows = LandedTable.open(_uri(config, "rows"))
    windows = _windows(rows) if rows else ()
    candidates = {windows[index]: found for index, found in _known_by_window(labels, windows, as_of)}
    searched_until = int(as_of.timestamp())

    def attempt() -> int:
        table = LandedTable.open(_uri(config, "labels"))
        files, parts = _files_by_window(table), {}
        for window, found in candidates.items():
            fresh = _fresh(found, _stored(table, files.get(window, ())), as_of)
            if fresh.num_rows:
                parts[window.name] = fresh.rename_columns(list(names))
        if parts:
            schema = next(iter(parts.values())).schema
            table = table or LandedTable.open_or_create(_uri(config, "labels"), schema)
            lease.check(config.name)
            is_latest = due and searched_until >= (table.number(SEARCHED_UNTIL) or searched_until)
            rows_version = max(due.rows_version, table.number(SEARCHED_ROWS) or -1) if due else -1
            numbers = {SEARCHED_UNTIL: searched_until, SEARCHED_ROWS: rows_version} if is_latest else {}
            table.append(parts, numbers, {})
        return sum(part.num_rows for part in parts.values())

    return retry_on_conflict(attempt, _uri(config, "labels"))


def _known_by_window(labels: pa.Table, windows: Sequence[Window], as_of: datetime) -> list[tuple[int, pa.Table]]:
    """Return (window index, table of id, label, label_at) for labels known at `as_of`, by landed window.

    A null label without a time is dated `as_of`.
    """
    ids, time, label, label_at = labels.columns
    seen_now = pc.and_(pc.is_null(label), pc.is_null(label_at))
    found = pa.table({"id": ids, "label": label, "label_at": pc.if_else(seen_now, moment(as_of), label_at)})
    indices = window_indices(time, windows)
    is_known = pc.and_(pc.is_valid(ids), pc.fill_null(pc.less_equal(found["label_at"], moment(as_of)), False))
    indices[~is_known.to_numpy()] = -1
    return [(index, take_rows(found, rows)) for index, rows in rows_by_window(indices)]


def labelled_snapshot(config: ModelConfig, window: Window, as_of: datetime, excluding: Sequence[str] = ()) -> Snapshot:
    """Return a snapshot of all landed rows of `window` with their labels as known at `as_of`.

    `window` may span many landed windows. `excluding` names windows to leave out, such as quarantined ones. The
    snapshot counts all rows (`rows`) and the rows with a label (`labelled_rows`).
    Raises LakeError if no rows have ever landed, or if an id occurs twice among rows that landed together.
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
    if windows_are_disjoint(unlabelled, rows):
        found = FileLabels(unlabelled, rows, labels)
        counts = [(len(each), len(each) - each.null_count) for each in found]
        total, known = (sum(column) for column in zip(*counts, strict=True))
        return replace(unlabelled, rows=total, labelled_rows=known, content_hash=found.content_hash)
    joined, content_hash = _joined(unlabelled, rows, labels, ())
    known = joined.num_rows - joined.column(-1).null_count
    return replace(unlabelled, rows=joined.num_rows, labelled_rows=known, content_hash=content_hash)


def labelled_rows(
    config: ModelConfig,
    window: Window,
    as_of: datetime,
    columns: Sequence[str] | None = None,
    excluding: Collection[str] = (),
) -> pa.Table:
    """Return the labelled rows of `window` as known at `as_of`, without a snapshot: for measurement, not for training.

    Columns are those of `read_labelled`. `excluding` names windows to leave out. Rows that share their id with another
    row of their window are left out, because their labels are ambiguous. If labels have their own times, only rows
    whose labels are due are returned: early labels often belong to one class and would bias the sample. Raises
    LakeError if no rows have ever landed.
    """
    rows, labels = _tables(config)
    if rows is None:
        raise _nothing_landed(config)
    near = (file for file in rows.files() if overlap(parse_window(file.window), window))
    used = [file for file in near if file.window not in excluding]
    table, name = read_span(rows, used, window, columns)
    known = table.append_column(name, _label_of_each(table, _windows(rows), labels, as_of, allow_repeats=True))
    known = known.filter(pc.is_valid(known.column(-1)))
    due_by = labels_due_by(config, as_of)
    if due_by is not None:
        known = known.filter(pc.less_equal(known.column(1), moment(due_by)))
    return known if columns is None else known.select(list(columns))


def read_labelled(snapshot: Snapshot, columns: Sequence[str] | None = None) -> pa.Table:
    """Read rows whose label was known at `snapshot.as_of`: id, time, features, protected columns and, last, the label.

    `columns` selects some of these, in the given order. Raises LakeError if rows or labels differ from the snapshot.
    """
    joined, content_hash = _joined(snapshot, *open_tables(snapshot), columns)
    _check_content(snapshot, content_hash)
    label = joined.column(-1)
    known = joined.filter(pc.is_valid(label)) if label.null_count else joined  # a filter copies all rows
    return known if columns is None else known.select(list(columns))


def open_tables(snapshot: Snapshot) -> tuple[LandedTable, LandedTable | None]:
    """Open the tables of a labelled snapshot at its versions: rows, and labels if any had landed. Raises LakeError."""
    rows = LandedTable.open(snapshot.uri, snapshot.version)
    labels = LandedTable.open(snapshot.labels_uri, snapshot.labels_version) if snapshot.labels_uri else None
    if snapshot.as_of is None or rows is None or (snapshot.labels_uri and labels is None):
        raise LakeError(
            f"{snapshot.uri}: {snapshot.window.name} is not a labelled snapshot, or its tables are gone; expected the "
            "result of labelled_snapshot; check PERENNIAL_LAKE"
        )
    return rows, labels


def _check_content(snapshot: Snapshot, content_hash: str) -> None:
    if content_hash != snapshot.content_hash:
        raise LakeError(
            f"{snapshot.uri}: labelled rows of {snapshot.window.name} have content hash {content_hash[:16]}, expected "
            f"{snapshot.content_hash[:16]}; the tables were replaced after this snapshot was taken; restore them"
        )


def windows_are_disjoint(snapshot: Snapshot, rows: LandedTable) -> bool:
    """Return whether a snapshot has landed windows that do not overlap, so that their files can be read one by one."""
    windows = sorted((parse_window(file.window) for file in _files_of(snapshot, rows)), key=lambda each: each.start)
    return bool(windows) and not any(before.end > after.start for before, after in pairwise(windows))


class FileLabels:
    """The labels of a snapshot's rows, of one landed file after the other: ids of one file are held at a time.

    For disjoint windows. `files` and their labels are in the order of `read_labelled`, `name` is the label's column.
    """

    def __init__(self, snapshot: Snapshot, rows: LandedTable, labels: LandedTable | None) -> None:
        self._snapshot, self._rows, self._labels = snapshot, rows, labels
        self._used = _files_of(snapshot, rows)
        self.files = sorted(self._used, key=lambda file: parse_window(file.window).start)
        self.name: str = rows.opened(self.files[-1]).notes["label"]
        self._read = ContentHash()

    def __iter__(self) -> Iterator[pa.ChunkedArray]:
        """Yield each file's labels, null where unknown. Raises LakeError if an id occurs twice in its window."""
        windows, span, as_of = _windows(self._rows), self._snapshot.window, self._snapshot.as_of
        assert as_of is not None  # noqa: S101, callers set or check it
        kind = _label_type(self._labels)
        for file in self.files:
            rows, _ = read_span(self._rows, [file], span, ())
            label = _label_of_each(rows, windows, self._labels, as_of).cast(kind)
            self._read.update(pa.table({self.name: label}))
            yield label

    @property
    def content_hash(self) -> str:
        """The content hash of the snapshot, once all labels are read."""
        files = (file.content_hash for file in self._used)
        return digest(self._snapshot.window.name, self._read.columns()[self.name], *files, length=64)

    def check(self) -> None:
        """Raise LakeError if the labels, once all are read, differ from the snapshot."""
        _check_content(self._snapshot, self.content_hash)


def _joined(
    snapshot: Snapshot, rows: LandedTable, labels: LandedTable | None, columns: Sequence[str] | None
) -> tuple[pa.Table, str]:
    """Return all rows, ordered, with the label or null in the last column, and the content hash of the snapshot."""
    assert snapshot.as_of is not None  # noqa: S101, both callers set or check it
    used = _files_of(snapshot, rows)
    table, label_name = read_span(rows, used, snapshot.window, columns)
    label = _label_of_each(table, _windows(rows), labels, snapshot.as_of).cast(_label_type(labels))
    label_hash = column_hashes(pa.table({label_name: label}))[label_name]
    joined = table.append_column(label_name, label)
    return joined, digest(snapshot.window.name, label_hash, *(file.content_hash for file in used), length=64)


def _label_type(labels: LandedTable | None) -> pa.DataType:
    """Return the type of the labels that have landed, which is the same in all files; float64 without any."""
    files = labels.files() if labels else []
    return labels.opened(files[-1]).schema().field(1).type if labels and files else pa.float64()


def _files_of(snapshot: Snapshot, rows: LandedTable) -> list[LandedFile]:
    """Return the landed files that hold the snapshot's rows."""
    near = (file for file in rows.files() if overlap(parse_window(file.window), snapshot.window))
    return [file for file in near if file.window not in snapshot.excluding]


def _label_of_each(
    rows: pa.Table, windows: Sequence[Window], labels: LandedTable | None, as_of: datetime, allow_repeats: bool = False
) -> pa.ChunkedArray:
    """Return each row's label as known at `as_of`, or null, looked up in the window that the row landed with.

    Raises LakeError if an id occurs twice in its window; with `allow_repeats`, such rows get null instead.
    """
    files = _files_by_window(labels)
    parts: list[pa.ChunkedArray] = []
    at, before = np.full(rows.num_rows, -1), 0
    for index, own in rows_by_window(window_indices(rows.column(1), windows)):
        stored = _stored(labels, files.get(windows[index], ()))
        if stored is None:
            continue
        known = stored.filter(pc.less_equal(stored["label_at"], moment(as_of)))
        match, shared = matches(take_rows(rows.column(0), own), known["id"])
        if shared.any() and not allow_repeats:
            raise LakeError(_ambiguous_ids(rows, windows[index], repeats(take_rows(rows.column(0), own))))
        at[own] = np.where(shared | (match < 0), -1, match + before)
        parts.append(known["label"])
        before += known.num_rows
    if not parts:
        return pa.chunked_array([pa.nulls(rows.num_rows, pa.float64())])
    every = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[-1].type).combine_chunks()
    return pa.chunked_array([every.take(pa.array(at, mask=at < 0))])


def _ambiguous_ids(rows: pa.Table, window: Window, found: Repeats) -> str:
    return (
        f"{window.name}: {found} in {rows.column_names[0]!r}, expected each id once among rows that landed together, because "
        "labels are joined on it; list the columns that together identify a row, such as columns.id: [customer, week], and "
        "give the model a new name, because landed rows cannot change"
    )


def _files_by_window(table: LandedTable | None) -> dict[Window, list[LandedFile]]:
    found: dict[Window, list[LandedFile]] = {}
    for file in table.files() if table else ():
        found.setdefault(parse_window(file.window), []).append(file)
    return found


def _stored(table: LandedTable | None, files: Sequence[LandedFile]) -> pa.Table | None:
    """Return id, label and label_at of all labels in a window's files; for each id, the latest known label comes first.

    A withdrawn label is null.
    """
    if table is None or not files:
        return None
    found = [table.opened(file).table() for file in reversed(files)]
    return pa.concat_tables([part.rename_columns(["id", "label", "label_at"]) for part in found])


def _fresh(candidates: pa.Table, stored: pa.Table | None, as_of: datetime) -> pa.Table:
    """Return one window's labels that differ from the stored ones: new, changed, or null in place of a stored value.

    A change without a later label time than the stored one is dated `as_of`, or 1 µs after the stored time if that is
    later.
    """
    latest = _one_per_id(candidates)
    if stored is None:
        return latest.filter(pc.is_valid(latest["label"]))
    if pc.all(pc.is_null(latest["label"]), min_count=0).as_py():  # then the column has no meaningful type
        latest = latest.set_column(1, "label", pa.nulls(latest.num_rows, stored["label"].type))
    match = first_match(latest["id"], stored["id"])
    before, before_at = stored["label"].take(match), stored["label_at"].take(match)
    differs = pc.fill_null(
        pc.not_equal(before, latest["label"]), pc.xor(pc.is_valid(before), pc.is_valid(latest["label"]))
    )
    fresh = latest.append_column("before_at", before_at).filter(differs)
    after_before = pc.add(fresh["before_at"], pa.scalar(timedelta(microseconds=1), pa.duration("us")))
    seen_at = pc.if_else(pc.greater(after_before, moment(as_of)), after_before, moment(as_of))
    dated_by_source = pc.fill_null(pc.greater(fresh["label_at"], fresh["before_at"]), True)
    label_at = pc.if_else(dated_by_source, fresh["label_at"], seen_at)
    return fresh.set_column(2, "label_at", label_at).drop_columns(["before_at"])


def _one_per_id(labels: pa.Table) -> pa.Table:
    """Return one label per id; of repeated ids, the label with the latest time that is not null, if there is one."""
    if pc.count_distinct(labels["id"], mode="all").as_py() == labels.num_rows:
        return labels
    unknown = labels.append_column("unknown", pc.is_null(labels["label"]))
    ordered = labels.take(pc.sort_indices(unknown, [("unknown", "ascending"), ("label_at", "descending")]))
    return ordered.take(pc.index_in(pc.unique(ordered["id"]), value_set=ordered["id"]))


def _windows(rows: LandedTable) -> tuple[Window, ...]:
    """Return the landed windows in landing order."""
    return tuple(dict.fromkeys(parse_window(file.window) for file in rows.files()))


def _nothing_landed(config: ModelConfig) -> LakeError:
    return LakeError(f"{_uri(config, 'rows')}: no rows have landed, expected some; take a snapshot of a window first")


def _uri(config: ModelConfig, table: str) -> str:
    return workspace().table(config.name, table)


def _tables(config: ModelConfig) -> tuple[LandedTable | None, LandedTable | None]:
    return LandedTable.open(_uri(config, "rows")), LandedTable.open(_uri(config, "labels"))
