"""What stories share: a registry that has its tables as soon as it is opened."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.adapters import registry
from tests.trained_models import empty_registry

SQLITE = "sqlite:///"


@pytest.fixture(scope="session", autouse=True)
def _registries_start_with_their_tables() -> Iterator[None]:
    """MLflow makes them in 1.2 CPU s; copied when a registry is opened, so that workspaces without one stay untouched."""
    alone = registry._alone

    @contextmanager
    def with_tables(uri: str) -> Iterator[None]:
        with alone(uri):
            if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
                shutil.copy(empty_registry(), uri.removeprefix(SQLITE))
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_alone", with_tables)
        yield
