"""Rows of a stretch of time that many landed windows make up, each row once.

Windows follow each other, unless a model's `window_days` was changed: then a new window may hold rows that an older one
has too, and the one that landed first counts.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters.delta.parquet_file import LandedParquet
from tasks.adapters.delta.table import LandedFile, LandedTable
from tasks.adapters.lake.schemas import moment
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import LakeError


@lru_cache(maxsize=4096)
def window_named(name: str) -> Window:
    """The window that `Window.name` wrote."""
    start, end = name.split("..")
    return Window(utc(start), utc(end))


def overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end


def read_span(
    table: LandedTable, files: Sequence[LandedFile], span: Window, columns: Sequence[str] | None
) -> tuple[pa.Table, str]:
    """Rows of these files that lie in `span`, ordered by time and id, with those of `columns` that they have; and the
    label's name. id and time are always read, as the first two columns. A column that older files lack is null there.
    """
    chosen = files or table.files()[:1]  # of no windows the columns are still known
    if not chosen:
        raise LakeError(f"{table.uri}: no rows have landed, expected some; take a snapshot of a window first")
    by_time = sorted(chosen, key=lambda file: window_named(file.window).start)
    windows = [window_named(file.window) for file in by_time]
    overlapping = any(before.end > after.start for before, after in pairwise(windows))
    opened = [table.opened(file) for file in (chosen if overlapping else by_time)]
    label = opened[-1].notes["label"]
    missing = set(columns or ()) - {label} - {name for file in opened for name in file.schema().names}
    if missing:
        raise LakeError(
            f"{table.uri}: no column {min(missing)!r} in {span.name}, expected one that landed with its rows"
        )
    rows = pa.concat_tables([file.table(_wanted(file, columns)) for file in opened], promote_options="default")
    if not files:  # where all are excluded, the first may lie in the span
        rows = rows.slice(0, 0)
    elif windows[0].start < span.start or max(window.end for window in windows) > span.end:
        time = rows.column(1)
        rows = rows.filter(pc.and_(pc.greater_equal(time, moment(span.start)), pc.less(time, moment(span.end))))
    return (_each_once(rows) if overlapping else rows), label


def _wanted(file: LandedParquet, columns: Sequence[str] | None) -> list[str]:
    names = file.schema().names
    return [name for name in names if columns is None or name in names[:2] or name in columns]


def _each_once(rows: pa.Table) -> pa.Table:
    """Order by time and id, keeping of equal keys the one that stands first."""
    time, key = rows.column_names[:2]
    ordered = rows.take(pc.sort_indices(rows, [(time, "ascending"), (key, "ascending")]))  # a stable sort
    if ordered.num_rows < 2:
        return ordered
    one, next_one = ordered.slice(0, ordered.num_rows - 1), ordered.slice(1)
    again = pc.and_(pc.equal(next_one[time], one[time]), pc.equal(next_one[key], one[key]))
    first = pa.chunked_array([pa.array([True]), *pc.invert(pc.fill_null(again, False)).chunks])
    return ordered.filter(first)
