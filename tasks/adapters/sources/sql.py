"""Read rows of a SQL query through SQLAlchemy, from any database with a SQLAlchemy dialect.

The query is in the YAML with bound parameters :start and :end, so no SQL is built from input. The URL is in an
environment variable; driver messages are shown with its password and parameters redacted. SQLite stores and compares
times as text, and two spellings of midnight sort differently (`00:00:00+00:00`, `00:00:00.000000`): its bounds are one
day wider, and the exact cut follows conversion.
"""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
from sqlalchemy import DateTime, Engine, Executable, MetaData, Table, bindparam, create_engine, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from deployments.config.blocks.data import Source
from tasks.adapters.lake.schemas import require_columns
from tasks.adapters.sources.limits import check_file
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceError, SourceUnreachable
from tasks.policy.records.text import reason_of

ROWS_PER_FETCH = 50_000


def read_query(source: Source, window: Window, columns: Sequence[str], where: str) -> pa.Table:
    """Read the query's rows for one window, in `columns`. Raises SourceError, SourceUnreachable."""
    statement = text(str(source.query))
    missing = {"start", "end"} - set(statement.compile().params)
    if missing:
        raise SourceError(
            f"{where}: the query has no :{min(missing)}, expected both :start and :end to be bound to a window"
        )
    statement = statement.bindparams(bindparam("start", type_=DateTime(True)), bindparam("end", type_=DateTime(True)))
    engine = _engine(source, where)
    try:
        connection = engine.connect()
    except SQLAlchemyError as error:
        raise SourceUnreachable(
            f"{where}: cannot connect ({_driver_message(error, engine.url)}); check host and login"
        ) from None  # drivers quote parts of the URL
    with connection:
        try:
            found = connection.execution_options(stream_results=True).execute(
                statement, _bounds(source, window, where, engine)
            )
            names = list(found.keys())
            require_columns(names, columns, where)
            indices = [names.index(name) for name in columns]
            chunks = [_chunk(rows, columns, indices, where) for rows in found.partitions(ROWS_PER_FETCH)]
        except SQLAlchemyError as error:
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            kind = SourceUnreachable if lost else SourceError
            raise kind(
                f"{where}: the query failed ({_driver_message(error, engine.url)}); fix source.query in the YAML"
            ) from None
    return _concatenated(chunks, where) if chunks else pa.table({name: pa.nulls(0) for name in columns})


def stream(url_env: str, query: str | None, table: str | None, where: str) -> Iterator[pa.Table]:
    """Yield all rows of a query, or of a table, in parts. Raises SourceError, SourceUnreachable.

    A query with :start and :end is bound to all times. The name of a table is quoted by SQLAlchemy.
    """
    engine = _engine(Source(kind="sql", url_env=url_env, query=query or str(table)), where)
    try:
        if table is not None:
            schema, _, name = table.rpartition(".")
            statement: Executable = select(Table(name, MetaData(), schema=schema or None, autoload_with=engine))
            values: dict[str, Any] = {}
        else:
            statement = text(str(query))
            bounds = {"start": datetime(1900, 1, 1, tzinfo=UTC), "end": datetime(2200, 1, 1, tzinfo=UTC)}
            values = {name: bounds[name] for name in statement.compile().params if name in bounds}
            statement = statement.bindparams(*(bindparam(name, type_=DateTime(True)) for name in values))
        with engine.connect() as connection:
            found = connection.execution_options(stream_results=True).execute(statement, values)
            names = list(found.keys())
            for rows in found.partitions(ROWS_PER_FETCH):
                yield _chunk(rows, names, range(len(names)), where)
    except NoSuchTableError:
        raise SourceError(f"{where}: the database has no table {table!r}, expected one; name it with --table") from None
    except SQLAlchemyError as error:
        kind = SourceUnreachable if isinstance(error, DBAPIError) and error.connection_invalidated else SourceError
        raise kind(
            f"{where}: cannot be read ({_driver_message(error, engine.url)}); check the login and the query"
        ) from None


def quoted(url_env: str, name: str, where: str) -> str:
    """Quote a column or table name as its database does. Raises SourceError."""
    preparer = _engine(Source(kind="sql", url_env=url_env, query=name), where).dialect.identifier_preparer
    return ".".join(map(preparer.quote, name.split(".")))


def _concatenated(chunks: list[pa.Table], where: str) -> pa.Table:
    try:
        return pa.concat_tables(chunks, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SourceError(
            f"{where}: a column changes its type between rows ({reason_of(error)}); cast it in the query"
        ) from None


def _engine(source: Source, where: str) -> Engine:
    address = os.environ.get(str(source.url_env))
    if not address:
        raise SourceError(f"{where}: environment variable {source.url_env} is not set, expected a SQLAlchemy URL in it")
    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            check_file(url.database, where)
        return create_engine(url, poolclass=NullPool)
    except SourceError:
        raise
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError):
        raise SourceError(
            f"{where}: environment variable {source.url_env} holds no usable SQLAlchemy URL; expected one such as "
            "postgresql+psycopg://user:password@host/database, with the driver installed"
        ) from None


def _bounds(source: Source, window: Window, where: str, engine: Engine) -> dict[str, Any]:
    """Return both bounds as UTC times, or as local times without a zone if the YAML sets `time_zone`.

    Local bounds are two hours wider, more than a clock change, because a local time in a repeated hour is ambiguous.
    For SQLite, all bounds are one day wider. The exact cut follows conversion.
    """
    name, wider = source.options.get("time_zone"), 24 if engine.dialect.name == "sqlite" else 0
    if name is None:
        return {"start": window.start - timedelta(hours=wider), "end": window.end + timedelta(hours=wider)}
    try:
        zone = ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise SourceError(f"{where}: time_zone is {name!r}, expected an IANA name such as Europe/Berlin") from error
    return {
        key: bound.astimezone(zone).replace(tzinfo=None) + timedelta(hours=hours)
        for key, bound, hours in (("start", window.start, -2 - wider), ("end", window.end, 2 + wider))
    }


def _chunk(rows: Sequence[Sequence[Any]], columns: Sequence[str], indices: Sequence[int], where: str) -> pa.Table:
    arrays = []
    for name, index in zip(columns, indices, strict=True):
        try:
            values = [row[index] for row in rows]
            arrays.append(pa.array([str(value) if isinstance(value, UUID) else value for value in values]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            raise SourceError(
                f"{where}: column {name!r} mixes types or has one that Arrow lacks, expected one; cast it in the query"
            ) from None  # Arrow quotes the value, which may identify a person
    return pa.table(dict(zip(columns, arrays, strict=True)))


def _driver_message(error: SQLAlchemyError, url: URL) -> str:
    """Return the driver's message as one line, without the URL's password and parameters and without row values.

    Names of URL parameters are redacted too, because a password with an unescaped & continues as a parameter name.
    """
    original = getattr(error, "orig", None)
    if original is None:
        return type(error).__name__
    values = [text for value in url.query.values() for text in ((value,) if isinstance(value, str) else value)]
    message = reason_of(original)
    for secret in sorted({str(url.password or ""), *url.query, *values} - {""}, key=len, reverse=True):
        message = message.replace(secret, "***")
    return re.split(r""": ["']""", message)[0]  # `invalid input syntax for type integer: "…"`
