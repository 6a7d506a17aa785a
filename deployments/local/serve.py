"""Run all services on this machine (`make serve`), on the workspace that `make demo` filled; listen on localhost only.

Starts the servers of Prefect, MLflow, Evidently and the reports, applies the deployments, and starts a worker. If one
process ends, the others are stopped, because a partial system looks healthy but is not. All state is in the
workspace; the next start continues where this one stopped.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic

import httpx
from rich.console import Console
from rich.table import Table

from deployments.config.folders import model_folders, require_models
from deployments.local.credentials import Credentials, made_credentials, read_credentials
from deployments.local.instance_lock import PATIENCE_S, Hold, hold_workspace
from deployments.local.servers import module, servers_of
from deployments.local.services import Service, Stream, asked_to_stop
from tasks.adapters import orchestration
from tasks.adapters.orchestration.server import (
    LOG_IN,
    OF_ANOTHER_SERVER,
    START_TIMEOUT_S,
    free_port,
    record_served,
    server_environment,
)
from tasks.adapters.sources.limits import SOURCES
from tasks.adapters.storage.workspace import Workspace, located, workspace
from tasks.policy.records.errors import WorkspaceError

POLL_S = 0.5
HEALTH_EVERY_S = 10
APPLIED, REFUSED = 0, 2
"""Exit codes of `perennial apply`: success, and an error that the user can fix. Any other code is a defect."""


@dataclass(frozen=True)
class ServeRun:
    """One run of `serve`: the services started so far, their log, the request to stop, and the workspace's lock."""

    services: list[Service]
    stream: Stream
    stop: Event
    hold: Hold


class ServiceEnded(Exception):
    """A service ended unexpectedly."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name)
        self.service = service


def serve(ports: Mapping[str, int], credentials: Path | None = None, without_log_in: bool = False) -> int:
    """Run all services until a signal stops them, or until one ends by itself.

    Args:
        ports: Preferred ports of prefect, mlflow, reports and evidently. If one is taken, another is used and reported.
        credentials: File with the log-in that every service requires. Default: the workspace's own log-in, which the
            first start creates.
        without_log_in: Require no log-in.

    Returns:
        Exit code: 0 after a signal, 1 if a service ended by itself.

    Raises:
        WorkspaceError: The workspace is already served, or a service did not become healthy in time.
        LogInError: The log-in file is unsuitable.
        ModelConfigError: The models' folder does not exist.
        NoModels: It holds no model.
    """
    require_models()
    space, console = workspace(), Console()
    known = read_credentials(credentials) if credentials else None
    stream = Stream(console, width=len("evidently"))
    with hold_workspace(space) as hold, asked_to_stop() as stop:
        run = ServeRun([], stream, stop, hold)
        if known is None and not without_log_in:
            known, is_new = made_credentials(space)
        if known:
            os.environ |= known.environment(space)  # also for this process, which is a client of the server
        listening = {name: _port(name, port, stream) for name, port in ports.items()}
        environment, addresses = _environment(space, listening)
        for name in OF_ANOTHER_SERVER:
            os.environ.pop(name, None)
        os.environ |= {
            name: environment[name] for name in ("PREFECT_HOME", "PREFECT_API_URL")
        }  # Prefect reads them later, when it is imported
        try:
            _start_all(run, space, environment, addresses)
            if not stop.is_set():
                stream.show(_table(run.services))
                if credentials is None and known:
                    _print_log_in(known, is_new, space, stream)
                _print_refusal(run.services, stream)
                stream.line("serve", "Ctrl-C stops everything; the next start continues from here")
            _watch(run)
        except ServiceEnded as ended:
            _explain(ended.service, stream)
            return 1
        finally:
            _stop_all(run.services, space, environment["PREFECT_API_URL"], stream)
    return 0


def _print_log_in(known: Credentials, is_new: bool, space: Workspace, stream: Stream) -> None:
    """Print the log-in. The password is shown only by the start that created it."""
    file = space.home / LOG_IN
    if is_new:
        stream.line("serve", f"log-in: {known.user} with password {known.password}, shown only once; stored in {file}")
    else:
        stream.line("serve", f"log-in: {known.user} with the password in {file}")


def _port(name: str, preferred: int, stream: Stream) -> int:
    port: int = free_port(preferred)
    if port != preferred:
        stream.line("serve", f"port {preferred} is taken; {name} is on {port}")
    return port


def _environment(space: Workspace, ports: Mapping[str, int]) -> tuple[dict[str, str], dict[str, str]]:
    """Return (environment of every service, address of each service).

    Paths are absolute, because a worker runs each flow run in its own folder.
    """
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = {
        **located(server_environment(space, ports["prefect"])),
        "PERENNIAL_REPORTS_URL": f"{addresses['reports']}/reports",
        "PERENNIAL_MLFLOW_URL": addresses["mlflow"],
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        SOURCES: os.environ.get(SOURCES) or os.pathsep.join(map(str, (*model_folders(), space.home))),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its background jobs are for generative AI only
        "PYTHONUNBUFFERED": "1",
    }
    return environment, addresses


def _start_all(run: ServeRun, space: Workspace, environment: Mapping[str, str], addresses: Mapping[str, str]) -> None:
    """Start everything in order, each step once the previous one is healthy."""
    api_url = environment["PREFECT_API_URL"]
    servers = servers_of(space, environment, addresses)
    _start(run, servers, awaited=servers[:1])  # deploying needs only Prefect's server
    record_served(space, api_url)
    _apply(run, environment)
    if run.stop.is_set():
        return
    # imported here because it loads Prefect, which starting the servers does not need
    from deployments.local.worker import worker

    _print_requeued(orchestration.requeue.requeue_orphaned_runs(api_url), run.stream)  # runs of a killed `serve`
    last = worker(environment)
    _start(run, [last], awaited=[*servers, last])


def _apply(run: ServeRun, environment: Mapping[str, str]) -> None:
    """Apply the deployments of the files.

    If `apply` refuses, the services start with what was deployed before; an error in one model's file must not stop the
    others. Raises ServiceEnded if nothing was deployed before.
    """
    command = module("deployments", "apply", "--keep-switches", "--worker-follows", "perennial")
    applying = Service("apply", command, environment, "", lambda: False)
    applying.is_healthy = lambda: applying.exit_status in (APPLIED, REFUSED)
    _start(run, [applying], awaited=[applying])
    if applying.exit_status == REFUSED and not _is_deployed(environment["PREFECT_API_URL"]):
        raise ServiceEnded(applying)


def _is_deployed(api_url: str) -> bool:
    """Return whether the server has deployments of Perennial."""
    # Prefect takes seconds to import, and starting the servers does not need it
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # imports Prefect as well
    from deployments.apply.server_state import TAG

    ours = {"deployments": {"tags": {"all_": [TAG]}}}
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        return bool(client.request("POST", "/deployments/count", json=ours).json())


def _start(run: ServeRun, services: Sequence[Service], awaited: Sequence[Service]) -> None:
    """Start services and add them to the run; return once the awaited ones are healthy or a stop is requested.

    Raises ServiceEnded if a service ends, and WorkspaceError if one is not healthy after START_TIMEOUT_S seconds.
    """
    if run.stop.is_set():
        return
    for service in services:
        service.start(run.stream)
        run.services.append(service)
        run.hold.remember(run.services)
    deadline, waiting = monotonic() + START_TIMEOUT_S, list(awaited)
    while waiting and not run.stop.wait(POLL_S):
        _check_alive(run.services)
        waiting = [service for service in waiting if not service.is_healthy()]
        if monotonic() > deadline:
            names = ", ".join(service.name for service in waiting)
            raise WorkspaceError(f"{names}: not healthy after {START_TIMEOUT_S} s; the lines above say why")


def _watch(run: ServeRun) -> None:
    """Return when a stop is requested; report when a service stops answering and when it answers again."""
    healthy = dict.fromkeys((service.name for service in run.services), True)
    checked = monotonic()
    while not run.stop.wait(POLL_S):
        _check_alive(run.services)
        if monotonic() - checked < HEALTH_EVERY_S:
            continue
        for service in run.services:
            now = service.is_healthy()
            if now != healthy[service.name]:
                run.stream.line("serve", f"{service.name} {'answers again' if now else 'does not answer'}")
            healthy[service.name] = now
        checked = monotonic()


def _check_alive(services: Sequence[Service]) -> None:
    for service in services:
        may_end = service.name == "apply" and service.exit_status in (APPLIED, REFUSED)
        if service.exit_status is not None and not may_end:
            raise ServiceEnded(service)
        service.note_family()


def _explain(service: Service, stream: Stream) -> None:
    stream.line(
        "serve", f"{service.name} ended with status {service.exit_status}, so all services stop; its last lines:"
    )
    for line in service.last_lines:
        stream.line(service.name, line)


def _print_refusal(services: Sequence[Service], stream: Stream) -> None:
    """Print that `apply` refused and the previous state is served; printed last, where it is not overlooked."""
    for service in services:
        if service.name == "apply" and service.exit_status == REFUSED:
            text = "NOTHING NEW IS DEPLOYED: the deployments of the last apply stay active. Fix this, then run"
            stream.line("serve", f"{text} `perennial apply --keep-switches` or start again:")
            for line in service.last_lines:
                stream.line("apply", line)


def _stop_all(services: Sequence[Service], space: Workspace, api_url: str, stream: Stream) -> None:
    """Stop the services in reverse order, and requeue the worker's runs while the server still responds."""
    stream.line("serve", "stopping")
    for service in reversed(services):
        service.stop(PATIENCE_S)
        if service.name == "worker" and services[0].exit_status is None:
            try:
                _print_requeued(orchestration.requeue.requeue_orphaned_runs(api_url), stream)
            except httpx.HTTPError as error:
                stream.line("serve", f"active runs stay Running, because the server did not requeue them: {error}")
    record_served(space, None)
    stream.line("serve", "stopped")


def _print_requeued(count: int, stream: Stream) -> None:
    if count:
        stream.line("serve", f"{count} run{'s' * (count > 1)} put back into the queue; the next worker takes over")


def _table(services: Sequence[Service]) -> Table:
    table = Table("service", "health", "address", title="Perennial is served on this machine", title_justify="left")
    for service in services:
        if service.url:
            table.add_row(service.name, "healthy", service.url)
    return table
