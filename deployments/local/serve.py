"""`make serve`: everything on this machine, on the workspace that `make demo` filled; nothing listens beyond localhost.

Starts Prefect's server, MLflow's, Evidently's, the reports and one worker, and applies the deployments. When one ends the
others are stopped, because half a system looks healthy and is not. All state is in the workspace, so the next start
continues where this one stopped.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from time import monotonic

import httpx
from rich.console import Console
from rich.table import Table

from deployments.config.model import model_folders
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
"""How `perennial apply` ends where a person can fix what is wrong; anything else is a defect."""


class ServiceEnded(Exception):
    """A service ended unexpectedly."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name)
        self.service = service


def serve(ports: Mapping[str, int], credentials: Path | None = None, without_log_in: bool = False) -> int:
    """Run until a signal (0) or until a service ends by itself (1). Raises WorkspaceError where it is served already.

    `credentials`: a file with the log-in that every service asks for; the workspace's own, made by the first start, when
    left out.
    `ports`: the preferred ones of prefect, mlflow, reports and evidently; where one is taken another is used, and said.
    """
    space, console = workspace(), Console()
    known = read_credentials(credentials) if credentials else None
    kept = False
    stream = Stream(console, width=len("evidently"))
    services: list[Service] = []
    with hold_workspace(space) as hold, asked_to_stop() as stop:
        if known is None and not without_log_in:
            known, new = made_credentials(space)
            kept = True
        if known:
            os.environ |= known.environment(space)  # of this process too, which asks the server
        listening = {name: _port(name, port, stream) for name, port in ports.items()}
        environment, addresses = _environment(space, listening)
        for name in OF_ANOTHER_SERVER:
            os.environ.pop(name, None)
        os.environ |= {
            name: environment[name] for name in ("PREFECT_HOME", "PREFECT_API_URL")
        }  # Prefect reads them later
        try:
            _start_all(services, space, environment, addresses, stream, stop, hold)
            if not stop.is_set():
                stream.show(_table(services))
                if kept and known:
                    _say_log_in(known, new, space, stream)
                _say_refused(services, stream)
                stream.line("serve", "Ctrl-C stops everything; the next start goes on from here")
            _watch(services, stream, stop)
        except ServiceEnded as ended:
            _explain(ended.service, stream)
            return 1
        finally:
            _stop_all(services, space, environment["PREFECT_API_URL"], stream)
    return 0


def _say_log_in(known: Credentials, new: bool, space: Workspace, stream: Stream) -> None:
    """The password is shown by the start that made it, and never again."""
    file = space.home / LOG_IN
    if new:
        stream.line("serve", f"log-in: {known.user} with password {known.password}, shown this once; kept in {file}")
    else:
        stream.line("serve", f"log-in: {known.user} with the password in {file}")


def _port(name: str, preferred: int, stream: Stream) -> int:
    port: int = free_port(preferred)
    if port != preferred:
        stream.line("serve", f"port {preferred} is taken; {name} is on {port}")
    return port


def _environment(space: Workspace, ports: Mapping[str, int]) -> tuple[dict[str, str], dict[str, str]]:
    """(what every service runs in, the address of each); absolute, as a worker gives each run a folder of its own."""
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = {
        **located(server_environment(space, ports["prefect"])),
        "PERENNIAL_REPORTS_URL": f"{addresses['reports']}/reports",
        "PERENNIAL_MLFLOW_URL": addresses["mlflow"],
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        SOURCES: os.environ.get(SOURCES) or os.pathsep.join(map(str, (*model_folders(), space.home))),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its background jobs serve generative AI
        "PYTHONUNBUFFERED": "1",
    }
    return environment, addresses


def _start_all(
    services: list[Service],
    space: Workspace,
    environment: Mapping[str, str],
    addresses: Mapping[str, str],
    stream: Stream,
    stop: Event,
    hold: Hold,
) -> None:
    """Start everything in order, each step once the one before is healthy; `services` holds what was started."""
    api_url = environment["PREFECT_API_URL"]
    servers = servers_of(space, environment, addresses)
    _start(servers, servers[:1], services, stream, stop, hold)  # deploying needs Prefect's only
    record_served(space, api_url)
    _apply(services, environment, stream, stop, hold)
    if stop.is_set():
        return
    # both import Prefect, which the servers need not wait for
    from deployments.local.worker import worker

    _say_handed_back(orchestration.requeue.hand_back_runs(api_url), stream)  # of a `serve` that was killed
    last = worker(environment)
    _start([last], [*servers, last], services, stream, stop, hold)


def _apply(services: list[Service], environment: Mapping[str, str], stream: Stream, stop: Event, hold: Hold) -> None:
    """Deploy what the files say; refused, all starts on what was deployed before, as one model's mistake ends no other.

    Raises ServiceEnded where nothing was.
    """
    command = module("deployments", "apply", "--keep-switches", "--worker-follows", "perennial")
    applying = Service("apply", command, environment, "", lambda: False)
    applying.is_healthy = lambda: applying.exit_status in (APPLIED, REFUSED)
    _start([applying], [applying], services, stream, stop, hold)
    if applying.exit_status == REFUSED and not _is_deployed(environment["PREFECT_API_URL"]):
        raise ServiceEnded(applying)


def _is_deployed(api_url: str) -> bool:
    """Whether the server has deployments of ours."""
    # Prefect takes seconds to import, and the servers need not wait for it
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    # this too imports Prefect
    from deployments.apply.server_state import TAG

    ours = {"deployments": {"tags": {"all_": [TAG]}}}
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        return bool(client.request("POST", "/deployments/count", json=ours).json())


def _start(
    starting: Sequence[Service],
    awaited: Sequence[Service],
    services: list[Service],
    stream: Stream,
    stop: Event,
    hold: Hold,
) -> None:
    """Start some, and return once the awaited are healthy or a stop is asked for. Raises ServiceEnded, WorkspaceError."""
    if stop.is_set():
        return
    for service in starting:
        service.start(stream)
        services.append(service)
        hold.remember(services)
    deadline, waiting = monotonic() + START_TIMEOUT_S, list(awaited)
    while waiting and not stop.wait(POLL_S):
        _check_alive(services)
        waiting = [service for service in waiting if not service.is_healthy()]
        if monotonic() > deadline:
            names = ", ".join(service.name for service in waiting)
            raise WorkspaceError(f"{names}: not healthy after {START_TIMEOUT_S} s; the lines above say why")


def _watch(services: Sequence[Service], stream: Stream, stop: Event) -> None:
    """Return when a stop is requested; report when a service stops answering and when it answers again."""
    healthy = dict.fromkeys((service.name for service in services), True)
    checked = monotonic()
    while not stop.wait(POLL_S):
        _check_alive(services)
        if monotonic() - checked < HEALTH_EVERY_S:
            continue
        for service in services:
            now = service.is_healthy()
            if now != healthy[service.name]:
                stream.line("serve", f"{service.name} {'answers again' if now else 'does not answer'}")
            healthy[service.name] = now
        checked = monotonic()


def _check_alive(services: Sequence[Service]) -> None:
    for service in services:
        may_end = service.name == "apply" and service.exit_status in (APPLIED, REFUSED)
        if service.exit_status is not None and not may_end:
            raise ServiceEnded(service)
        service.note_family()


def _explain(service: Service, stream: Stream) -> None:
    stream.line("serve", f"{service.name} ended with status {service.exit_status}, so all stops; its last lines:")
    for line in service.last_lines:
        stream.line(service.name, line)


def _say_refused(services: Sequence[Service], stream: Stream) -> None:
    """Print this last, so that an old state is not mistaken for that of the files."""
    for service in services:
        if service.name == "apply" and service.exit_status == REFUSED:
            text = "NOTHING NEW IS DEPLOYED: all goes on as it was applied last, and stays so until this is fixed and"
            stream.line("serve", f"{text} `perennial apply --keep-switches` or the next start passes:")
            for line in service.last_lines:
                stream.line("apply", line)


def _stop_all(services: Sequence[Service], space: Workspace, api_url: str, stream: Stream) -> None:
    """Stop in reverse order; the worker's runs go back to a server that still answers."""
    stream.line("serve", "stopping")
    for service in reversed(services):
        service.stop(PATIENCE_S)
        if service.name == "worker" and services[0].exit_status is None:
            try:
                _say_handed_back(orchestration.requeue.hand_back_runs(api_url), stream)
            except httpx.HTTPError as error:
                stream.line("serve", f"runs under way stay Running, the server did not take them back: {error}")
    record_served(space, None)
    stream.line("serve", "stopped")


def _say_handed_back(count: int, stream: Stream) -> None:
    if count:
        stream.line("serve", f"{count} run{'s' * (count > 1)} put back into the queue; the next worker takes over")


def _table(services: Sequence[Service]) -> Table:
    table = Table("service", "health", "address", title="Perennial is served on this machine", title_justify="left")
    for service in services:
        if service.url:
            table.add_row(service.name, "healthy", service.url)
    return table
