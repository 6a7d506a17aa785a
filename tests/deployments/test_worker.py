"""`perennial work`: a stopped worker requeues its runs, and the next worker completes them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import psutil
import pytest

from deployments.apply.definitions import read_definitions
from deployments.apply.pools import read_pool
from deployments.apply.unpolled_queues import list_unpolled_queues
from deployments.local.worker import AWAY_S
from tasks.adapters.orchestration.server import free_port, running_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace
from tests.chaos.stack import wait_for

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow("each test starts a server and workers"),
]
ROOT = Path(__file__).parents[2]
FLOW = """\
import json
import os
import time
from pathlib import Path
from time import sleep
from prefect import flow

@flow
def look(seen: str) -> None:
    from tasks.adapters.storage.workspace import workspace

    settings = {name: value for name, value in os.environ.items() if name.startswith(("PERENNIAL_", "MLFLOW_TRACKING"))}
    Path(seen).write_text(json.dumps({**settings, "home": str(workspace().home)}))

@flow
def stay(marks: str) -> None:
    tries = Path(marks)
    with tries.open("a") as file:
        print("started", file=file)
    if len(tries.read_text().split()) == 1:
        time.sleep(600)
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Run a server with Perennial's pool; return the environment for its clients."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.apply.server_state import PrefectState

    (tmp_path / "staying.py").write_text(FLOW, encoding="utf-8")
    with running_server(workspace()) as server:
        wait_until_healthy(server["PREFECT_API_URL"])
        with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}), PrefectState() as state:
            state.save_pool(read_pool("perennial"), exists=False)
            yield {**server, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PREFECT_WORKER_QUERY_SECONDS": "1"}


class Worker:
    """A `perennial work` process with its output in a file."""

    def __init__(self, environment: dict[str, str], log: Path, *options: str, folder: Path = ROOT) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deployments", "work", *options],
                env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def stop(self, how: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(how)
        self.process.wait(timeout=120)
        return self.log.read_text(errors="replace")


def work(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run `perennial work` until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "deployments", "work", *options],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def run_of(client: Any, flow: str, **parameters: str) -> Any:
    """Create a run of a flow in FLOW that waits for a worker."""
    deployment = client.create_deployment(
        client.create_flow_from_name(flow),
        name=flow,
        entrypoint=f"staying.{flow}",
        work_pool_name="perennial",
        pull_steps=[],
    )
    return client.create_flow_run_from_deployment(deployment, parameters=parameters).id


def run_that_stays(client: Any, folder: Path) -> Any:
    return run_of(client, "stay", marks=str(folder / "marks"))


def test_stopped_worker_requeues_its_run(environment, tmp_path):
    from prefect.client.orchestration import get_client

    workers = [Worker(environment, tmp_path / "first.log")]
    try:
        with get_client(sync_client=True) as client:
            run = run_that_stays(client, tmp_path)
            wait_for(lambda: (tmp_path / "marks").exists(), "the run is under way")
            family = psutil.Process(workers[0].process.pid).children(recursive=True)
            warnings = workers[0].stop()
            assert workers[0].process.returncode == 0, warnings
            assert "1 run put back into the queue" in warnings
            assert not [each for each in family if each.is_running()], "a process of the worker is still running"
            state = client.read_flow_run(run).state
            assert (state.name, state.message) == (
                "AwaitingRetry",
                "its worker was stopped; the next worker runs it again",
            )
            workers.append(Worker(environment, tmp_path / "second.log"))
            wait_for(lambda: client.read_flow_run(run).state.is_final(), "the next worker takes it up")
            assert client.read_flow_run(run).state.is_completed(), workers[1].log.read_text(errors="replace")
            assert (tmp_path / "marks").read_text().split() == ["started", "started"]
            assert "0 runs put back into the queue" in workers[1].stop(signal.SIGINT)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.stop()


def test_run_uses_the_workers_workspace(environment, tmp_path):
    from prefect.client.orchestration import get_client

    relative = {name: value for name, value in environment.items() if not name.startswith("PERENNIAL_")} | {
        "PERENNIAL_LAKE": "lakes/ours",
        "PERENNIAL_LEDGER": "s3://bucket/ledger",
        "PERENNIAL_MODELS": "models",
        "MLFLOW_TRACKING_URI": "sqlite:///runs.db",
    }
    folder, seen = tmp_path / "project", tmp_path / "seen"
    folder.mkdir()
    worker = Worker(relative, tmp_path / "worker.log", folder=folder)
    try:
        with get_client(sync_client=True) as client:
            run = run_of(client, "look", seen=str(seen))
            wait_for(lambda: client.read_flow_run(run).state.is_final(), "the run is over")
    finally:
        warnings = worker.stop()
    found = json.loads(seen.read_text()) if seen.exists() else warnings
    assert found == {
        "home": str(folder / ".perennial"),
        "PERENNIAL_HOME": str(folder / ".perennial"),
        "PERENNIAL_LAKE": str(folder / "lakes" / "ours"),
        "PERENNIAL_LEDGER": "s3://bucket/ledger",
        "PERENNIAL_MODELS": str(folder / "models"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'runs.db'}",
    }


def test_apply_names_unpolled_queues(environment, tmp_path, capsys):
    from deployments.apply.deploy import apply
    from tests.infra.test_pools import models, sent_to

    definitions = read_definitions(models(air_time=sent_to("gpu")))

    def warnings(**options: Any) -> list[str]:
        apply(definitions=definitions, **options)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("no worker polls")]

    gpu = "perennial work --pool perennial --work-queue gpu"
    default, of_gpu = warnings(dry_run=True)
    assert default.startswith(
        "no worker polls queue default of work pool perennial, so runs of monitor, score, retrain,"
    )
    assert default.endswith("perennial work --pool perennial")
    assert of_gpu == (
        "no worker polls queue gpu of work pool perennial, so runs of retrain-gpu would wait; start a worker on its host: "
        + gpu
    )
    assert warnings(followed=["perennial"]) == []
    worker = Worker(environment, tmp_path / "gpu.log", *gpu.split()[4:])
    try:
        wait_for(lambda: warnings(dry_run=True) == [default], "the queue that the worker polls is polled")
    finally:
        worker.stop()
    worker = Worker(environment, tmp_path / "all.log")
    try:
        wait_for(lambda: warnings(dry_run=True) == [], "a worker of the whole pool polls every queue")
    finally:
        worker.stop()


def test_queue_polled_a_minute_ago_is_unpolled():
    now, polled = datetime(2026, 1, 1, tzinfo=UTC), {}

    class Known:
        def last_polled(self, pool: str, queue: str) -> datetime | None:
            return polled.get((pool, queue))

    definitions = read_definitions()
    assert len(list_unpolled_queues(Known(), definitions, now=now)) == 1
    polled["perennial", "default"] = now - timedelta(seconds=60)
    assert list_unpolled_queues(Known(), definitions, now=now) == []
    polled["perennial", "default"] = now - timedelta(seconds=61)
    assert len(list_unpolled_queues(Known(), definitions, now=now)) == 1
    assert list_unpolled_queues(Known(), definitions, ["perennial"], now) == []


def test_worker_without_server_names_the_setting(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    ended = work({**environment, "PREFECT_HOME": str(tmp_path)})
    assert ended.returncode == 2
    assert "PREFECT_API_URL is not set" in ended.stderr


def test_missing_pool_is_refused_and_not_created(environment):
    from prefect.client.orchestration import get_client

    ended = work(environment, "--pool", "nope")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"work pool nope: {environment['PREFECT_API_URL']} has no pool of that name; fix --pool, or create the pools that "
        "deployments use: perennial apply\n"
    )
    with get_client(sync_client=True) as client:
        assert "nope" not in [pool.name for pool in client.read_work_pools()]


def test_worker_waits_for_an_unreachable_server(tmp_path):
    """After a power loss all hosts start at once, and a server takes longer than a worker."""
    port = free_port()
    worker = Worker({**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}, tmp_path / "worker.log")
    try:
        wait_for(
            lambda: "no Prefect server answers yet" in worker.log.read_text(errors="replace"), "the worker says so"
        )
        sleep(3 * AWAY_S)
    finally:
        warnings = worker.stop()
    assert worker.process.returncode == 0, warnings
    assert warnings.count("no Prefect server answers yet") == 1 and "Traceback" not in warnings


def test_worker_stopped_without_server_reports_its_runs(tmp_path):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.apply.server_state import PrefectState

    with running_server(workspace()) as server:
        wait_until_healthy(server["PREFECT_API_URL"])
        with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}), PrefectState() as state:
            state.save_pool(read_pool("perennial"), exists=False)
        worker = Worker({**server, "PREFECT_WORKER_QUERY_SECONDS": "1"}, tmp_path / "worker.log")
        try:
            wait_for(lambda: "started!" in worker.log.read_text(errors="replace"), "the worker polls")
        except BaseException:
            worker.stop()
            raise
    warnings = worker.stop()
    assert worker.process.returncode == 0, warnings
    (last,) = [line for line in warnings.splitlines() if line.startswith("work ")]
    assert "stopped; the server is away (" in last
    assert "deployments/" not in warnings, "no traceback from our code"
