"""A first start that is killed at any time leaves a registry that opens."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tasks.adapters import registry
from tasks.adapters.registry import database as registry_database
from tasks.adapters.registry.database import make_database

FIRST_START = "from tasks.adapters.registry.database import make_database; import sys; make_database(sys.argv[1])"


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.mark.slow("kills a process that sets up MLflow's tables")
def test_killed_first_start_leaves_no_database(workspace: Path):
    workspace.mkdir()
    path = workspace / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", FIRST_START, f"sqlite:///{path}"]) as started:
        while not any(found.stat().st_size for found in workspace.glob(".mlflow.db.*.unfinished")):
            assert started.poll() is None
            time.sleep(0.01)
        os.kill(started.pid, signal.SIGKILL)
    assert not path.exists()
    registry.client().create_registered_model("first")
    assert "registered_models" in tables(path)


def half_made(path: Path) -> None:
    """Leave the database as a start that was killed between two migrations."""
    make_database(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE webhooks")
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        database.commit()


def created_only(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        database.commit()


@pytest.mark.parametrize("leave", [half_made, created_only, Path.touch])
def test_incomplete_database_is_replaced(leave, workspace: Path):
    workspace.mkdir()
    path = workspace / "mlflow.db"
    leave(path)
    registry.client_of.cache_clear()
    registry.client().create_registered_model("first")
    assert len(list(workspace.glob("mlflow.db.half-made-*"))) == (0 if leave is Path.touch else 1)


def test_database_with_content_is_never_replaced(workspace: Path):
    workspace.mkdir()
    path = workspace / "mlflow.db"
    make_database(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO registered_models (name, creation_time) VALUES ('kept', 1)")
        database.execute("DELETE FROM alembic_version")
        database.commit()
    before = path.read_bytes()
    make_database(f"sqlite:///{path}")
    assert path.read_bytes() == before
    (workspace / "other.db").write_text("no database at all")
    make_database(f"sqlite:///{workspace / 'other.db'}")
    assert (workspace / "other.db").read_text() == "no database at all"


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5000", "postgresql://host/mlflow", "sqlite://", "sqlite:///:memory:"]
)
def test_non_sqlite_database_is_left_to_mlflow(uri):
    assert registry_database.database_file(uri) is None
    make_database(uri)
