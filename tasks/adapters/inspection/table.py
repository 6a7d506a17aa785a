"""Read a table of unknown content for `perennial new`: files, folders, URLs, Delta tables and SQL, streamed and sampled.

All rows are counted; up to `MOST_ROWS` of them, chosen at random with a fixed seed, are kept. CSV is read as text, so that
no type is inferred from the first rows.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
from deltalake import DeltaTable

from tasks.adapters.sources import files, sql
from tasks.adapters.sources.limits import check_file, local_path
from tasks.adapters.storage.aws_profile import storage_options
from tasks.policy.records.errors import SourceError
from tasks.policy.records.text import NO_CONTROLS

MOST_ROWS = 400_000
FIRST_BYTES = 65_536
DELIMITERS = ",;\t|"
UNKNOWN_KIND = "Parquet, CSV or Delta"
SUFFIXES = {"parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "csv", "txt": "csv", "gz": "csv"}

ONLY_DELTA = ("abfs", "abfss", "az", "adl")
"""Schemes of object stores from which Delta tables are read, but no files."""


@dataclass(frozen=True)
class TablePlace:
    """Where a table is: the path of files or of a Delta table, or an environment variable and a query or table name."""

    path: str | None = None
    url_env: str | None = None
    query: str | None = None
    table: str | None = None


@dataclass(frozen=True)
class FoundTable:
    """A sample of a table's rows, the number of all its rows, and the `source` block that reads it."""

    sample: pa.Table
    rows: int
    source: dict[str, Any]
    place: TablePlace

    @property
    def is_sampled(self) -> bool:
        return len(self.sample) < self.rows

    @property
    def is_text(self) -> bool:
        """Whether every column was read as text, as from CSV."""
        return bool(self.source["kind"] == "csv")


def read_table(place: TablePlace) -> FoundTable:
    """Read a table. Raises SourceError, or SourceUnreachable if a retry may help."""
    if place.path is None:
        where = f"--url-env {place.url_env}"
        query = place.query or _select_all(str(place.url_env), str(place.table), where)
        source: dict[str, Any] = {"kind": "sql", "url_env": place.url_env, "query": query}
        sample, rows = _sampled(sql.stream(str(place.url_env), place.query, place.table, where))
    else:
        where = f"--data {files.without_credentials(place.path)}"
        remote = local_path(place.path, where) is None
        with files.reported(UNKNOWN_KIND, where, remote):
            kind = _kind(place.path, where)
        source = {"kind": kind, "path": place.path}
        with files.reported(kind, where, remote), _opened(place.path, kind, where) as (dataset, options):
            sample, rows = _sampled(pa.Table.from_batches([batch]) for batch in dataset.to_batches())
        source |= {"options": options} if options else {}
    if not rows:
        raise SourceError(f"{where}: holds no rows, expected a table with history")
    _require_names(sample, where)
    return FoundTable(sample, rows, source, place)


def _select_all(url_env: str, table: str, where: str) -> str:
    return f"SELECT * FROM {sql.quoted(url_env, table, where)}"  # noqa: S608  # quoted by SQLAlchemy


def _require_names(table: pa.Table, where: str) -> None:
    names = table.column_names
    hidden = [name for name in names if not re.fullmatch(NO_CONTROLS, name)]
    if hidden:
        raise SourceError(
            f"{where}: column {hidden[0]!r} has a line break or another control character in its name, expected none; "
            "rename it"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(
            f"{where}: column {twice[0]!r} occurs {names.count(twice[0])} times, expected once; rename one"
        )


def _kind(path: str, where: str) -> str:
    """Return the kind of a path, by its suffix, or by the files in a folder."""
    local = local_path(path, where)
    name = (urlsplit(path).path if local is None else local).rstrip("/")
    found = SUFFIXES.get(name.rpartition(".")[2].casefold())
    if found:
        return found
    if local is None:
        if urlsplit(path).scheme in ("http", "https"):
            raise SourceError(
                f"{where}: its name ends neither in .parquet nor in .csv, expected the address of such a file"
            )
        if urlsplit(path).scheme in ONLY_DELTA and DeltaTable.is_deltatable(path, storage_options(path)):
            return "delta"
        system, inner = files.file_system(path, where)
        if any(each.base_name == "_delta_log" for each in system.get_file_info(pa_fs.FileSelector(inner))):
            return "delta"
        names = [each.path for each in system.get_file_info(pa_fs.FileSelector(inner, recursive=True)) if each.is_file]
    else:
        check_file(local, where)
        folder = Path(local)
        if not folder.exists():
            raise SourceError(f"{where}: not found, expected a file, a folder or a Delta table")
        if (folder / "_delta_log").is_dir():
            return "delta"
        names = [str(each) for each in folder.rglob("*")] if folder.is_dir() else []
    kinds = {SUFFIXES.get(each.rpartition(".")[2].casefold()) for each in names} - {None}
    if len(kinds) != 1:
        raise SourceError(
            f"{where}: holds {'Parquet and CSV files' if kinds else 'no .parquet or .csv file and no Delta table'}, expected "
            "files of one kind"
        )
    return str(kinds.pop())


@contextmanager
def _opened(path: str, kind: str, where: str) -> Iterator[tuple[pa_dataset.Dataset, dict[str, Any]]]:
    """Yield the dataset and the options with which it is read."""
    local = local_path(path, where)
    if local is not None:
        check_file(local, where)
    if kind == "delta":
        yield DeltaTable(local or path, storage_options=storage_options(path)).to_pyarrow_dataset(), {}
    elif local is None and urlsplit(path).scheme in ("http", "https"):
        with files.fetched(path, where) as file:
            yield _dataset(pa_fs.LocalFileSystem(), str(file), kind)
    else:
        system, inner = (pa_fs.LocalFileSystem(), local) if local is not None else files.file_system(path, where)
        yield _dataset(system, inner, kind)


def _dataset(system: pa_fs.FileSystem, path: str, kind: str) -> tuple[pa_dataset.Dataset, dict[str, Any]]:
    if kind == "parquet":
        return pa_dataset.dataset(path, format="parquet", filesystem=system, partitioning="hive"), {}
    unread = pa.schema([])  # otherwise Arrow infers a schema with commas, before the delimiter is known
    first = pa_dataset.dataset(path, unread, format="csv", filesystem=system, partitioning="hive").files[0]
    with system.open_input_stream(first) as stream:
        head = bytes(stream.read(FIRST_BYTES))
    options = _csv_options(head)
    parse = pa_csv.ParseOptions(delimiter=options.get("delimiter", ","), newlines_in_values=True)
    read = pa_csv.ReadOptions(encoding=options.get("encoding", "utf8"))
    plain = pa_dataset.CsvFileFormat(parse_options=parse, read_options=read)
    names = pa_dataset.dataset(path, format=plain, filesystem=system, partitioning="hive").schema.names
    convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True)
    text = pa_dataset.CsvFileFormat(parse_options=parse, read_options=read, convert_options=convert)
    return pa_dataset.dataset(path, format=text, filesystem=system, partitioning="hive"), options


def _csv_options(head: bytes) -> dict[str, Any]:
    """Return delimiter and encoding where they differ from a comma and UTF-8."""
    options: dict[str, Any] = {}
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not a character that was cut at the end
            options["encoding"] = "latin-1"
        text = head.decode("latin-1")
    delimiter = _delimiter(text if len(head) < FIRST_BYTES else text.rpartition("\n")[0])
    return options | ({"delimiter": delimiter} if delimiter != "," else {})


def _delimiter(text: str) -> str:
    """Return the character that divides every line into as many fields as the header; quoted fields are not looked at.

    `csv.Sniffer` alone takes the decimal commas of several numbers per line for delimiters.
    """
    plain = re.sub(rf'(?<![^{DELIMITERS}\r\n])"(?:[^"]|"")*(?:"|\Z)', "", text)
    header, *lines = [line for line in re.split(r"\r\n?|\n", plain) if line] or [""]
    counts = {each: header.count(each) for each in DELIMITERS if each in header}
    even = [each for each, count in counts.items() if all(line.count(each) == count for line in lines)]
    if even or not counts:
        return max(even, key=lambda each: counts[each], default=",")
    try:
        return csv.Sniffer().sniff(text[:8192].rpartition("\n")[0] or text, delimiters=DELIMITERS).delimiter
    except csv.Error:
        return ","


def _sampled(parts: Iterable[pa.Table]) -> tuple[pa.Table, int]:
    """Return up to `MOST_ROWS` rows and the number of all rows; the share is halved whenever the sample is full."""
    random, share, rows = np.random.default_rng(0), 1.0, 0
    found: list[pa.Table] = []
    for part in parts:
        rows += len(part)
        found.append(part if share == 1.0 else part.filter(pa.array(random.random(len(part)) < share)))
        if sum(map(len, found)) > MOST_ROWS:
            table = pa.concat_tables(found, promote_options="permissive")
            found, share = [table.filter(pa.array(random.random(len(table)) < 0.5))], share / 2
    return (pa.concat_tables(found, promote_options="permissive") if found else pa.table({})), rows
