"""Create MLflow's SQLite database atomically, because MLflow can neither open nor complete a partial one.

The tables are created in a temporary file, which is then renamed. An incomplete database of an earlier start holds no
data; it is set aside and created again.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from mlflow.store.db.utils import _get_latest_schema_revision, _initialize_tables, create_sqlalchemy_engine_with_retry
from sqlalchemy.engine import make_url

from tasks.adapters.storage.atomic_files import file_lock

logger = logging.getLogger(__name__)
FILLED = ("runs", "registered_models", "model_versions", "logged_models")
"""Tables that are non-empty once anything has been trained."""


def make_database(uri: str) -> None:
    """Create the SQLite database at this address unless it exists; ignore other addresses. Raises OSError."""
    path = database_file(uri)
    if path is None or _is_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_name(f"{path.name}.lock")):
        if _is_made(path):
            return
        if path.exists() and path.stat().st_size:
            aside = path.with_name(f"{path.name}.half-made-{uuid4().hex[:8]}")
            path.replace(aside)
            logger.warning(
                "%s: its tables are incomplete because the first start was interrupted; set aside as %s",
                path,
                aside.name,
            )
        with _temporary_database(path) as own:
            _make_tables(own)
            own.replace(path)


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite address; None for an in-memory database or another kind of address."""
    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return Path(name) if name and name != ":memory:" else None


def _is_made(path: Path) -> bool:
    """Whether to leave the file to MLflow: it is complete, holds data, or is not a readable SQLite database."""
    if not path.is_file() or not path.stat().st_size:
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in FILLED if name in tables):  # noqa: S608
                return True
            if "alembic_version" not in tables:
                return False
            versions = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error:
        return True
    return versions == [(_latest_revision(),)]


def _latest_revision() -> str:
    return str(_get_latest_schema_revision())


def _make_tables(path: Path) -> None:
    engine = create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()


@contextmanager
def _temporary_database(path: Path) -> Iterator[Path]:
    own = path.with_name(f".{path.name}.{uuid4().hex}.unfinished")
    try:
        yield own
    finally:
        for left in (own, *(own.with_name(own.name + ending) for ending in ("-journal", "-wal", "-shm"))):
            with suppress(FileNotFoundError):
                left.unlink()
