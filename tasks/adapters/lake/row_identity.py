"""Join of rows, labels and predictions.

A row is identified by its id among the rows that landed together: the history, or a window. Each id occurs once there.
In another window, the same id is another row with its own labels and predictions. An id of several columns becomes one
unambiguous text. A missing id matches nothing.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.policy.records.base import Window

Places = NDArray[np.int32]
Rows = TypeVar("Rows", pa.Table, pa.ChunkedArray)
SEPARATOR, ESCAPE = "|", "\\"


def joined_key(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Join the text of several columns with escaping; null if one is null. ("a", "b|c") and ("a|b", "c") differ."""
    escaped = [_escaped(part) for part in parts]
    return pc.binary_join_element_wise(*escaped, SEPARATOR, null_handling="emit_null")


def _escaped(part: pa.ChunkedArray) -> pa.ChunkedArray:
    doubled = pc.replace_substring(part, ESCAPE, ESCAPE * 2)
    return pc.replace_substring(doubled, SEPARATOR, ESCAPE + SEPARATOR)


def first_match(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return each id's first index in `known`, ids of the same window; null for a missing or an unknown id."""
    if ids.type != known.type:  # the source changed its ids from integers to text, or from text to integers
        ids, known = ids.cast(pa.string()), known.cast(pa.string())
    return pc.index_in(ids, value_set=known, skip_nulls=True)


def matches(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (first index of each id in `known` or -1, whether another row has the same index), both of shape (n,)."""
    places: NDArray[np.int64] = first_match(ids, known).cast(pa.int64()).fill_null(-1).to_numpy()
    shared = np.bincount(places + 1, minlength=1)[places + 1] > 1
    return places, shared & (places >= 0)


def take_rows(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Return the rows at these ascending indices; a contiguous range is sliced without a copy."""
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return rows.slice(places[0], len(places))
    return rows.take(places)


class Repeats(NamedTuple):
    """Counts of rows that landed together and are not identified by their id. `distinct` counts different ids."""

    rows: int
    repeated: int
    """Number of rows that share their id with another row."""
    distinct: int
    missing: int
    """Number of rows without an id."""

    def __bool__(self) -> bool:
        return self.repeated + self.missing > 0

    def __str__(self) -> str:
        parts = []
        if self.repeated:
            share = f"{self.repeated:,} of {self.rows:,} rows share their id with another row"
            parts.append(f"{share} ({self.distinct:,} distinct ids)")
        if self.missing:
            parts.append(f"{self.missing:,} of {self.rows:,} rows have no id")
        return " and ".join(parts)


def repeats(ids: pa.ChunkedArray) -> Repeats:
    """Count rows that share their id with another row or have none, among rows that landed together."""
    distinct = pc.count_distinct(ids, mode="only_valid").as_py()
    repeated = 0
    if distinct + ids.null_count < len(ids):
        repeated = int(matches(ids, ids)[1].sum())
    return Repeats(len(ids), repeated, distinct, ids.null_count)


def remedy_for_repeated_ids(rows: pa.Table, names: Sequence[str]) -> str:
    """Return a remedy for repeated ids, for an error message.

    `rows` have id and time as the first two columns, as they land; `names` are the id's columns.
    """
    time = rows.column_names[1]
    copies = rows.num_rows - rows.group_by(rows.column_names, use_threads=False).aggregate([]).num_rows
    if copies and pc.count_distinct(rows.column(0)).as_py() == rows.num_rows - copies:
        return f"{copies:,} rows are copies of other rows in all columns that are read; remove them from the source"
    with_time = rows.group_by(rows.column_names[:2], use_threads=False).aggregate([]).num_rows
    if time not in names and with_time == rows.num_rows:
        return f"name the columns that together identify a row: columns.id: [{', '.join((*names, time))}] does"
    known = f"{', '.join(dict.fromkeys((*names, time)))} together do not"
    duplicates = f" ({copies:,} are copies of other rows in all columns that are read)" if copies else ""
    return (
        f"remove duplicate rows from the source{duplicates}, or name the columns that together identify a row "
        f"under columns.id, such as columns.id: [customer, week]; {known}"
    )


def window_indices(time: pa.ChunkedArray, windows: Sequence[Window]) -> Places:
    """Return the index of the first window that contains each time, or -1, of shape (n,)."""
    moments = time.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    order = np.argsort(moments, kind="stable")
    ordered, found = moments[order], np.full(len(moments), -1, np.int32)
    for index, window in reversed(list(enumerate(windows))):  # earlier windows overwrite later ones
        bounds = [int(bound.timestamp()) * 1_000_000 for bound in (window.start, window.end)]
        first, end = np.searchsorted(ordered, bounds)
        found[first:end] = index
    places = np.empty_like(found)
    places[order] = found
    return places


def rows_by_window(places: Places) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (window index, indices of its rows in row order); rows of no window (-1) are left out."""
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-2))
    for rows in np.split(order, starts[1:]) if len(order) else ():
        if places[rows[0]] >= 0:
            yield int(places[rows[0]]), rows
