"""An append-only Delta table whose files are known by window, landing version and content hash.

Three guarantees that the lake stands on, and how they are had:
- *Once.* A commit is tried at exactly the version after the one that was looked at (`max_commit_retries=0`). Whoever
  loses that race looks again, so "not landed yet" and "landed" cannot both be true, across processes and machines.
- *As written.* Files are written by us in row order (deltalake's writer may reorder), named by version and hash, and
  carry a hash per column; every read compares.
- *For good.* The table is append-only and keeps its whole log, so each version can be read again years later.
A file that was written but not committed (crash, full disk) is no part of the table.
Reference: Delta transaction protocol, https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from tasks.adapters.content_hash import column_hashes, combined
from tasks.adapters.parquet_file import LakeError, LandedParquet, discard, write_parquet
from tasks.adapters.redaction import told
from tasks.adapters.workspace import WorkspaceError, keep_private

Answer = TypeVar("Answer")
PARTITION = "window"
ATTEMPTS = 100  # lost races in a row before giving up; each means that another writer got its commit in
CONFIGURATION = {
    "delta.appendOnly": "true",
    "delta.enableExpiredLogCleanup": "false",  # the default forgets versions after 30 days, and time travel with them
    "delta.checkpointInterval": "10",  # opening reads at most 10 small files, however many windows have landed
}
FILE_NAME = re.compile(PARTITION + r"=(?P<window>[^/]+)/(?P<version>\d{8})-(?P<hash>[0-9a-f]{64})-[0-9a-f]{8}\.parquet")


_latest: dict[str, "LandedTable"] = {}
"""Tables as this process opened them last; reading a log of many windows anew costs more than what is read for."""


class Outrun(Exception):
    """Another writer committed first; look again. A signal between writers, which never leaves the adapters."""


@dataclass(frozen=True, slots=True)
class LandedFile:
    path: str
    window: str
    version: int
    content_hash: str
    rows: int


class LandedTable:
    """A Delta table at one version. Open it anew to see what landed since: where nothing did, that costs a look."""

    def __init__(self, table: DeltaTable, uri: str) -> None:
        self._table = table
        self._files = _file_system(table.table_uri)
        self.uri = uri
        self._commits = [f"_delta_log/{self.version + later:020d}.json" for later in (0, 1)]
        self._committed = self._last_commits()

    @classmethod
    def open(cls, uri: str, version: int | None = None) -> "LandedTable | None":
        """The table at `version` (default: the latest), or None where there is none. Raises LakeError, unreadable."""
        try:
            known = _latest.get(uri)
            if known and version in (None, known.version) and known._is_latest():
                return known
            opened = cls(DeltaTable(uri, version=version), uri)
            if version is None:
                _latest[uri] = opened
            return opened
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            at = "" if version is None else f" at version {version}"
            raise LakeError(
                f"{uri}: cannot be read{at} ({told(error)}); expected a Delta table that landed here; "
                "check PERENNIAL_LAKE and that its store can be reached"
            ) from None  # a store names the whole address, with the signature that some have in it

    @classmethod
    def open_or_create(cls, uri: str, schema: pa.Schema) -> "LandedTable":
        """The latest version, made empty where there is none. Raises WorkspaceError where that fails."""
        found = cls.open(uri)
        if found is not None:
            return found
        keep_private(uri)
        try:
            DeltaTable.create(
                uri,
                _partitioned(schema),
                partition_by=[PARTITION],
                configuration=CONFIGURATION,
                commit_properties=CommitProperties(max_commit_retries=0),  # else a second maker writes its schema over
            )
        except (DeltaError, OSError) as error:
            if cls.open(uri) is None:  # else another process made it first
                raise _unwritable(uri, error) from None
        return cls.open_or_create(uri, schema)

    def _last_commits(self) -> list[tuple[int, int | None]]:
        """Size and time of this version's commit and of the next one, if there are any."""
        return [(found.size, found.mtime_ns) for found in self._files.get_file_info(self._commits)]

    def _is_latest(self) -> bool:
        """Whether nothing was committed since, and no other table took this one's place."""
        here, later = self._last_commits()
        return here == self._committed[0] and later[0] is None

    @property
    def version(self) -> int:
        return int(self._table.version())

    def number(self, key: str) -> int | None:
        """What was last committed under `key`."""
        return self._table.transaction_version(key)

    def kind_of(self, column: str) -> pa.DataType | None:
        """The type in which a column is stored; None where there is none of that name."""
        stored = pa.schema(self._table.schema())
        return stored.field(column).type if column in stored.names else None

    def files(self) -> tuple[LandedFile, ...]:
        """All files up to this version, oldest landing first."""
        listed = pa.table(self._table.get_add_actions())
        landed = map(self._landed, listed["path"].to_pylist(), listed["num_records"].to_pylist())
        return tuple(sorted(landed, key=lambda file: (file.version, file.window)))

    def _landed(self, path: str, rows: int) -> LandedFile:
        name = FILE_NAME.fullmatch(path)
        if name is None:
            raise LakeError(
                f"{self.uri}: holds {path}, which was not written by Perennial; expected no other writer and no "
                "compaction; restore the table to an earlier version"
            )
        return LandedFile(path, name["window"], int(name["version"]), name["hash"], rows)

    def opened(self, file: LandedFile) -> LandedParquet:
        return LandedParquet(self._files, file.path, f"{self.uri}/{file.path}", file.content_hash)

    def append(
        self, parts: Mapping[str, pa.Table], numbers: Mapping[str, int | None], notes: Mapping[str, str]
    ) -> dict[str, LandedFile]:
        """Commit one file per window at the next version, and `numbers` with it; None stands for that version.

        Gives the files by window. Raises Outrun when another writer was first, WorkspaceError when nothing can be
        written.
        """
        adds: list[AddAction | RemoveAction] = []
        _latest.pop(self.uri, None)  # a commit moves the table on
        try:
            schema = next(iter(parts.values())).schema
            self._let_in(schema)
            version = self.version + 1
            for window, rows in parts.items():
                adds.append(self._write(window, version, rows, notes))
            entries = [Transaction(key, version if number is None else number) for key, number in numbers.items()]
            once = CommitProperties(max_commit_retries=0, app_transactions=entries)
            stored = _partitioned(schema)
            self._table.create_write_transaction(adds, "append", stored, [PARTITION], commit_properties=once)
        except (DeltaError, OSError) as error:
            if not self._was_committed(adds, error):
                for add in adds:
                    discard(self._files, add.path)
                if isinstance(error, DeltaError) and self._was_outrun():
                    raise Outrun from None
                raise _unwritable(self.uri, error) from None
        files = [self._landed(add.path, rows.num_rows) for add, rows in zip(adds, parts.values(), strict=True)]
        return {file.window: file for file in files}

    def _let_in(self, schema: pa.Schema) -> None:
        """Add columns that the YAML gained, then look again. Raises LakeError where a column changed its type."""
        stored = pa.schema(self._table.schema())
        new = [field for field in schema if field.name not in stored.names]
        for field in schema:
            before = field.type if field in new else stored.field(field.name).type
            if field.type != before:
                raise LakeError(
                    f"{self.uri}: column {field.name!r} is stored as {before}, found {field.type}; "
                    "expected one type for good; rename the column, or give the model a new name"
                )
        if new:
            self._table.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
            raise Outrun  # that was a commit of its own, and others may have come in before it

    def _write(self, window: str, version: int, rows: pa.Table, notes: Mapping[str, str]) -> AddAction:
        hashes = column_hashes(rows)
        path = f"{PARTITION}={window}/{version:08d}-{combined(hashes)}-{uuid4().hex[:8]}.parquet"
        size = write_parquet(self._files, path, rows, hashes, notes)
        statistics = json.dumps({"numRecords": rows.num_rows})
        return AddAction(path, size, {PARTITION: window}, int(time.time() * 1000), True, statistics)

    def _was_committed(self, adds: Sequence[AddAction | RemoveAction], error: Exception) -> bool:
        """Whether a commit reached the store though its answer did not: then its files are the table's, never to be deleted.

        Raises WorkspaceError where the table cannot be read to tell; what was written is left as it is.
        """
        _latest.pop(self.uri, None)
        try:
            latest = LandedTable.open(self.uri)
        except LakeError:
            raise WorkspaceError(
                f"{self.uri}: cannot be written to ({told(error)}), nor read to tell whether the rows have landed; "
                "expected a store that can be reached; run this again, which lands nothing twice"
            ) from None
        return (
            bool(adds) and latest is not None and {add.path for add in adds} <= {file.path for file in latest.files()}
        )

    def _was_outrun(self) -> bool:
        latest = LandedTable.open(self.uri)
        return latest is not None and latest.version > self.version


def _file_system(table_uri: str) -> pa_fs.FileSystem:
    """Files under a table. Arrow's own on a local disk, where it reads in half the CPU time of Delta's."""
    if not table_uri.startswith("file://"):
        return pa_fs.PyFileSystem(DeltaStorageHandler(table_uri))
    return pa_fs.SubTreeFileSystem(url2pathname(urlparse(table_uri).path), pa_fs.LocalFileSystem())


def until_first(attempt: Callable[[], Answer], uri: str) -> Answer:
    """Repeat an attempt to land something until no other writer comes in between."""
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except Outrun:
            continue
    raise WorkspaceError(f"{uri}: {ATTEMPTS} commits in a row came too late; expected fewer writers at once; try again")


def _partitioned(schema: pa.Schema) -> pa.Schema:
    return schema.remove_metadata().append(pa.field(PARTITION, pa.string()))


def _unwritable(uri: str, error: Exception) -> WorkspaceError:
    return WorkspaceError(
        f"{uri}: cannot be written to ({told(error)}); nothing was landed; expected a writable store with free "
        "space; set PERENNIAL_HOME or PERENNIAL_LAKE to one, or free disk space"
    )
