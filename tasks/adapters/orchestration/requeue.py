"""Put runs back into the queue: a run that cannot continue yet, or the runs of a stopped worker.

A process worker that is stopped kills its runs but leaves them Running, which holds their concurrency slots
indefinitely (PrefectHQ/prefect#16746; #22528 asks for a worker that waits for its runs). `make serve` and `perennial
work` requeue these runs, and the next worker picks them up. This is safe because every write is keyed by its decision.
"""

import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

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
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry

POOL = "perennial"
PROCESS_POOL = "process"
"""Type of a work pool whose worker starts processes on its own host."""
ACTIVE_STATES = [StateType.RUNNING, StateType.PENDING]
WORKER_LABEL = "prefect.worker.name"
"""Label in which Prefect records the worker that took a run, before the run's process starts."""
STOPPED = "its worker was stopped; the next worker runs it again"
PAGE = 200
"""Maximum number of runs per server response."""


def is_deployed() -> bool:
    """Whether the current run belongs to a deployment, so that a worker would pick it up again."""
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def requeue_current_run(why: str, seconds: float) -> None:
    """Requeue a deployed run and end its process with Abort; return if no worker would pick it up again."""
    run = FlowRunContext.get()
    if run is None or run.flow_run is None or not is_deployed():
        return
    state = AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds), message=why)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.flow_run.id, state, force=True)
    get_run_logger().warning("%s; requeued for %g s", why, seconds)
    raise Abort(why)


def worker_name(pool: str, queues: Sequence[str]) -> str:
    """Return the name of this machine's worker; it is stable, so restarts add no workers to the dashboard."""
    return "-".join((pool, *queues, socket.gethostname()))


def requeue_runs(api_url: str, runs: Collection[UUID]) -> int:
    """Requeue those of the given runs that are running, pending or crashed. Return how many."""
    back = 0
    with client_of(api_url) as client:
        for run in runs:
            with suppress(ObjectNotFound):  # deleted meanwhile
                state = client.read_flow_run(run).state
                if state is not None and state.type in (*ACTIVE_STATES, StateType.CRASHED):
                    client.set_flow_run_state(run, AwaitingRetry(message=STOPPED), force=True)
                    back += 1
    return back


def requeue_orphaned_runs(api_url: str, pool: str = POOL, queues: Sequence[str] = ()) -> int:
    """Requeue orphaned runs: those that this machine's worker took and whose process is gone. Return how many.

    A run without a worker label was taken a moment ago; it counts as ours if no other worker is online. Containers
    outlive the worker that started them, so nothing is requeued in a pool of containers.
    """
    own = worker_name(pool, queues)
    with client_of(api_url) as client:
        if not _runs_processes(client, pool):
            return 0
        runs = _under_way(client, pool)
        present = [each.name for each in client.read_workers_for_work_pool(pool) if each.status == WorkerStatus.ONLINE]
        owners = {own} if any(name != own for name in present) else {own, None}
        gone = [run for run in runs if run.labels.get(WORKER_LABEL) in owners and _is_gone(run)]
        for run in gone:
            client.set_flow_run_state(run.id, AwaitingRetry(message=STOPPED), force=True)
    return len(gone)


def _under_way(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    state = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE_STATES)))
    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(
        flow_run_filter=state, work_pool_filter=of_pool, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found)
    ):
        found += page
    return found


def _runs_processes(client: SyncPrefectClient, pool: str) -> bool:
    with suppress(ObjectNotFound):  # the pool was deleted, and its runs with it
        return bool(client.read_work_pool(pool).type == PROCESS_POOL)
    return False


def _is_gone(run: FlowRun) -> bool:
    """Whether the run has no process, or one of this host that has ended.

    Prefect records `PID`, earlier versions `HOST:PID`. Containers and other hosts cannot be checked from here; their
    runs do not count as gone.
    """
    pid = (run.infrastructure_pid or "").removeprefix(f"{socket.gethostname()}:")
    return not pid or (pid.isdigit() and not psutil.pid_exists(int(pid)))


@contextmanager
def client_of(api_url: str) -> Iterator[SyncPrefectClient]:
    """Yield a client of the Prefect server at this address, regardless of this process's settings."""
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        yield client
