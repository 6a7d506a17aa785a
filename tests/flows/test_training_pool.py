"""A model whose training command runs on a work pool of the team's, on a real server with a process worker."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import WorkPoolStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.states import AwaitingRetry, Cancelling

from deployments.apply.definitions import Definitions, read_definitions
from deployments.apply.deploy import apply
from deployments.config.loading import load_model_config
from deployments.new.checking import check_files
from flows.retrain import retrain
from flows.train import train
from tasks.adapters import registry
from tasks.adapters.own_training import pool
from tasks.adapters.storage.workspace import workspace as here
from tasks.policy.records.base import utc
from tasks.policy.records.errors import TrainingFailed
from tests.support import returns_model
from tests.support.ways_in import example

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(600)]
END, POOL = utc("2024-01-21"), "team-gpu"
WAIT = "import os, pathlib, time; pathlib.Path('mark').write_text(str(os.getpid())); time.sleep(300)"


@pytest.fixture(scope="module")
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, client: SyncPrefectClient) -> Iterator[Callable[[], None]]:
    """Create the pool, and deploy as `perennial apply` does; return what starts its worker, once."""
    folder = tmp_path_factory.mktemp("worker")
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    apply(definitions=on_pool(model(folder)))
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        if workers:
            return
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERENNIAL_")},
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
        with (folder / "log").open("wb") as log:
            workers.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        await_until(lambda: client.read_work_pool(POOL).status == WorkPoolStatus.READY)

    try:
        yield start
    finally:
        for worker in workers:
            worker.terminate()  # SIGINT is ignored where the tests run in the background
            worker.wait(60)
        client.delete_deployment(client.read_deployment_by_name(f"train/train-{POOL}").id)
        client.delete_work_pool(POOL)


def await_until(condition: Callable[[], Any]) -> Any:
    deadline = monotonic() + 240
    while not (seen := condition()):
        assert monotonic() < deadline
        sleep(0.2)
    return seen


def model(folder: Path, script: str = "", **training: Any) -> str:
    """Write the model's file with the page's settings, and the script that its command runs."""
    path = Path(returns_model.write_model(folder))
    (folder / "train.py").write_text(script or example("training", "python", 1), encoding="utf-8")
    shown = yaml.safe_load(example("training", number=2))["training"]
    own = {"min_rows": 300, **shown, "command": [sys.executable, "train.py"], **training}
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "training": own}), encoding="utf-8")
    return str(path)


def on_pool(path: str) -> Definitions:
    """Return the definitions of this model's training alone."""
    definitions = read_definitions([load_model_config(path)])
    training = [item for item in definitions.deployments if item["name"].startswith("train-")]
    index = {**definitions.index, "deployments": training}
    return replace(definitions, index=index, automations=(), limits=(), variables={})


def checked(path: str) -> str:
    (found,) = check_files([path], data=False)
    return found.error or " ".join(found.behaviour)


def test_the_page_trains_on_a_pool(tmp_path, team, client):
    path = model(tmp_path)
    said = checked(path)
    assert f"trains the command {sys.executable} train.py on work pool team-gpu" in said
    assert "handed over in the folder of the workspace, which the pool's hosts must have" in said
    if client.read_work_pool(POOL).status == WorkPoolStatus.NOT_READY:
        assert "has no worker; start one on its host: perennial work --pool team-gpu" in said
    team()
    assert "has no worker" not in checked(path)
    assert retrain(path, until=END).verdict == "pass"
    tags = dict(registry.version("returns", "challenger").tags)
    assert "of train/train-team-gpu: " in tags["origin"]
    assert not list((here().home / "training").iterdir()), "no rows are left behind"


def test_what_the_command_wrote_last_is_said_here(tmp_path, team):
    team()
    path = model(tmp_path, "import sys; print('a hint', file=sys.stderr); sys.exit('no GPU at cuda:0')")
    with pytest.raises(
        TrainingFailed, match=r"ended as Failed: .* ended with status 1; its last lines: a hint \| no GPU"
    ):
        retrain(path, until=END)
    assert not list((here().home / "training").iterdir())


@pytest.mark.slow("a worker's process starts, and is killed with the command")
def test_cancelling_ours_ends_the_command_there(tmp_path, team, client):
    team()
    path, errors = model(tmp_path, WAIT), []

    def run() -> None:
        try:
            retrain(path, until=END, decision_id="cancelled-on-pool")
        except TrainingFailed as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    process = int(await_until(lambda: (tmp_path / "mark").exists() and (tmp_path / "mark").read_text()))
    runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    ours = next(
        run for run in runs if run.parameters.get("decision_id") == "cancelled-on-pool" and not run.deployment_id
    )
    client.set_flow_run_state(ours.id, Cancelling(), force=True)
    thread.join(240)
    assert errors and "ended as Cancel" in errors[0]
    await_until(lambda: not Path(f"/proc/{process}").exists())


@pytest.mark.slow("a worker's process starts twice")
def test_a_run_that_crashed_there_is_waited_for(tmp_path, team, client):
    """Its process is killed; the automation that takes a crashed run up again is played by the test."""
    team()
    crash = (
        "import os, pathlib\nif not os.path.exists('mark'): pathlib.Path('mark').touch(); os.kill(os.getppid(), 9)\n"
    )
    path, verdicts = model(tmp_path, crash + example("training", "python", 1)), []
    thread = threading.Thread(
        target=lambda: verdicts.append(retrain(path, until=END, decision_id="crashed-on-pool").verdict)
    )
    thread.start()

    def crashed() -> Any:
        runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)
        theirs = [run for run in runs if run.parameters.get("decision_id") == "crashed-on-pool" and run.deployment_id]
        return next((run for run in theirs if run.state and run.state.is_crashed()), None)

    client.set_flow_run_state(await_until(crashed).id, AwaitingRetry(), force=True)
    thread.join(240)
    assert verdicts == ["pass"]


def test_a_pool_without_a_worker_is_named(tmp_path, client, monkeypatch):
    idle = model(tmp_path, work_pool="team-idle")
    assert "training.work_pool is team-idle, which does not exist on this Prefect server" in checked(idle)
    client.create_work_pool(WorkPoolCreate(name="team-idle", type="process"))
    try:
        assert "does not have train/train-team-idle; expected it to be deployed: perennial apply" in checked(idle)
        deployed = deploy_alone(client, "team-idle")
        assert "has no worker; start one on its host: perennial work --pool team-idle" in checked(idle)
        monkeypatch.setattr(pool, "UNTAKEN", timedelta(0))
        with pytest.raises(TrainingFailed, match=r"has no worker; start one .*waited there and was cancelled"):
            retrain(idle, until=END)
        client.delete_deployment(deployed)
    finally:
        client.delete_work_pool("team-idle")


def deploy_alone(client: SyncPrefectClient, name: str) -> UUID:
    flow = client.create_flow(train)
    return client.create_deployment(flow, name=f"train-{name}", entrypoint="flows.train.train", work_pool_name=name)


def test_apply_leaves_out_a_pool_that_does_not_exist(tmp_path, client, capsys):
    there = {each.name for each in client.read_work_pools()}
    path = model(tmp_path, work_pool="no-such-pool")
    planned = apply(definitions=on_pool(path), dry_run=True)
    assert not [change for change in planned if change.verb == "created"]
    assert "this server has no work pool no-such-pool, which training.work_pool names" in capsys.readouterr().out
    assert {each.name for each in client.read_work_pools()} == there
