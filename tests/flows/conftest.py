"""What stories share: a registry that has its tables as soon as it is opened."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters.registry import database as registry_database
from tests.support.trained_models import empty_registry


@pytest.fixture(scope="session", autouse=True)
def _registries_start_with_their_tables() -> Iterator[None]:
    """MLflow makes them in 1.2 CPU s; copied when a registry is opened, so that workspaces without one stay untouched."""

    def copy_tables(path: Path) -> None:
        shutil.copy(empty_registry(), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_database, "_make_tables", copy_tables)
        yield
