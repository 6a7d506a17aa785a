"""A team's model that is retrained by the team's own Prefect deployment, on a real server with a process that serves it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from deployments.new.checking import check_files
from flows.monitor import monitor
from flows.promote import promote
from flows.replay import replay
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.adapters.own_training import flow as own_flow
from tasks.adapters.storage.workspace import workspace as here
from tasks.policy.records.base import utc
from tasks.policy.records.errors import TrainingFailed
from tests.support import returns_model
from tests.support.trained_models import prepare_registry
from tests.support.ways_in import example

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.timeout(900)]
END = utc("2024-01-21")
SERVE = '''

@flow(name="light")
def light(snapshot: dict, decision_id: str, output: str, behaviour: str, marks: str):
    """Train without MLflow, or fail as asked."""
    import time
    from pathlib import Path

    with Path(marks).open("a") as file:
        print(decision_id, file=file)
    if behaviour == "raise":
        raise ValueError("no rows at postgresql://me:secret@host/db")
    if behaviour == "wait":
        time.sleep(300)
    rows = pd.read_parquet(snapshot["rows"])
    if behaviour != "nothing":
        model = xgboost.XGBClassifier(n_estimators=40, max_depth=3).fit(rows[["amount", "visits"]], rows["returned"])
        model.save_model(Path(output) / "model.ubj")


if __name__ == "__main__":
    from prefect import serve

    serve(train.to_deployment("team"), light.to_deployment("team"))
'''


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Path]:
    """Serve the page's flow, and a light one, in a process of the team's; return its folder, which has its registry."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "team_flows.py").write_text(example("training", "python", 2) + SERVE, encoding="utf-8")
    prepare_registry(folder / "registry")
    address = f"sqlite:///{folder / 'registry' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    client.create_experiment("team", artifact_location=str(folder / "artifacts"))
    environment = {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_EXPERIMENT_NAME": "team",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "team_flows.py"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        with get_client(sync_client=True) as client:
            named = DeploymentFilter(name=DeploymentFilterName(any_=["team"]))
            deadline = monotonic() + 240
            while len(client.read_deployments(deployment_filter=named)) < 2:
                assert process.poll() is None and monotonic() < deadline, (folder / "log").read_text()
                sleep(0.5)
        yield folder
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def registered(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the registry that the team's flow uses."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{team / 'registry' / 'mlflow.db'}")
    monkeypatch.setenv("PERENNIAL_ARTIFACTS", str(team / "registry" / "artifacts"))


def model(folder: Path, name: str = "returns", **training: Any) -> str:
    """Write the model's file, with this block `training`."""
    path = Path(returns_model.write_model(folder))
    content = yaml.safe_load(path.read_text())
    content |= {"name": name, "training": {"min_rows": 300, **training}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def light(folder: Path, behaviour: str, **training: Any) -> str:
    parameters = {"behaviour": behaviour, "marks": str(folder / "marks")}
    return model(folder, f"light_{behaviour}", flow="light/team", flow_parameters=parameters, **training)


def marks(folder: Path) -> list[str]:
    return (folder / "marks").read_text().split() if (folder / "marks").exists() else []


def await_mark(folder: Path) -> None:
    deadline = monotonic() + 240
    while not marks(folder):
        assert monotonic() < deadline
        sleep(0.2)


def runs_of(decision_id: str) -> list[Any]:
    """Return the decision's runs of the team's deployment, newest first; ours has no `output`."""
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)  # the server returns 200 at most
    return [run for run in newest if run.parameters.get("decision_id") == decision_id and "output" in run.parameters]


def end_of(decision_id: str) -> str:
    """Return the final state of the decision's run."""
    deadline = monotonic() + 120
    while not (state := runs_of(decision_id)[0].state).is_final():
        assert monotonic() < deadline, state
        sleep(0.5)
    return str(state.name)


@pytest.mark.usefixtures("registered")
def test_team_s_deployment_retrains_the_model(tmp_path):
    """From the page's example to a champion, a monitored window and a second version."""
    prepare = yaml.safe_load(example("training", number=3))["training"]
    path = model(tmp_path, **prepare)
    (found,) = check_files([path], data=False)
    assert not found.error
    assert "trains the Prefect deployment train-returns/team" in " ".join(found.behaviour)

    first = retrain(path, until=END)
    assert first.verdict == "pass" and first.constant.gain > 0.1
    version = registry.version("returns", "challenger")
    tags = dict(version.tags)
    assert "models:/returns-training/1" in tags["origin"] and "train-returns/team" in tags["origin"]
    assert version.trained.end < END, "the holdout was not handed over"
    (run,) = runs_of(version.decision_id)
    assert run.parameters["snapshot"]["content_hash"] == tags["content_hash"]
    assert run.parameters["snapshot"]["window"]["end"] == version.trained.end.isoformat()
    assert '"wall_s":' in tags["usage"].replace(" ", "") and registry.versions.client().get_model_version(
        "returns-training", "1"
    )
    assert not list((here().home / "training").iterdir()), "no rows are left behind"

    promote(path, until=END)
    score(path, until=utc("2024-01-23"))
    judged = monitor(path, until=utc("2024-01-23"))
    assert judged.evidence.quality.verdict == "pass"
    assert judged.evidence.performance.metric("log_loss").value < 0.6

    second = retrain(path, until=utc("2024-01-29"), reason="a fresh one")
    assert second.challenger == "2"
    assert registry.version("returns", "2").trained.end > version.trained.end


def test_a_model_in_the_output_place_is_taken_in(tmp_path, team):
    path = light(tmp_path, "output")
    assert retrain(path, until=END).verdict == "pass"
    version = registry.version("light_output", "challenger")
    assert marks(tmp_path) == [version.decision_id]
    retrain(path, until=END)
    assert marks(tmp_path) == [version.decision_id], "a decision trains once"


def test_a_failed_run_refuses_the_retrain_and_the_next_attempt_starts_another(tmp_path, team):
    path = light(tmp_path, "raise")
    for attempt in (1, 2):
        with pytest.raises(TrainingFailed, match=r"whose run .* ended as Failed: .*\*\*\*@host/db; expected Completed"):
            retrain(path, until=END, decision_id="failing-1")
        assert len(marks(tmp_path)) == attempt
    assert registry.find("light_raise", "failing-1") is None
    assert not list((here().home / "training").iterdir())


def test_a_run_that_leaves_nothing_is_refused(tmp_path, team):
    with pytest.raises(TrainingFailed, match="ended well, but its output place holds nothing, expected one model"):
        retrain(light(tmp_path, "nothing"), until=END)


def test_a_run_past_the_time_limit_is_cancelled(tmp_path, team):
    path = light(tmp_path, "wait", timeout_hours=45 / 3600)
    with pytest.raises(TrainingFailed, match=r"took longer than .* h \(training.timeout_hours\) and was cancelled"):
        retrain(path, until=END, decision_id="too-slow-1")
    assert end_of("too-slow-1") == "Cancelled"


def test_cancelling_ours_cancels_theirs(tmp_path, team):
    """As the dashboard's button does: our run is set to Cancelling while it waits."""
    path, errors = light(tmp_path, "wait"), []

    def run() -> None:
        try:
            retrain(path, until=END, decision_id="cancelled-1")
        except TrainingFailed as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    await_mark(tmp_path)
    with get_client(sync_client=True) as client:
        ours = next(
            run
            for run in client.read_flow_runs(
                sort=FlowRunSort.EXPECTED_START_TIME_DESC
            )  # the server returns 200 at most
            if run.parameters.get("decision_id") == "cancelled-1" and "model" in run.parameters
        )
        client.set_flow_run_state(ours.id, Cancelling(), force=True)
    thread.join(240)
    assert errors and "ended as Cancel" in errors[0]


def test_a_resumed_run_waits_for_the_same_one(tmp_path, team, monkeypatch):
    """A killed process leaves their run alone; the next attempt finds it by the decision."""
    path = light(tmp_path, "output")
    wait = own_flow._wait
    monkeypatch.setattr(own_flow, "_wait", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        retrain(path, until=END, decision_id="resumed-1")
    monkeypatch.setattr(own_flow, "_wait", wait)
    assert retrain(path, until=END, decision_id="resumed-1").verdict == "pass"
    assert marks(tmp_path) == ["resumed-1"]


def test_a_missing_deployment_is_named_by_check(tmp_path):
    (found,) = check_files([model(tmp_path, flow="team/no-such")], data=False)
    assert "training.flow is team/no-such, which this Prefect server does not have" in found.error


@pytest.mark.usefixtures("registered")
def test_versions_that_do_not_fit_the_decision_are_refused(tmp_path, monkeypatch):
    from tests.adapters.own_training.test_command import job  # the job of a small model
    from tests.support.trained_models import TRAINING, make_config

    config = make_config(training={"flow": "a/b", "registered_model": "theirs"})
    client = registry.versions.client()
    client.create_registered_model("theirs")

    def registers(**tags: str) -> str:
        return str(client.create_model_version("theirs", str(tmp_path), tags={"decision_id": "d1", **tags}).version)

    with pytest.raises(TrainingFailed, match="theirs has no version with the tag decision_id = d1"):
        own_flow._address(config, job(), "")
    late = registers(trained_until=datetime(2024, 3, 2, tzinfo=UTC).isoformat())
    with pytest.raises(
        TrainingFailed, match=f"theirs version {late} was trained until 2024-03-02.* where the holdout begins"
    ):
        own_flow._address(config, job(), "")
    client.set_model_version_tag("theirs", late, "trained_until", TRAINING.end.isoformat())
    assert own_flow._address(config, job(), "") == f"models:/theirs/{late}"
    second = registers()
    with pytest.raises(TrainingFailed, match=f"theirs has the versions .*{second}.* expected one"):
        own_flow._address(config, job(), "")


def test_replay_starts_no_run_of_theirs(tmp_path, team):
    replay(light(tmp_path, "output"))
    assert marks(tmp_path) == []
    assert any(entry.kind == "challenger.registered" for entry in ledger.entries("light_output"))
