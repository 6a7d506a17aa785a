"""Labelled rows in a file of this machine that is mapped into memory: a table larger than memory.

The rows are read from the lake batch by batch, joined with their labels and written once as an Arrow file. The operating
system loads the parts that are read and drops them again when memory is short. Only the ids, times and labels of one
landed window are held while the file is written.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters.delta.parquet_file import LandedParquet
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.late_labels import FileLabels, open_tables, read_labelled, windows_are_disjoint
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
from tasks.policy.records.reports import Snapshot


def labelled_rows(snapshot: Snapshot, engine: str) -> AbstractContextManager[pa.Table]:
    """Return a context with the rows of `read_labelled`: in memory for that engine, else mapped from a file."""
    return nullcontext(read_labelled(snapshot)) if engine == "memory" else map_labelled(snapshot)


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
    table, labels = open_tables(snapshot)
    if not windows_are_disjoint(snapshot, table):
        raise LakeError(
            f"{snapshot.uri}: windows in {snapshot.window.name} overlap, because window_days was changed, or there are none; "
            "expected disjoint ones to read them in batches; set training.engine: memory"
        )
    found = FileLabels(snapshot, table, labels)
    schema = pa.unify_schemas([table.opened(file).schema() for file in found.files])
    writer: pa.ipc.RecordBatchFileWriter | None = None
    try:
        for file, label in zip(found.files, found, strict=True):
            for rows in _labelled(_batches(table.opened(file), schema, snapshot.window), found.name, label):
                writer = writer or pa.ipc.new_file(path, rows.schema)
                writer.write_table(rows)
    finally:
        if writer:
            writer.close()
    found.check()


def _labelled(batches: Iterable[pa.Table], name: str, label: pa.ChunkedArray) -> Iterator[pa.Table]:
    """Yield those rows of one file that have a label, with it; `label` is that of all its rows, in their order."""
    at = 0
    for batch in batches:
        rows = batch.append_column(name, label.slice(at, batch.num_rows))
        at += batch.num_rows
        yield rows.filter(pc.is_valid(rows.column(-1)))


def _batches(file: LandedParquet, schema: pa.Schema, span: Window) -> Iterator[pa.Table]:
    """Yield a file's rows in `span`, with the columns of every file: null where it lacks one."""
    for batch in file.batches():
        rows = pa.concat_tables([pa.Table.from_batches([batch]), schema.empty_table()], promote_options="default")
        rows = rows.select(schema.names)
        time = rows.column(1)
        yield rows.filter(pc.and_(pc.greater_equal(time, moment(span.start)), pc.less(time, moment(span.end))))
