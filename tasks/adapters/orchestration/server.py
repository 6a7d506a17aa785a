"""A private Prefect server on this machine, started and stopped with a replay or with `make serve`.

Its state is stored in the workspace: a replay can be browsed later. The server listens on localhost only.
"""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import httpx

from tasks.adapters.storage.workspace import Workspace, make_folder
from tasks.policy.records.errors import WorkspaceError

START_TIMEOUT_S = 180  # migrations of a new database take 10 to 40 s on two busy cores
SERVED = "served.url"
OF_ANOTHER_SERVER = ("PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_CLOUD_API_URL")
"""Settings for Prefect Cloud or another server, whose API key must not reach this one."""
LOG_IN = "log-in"
"""Workspace file with the log-in that `make serve` created."""
PREFECT_APP = "tasks.adapters.dashboards.prefect_app"
"""Prefect's command line as a module for `python -m`, with SQLite safe for several processes."""
IDLE_SERVICES = (
    "SCHEDULER",
    "LATE_RUNS",
    "TRIGGERS",
    "FOREMAN",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
)

BATCHED_SERVICES = ("TASK_RUN_RECORDER", "EVENT_PERSISTER")
IN_BATCHES = {"BATCH_SIZE": "200", "READ_BATCH_SIZE": "50", "FLUSH_INTERVAL": "1"}
"""Write task runs and events in batches once a second, instead of one or twenty per transaction."""


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if free, else a free port from the system. Raises WorkspaceError if none can be bound."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise WorkspaceError("no port on 127.0.0.1 can be bound; expected at least one free port")


def stored_log_in(space: Workspace) -> str | None:
    """Return the log-in `user:password` of this workspace's `make serve`, or None. Only its owner can read the file."""
    try:
        return (space.home / LOG_IN).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def server_environment(space: Workspace, port: int) -> dict[str, str]:
    """Return the environment of the server and of every process that connects to it."""
    url, log_in = f"http://127.0.0.1:{port}/api", stored_log_in(space)
    return {
        **({"PREFECT_API_AUTH_STRING": log_in} if log_in else {}),
        **{name: value for name, value in os.environ.items() if name not in OF_ANOTHER_SERVER},
        "PREFECT_HOME": str(make_folder(space.home / "prefect")),
        "PREFECT_API_URL": url,
        "PREFECT_UI_API_URL": url,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url.removesuffix("/api"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "tasks.adapters.orchestration.event_ordering",  # explained there
        # the default, memory, loses the holders of concurrency slots at a restart; their slots are never released
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "DO_NOT_TRACK": "1",
    }


def record_served(space: Workspace, api_url: str | None) -> None:
    """Record the address of the server that `make serve` runs on this workspace; None deletes it."""
    path = space.home / "prefect" / SERVED
    if api_url is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(api_url, encoding="utf-8")


def served_url(space: Workspace) -> str | None:
    """Return the API address of the server that `make serve` runs on this workspace; None if it does not respond."""
    try:
        api_url = (space.home / "prefect" / SERVED).read_text(encoding="utf-8")
        return api_url if httpx.get(f"{api_url}/health", timeout=5).is_success else None
    except (FileNotFoundError, httpx.TransportError):
        return None


@contextmanager
def prefect_server(space: Workspace, port: int | None = None) -> Iterator[dict[str, str]]:
    """Start a server, yield the environment to reach it (it may still be starting), and stop it at the end.

    If `make serve` runs a server on this workspace, that one is used and kept running: two would share one database.
    """
    served = served_url(space)
    if served:
        yield server_environment(space, int(served.removesuffix("/api").rsplit(":", 1)[1]))
        return
    # a replay needs no schedules or blocks, and no automation may act on it; these services would only cost CPU time
    settings = {f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in IDLE_SERVICES}
    settings["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"
    settings["PREFECT_SERVER_API_AUTH_STRING"] = f"replay:{secrets.token_urlsafe(24)}"
    for service in BATCHED_SERVICES:
        settings |= {f"PREFECT_SERVER_SERVICES_{service}_{name}": value for name, value in IN_BATCHES.items()}
    with running_server(space, port, **settings) as environment:
        yield environment


@contextmanager
def running_server(space: Workspace, port: int | None = None, **settings: str) -> Iterator[dict[str, str]]:
    """Start a server with additional settings, yield the environment to reach it, and stop it at the end."""
    chosen = free_port(port)
    environment = server_environment(space, chosen)
    if "PREFECT_SERVER_API_AUTH_STRING" in settings:
        environment["PREFECT_API_AUTH_STRING"] = settings["PREFECT_SERVER_API_AUTH_STRING"]
    command = [sys.executable, "-m", PREFECT_APP, "server", "start", "--host", "127.0.0.1", "--port", str(chosen)]
    with (Path(environment["PREFECT_HOME"]) / "server.log").open("ab") as log:
        server = subprocess.Popen(command, env=environment | settings, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield environment
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_healthy(api_url: str) -> None:
    """Return once the server responds. Raises WorkspaceError after START_TIMEOUT_S."""
    deadline = monotonic() + START_TIMEOUT_S
    while monotonic() < deadline:
        try:
            if httpx.get(f"{api_url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            sleep(0.3)
    raise WorkspaceError(
        f"{api_url}: no Prefect server answered within {START_TIMEOUT_S} s; see prefect/server.log in the workspace"
    )
