"""Parquet files with a content hash per column in the footer, verified at every read.

Rows keep their written order. Reads by batch allow windows larger than memory; the hash is then verified after the last
batch. Complete reads are cached after verification, because a window is joined with its labels several times in one
evaluation and landed files never change.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from tasks.adapters.delta.content_hash import ContentHash, column_hashes, combined
from tasks.adapters.storage.table_cache import TableCache
from tasks.policy.records.errors import LakeError
from tasks.policy.records.text import reason_of

FOOTER = b"perennial"
ROWS_PER_BATCH = 65_536  # rows in memory of a streaming reader; 64k rows × 35 floats are 18 MB
CACHE_BYTES = 256 * 2**20  # size of the read cache; a larger file is read each time
_cache = TableCache(CACHE_BYTES)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a landed file says about itself: the content hash of each column, notes, and the columns stored renamed.

    `renamed` maps the name in the file to the column's name; readers map it back.
    """

    hashes: Mapping[str, str]
    notes: Mapping[str, str]
    renamed: Mapping[str, str]

    def to_json(self) -> str:
        content = {"columns": dict(self.hashes), "notes": dict(self.notes)}
        return json.dumps(content | ({"names": dict(self.renamed)} if self.renamed else {}))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Footer":
        content = json.loads(text)
        return cls(*(content.get(name, {}) for name in ("columns", "notes", "names")))


def write_parquet(files: pa_fs.FileSystem, path: str, rows: pa.Table, footer: Footer) -> int:
    """Write rows and footer and return the size in bytes. Raises OSError, after removing a partial file."""
    stored_names = {name: stored for stored, name in footer.renamed.items()}
    columns = [stored_names.get(name, name) for name in rows.column_names]
    noted = rows.rename_columns(columns).replace_schema_metadata({FOOTER: footer.to_json()})
    try:
        files.create_dir(path.rpartition("/")[0])
        with files.open_output_stream(path) as stream:
            pq.write_table(noted, stream, compression="zstd", row_group_size=ROWS_PER_BATCH)
        return int(files.get_file_info(path).size)
    except OSError:
        discard(files, path)
        raise


def discard(files: pa_fs.FileSystem, path: str) -> None:
    with suppress(OSError):  # the rest of a failed write belongs to no table and only takes space
        files.delete_file(path)


class LandedParquet:
    """A file opened for reading. Raises LakeError if it is missing, truncated or does not match `expected_hash`."""

    def __init__(self, files: pa_fs.FileSystem, path: str, where: str, expected_hash: str) -> None:
        self._where = where
        try:
            written = files.get_file_info(path)
            self._identity = (where, expected_hash, written.mtime_ns, written.size)
            # pre_buffer would hold the complete file in memory while batches are read
            self._file = pq.ParquetFile(files.open_input_file(path), pre_buffer=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._broken(f"cannot be read ({reason_of(error)})") from None
        schema = self._file.schema_arrow
        footer = Footer.from_json((schema.metadata or {}).get(FOOTER, b"{}"))
        self.notes, self._hashes = footer.notes, footer.hashes
        own = [field.with_name(footer.renamed.get(field.name, field.name)) for field in schema]
        self._stored = dict(zip((field.name for field in own), schema.names, strict=True))
        self._schema = pa.schema(own)
        if combined(self._hashes) != expected_hash:
            raise self._broken(f"has content hash {combined(self._hashes)[:16]}, expected {expected_hash[:16]}")

    def _broken(self, reason: str) -> LakeError:
        return LakeError(
            f"{self._where}: {reason}; the file was changed or lost after it landed; restore it from a backup"
        )

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """Return the schema of `columns` (default: all) in stored order. Raises LakeError if one is missing."""
        if columns is None:
            return self._schema
        missing = [name for name in columns if name not in self._schema.names]
        if missing:
            raise LakeError(
                f"{self._where}: has no column {missing[0]!r}, expected one of {', '.join(self._schema.names)}; "
                "it landed before the model's YAML named that column, or the name is misspelt"
            )
        return pa.schema([self._schema.field(name) for name in self._schema.names if name in set(columns)])

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield batches in stored order, at most `ROWS_PER_BATCH` rows each.

        Raises LakeError if the file cannot be read or, after the last batch, if a column's hash differs.
        """
        wanted, read = self.schema(columns), ContentHash()
        try:
            stored = [self._stored[name] for name in wanted.names]
            for batch in self._file.iter_batches(ROWS_PER_BATCH, columns=stored, use_threads=False):
                aligned = batch.select(stored).rename_columns(wanted.names)
                read.update(aligned)
                yield aligned
        except (OSError, pa.ArrowInvalid) as error:
            raise self._broken(f"cannot be read ({reason_of(error)})") from None
        self._compare(read.columns())

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows, from the cache if the file is unchanged. Raises LakeError if a column's hash differs."""
        wanted = self.schema(columns)
        key = (*self._identity, *wanted.names)
        return _cache.get(key, lambda: self._read(wanted))

    def _read(self, wanted: pa.Schema) -> pa.Table:
        try:
            stored = [self._stored[name] for name in wanted.names]
            rows = self._file.read(columns=stored, use_threads=False).select(stored).rename_columns(wanted.names)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._broken(f"cannot be read ({reason_of(error)})") from None
        rows = rows.replace_schema_metadata(None)
        self._compare(column_hashes(rows))
        return rows

    def _compare(self, read: Mapping[str, str]) -> None:
        for name, found in read.items():
            if found != self._hashes.get(name):
                raise self._broken(
                    f"column {name!r} has hash {found[:16]}, expected {self._hashes.get(name, 'none')[:16]}"
                )
