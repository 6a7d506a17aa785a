"""How rows, labels and predictions are joined.

A row is identified by its id within the rows that landed together: the history, or a window. There each id occurs once. In
another window the same id is another row with its own labels and predictions. An id of several columns becomes one
unambiguous text. A missing id joins nothing.
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
    """Texts of several columns as one; null where one of them is. ("a", "b|c") and ("a|b", "c") stay apart."""
    escaped = [_escaped(part) for part in parts]
    return pc.binary_join_element_wise(*escaped, SEPARATOR, null_handling="emit_null")


def _escaped(part: pa.ChunkedArray) -> pa.ChunkedArray:
    doubled = pc.replace_substring(part, ESCAPE, ESCAPE * 2)
    return pc.replace_substring(doubled, SEPARATOR, ESCAPE + SEPARATOR)


def first_match(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of each id its first place among the known ones of the same window; null where it is missing or not among them."""
    if ids.type != known.type:  # whole numbers became text, or text whole numbers, when the source changed
        ids, known = ids.cast(pa.string()), known.cast(pa.string())
    return pc.index_in(ids, value_set=known, skip_nulls=True)


def matches(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(first place of each id among the known ones, -1 where there is none; whether another row has the same place)."""
    places: NDArray[np.int64] = first_match(ids, known).cast(pa.int64()).fill_null(-1).to_numpy()
    shared = np.bincount(places + 1, minlength=1)[places + 1] > 1
    return places, shared & (places >= 0)


def taken(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """The rows at these ascending places; without a copy where they follow each other."""
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return rows.slice(places[0], len(places))
    return rows.take(places)


class Repeats(NamedTuple):
    """Rows of one stretch that their id does not tell from all others."""

    rows: int
    repeated: int
    """Rows whose id another row has as well."""
    distinct: int
    missing: int
    """Rows without an id."""

    def __bool__(self) -> bool:
        return self.repeated + self.missing > 0

    def __str__(self) -> str:
        said = []
        if self.repeated:
            share = f"{self.repeated:,} of {self.rows:,} rows have an id that another row has"
            said.append(f"{share} ({self.distinct:,} ids in all)")
        if self.missing:
            said.append(f"{self.missing:,} of {self.rows:,} rows have no id")
        return " and ".join(said)


def repeats(ids: pa.ChunkedArray) -> Repeats:
    """How many of the rows that landed together share their id or have none."""
    distinct = pc.count_distinct(ids, mode="only_valid").as_py()
    repeated = 0
    if distinct + ids.null_count < len(ids):
        repeated = int(matches(ids, ids)[1].sum())
    return Repeats(len(ids), repeated, distinct, ids.null_count)


def how_to_tell_apart(rows: pa.Table, names: Sequence[str]) -> str:
    """What the owner of repeated ids can do. `rows`: id and time first, as they land; `names`: the id's columns."""
    time = rows.column_names[1]
    copies = rows.num_rows - rows.group_by(rows.column_names, use_threads=False).aggregate([]).num_rows
    if copies and pc.count_distinct(rows.column(0)).as_py() == rows.num_rows - copies:
        return f"{copies:,} rows are copies of others in all columns that are read; remove them from the source"
    with_time = rows.group_by(rows.column_names[:2], use_threads=False).aggregate([]).num_rows
    if time not in names and with_time == rows.num_rows:
        return f"name the columns that together identify a row: columns.id: [{', '.join((*names, time))}] does"
    known = f"{', '.join(dict.fromkeys((*names, time)))} together do not"
    said = f" ({copies:,} are copies of others in all columns that are read)" if copies else ""
    return (
        f"remove duplicate rows from the source{said}, or name the columns that together identify a row "
        f"under columns.id, such as columns.id: [customer, week]; {known}"
    )


def landed_places(time: pa.ChunkedArray, windows: Sequence[Window]) -> Places:
    """Index of the first landed window that each time lies in, -1 where there is none."""
    moments = time.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    order = np.argsort(moments, kind="stable")
    ordered, found = moments[order], np.full(len(moments), -1, np.int32)
    for index, window in reversed(list(enumerate(windows))):  # the earlier one goes over the later one
        bounds = [int(bound.timestamp()) * 1_000_000 for bound in (window.start, window.end)]
        first, end = np.searchsorted(ordered, bounds)
        found[first:end] = index
    places = np.empty_like(found)
    places[order] = found
    return places


def by_place(places: Places) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each window's index with the rows that lie in it, in their order; those of no window are left out."""
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(places[order], prepend=-2))
    for rows in np.split(order, starts[1:]) if len(order) else ():
        if places[rows[0]] >= 0:
            yield int(places[rows[0]]), rows
