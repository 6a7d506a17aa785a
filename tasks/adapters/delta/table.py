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
from tasks.adapters.delta.parquet_file import LandedParquet, discard, write_parquet
from tasks.adapters.storage.aws_profile import storage_options
from tasks.adapters.storage.redaction import reason_of
from tasks.adapters.storage.workspace import keep_private
from tasks.policy.records.base import FORMAT, digest, newer_format
from tasks.policy.records.errors import LakeError, WorkspaceError

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")
PARTITION = "window"
ATTEMPTS = 100  # lost races in a row before giving up; each means that another writer got its commit in
NOTED_FORMAT = "Landed by Perennial, format "  # in the table's description: the kernel refuses properties of others
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
        self._foreign = 0
        self._commits = [f"_delta_log/{self.version + later:020d}.json" for later in (0, 1)]
        self._committed = self._last_commits()

    @classmethod
    def open(cls, uri: str, version: int | None = None) -> "LandedTable | None":
        """The table at `version` (default: the latest), or None where there is none. Raises LakeError, unreadable."""
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
                f"{uri}: cannot be read{at} ({reason_of(error)}); expected a Delta table that landed here; "
                "check PERENNIAL_LAKE, that its store can be reached and that its credentials have not expired; where another "
                "tool upgraded the table's protocol or cleaned up its log, restore the folder _delta_log from a backup"
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
                _partitioned(schema, stored_names(schema.names)),
                partition_by=[PARTITION],
                description=f"{NOTED_FORMAT}{FORMAT}",
                configuration=CONFIGURATION,
                commit_properties=CommitProperties(max_commit_retries=0),  # else a second maker writes its schema over
                storage_options=storage_options(uri),
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

    @property
    def key(self) -> str:
        """The column that tells rows apart, which is always the first."""
        names: list[str] = pa.schema(self._table.schema()).names
        return names[0]

    def number(self, key: str) -> int | None:
        """What was last committed under `key`."""
        return self._table.transaction_version(key)

    def kind_of(self, column: str) -> pa.DataType | None:
        """The type in which a column is stored; None where there is none of that name."""
        stored = pa.schema(self._table.schema())
        return stored.field(column).type if column in stored.names else None

    def files(self) -> tuple[LandedFile, ...]:
        """All files that landed up to this version, oldest landing first. Raises LakeError where others took some away.

        Rows that another tool appended were never landed and are passed over, which a warning says. What another tool
        only laid out anew (OPTIMIZE) is read from the files that landed, as long as they are there.
        """
        listed = pa.table(self._table.get_add_actions())
        paths, rows = listed["path"].to_pylist(), listed["num_records"].to_pylist()
        landed = [_landed(path, count) for path, count in zip(paths, rows, strict=True) if FILE_NAME.fullmatch(path)]
        landed += self._laid_out_anew({file.path for file in landed})
        if len(paths) > len(landed) and self._foreign != len(paths) - len(landed):
            self._foreign = len(paths) - len(landed)
            logger.warning(
                "%s: holds %d files that another tool wrote, which are not used; expected no other writer",
                self.uri,
                self._foreign,
            )
        return tuple(sorted(landed, key=lambda file: (file.version, file.window)))

    def _laid_out_anew(self, present: Set[str]) -> list[LandedFile]:
        """Landed files that a commit of another tool replaced by others with the same rows. Raises LakeError for removed rows."""
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
                raise self._taken_away(version, actions, [unquote(each["path"]) for each in lost])
            for path in (unquote(each["path"]) for each in lost):
                replaced[path] = _landed(path, self._rows_of(path))
        return list(replaced.values())

    def _taken_away(self, version: int, actions: Sequence[Mapping[str, Any]], paths: Sequence[str]) -> LakeError:
        named = (FILE_NAME.fullmatch(path) for path in paths)
        windows = sorted({f"{name['window']} (landed at version {int(name['version'])})" for name in named if name})
        operation = next((action["commitInfo"].get("operation") for action in actions if "commitInfo" in action), None)
        return LakeError(
            f"{self.uri}: version {version} ({operation or 'another tool'}) took away rows of {', '.join(windows[:5])}"
            f"{' and others' if len(windows) > 5 else ''}; expected no other writer, as nothing may change once it landed; take "
            f"it back before anything else lands: DeltaTable({self.uri!r}).restore({version - 1}), or restore the table from a "
            "backup"
        )

    def _commit(self, version: int) -> list[dict[str, Any]]:
        """The actions of one version; none where its log was cleaned up, as a checkpoint then stands for it."""
        try:
            with self._files.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
                return [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        except FileNotFoundError:
            return []

    def _rows_of(self, path: str) -> int:
        """As its own landing wrote them down; its name says at which version that was."""
        name = FILE_NAME.fullmatch(path)
        adds = [action["add"] for action in self._commit(int(name["version"]) if name else 0) if "add" in action]
        noted = [json.loads(add.get("stats") or "{}") for add in adds if unquote(add["path"]) == path]
        return int(noted[0].get("numRecords", 0)) if noted else 0

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
            names = stored_names(schema.names, pa.schema(self._table.schema()).names)
            self._let_in(schema, names)
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
                if isinstance(error, DeltaError) and self._was_outrun():
                    raise Outrun from None
                raise _unwritable(self.uri, error) from None
        files = [_landed(add.path, rows.num_rows) for add, rows in zip(adds, parts.values(), strict=True)]
        return {file.window: file for file in files}

    def _let_in(self, schema: pa.Schema, names: Mapping[str, str]) -> None:
        """Add columns that the YAML gained, then look again. Raises LakeError where a column changed its type."""
        stored = pa.schema(self._table.schema())
        new = [field.with_name(names[field.name]) for field in schema if names[field.name] not in stored.names]
        for field in schema:
            before = stored.field(names[field.name]).type if names[field.name] in stored.names else field.type
            if field.type != before:
                raise LakeError(
                    f"{self.uri}: column {field.name!r} is stored as {before}, found {field.type}; "
                    "expected one type for good; rename the column, or give the model a new name"
                )
        if new:
            self._table.alter.add_columns(list(Schema.from_arrow(pa.schema(new)).fields))
            raise Outrun  # that was a commit of its own, and others may have come in before it

    def _write(
        self, window: str, version: int, rows: pa.Table, notes: Mapping[str, str], names: Mapping[str, str]
    ) -> AddAction:
        hashes = column_hashes(rows)
        path = f"{PARTITION}={window}/{version:08d}-{combined(hashes)}-{uuid4().hex[:8]}.parquet"
        size = write_parquet(self._files, path, rows, hashes, notes, names)
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
                f"{self.uri}: cannot be written to ({reason_of(error)}), nor read to tell whether the rows have landed; "
                "expected a store that can be reached; run this again, which lands nothing twice"
            ) from None
        return (
            bool(adds) and latest is not None and {add.path for add in adds} <= {file.path for file in latest.files()}
        )

    def _was_outrun(self) -> bool:
        latest = LandedTable.open(self.uri)
        return latest is not None and latest.version > self.version


def _landed(path: str, rows: int) -> LandedFile:
    name = FILE_NAME.fullmatch(path)
    if name is None:
        raise AssertionError(f"{path} is not the name of a landed file")
    return LandedFile(path, name["window"], int(name["version"]), name["hash"], rows)


def _file_system(table_uri: str) -> pa_fs.FileSystem:
    """Files under a table. Arrow's own on a local disk, where it reads in half the CPU time of Delta's."""
    if not table_uri.startswith("file://"):
        return pa_fs.PyFileSystem(DeltaStorageHandler(table_uri, storage_options(table_uri)))
    return pa_fs.SubTreeFileSystem(url2pathname(urlparse(table_uri).path), pa_fs.LocalFileSystem())


def until_first(attempt: Callable[[], Answer], uri: str) -> Answer:
    """Repeat an attempt to land something until no other writer comes in between."""
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except Outrun:
            continue
    raise WorkspaceError(f"{uri}: {ATTEMPTS} commits in a row came too late; expected fewer writers at once; try again")


def stored_names(names: Sequence[str], present: Sequence[str] = ()) -> dict[str, str]:
    """What each column is called in a table that has the columns `present`: its own name, wherever Delta can tell it apart.

    Delta takes names that differ by case alone for one, and the partition has a name as well.
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
