"""Shared fixtures: a workspace per test, and a Prefect server per session."""

from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run deployment tests after the flow tests, because deployments would use slots and start automations.

    A test that is left out of `make test` says why: `@pytest.mark.slow("starts a server and a worker")`.
    """
    for item in items:
        mark = item.get_closest_marker("slow")
        if mark and not (len(mark.args) == 1 and isinstance(mark.args[0], str)):
            raise pytest.UsageError(f'{item.nodeid}: slow without a reason, expected @pytest.mark.slow("why it is")')
    items.sort(key=_room)


def _room(item: pytest.Item) -> str:
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    return "flows, deployed" if room == "deployments" else room


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace per test; nothing is written beside the code."""
    for setting in (
        "PERENNIAL_LAKE",
        "PERENNIAL_LEDGER",
        "PERENNIAL_REPORTS",
        "PERENNIAL_ARTIFACTS",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.delenv(setting, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server with an empty database, shared by the session."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # with heartbeats, each flow call waits a second for the heartbeat thread
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield
