"""The image works as workers use it, under the engine that built PERENNIAL_IMAGE: `make image-check`.

Not part of `make test`, because it needs a container engine, an image of 2 GB and minutes. The last test covers the full
path: the project's worker starts one container for a retrain, whose results are in the shared workspace.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from deployments.apply.definitions import read_definitions
from deployments.config.loading import load_model_config
from tests.infra.test_pools import await_until, sent_to
from tests.support.deployed_models import models
from tests.support.object_store import s3

IMAGE = os.environ.get("PERENNIAL_IMAGE", "")
POOL = "perennial-docker"
RETRAIN_S = 300

pytestmark = [
    pytest.mark.slow("starts containers, and a worker that trains a model in one"),
    pytest.mark.skipif(
        not IMAGE, reason="PERENNIAL_IMAGE names no image; apt-get install docker.io, then: make image-check"
    ),
]


def in_container(command: Sequence[str], *options: str) -> str:
    """Return the output of a command in a container without network that may write only to the mounts in `options`."""
    ended = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", *options, IMAGE, *command],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


WORKSPACE = ("--tmpfs", "/var/lib/perennial:uid=10001", "--tmpfs", "/tmp")


def test_image_runs_check_as_unprivileged_user():
    assert "air_time: " in in_container(["python", "-m", "deployments", "check"])
    assert in_container(["id", "-u"]).strip() == "10001"
    assert version("prefect") in in_container(["prefect", "version"], *WORKSPACE)


def test_image_user_is_numeric_and_not_root():
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config}}", IMAGE],
        capture_output=True,
        text=True,
        check=True,
    )
    config = json.loads(shown.stdout)
    assert int(config["User"]) > 0, "runAsNonRoot takes numbers only"
    assert config["Cmd"] == ["prefect", "flow-run", "execute"]
    assert not [each for each in config["Env"] if "SECRET" in each or "PASSWORD" in each or "TOKEN" in each]


def test_image_user_writes_only_to_workspace_and_home():
    printed = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", IMAGE, "find", "/", "-xdev", "-type", "d", "-writable"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert {"/var/lib/perennial", "/home/perennial"} <= set(printed)
    everybodys = ("/tmp", "/var/tmp", "/run/lock")
    assert [
        path for path in printed if not path.startswith(("/var/lib/perennial", "/home/perennial", *everybodys))
    ] == []


def test_image_contains_only_needed_files():
    paths = in_container(["find", "/srv/perennial", "-mindepth", "1"]).split()
    assert {path.split("/")[3] for path in paths} == {
        "LICENSE", "README.md", "deployments", "flows", "infra", "perennial.egg-info", "prefect.yaml", "pyproject.toml",
        "requirements.lock", "tasks",
    }  # fmt: skip
    assert [path for path in paths if Path(path).name.startswith(".") or path.endswith(".pyc")] == []
    listed = in_container(["ls", "/opt/perennial/lib/python3.11/site-packages"]).split()
    assert {"prefect", "xgboost", "mlflow", "deltalake"} <= set(listed)
    assert {"pytest", "playwright", "moto", "mypy", "kubernetes_asyncio", "prefect_docker"}.isdisjoint(listed)


def test_dot_files_are_not_in_the_image():
    """Keys and caches beside a model's file; the engine reads .dockerignore as for the image."""
    root = Path(__file__).resolve().parents[2]
    planted = root / "deployments" / ".env-of-a-test"
    planted.write_text("TOKEN=not-one", encoding="utf-8")
    try:
        seen = subprocess.run(
            ["docker", "build", "--quiet", "--file", "-", str(root)],
            input="FROM scratch\nCOPY . /\n", capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert seen.returncode == 0, seen.stderr
        made = subprocess.run(
            ["docker", "create", seen.stdout.strip(), "none"], capture_output=True, text=True, check=True
        ).stdout.strip()
        archive = subprocess.run(["docker", "export", made], capture_output=True, check=True).stdout
        subprocess.run(["docker", "rm", made], capture_output=True, check=True)
        subprocess.run(["docker", "image", "rm", seen.stdout.strip()], capture_output=True, check=True)
    finally:
        planted.unlink()
    assert b"deployments/air_time.yaml" in archive
    assert b".env-of-a-test" not in archive and b"__pycache__" not in archive and b".git/" not in archive


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run an MLflow server that also stores model files, on a free port."""
    from tasks.adapters.orchestration.server import free_port

    port = free_port()
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "models")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *stores]
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        assert await_until(lambda: _is_healthy(address)), (folder / "mlflow.log").read_text()
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def own_worker(log: Path) -> Iterator[None]:
    """Run `perennial work` on the container pool only."""
    from prefect.settings import PREFECT_API_URL

    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    command = [sys.executable, "-m", "deployments", "work", "--pool", POOL]
    with log.open("wb") as output:
        worker = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def built_of() -> str:
    shown = subprocess.run(
        ["docker", "run", "--rm", IMAGE, "printenv", "PERENNIAL_COMMIT"], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


def stop_container(run_id: Any) -> None:
    """Stop the container as a platform that reclaims a machine: a signal, and 30 s to end."""
    named = ["docker", "ps", "--quiet", "--filter", f"label=io.prefect.flow-run-id={run_id}"]
    container = subprocess.run(named, capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["docker", "stop", "--time", "30", container], capture_output=True, check=True)


def ended(client: Any, run_id: Any, log: Path) -> Any:
    deadline = monotonic() + RETRAIN_S
    while not (run := client.read_flow_run(run_id)).state.is_final() and monotonic() < deadline:
        sleep(1)
    assert run.state.is_completed(), f"{run.state}\n{log.read_text()[-6000:]}"
    return run


@pytest.mark.timeout(900)
def test_retrain_completes_after_its_container_was_stopped(prefect_server, tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client

    from deployments.apply.deploy import apply
    from tasks.adapters.lake import tables as lake
    from tasks.adapters.ledger import chain as ledger
    from tasks.adapters.registry import versions as registry

    with s3(monkeypatch, "bucket"), mlflow_server(tmp_path) as tracking, get_client(sync_client=True) as client:
        addresses = {"PERENNIAL_LAKE": "s3://bucket/lake", "PERENNIAL_LEDGER": "s3://bucket/ledger"}
        for part, address in {**addresses, "MLFLOW_TRACKING_URI": tracking}.items():
            monkeypatch.setenv(part, address)
        try:
            apply(definitions=read_definitions(models_in_containers()))
            store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            run = client.create_flow_run_from_deployment(
                client.read_deployment_by_name("retrain/retrain-docker").id,
                parameters={"model": "air_time", "until": "2013-04-21T00:00:00Z", "reason": "the image is tried"},
                job_variables={
                    "image": IMAGE,
                    "image_pull_policy": "Never",
                    "env": store,
                },  # as a platform's secret store would
            )
            with own_worker(tmp_path / "worker.log"):
                assert await_until(lambda: client.read_flow_run(run.id).state.is_running(), RETRAIN_S)
                stop_container(run.id)
                run = ended(client, run.id, tmp_path / "worker.log")
        finally:
            apply()
        assert run.run_count == 2, "stopped once, it was resumed"
        assert run.infrastructure_pid and ":" in run.infrastructure_pid, "a worker of Docker notes host:container"
        assert not ledger.verify("air_time").problems
        assert {"challenger.registered", "challenger.validated"} <= {entry.kind for entry in ledger.entries("air_time")}
        challenger = registry.version("air_time", "challenger")
        assert challenger.version == "1"
        assert dict(challenger.tags)["code_version"] == built_of(), "the image has no git"
        config = load_model_config("air_time")
        assert lake.landed_rows(config, config.history()).rows > 50_000


def models_in_containers() -> list[Any]:
    placed = [
        model.model_copy(update={"placement": sent_to("docker")}) for model in models() if model.name == "air_time"
    ]
    return [*placed, *(model for model in models() if model.name != "air_time")]
