"""Run this machine's worker: start it, check that it is online, and requeue its runs when it stops."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event
from uuid import UUID

import httpx
import psutil
from prefect.client.schemas.objects import WorkerStatus
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from rich.console import Console

from deployments.local.instance_lock import PATIENCE_S
from deployments.local.services import Service, Stream, asked_to_stop
from tasks.adapters.orchestration.requeue import POOL, client_of, requeue_orphaned_runs, requeue_runs, worker_name
from tasks.adapters.storage.workspace import located
from tasks.policy.records.errors import DeploymentError

OF_RUN = "PREFECT__FLOW_RUN_ID"
POLL_S = 0.5
AWAY_S = 2.0


def worker(environment: Mapping[str, str], pool: str = POOL, queues: Sequence[str] = ()) -> Service:
    """Return the worker service of this machine for a pool, or for some of its queues."""
    api_url, name = environment["PREFECT_API_URL"], worker_name(pool, queues)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
    command += ["--no-create-pool-if-not-found"]  # a pool created by the worker would lack Perennial's template
    command += [part for queue in queues for part in ("--work-queue", queue)]
    address = f"{api_url.removesuffix('/api')}/work-pools/work-pool/{pool}"
    since = datetime.now(UTC)
    return Service("worker", command, environment, address, lambda: _is_online(api_url, pool, name, since))


def work(pool: str, queues: Sequence[str]) -> int:
    """Run a worker until a signal stops it or it ends by itself; then requeue its runs.

    Waits for a server that does not respond, because after a power loss all machines start at once.

    Returns:
        Exit code: 0 after a signal, else the worker's exit status.

    Raises:
        DeploymentError: No server is set, or it refuses the request or has no such pool.
    """
    api_url = get_current_settings().api.url
    if not api_url:
        raise DeploymentError("PREFECT_API_URL is not set, expected the address of the server that the worker polls")
    stream = Stream(Console(), len("worker"))
    environment = {**located(os.environ), "PREFECT_API_URL": str(api_url), "PYTHONUNBUFFERED": "1"}
    service = worker(environment, pool, queues)
    with asked_to_stop() as stop:
        if not _await_pool(str(api_url), pool, stream, stop):
            return 0
        service.start(stream)
        while not stop.wait(POLL_S) and service.exit_status is None:
            service.note_family()
        ended = service.exit_status
        runs = _runs_of(service)
        service.stop(PATIENCE_S)
        try:
            back = requeue_runs(str(api_url), runs) + requeue_orphaned_runs(str(api_url), pool, queues)
            stream.line("work", f"stopped; {back} run{'s' * (back != 1)} put back into the queue")
        except httpx.HTTPError as error:
            stream.line(
                "work",
                f"stopped; the server is away ({error}), so its runs stay Running until it misses their heartbeats",
            )
    return ended or 0


def _await_pool(api_url: str, pool: str, stream: Stream, stop: Event) -> bool:
    """Wait until the server responds; return True if the pool exists, False if a signal came first.

    Prefect's worker would create a missing pool without Perennial's template, and poll it forever. Raises
    DeploymentError if the pool is missing or the server refuses the request.
    """
    reported = False
    while not stop.is_set():
        try:
            with client_of(api_url) as client:
                client.read_work_pool(pool)
            return True
        except ObjectNotFound as error:
            raise DeploymentError(
                f"work pool {pool}: {api_url} has no pool of that name; fix --pool, or create the pools that deployments "
                "use: perennial apply"
            ) from error
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                raise DeploymentError(
                    f"{api_url}: the server refuses ({error}), expected the one that the worker polls; fix PREFECT_API_URL, "
                    "or PREFECT_API_AUTH_STRING if it requires a log-in"
                ) from error
            if not reported:
                stream.line("work", f"{api_url}: no Prefect server answers yet ({error}); waiting for it")
            reported = True
            stop.wait(AWAY_S)
    return False


def _runs_of(service: Service) -> set[UUID]:
    """Return the ids of the flow runs whose processes this worker started, read from their environments."""
    service.note_family(at_once=True)
    found = set()
    for process in service.family:
        with suppress(psutil.Error):  # the process has ended or can no longer be inspected
            run = process.environ().get(OF_RUN)
            found |= {UUID(run)} if run else set()
    return found


def _is_online(api_url: str, pool: str, name: str, since: datetime) -> bool:
    """Return whether this worker has sent a heartbeat after `since`; an earlier start leaves one of the same name."""
    try:
        with client_of(api_url) as client:
            workers = client.read_workers_for_work_pool(pool)
    except httpx.HTTPError:
        return False
    return any(
        worker.name == name and worker.status == WorkerStatus.ONLINE and worker.last_heartbeat_time > since
        for worker in workers
    )
