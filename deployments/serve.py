"""`make serve`: everything on this machine, on the workspace that `make demo` filled; nothing listens beyond localhost.

Prefect's server, MLflow's, the reports, the deployments applied, and one worker. They live and die together: when one
ends the others are stopped, because half a system looks healthy and is not. All state is in the workspace, so the next
start goes on where this one stopped; a run that is under way at the stop goes back to the queue.
"""

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from deployments.services import Service, Stream, end
from tasks.adapters.prefect_server import START_TIMEOUT_S, free_port, record_served, server_environment
from tasks.adapters.workspace import Workspace, WorkspaceError, workspace

POOL = "perennial"
POLL_S = 0.5
HEALTH_EVERY_S = 10
PATIENCE_S = 20
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(prefect_port: int, mlflow_port: int, reports_port: int) -> int:
    """Run until a signal (0) or until a service ends by itself (1). Raises WorkspaceError where it is served already."""
    space, console = workspace(), Console()
    stream = Stream(console, width=len("prefect"))
    with only_one(space) as lock, asked_to_stop() as stop:
        ports = {name: _port(name, port, stream) for name, port in
                 (("prefect", prefect_port), ("mlflow", mlflow_port), ("reports", reports_port))}  # fmt: skip
        environment = _environment(space, ports)
        first, last = _servers(space, environment, ports), [_apply(environment), _worker(environment)]
        services = [*first, *last]
        try:
            _start(first, services, stream, stop)
            record_served(space, environment["PREFECT_API_URL"])
            for service in last:
                _start([service], services, stream, stop)
            _remember(lock, services)
            if not stop.is_set():
                console.print(_table(services))
                stream.line("serve", "Ctrl-C stops everything; the next start goes on from here")
            _watch(services, stream, stop)
        except ServiceEnded as ended:
            _explain(ended.service, stream)
            return 1
        finally:
            stream.line("serve", "stopping")
            record_served(space, None)
            for service in reversed(
                services
            ):  # the worker first: it hands its runs back to a server that still answers
                service.stop(PATIENCE_S)
            stream.line("serve", "stopped")
    return 0


class ServiceEnded(Exception):
    """A service ended although nobody asked it to."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.name)
        self.service = service


def _port(name: str, preferred: int, stream: Stream) -> int:
    port = free_port(preferred)
    if port != preferred:
        stream.line("serve", f"port {preferred} is taken; {name} is on {port}")
    return port


def _environment(space: Workspace, ports: dict[str, int]) -> dict[str, str]:
    """What every service runs in; absolute, since a worker gives each run a folder of its own."""
    return {
        **server_environment(space, ports["prefect"]),
        "PERENNIAL_HOME": str(space.home),
        "PERENNIAL_REPORTS": str(space.reports.resolve()),
        "PERENNIAL_REPORTS_URL": f"http://127.0.0.1:{ports['reports']}/reports",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its background jobs serve generative AI; two more processes
        "PYTHONUNBUFFERED": "1",
    }


def _servers(space: Workspace, environment: dict[str, str], ports: dict[str, int]) -> list[Service]:
    python = sys.executable
    address = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    prefect = [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(ports["prefect"])]
    mlflow = [python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]), "--workers", "1"]
    mlflow += ["--backend-store-uri", space.mlflow, "--artifacts-destination", space.artifacts]
    mlflow += ["--uvicorn-opts", "--log-level warning"]  # else a line for every health check
    pages = [python, "-m", "deployments.report_pages", str(ports["reports"])]
    services = [
        Service(
            "prefect", prefect, environment, address["prefect"], lambda: _answers(f"{address['prefect']}/api/health")
        ),
        Service("reports", pages, environment, address["reports"], lambda: _answers(address["reports"])),
    ]
    if not space.mlflow.startswith("http"):  # else someone else serves it
        services.insert(
            1,
            Service("mlflow", mlflow, environment, address["mlflow"], lambda: _answers(f"{address['mlflow']}/health")),
        )
    return services


def _apply(environment: dict[str, str]) -> Service:
    command = [sys.executable, "-m", "deployments", "apply", "--keep-switches"]
    service = Service("apply", command, environment, "", lambda: service.exit_status == 0)
    return service


def _worker(environment: dict[str, str]) -> Service:
    name, api = f"{POOL}-{socket.gethostname()}", environment["PREFECT_API_URL"]
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    since = datetime.now(UTC)  # the worker of an earlier start has the same name

    def is_healthy() -> bool:
        try:
            workers = (
                httpx.post(f"{api}/work_pools/{POOL}/workers/filter", json={}, timeout=5).raise_for_status().json()
            )
        except httpx.HTTPError:
            return False
        seen = [datetime.fromisoformat(worker["last_heartbeat_time"]) for worker in workers if worker["name"] == name]
        return any(moment > since for moment in seen) and all(
            worker["status"] == "ONLINE" for worker in workers if worker["name"] == name
        )

    url = f"{api.removesuffix('/api')}/work-pools/work-pool/{POOL}"
    return Service("worker", command, environment, url, is_healthy)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def _start(starting: Sequence[Service], services: Sequence[Service], stream: Stream, stop: Event) -> None:
    """Start these and return when they are healthy, or when a stop is asked for. Raises ServiceEnded, WorkspaceError."""
    for service in starting:
        if not stop.is_set():
            service.start(stream)
    deadline, waiting = monotonic() + START_TIMEOUT_S, list(starting)
    while waiting and not stop.wait(POLL_S):
        _check_alive(services)
        waiting = [service for service in waiting if not service.is_healthy()]
        if monotonic() > deadline:
            names = ", ".join(service.name for service in waiting)
            raise WorkspaceError(f"{names}: not healthy after {START_TIMEOUT_S} s; see the lines above")


def _watch(services: Sequence[Service], stream: Stream, stop: Event) -> None:
    """Return when a stop is asked for; say when a service no longer answers, and when it does again."""
    healthy = {service.name: True for service in services}
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
        if service.exit_status is not None and not (service.name == "apply" and service.exit_status == 0):
            raise ServiceEnded(service)


def _explain(service: Service, stream: Stream) -> None:
    stream.line(
        "serve", f"{service.name} ended with status {service.exit_status}, so everything stops; its last lines:"
    )
    for line in service.last_lines:
        stream.line(service.name, line)


def _table(services: Sequence[Service]) -> Table:
    table = Table("service", "health", "address", title="Perennial is served on this machine", title_justify="left")
    for service in services:
        if service.url:
            table.add_row(service.name, "healthy", service.url)
    return table


@contextmanager
def asked_to_stop() -> Iterator[Event]:
    """An event that the first signal sets; a second one does not cut the orderly stop short."""
    stop = Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def only_one(space: Workspace) -> Iterator[Path]:
    """Hold the workspace against a second `serve`; end what one that was killed left running."""
    path = space.home / "serve.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceError(
                f"{space.home}: is served already (process {_remembered(path).get('serve', '?')}); stop that one first, "
                "or set PERENNIAL_HOME to another workspace"
            ) from error
        end(_leftovers(_remembered(path)), PATIENCE_S)
        path.write_text(json.dumps({"serve": os.getpid()}))
        yield path
        path.write_text("")


def _remember(path: Path, services: Sequence[Service]) -> None:
    started = {service.process.pid: psutil.Process(service.process.pid).create_time()
               for service in services if service.process and service.process.poll() is None}  # fmt: skip
    path.write_text(json.dumps({"serve": os.getpid(), "started": started}))


def _remembered(path: Path) -> dict[str, dict[str, float]]:
    text = path.read_text()
    return dict(json.loads(text)) if text else {}


def _leftovers(remembered: dict[str, dict[str, float]]) -> list[psutil.Process]:
    """Processes of a killed `serve` that still run, and what they started; a reused pid has another start time."""
    left = []
    for pid, started in remembered.get("started", {}).items():
        try:
            process = psutil.Process(int(pid))
            if process.create_time() == started:
                left += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return left
