"""What tests share: a workspace of their own, a Prefect server for the stories, and skips that say what to install."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

INSTALL = {"chromium": "apt-get install chromium", "git": "apt-get install git"}


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace for each test; nothing is ever written beside the code."""
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
    """A real Prefect server with an empty database, for every story of the session."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # without a heartbeat a flow call returns at once; with it each waits a second for the heartbeat's thread
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def system_tool(name: str) -> str:
    """Path of a program that tests need; skips where it is missing, fails instead where CI demands it."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; install it with: {INSTALL[name]}"
        if os.environ.get("PERENNIAL_REQUIRE_SYSTEM_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
