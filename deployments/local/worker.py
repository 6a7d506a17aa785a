"""The worker of this machine: how it is started, whether it is there, and what becomes of its runs when it stops.

A process worker that is stopped kills its runs and leaves them Running: in Prefect 3.8 only `prefect flow-run execute`,
which containers run, puts its run back on SIGTERM. `make serve` and `perennial work` do so for a worker: its
runs go back to the queue and the next one takes them up, which is safe, because every write is keyed by its decision.
"""

import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from threading import Event
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import AwaitingRetry
from rich.console import Console

from deployments.local.instance_lock import PATIENCE_S
from deployments.local.services import Service, Stream, asked_to_stop
from tasks.adapters.storage.workspace import located
from tasks.policy.records.errors import DeploymentError

POOL = "perennial"
OF_PROCESSES = "process"
"""The type of a pool whose worker starts processes of its own host."""
UNDER_WAY = [StateType.RUNNING, StateType.PENDING]
OF_RUN = "PREFECT__FLOW_RUN_ID"
TAKEN_BY = "prefect.worker.name"
"""The label by which Prefect notes who took a run, before its process starts."""
STOPPED = "its worker was stopped; the next one takes it up"
POLL_S = 0.5
AWAY_S = 2.0
PAGE = 200
"""Runs in one answer of the server, at most."""


def worker_name(pool: str, queues: Sequence[str]) -> str:
    """Of the worker of this machine, which keeps its name, so that starts do not pile up in the dashboard."""
    return "-".join((pool, *queues, socket.gethostname()))


def worker(environment: Mapping[str, str], pool: str = POOL, queues: Sequence[str] = ()) -> Service:
    """The worker of this machine for a pool, or for some of its queues."""
    api_url, name = environment["PREFECT_API_URL"], worker_name(pool, queues)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
    command += ["--no-create-pool-if-not-found"]  # its own template would not be ours
    command += [part for queue in queues for part in ("--work-queue", queue)]
    address = f"{api_url.removesuffix('/api')}/work-pools/work-pool/{pool}"
    since = datetime.now(UTC)
    return Service("worker", command, environment, address, lambda: _is_online(api_url, pool, name, since))


def work(pool: str, queues: Sequence[str]) -> int:
    """Run a worker until a signal (0) or until it ends by itself (its status); what it was running goes back to the queue.

    A server that does not answer is waited for: after a loss of power all start at once. Raises DeploymentError where none
    is set, or where it refuses or has no such pool.
    """
    api_url = get_current_settings().api.url
    if not api_url:
        raise DeploymentError("PREFECT_API_URL is not set, expected the address of the server that the worker asks")
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
            back = _hand_back(str(api_url), runs) + hand_back_runs(str(api_url), pool, queues)
            stream.line("work", f"stopped; {back} run{'s' * (back != 1)} put back into the queue")
        except httpx.HTTPError as error:
            stream.line(
                "work", f"stopped; its runs stay Running until the server, which is away ({error}), misses them"
            )
    return ended or 0


def _await_pool(api_url: str, pool: str, stream: Stream, stop: Event) -> bool:
    """Whether the pool is there, once the server answers; False where a signal came first. Raises DeploymentError.

    Prefect's worker would make a pool that is not there, without our template, and ask it for runs for ever.
    """
    reported = False
    while not stop.is_set():
        try:
            with _client(api_url) as client:
                client.read_work_pool(pool)
            return True
        except ObjectNotFound as error:
            raise DeploymentError(
                f"work pool {pool}: {api_url} has none of that name; fix --pool, or make the pools that deployments use: "
                "perennial apply"
            ) from error
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                raise DeploymentError(
                    f"{api_url}: the server refuses ({error}), expected the one that the worker asks; fix PREFECT_API_URL, "
                    "or PREFECT_API_AUTH_STRING where it asks for a log-in"
                ) from error
            if not reported:
                stream.line("work", f"{api_url}: no Prefect server answers yet ({error}); waiting for it")
            reported = True
            stop.wait(AWAY_S)
    return False


def _runs_of(service: Service) -> set[UUID]:
    """Ids of the flow runs whose processes this worker started, as Prefect tells each its own."""
    service.note_family(at_once=True)
    found = set()
    for process in service.family:
        with suppress(psutil.Error):  # it ended by itself, or belongs to nobody by now
            run = process.environ().get(OF_RUN)
            found |= {UUID(run)} if run else set()
    return found


def _hand_back(api_url: str, runs: Collection[UUID]) -> int:
    """Put those of the runs back into the queue that their own process did not end. Returns how many."""
    back = 0
    with _client(api_url) as client:
        for run in runs:
            with suppress(ObjectNotFound):  # somebody removed it meanwhile
                state = client.read_flow_run(run).state
                if state is not None and state.type in (*UNDER_WAY, StateType.CRASHED):
                    client.set_flow_run_state(run, AwaitingRetry(message=STOPPED), force=True)
                    back += 1
    return back


def _is_online(api_url: str, pool: str, name: str, since: datetime) -> bool:
    """Whether this worker was heard of since; an earlier start left one of the same name."""
    try:
        with _client(api_url) as client:
            workers = client.read_workers_for_work_pool(pool)
    except httpx.HTTPError:
        return False
    return any(
        worker.name == name and worker.status == WorkerStatus.ONLINE and worker.last_heartbeat_time > since
        for worker in workers
    )


def hand_back_runs(api_url: str, pool: str = POOL, queues: Sequence[str] = ()) -> int:
    """Put every run back into the queue that this machine's worker took and whose process is gone. Returns how many.

    One that no worker has put its name to yet was taken a moment ago; it is ours where no other worker is there. A
    container goes on without the worker that started it, so of a pool of containers nothing is put back.
    """
    own = worker_name(pool, queues)
    with _client(api_url) as client:
        if not _runs_processes(client, pool):
            return 0
        runs = _under_way(client, pool)
        present = [each.name for each in client.read_workers_for_work_pool(pool) if each.status == WorkerStatus.ONLINE]
        owners = {own} if any(name != own for name in present) else {own, None}
        gone = [run for run in runs if run.labels.get(TAKEN_BY) in owners and _is_gone(run)]
        for run in gone:
            client.set_flow_run_state(run.id, AwaitingRetry(message=STOPPED), force=True)
    return len(gone)


def _under_way(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY)))
    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_run_filter=state, work_pool_filter=of_pool, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found)
    ):
        found += page
    return found


def _runs_processes(client: SyncPrefectClient, pool: str) -> bool:
    with suppress(ObjectNotFound):  # somebody removed it, and its runs with it
        return bool(client.read_work_pool(pool).type == OF_PROCESSES)
    return False


def _is_gone(run: FlowRun) -> bool:
    """Whether the run has no process, or had one on this host. Prefect 3.8 notes `PID`, others `HOST:PID`.

    What a container or another host is known by says nothing that could be looked up here.
    """
    pid = (run.infrastructure_pid or "").removeprefix(f"{socket.gethostname()}:")
    return not pid or (pid.isdigit() and not psutil.pid_exists(int(pid)))


@contextmanager
def _client(api_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        yield client
