"""Define the servers of `make serve`: how each is started and health-checked. They listen on localhost only."""

import socket
import sys
from collections.abc import Mapping
from http import HTTPStatus

import httpx

from deployments.local.credentials import log_in
from deployments.local.services import Service
from tasks.adapters.dashboards.local_guard import LOCAL_NAMES
from tasks.adapters.orchestration.server import PREFECT_APP
from tasks.adapters.storage.workspace import Workspace, make_folder

MLFLOW_APP = "tasks.adapters.dashboards.mlflow_app"
LOG_IN_CHECKS = ("/api/admin/version", "/api/2.0/mlflow/users/current")
"""Endpoints of Prefect and MLflow that require the log-in, unlike their health endpoints."""


def servers_of(space: Workspace, environment: Mapping[str, str], addresses: Mapping[str, str]) -> list[Service]:
    """Return the servers, Prefect's first. MLflow's is left out if the registry is on another server."""
    credentials = log_in(environment)

    def served(name: str, health: str, *arguments: str) -> Service:
        address = addresses[name]
        page = f"{address}/#/models" if name == "mlflow" else address  # MLflow's start page does not show models
        return Service(name, module(*arguments), environment, page, lambda: answers(address + health, credentials))

    def listen(name: str) -> tuple[str, ...]:
        return "--host", "127.0.0.1", "--port", addresses[name].rsplit(":", 1)[1]

    guarded = credentials is not None and "MLFLOW_AUTH_CONFIG_PATH" in environment
    prefect_health, mlflow_health = LOG_IN_CHECKS if guarded else ("/api/health", "/health")
    servers = [
        served("prefect", prefect_health, PREFECT_APP, "server", "start", *listen("prefect")),
        served("reports", "/", "deployments.local.reports", listen("reports")[-1]),
    ]
    if "evidently" in addresses:
        evidently = (
            "tasks.adapters.dashboards.evidently_app",
            "ui",
            "--workspace",
            str(make_folder(space.home / "evidently")),
        )
        servers.append(served("evidently", "/", *evidently, *listen("evidently")))
        servers[-1].is_healthy = lambda: _listens(addresses["evidently"])  # Evidently logs a line for every request
    if not space.mlflow.startswith("http"):  # otherwise another server provides it
        stores = ("--backend-store-uri", space.mlflow, "--artifacts-destination", space.artifacts)
        quiet = ("--workers", "1", "--uvicorn-opts", "--log-level warning")  # without it, one line per health check
        own = ",".join(
            addresses["mlflow"].removeprefix("http://").replace("127.0.0.1", name) for name in LOCAL_NAMES[:2]
        )
        origins = ",".join(f"http://{name}" for name in own.split(","))
        names = ("--allowed-hosts", own, "--cors-allowed-origins", origins)
        guard = ("--app-name", "basic-auth") if "MLFLOW_AUTH_CONFIG_PATH" in environment else ()
        servers.append(
            served("mlflow", mlflow_health, MLFLOW_APP, "server", *listen("mlflow"), *stores, *quiet, *names, *guard)
        )
    return servers


def module(*arguments: str) -> list[str]:
    """Return the command that runs a module with this Python interpreter."""
    return [sys.executable, "-m", *arguments]


def answers(url: str, credentials: tuple[str, str] | None = None) -> bool:
    """Return whether a page responds with status 200 to this log-in; a refused log-in counts as unhealthy."""
    try:
        return httpx.get(url, timeout=5, auth=credentials).status_code == HTTPStatus.OK
    except httpx.HTTPError:
        return False


def _listens(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, int(port))) == 0
