"""A Prefect server, a worker and an MLflow server as real processes that tests can kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

from tasks.adapters.orchestration.server import PREFECT_APP, free_port, server_environment
from tasks.adapters.storage.workspace import Workspace, workspace
from tests.support.small_model import write_model

ROOT = Path(__file__).parents[2]
START_S = 240


def wait_for(condition: Callable[[], Any], what: str, seconds: float = START_S) -> Any:
    """Return the condition's value once it is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            found = condition()
            if found:
                return found
        time.sleep(0.25)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


class Stack:
    """The processes prefect, mlflow and worker, in one environment, as under `make serve`.

    They run a copy of the project, so that models can be added under its `deployments/`, and several cells can stand at
    their boundaries at once: the copy's deployments run 30 at a time.
    """

    def __init__(self, space: Workspace, **settings: str) -> None:
        self.space, self.running = space, dict[str, subprocess.Popen[bytes]]()
        self.ports = {name: free_port() for name in ("prefect", "mlflow")}
        self.api, self.mlflow = (f"http://127.0.0.1:{port}" for port in self.ports.values())
        self.plans, self.project = space.home / "stops", space.home / "project"
        self.plans.mkdir()
        for part in ("flows", "tasks", "deployments", "infra"):
            shutil.copytree(ROOT / part, self.project / part, ignore=shutil.ignore_patterns("__pycache__"))
        index = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
        several = index.replace("&one-at-a-time\n    limit: 1\n", "&one-at-a-time\n    limit: 30\n")
        several = several.replace("    dedicated: 1\n", "    dedicated: 30\n")
        assert several.count(": 30\n") == 2
        (self.project / "prefect.yaml").write_text(several, encoding="utf-8")
        self.environment = {
            **server_environment(space, self.ports["prefect"]),
            "PERENNIAL_HOME": str(space.home),
            "MLFLOW_TRACKING_URI": self.mlflow,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": f"{self.project}:{ROOT / 'tests' / 'chaos' / 'stopping_points'}",
            "CHAOS_FOLDER": str(self.plans),
            **settings,
        }

    def start(self, *names: str) -> None:
        """Start these processes, and wait until each responds."""
        for name in names:
            with (self.space.home / f"{name}.log").open("ab") as log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", *self._command(name)],
                    env=self.environment, cwd=self.project, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        for name in names:
            wait_for(lambda name=name: self._answers(name), f"{name} is not up; see {self.space.home}/{name}.log")

    def _command(self, name: str) -> Sequence[str]:
        port = str(self.ports.get(name))
        if name == "prefect":
            return PREFECT_APP, "server", "start", "--host", "127.0.0.1", "--port", port
        if name == "worker":
            return "deployments", "work", "--pool", "perennial"
        stores = f"sqlite:///{self.space.home / 'mlflow.db'}", "--artifacts-destination", self.space.artifacts
        listen = "--host", "127.0.0.1", "--port", port, "--workers", "1"
        return "mlflow", "server", *listen, "--backend-store-uri", *stores

    def _answers(self, name: str) -> bool:
        assert self.running[name].poll() is None, f"{name} ended; see {self.space.home}/{name}.log"
        if name == "worker":
            return True
        url = f"{self.api}/api/health" if name == "prefect" else f"{self.mlflow}/health"
        return httpx.get(url, timeout=5).is_success

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send SIGKILL, as the kernel or an operator would, or SIGTERM, after which it may end by itself. A server dies with the
        children that serve its port; the runs that a worker started live on when it is killed, as they would."""
        process = self.running.pop(name)
        family = psutil.Process(process.pid).children(recursive=name != "worker")
        process.send_signal(how)
        process.wait(timeout=120)
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(family)

    def stop(self) -> None:
        for name in ("worker", "mlflow", "prefect"):
            process = self.running.pop(name, None)
            if process is None:
                continue
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.kill()

    def apply(self) -> None:
        """Deploy the shipped definitions."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments", "apply"],
            env=self.environment, cwd=self.project, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def add_model(self, name: str) -> None:
        """Add a small model of this name, as a user would."""
        folder = self.space.home / "models" / name
        path = write_model(
            folder, **{"name: small": f"name: {name}", "path: rows.parquet": f"path: {folder / 'rows.parquet'}"}
        )
        shutil.copy(path, self.project / "deployments" / f"{name}.yaml")

    def ask(self, path: str, **body: Any) -> Any:
        """POST to the Prefect server, with retries while it is busy, like Prefect's clients."""

        def answered() -> httpx.Response | None:
            answer = httpx.post(f"{self.api}/api/{path}", json=body, timeout=60)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer.raise_for_status()

        return wait_for(answered, f"POST {path}").json()

    def run(self, deployment: str, job_variables: dict[str, Any] | None = None, /, **parameters: Any) -> str:
        """Start a run of a deployment; return its id."""
        found = httpx.get(f"{self.api}/api/deployments/name/{deployment}/{deployment}", timeout=30).json()
        made = self.ask(
            f"deployments/{found['id']}/create_flow_run",
            parameters=parameters,
            job_variables=job_variables or {},
            idempotency_key=uuid4().hex,
        )
        return str(made["id"])

    def final_state(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's final state; None while it is active."""
        state: dict[str, Any] = httpx.get(f"{self.api}/api/flow_runs/{run_id}", timeout=30).json()["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    def delete_run(self, run_id: str) -> None:
        httpx.delete(f"{self.api}/api/flow_runs/{run_id}", timeout=30).raise_for_status()

    def plan(self, name: str, stop: str) -> None:
        """Plan where the next run for a model stops, and whether it dies or waits there; see `stopping_points`."""
        (self.plans / f"{name}.plan").write_text(stop)

    def go(self, name: str) -> None:
        (self.plans / f"{name}.go").touch()

    def runs(self, flow: str, model: str) -> list[dict[str, Any]]:
        """Return the runs of a flow for a model, newest last."""
        found = self.ask(
            "flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_ASC", limit=200
        )
        return [run for run in found if run["parameters"].get("model") == model]

    def states(self, run_id: str) -> list[str]:
        found = httpx.get(f"{self.api}/api/flow_run_states/", params={"flow_run_id": run_id}, timeout=30).json()
        return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]


@contextmanager
def stack(**settings: str) -> Iterator[Stack]:
    """Start and deploy everything; stop all processes at the end."""
    made = Stack(workspace(), **settings)
    try:
        made.start("prefect", "mlflow")
        made.apply()
        made.start("worker")
        yield made
    finally:
        made.stop()
