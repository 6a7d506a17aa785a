"""Labelled rows in a file of this machine that is mapped into memory: a table larger than memory.

The rows are read from the lake batch by batch, joined with their labels and written once as an Arrow file. The operating
system loads the parts that are read and drops them again when memory is short. Only id, time and label of all rows are
held while the file is written.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters.delta.table import LandedTable
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.late_labels import files_of, join_labels
from tasks.adapters.lake.window_scan import parse_window
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.errors import LakeError
from tasks.policy.records.reports import Snapshot


@contextmanager
def map_labelled(snapshot: Snapshot) -> Iterator[pa.Table]:
    """Yield the rows that `read_labelled` returns, mapped from a file that only this user can read, deleted afterwards.

    Raises LakeError if rows or labels differ from the snapshot, or if its windows overlap.
    """
    # in the workspace, because the folder for temporary files is often in memory
    with tempfile.TemporaryDirectory(prefix="rows-", dir=workspace().home) as folder:
        path = Path(folder, "rows.arrow")
        _write(snapshot, path)
        with pa.memory_map(str(path)) as file:
            yield pa.ipc.open_file(file).read_all()


def _write(snapshot: Snapshot, path: Path) -> None:
    label = join_labels(snapshot, ()).select([-1])
    at = 0
    writer: pa.ipc.RecordBatchFileWriter | None = None
    try:
        for batch in _batches(snapshot):
            rows = batch.append_column(label.column_names[0], label.column(0).slice(at, batch.num_rows))
            at += batch.num_rows
            writer = writer or pa.ipc.new_file(path, rows.schema)
            writer.write_table(rows.filter(pc.is_valid(rows.column(-1))))
    finally:
        if writer:
            writer.close()
    if at != label.num_rows:
        raise LakeError(
            f"{snapshot.uri}: {at} rows read in {snapshot.window.name}, expected {label.num_rows} as in the snapshot"
        )


def _batches(snapshot: Snapshot) -> Iterator[pa.Table]:
    """Yield the snapshot's rows without labels, in the order of `read_labelled`; columns of any file, null in others."""
    table = LandedTable.open(snapshot.uri, snapshot.version)
    files = sorted(files_of(snapshot, table), key=lambda file: parse_window(file.window).start) if table else []
    windows = [parse_window(file.window) for file in files]
    if table is None or any(before.end > after.start for before, after in pairwise(windows)):
        raise LakeError(
            f"{snapshot.uri}: windows in {snapshot.window.name} overlap, because window_days was changed; expected disjoint "
            "ones to read them in batches; set training.engine: memory"
        )
    opened = [table.opened(file) for file in files]
    schema = pa.unify_schemas([file.schema() for file in opened])
    span = snapshot.window
    for window, file in zip(windows, opened, strict=True):
        inside = span.start <= window.start and window.end <= span.end
        for batch in file.batches():
            rows = pa.concat_tables([pa.Table.from_batches([batch]), schema.empty_table()], promote_options="default")
            rows = rows.select(schema.names)
            if not inside:
                time = rows.column(1)
                rows = rows.filter(pc.and_(pc.greater_equal(time, moment(span.start)), pc.less(time, moment(span.end))))
            yield rows
