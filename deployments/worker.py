"""The worker of `make serve`: how it is started, whether it is there, and what becomes of its runs when it stops.

A process worker that is stopped kills its runs and leaves them Running. They go back to the queue, so that the next
start takes them up; running one again is safe, because every write is keyed by its decision.
"""

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

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
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry

from deployments.services import Service

POOL = "perennial"
UNDER_WAY = [StateType.RUNNING, StateType.PENDING]


def worker(environment: Mapping[str, str]) -> Service:
    """The worker of this machine, which keeps its name, so that starts do not pile up in the dashboard."""
    api_url, name = environment["PREFECT_API_URL"], f"{POOL}-{socket.gethostname()}"
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    address = f"{api_url.removesuffix('/api')}/work-pools/work-pool/{POOL}"
    since = datetime.now(UTC)
    return Service("worker", command, environment, address, lambda: _is_online(api_url, name, since))


def _is_online(api_url: str, name: str, since: datetime) -> bool:
    """Whether this worker was heard of since; an earlier start left one of the same name."""
    try:
        with _client(api_url) as client:
            workers = client.read_workers_for_work_pool(POOL)
    except httpx.HTTPError:
        return False
    return any(
        worker.name == name and worker.status == WorkerStatus.ONLINE and worker.last_heartbeat_time > since
        for worker in workers
    )


def hand_back_runs(api_url: str) -> int:
    """Put every run whose process is gone back into the queue. Returns how many."""
    under_way = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    with _client(api_url) as client:
        runs = client.read_flow_runs(flow_run_filter=under_way, work_pool_filter=pool)
        gone = [run for run in runs if not _lives(run)]
        for run in gone:
            state = AwaitingRetry(message="its worker was stopped; the next one takes it up")
            client.set_flow_run_state(run.id, state, force=True)
    return len(gone)


def _lives(run: FlowRun) -> bool:
    pid = (run.infrastructure_pid or "").rsplit(":", 1)[-1]
    return pid.isdigit() and psutil.pid_exists(int(pid))


@contextmanager
def _client(api_url: str) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        yield client
