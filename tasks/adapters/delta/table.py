"""An append-only Delta table whose files are identified by window, landing version and content hash.

It gives the lake three guarantees:
- *Exactly once.* A commit is attempted only at the version after the one that was read (`max_commit_retries=0`). A
  writer that loses the race reads the table again. The guarantee holds across processes and machines.
- *Unchanged.* We write files ourselves in row order (deltalake's writer may reorder). File names contain version and
  hash, files contain a hash per column, and every read verifies it.
- *Permanent.* The table is append-only and keeps its complete log, so each version can be read years later.
A file that was written but not committed (crash, full disk) does not belong to the table.
Reference: Delta transaction protocol, https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction

from tasks.adapters.delta.content_hash import column_hashes, combined
from tasks.adapters.delta.parquet_file import Footer, LandedParquet, discard, write_parquet
from tasks.adapters.storage.aws_profile import storage_options
from tasks.adapters.storage.workspace import keep_private
from tasks.policy.records.base import FORMAT, digest, newer_format
from tasks.policy.records.errors import LakeError, WorkspaceError
from tasks.policy.records.text import reason_of

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
PARTITION = "window"
ATTEMPTS = 100  # consecutive lost races before an error; each means that another writer committed
NOTED_FORMAT = "Landed by Perennial, format "  # in the table's description; the kernel rejects unknown table properties
CONFIGURATION = {
    "delta.appendOnly": "true",
    "delta.enableExpiredLogCleanup": "false",  # the default deletes versions after 30 days, which breaks time travel
    "delta.checkpointInterval": "10",  # opening reads at most 10 small files, regardless of the number of windows
}
FILE_NAME = re.compile(PARTITION + r"=(?P<window>[^/]+)/(?P<version>\d{8})-(?P<hash>[0-9a-f]{64})-[0-9a-f]{8}\.parquet")


_latest: dict[str, "LandedTable"] = {}
"""Tables that this process opened last; reading the log of many windows again costs more than reading their rows."""


class CommitConflict(Exception):
    """Another writer committed first; read the table again and retry. Internal to the adapters."""


@dataclass(frozen=True, slots=True)
class LandedFile:
    path: str
    window: str
    version: int
    content_hash: str
    rows: int


class LandedTable:
    """A Delta table at one version. Open it again to see later commits; this is cheap if there are none."""

    def __init__(self, table: DeltaTable, uri: str) -> None:
        self._table = table
        self._files = _file_system(table.table_uri)
        self.uri = uri
        self._foreign = 0
        self._commits = [f"_delta_log/{self.version + later:020d}.json" for later in (0, 1)]
        self._committed = self._last_commits()

    @classmethod
    def open(cls, uri: str, version: int | None = None) -> "LandedTable | None":
        """Open the table at `version` (default: latest), or return None if it does not exist.

        Raises LakeError if it cannot be read or has a newer format.
        """
        try:
            known = _latest.get(uri)
            if known and version in (None, known.version) and known._is_latest():
                return known
            opened = cls(DeltaTable(uri, version=version, storage_options=storage_options(uri)), uri)
            described = opened._table.metadata().description or ""
            if described.startswith(NOTED_FORMAT) and (newer := newer_format(described.removeprefix(NOTED_FORMAT))):
                raise LakeError(f"{uri}: the table {newer}")
            if version is None:
                _latest[uri] = opened
            return opened
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            at = "" if version is None else f" at version {version}"
            raise LakeError(
                f"{uri}: cannot be read{at} ({reason_of(error)}); expected a Delta table that Perennial wrote; "
                "check PERENNIAL_LAKE, that its store can be reached and that its credentials have not expired; where another "
                "tool upgraded the table's protocol or cleaned up its log, restore the folder _delta_log from a backup"
            ) from None  # the store quotes the complete URL, which may contain a signature

    @classmethod
    def open_or_create(cls, uri: str, schema: pa.Schema) -> "LandedTable":
        """Open the latest version; create an empty table if none exists. Raises WorkspaceError if that fails."""
        found = cls.open(uri)
        if found is not None:
            return found
        keep_private(uri)
        try:
            DeltaTable.create(
                uri,
                _partitioned(schema, stored_names(schema.names)),
                partition_by=[PARTITION],
                description=f"{NOTED_FORMAT}{FORMAT}",
                configuration=CONFIGURATION,
                # a retry would overwrite another creator's schema
                commit_properties=CommitProperties(max_commit_retries=0),
                storage_options=storage_options(uri),
            )
        except (DeltaError, OSError) as error:
            if cls.open(uri) is None:  # otherwise another process created it first
                raise _unwritable(uri, error) from None
        return cls.open_or_create(uri, schema)

    def _last_commits(self) -> list[tuple[int, int | None]]:
        """Return size and time of this version's commit and of the next one; None in place of a missing file's."""
        return [(found.size, found.mtime_ns) for found in self._files.get_file_info(self._commits)]

    def _is_latest(self) -> bool:
        """Return whether nothing was committed since and the table was not replaced by another one."""
        here, later = self._last_commits()
        return here == self._committed[0] and later[0] is None

    @property
    def version(self) -> int:
        return int(self._table.version())

    @property
    def key(self) -> str:
        """The column that identifies rows: always the first."""
        names: list[str] = pa.schema(self._table.schema()).names
        return names[0]

    def number(self, key: str) -> int | None:
        """Return the number last committed under transaction key `key`, or None."""
        return self._table.transaction_version(key)

    def kind_of(self, column: str) -> pa.DataType | None:
        """Return the stored type of a column, or None if it does not exist."""
        stored = pa.schema(self._table.schema())
        return stored.field(column).type if column in stored.names else None

    def files(self) -> tuple[LandedFile, ...]:
        """Return all files landed up to this version, oldest first. Raises LakeError if another tool removed rows.

        Rows that another tool appended are skipped with a warning. Files that another tool only rewrote (OPTIMIZE) are
        read from the original files as long as those exist.
        """
        listed = pa.table(self._table.get_add_actions())
        paths, rows = listed["path"].to_pylist(), listed["num_records"].to_pylist()
        landed = [_landed(path, count) for path, count in zip(paths, rows, strict=True) if FILE_NAME.fullmatch(path)]
        landed += self._rewritten_files({file.path for file in landed})
        if len(paths) > len(landed) and self._foreign != len(paths) - len(landed):
            self._foreign = len(paths) - len(landed)
            logger.warning(
                "%s: ignoring %d files that another tool wrote; expected no other writer",
                self.uri,
                self._foreign,
            )
        return tuple(sorted(landed, key=lambda file: (file.version, file.window)))

    def _rewritten_files(self, present: Set[str]) -> list[LandedFile]:
        """Return landed files that another tool rewrote with the same rows. Raises LakeError for removed rows."""
        landings = {int(name["version"]) for path in present if (name := FILE_NAME.fullmatch(path))}
        replaced: dict[str, LandedFile] = {}
        for version in sorted({*range(1, self.version + 1)} - landings):
            actions = self._commit(version)
            removed = [action["remove"] for action in actions if "remove" in action]
            lost = [
                each
                for each in removed
                if FILE_NAME.fullmatch(unquote(each["path"])) and unquote(each["path"]) not in present
            ]
            if any(each.get("dataChange", True) for each in lost):
                raise self._rows_removed(version, actions, [unquote(each["path"]) for each in lost])
            for path in (unquote(each["path"]) for each in lost):
                replaced[path] = _landed(path, self._rows_of(path))
        return list(replaced.values())

    def _rows_removed(self, version: int, actions: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> LakeError:
        named = (FILE_NAME.fullmatch(path) for path in paths)
        windows = sorted({f"{name['window']} (landed at version {int(name['version'])})" for name in named if name})
        operation = next((action["commitInfo"].get("operation") for action in actions if "commitInfo" in action), None)
        return LakeError(
            f"{self.uri}: version {version} ({operation or 'another tool'}) removed rows of {', '.join(windows[:5])}"
            f"{' and others' if len(windows) > 5 else ''}; expected no other writer, because landed rows never change; undo "
            f"it before more rows land: DeltaTable({self.uri!r}).restore({version - 1}), or restore the table from a backup"
        )

    def _commit(self, version: int) -> list[dict[str, Any]]:
        """Return the actions of one version; empty if log cleanup replaced its file by a checkpoint."""
        try:
            with self._files.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
                return [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        except FileNotFoundError:
            return []

    def _rows_of(self, path: str) -> int:
        """Return a file's row count from the commit that landed it; the file name contains that version."""
        name = FILE_NAME.fullmatch(path)
        adds = [action["add"] for action in self._commit(int(name["version"]) if name else 0) if "add" in action]
        noted = [json.loads(add.get("stats") or "{}") for add in adds if unquote(add["path"]) == path]
        return int(noted[0].get("numRecords", 0)) if noted else 0

    def opened(self, file: LandedFile) -> LandedParquet:
        return LandedParquet(self._files, file.path, f"{self.uri}/{file.path}", file.content_hash)

    def append(
        self, parts: Mapping[str, pa.Table], numbers: Mapping[str, int | None], notes: Mapping[str, str]
    ) -> dict[str, LandedFile]:
        """Commit one file per window at the next version and return the files by window.

        `numbers` are committed as transaction numbers by key; None means the new version. `notes` go into the footers.
        Raises CommitConflict if another writer committed first, WorkspaceError if nothing can be written, LakeError if a column
        changed its type.
        """
        adds: list[AddAction | RemoveAction] = []
        _latest.pop(self.uri, None)  # the commit makes the cached version outdated
        try:
            schema = next(iter(parts.values())).schema
            names = stored_names(schema.names, pa.schema(self._table.schema()).names)
            self._add_new_columns(schema, names)
            version = self.version + 1
            for window, rows in parts.items():
                adds.append(self._write(window, version, rows, notes, names))
            entries = [Transaction(key, version if number is None else number) for key, number in numbers.items()]
            once = CommitProperties(max_commit_retries=0, app_transactions=entries)
            stored = _partitioned(schema, names)
            self._table.create_write_transaction(adds, "append", stored, [PARTITION], commit_properties=once)
        except (DeltaError, OSError) as error:
            if not self._was_committed(adds, error):
                for add in adds:
                    discard(self._files, add.path)
                if isinstance(error, DeltaError) and self._lost_race():
                    raise CommitConflict from None
                raise _unwritable(self.uri, error) from None
        files = [_landed(add.path, rows.num_rows) for add, rows in zip(adds, parts.values(), strict=True)]
        return {file.window: file for file in files}

    def _add_new_columns(self, schema: pa.Schema, names: Mapping[str, str]) -> None:
        """Add columns that are new in the YAML, then raise CommitConflict. Raises LakeError if a column changed its type."""
        stored = pa.schema(self._table.schema())
        new = [field.with_name(names[field.name]) for field in schema if names[field.name] not in stored.names]
        for field in schema:
            before = stored.field(names[field.name]).type if names[field.name] in stored.names else field.type
            if field.type != before:
                raise LakeError(
                    f"{self.uri}: column {field.name!r} is stored as {before}, found {field.type}; "
                    "the type of a column cannot change; rename the column, or give the model a new name"
                )
        if new:
            self._table.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
            raise CommitConflict  # adding columns is a separate commit, and other writers may have committed before it

    def _write(
        self, window: str, version: int, rows: pa.Table, notes: Mapping[str, str], names: Mapping[str, str]
    ) -> AddAction:
        hashes = column_hashes(rows)
        path = f"{PARTITION}={window}/{version:08d}-{combined(hashes)}-{uuid4().hex[:8]}.parquet"
        footer = Footer(hashes, notes, {stored: name for name, stored in names.items() if stored != name})
        size = write_parquet(self._files, path, rows, footer)
        statistics = json.dumps({"numRecords": rows.num_rows})
        return AddAction(path, size, {PARTITION: window}, int(time.time() * 1000), True, statistics)

    def _was_committed(self, adds: Sequence[AddAction | RemoveAction], error: Exception) -> bool:
        """Return whether a failed commit reached the store. Its files then belong to the table and must stay.

        Raises WorkspaceError if the table cannot be read to find out; the written files are left in place.
        """
        _latest.pop(self.uri, None)
        try:
            latest = LandedTable.open(self.uri)
        except LakeError:
            raise WorkspaceError(
                f"{self.uri}: cannot be written to ({reason_of(error)}), nor read to check whether the rows landed; "
                "expected a reachable store; run this again: no row lands twice"
            ) from None
        return (
            bool(adds) and latest is not None and {add.path for add in adds} <= {file.path for file in latest.files()}
        )

    def _lost_race(self) -> bool:
        latest = LandedTable.open(self.uri)
        return latest is not None and latest.version > self.version


def _landed(path: str, rows: int) -> LandedFile:
    name = FILE_NAME.fullmatch(path)
    if name is None:
        raise AssertionError(f"{path} is not the name of a landed file")
    return LandedFile(path, name["window"], int(name["version"]), name["hash"], rows)


def _file_system(table_uri: str) -> pa_fs.FileSystem:
    """Return the file system of a table: on a local disk Arrow's, which reads in half the CPU time of Delta's."""
    if not table_uri.startswith("file://"):
        return pa_fs.PyFileSystem(DeltaStorageHandler(table_uri, storage_options(table_uri)))
    return pa_fs.SubTreeFileSystem(url2pathname(urlparse(table_uri).path), pa_fs.LocalFileSystem())


def retry_on_conflict(attempt: Callable[[], Result], uri: str) -> Result:
    """Repeat a landing attempt until no other writer commits first, at most `ATTEMPTS` times. Raises WorkspaceError."""
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except CommitConflict:
            continue
    raise WorkspaceError(f"{uri}: lost {ATTEMPTS} commit races in a row; expected fewer concurrent writers; try again")


def stored_names(names: Sequence[str], present: Sequence[str] = ()) -> dict[str, str]:
    """Map each column to its stored name in a table that has the columns `present`.

    A column keeps its name unless Delta would confuse it with another: Delta column names are case-insensitive, and the
    partition column has a name too. Then a digest of the name is appended.
    """
    held = set(present) - {PARTITION}
    taken = {name.casefold() for name in (*held, PARTITION)}
    found = {}
    for name in names:
        other = f"{name}~{digest(name, length=8)}"
        if name in held or other in held:
            found[name] = name if name in held else other
        else:
            found[name] = other if name.casefold() in taken else name
            taken.add(found[name].casefold())
    return found


def _partitioned(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    stored = [field.with_name(names[field.name]) for field in schema]
    return pa.schema([*stored, pa.field(PARTITION, pa.string())])


def _unwritable(uri: str, error: Exception) -> WorkspaceError:
    return WorkspaceError(
        f"{uri}: cannot be written to ({reason_of(error)}); nothing was landed; expected a writable store with free "
        "space; set PERENNIAL_HOME or PERENNIAL_LAKE to one, free disk space, or renew credentials that have expired; "
        "where another tool upgraded the table's protocol, restore its folder _delta_log from a backup"
    )
