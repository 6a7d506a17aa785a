"""Rows of a time span across landed windows, without duplicates.

Windows do not overlap unless a model's `window_days` was changed. A new window may then hold rows of an older one; the
row that landed first counts.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters.delta.parquet_file import LandedParquet
from tasks.adapters.delta.table import LandedFile, LandedTable
from tasks.adapters.lake.casts import moment
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import LakeError


@lru_cache(maxsize=4096)
def parse_window(name: str) -> Window:
    """Parse a window from its `Window.name`."""
    start, end = name.split("..")
    return Window(utc(start), utc(end))


def overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end


def read_span(
    table: LandedTable, files: Sequence[LandedFile], span: Window, columns: Sequence[str] | None
) -> tuple[pa.Table, str]:
    """Return the rows of these files in `span`, ordered by time and id, and the name of the label.

    id and time are always the first two columns. A column that only some files have is null for the others. Raises
    LakeError if no rows have landed, or if a requested column other than the label is in none of the files.
    """
    chosen = files or table.files()[:1]  # without files, the first landed file still gives the columns
    if not chosen:
        raise LakeError(f"{table.uri}: no rows have landed, expected some; take a snapshot of a window first")
    by_time = sorted(chosen, key=lambda file: parse_window(file.window).start)
    windows = [parse_window(file.window) for file in by_time]
    overlapping = any(before.end > after.start for before, after in pairwise(windows))
    opened = [table.opened(file) for file in (chosen if overlapping else by_time)]
    label = opened[-1].notes["label"]
    missing = set(columns or ()) - {label} - {name for file in opened for name in file.schema().names}
    if missing:
        raise LakeError(
            f"{table.uri}: no column {min(missing)!r} in {span.name}, expected one that landed with its rows"
        )
    rows = pa.concat_tables([file.table(_wanted(file, columns)) for file in opened], promote_options="default")
    if not files:  # `chosen` is then the first landed file, which may lie in the span
        rows = rows.slice(0, 0)
    elif windows[0].start < span.start or max(window.end for window in windows) > span.end:
        time = rows.column(1)
        rows = rows.filter(pc.and_(pc.greater_equal(time, moment(span.start)), pc.less(time, moment(span.end))))
    return (_without_duplicates(rows) if overlapping else rows), label


def _wanted(file: LandedParquet, columns: Sequence[str] | None) -> list[str]:
    names = file.schema().names
    return [name for name in names if columns is None or name in names[:2] or name in columns]


def _without_duplicates(rows: pa.Table) -> pa.Table:
    """Order by time and id and keep the first row of equal keys."""
    time, key = rows.column_names[:2]
    ordered = rows.take(pc.sort_indices(rows, [(time, "ascending"), (key, "ascending")]))  # a stable sort
    if ordered.num_rows < 2:
        return ordered
    one, next_one = ordered.slice(0, ordered.num_rows - 1), ordered.slice(1)
    again = pc.and_(pc.equal(next_one[time], one[time]), pc.equal(next_one[key], one[key]))
    first = pa.chunked_array([pa.array([True]), *pc.invert(pc.fill_null(again, False)).chunks])
    return ordered.filter(first)
