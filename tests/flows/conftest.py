"""Shared fixtures: a registry with prepared tables, and workspaces to start from."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from prefect.logging import disable_run_logger

from tasks.adapters.registry import database as registry_database
from tests.support.prepared_workspaces import Preparation, PreparedWorkspaces, first_champion
from tests.support.small_model import write_model
from tests.support.trained_models import empty_registry


@pytest.fixture(scope="session", autouse=True)
def _registries_start_with_their_tables() -> Iterator[None]:
    """Copy MLflow's tables when a registry is opened, which saves 1.2 CPU s; workspaces without one stay untouched."""

    def copy_tables(path: Path) -> None:
        shutil.copy(empty_registry(), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_database, "_make_tables", copy_tables)
        yield


@pytest.fixture
def quiet() -> Iterator[None]:
    """Calls stages outside of a flow, where Prefect has no run to log for."""
    with disable_run_logger():
        yield


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> PreparedWorkspaces:
    return PreparedWorkspaces(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def begin(_prepared: PreparedWorkspaces, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write the small model to a folder and start from its first champion, or another preparation; return the YAML's path.

    To be called before a test replaces any part of the product, as later tests start from the same workspace.
    """

    def begin_in(
        folder: Path, table: pd.DataFrame | None = None, prepare: Preparation = first_champion, **replacements: str
    ) -> str:
        model = write_model(folder, table, **replacements)
        monkeypatch.setenv("PERENNIAL_MODELS", str(folder))  # a ledger names a file in this folder by its name only
        _prepared.copy(prepare, model)
        return model

    return begin_in
