"""`make e2e`: from drifted rows to a new champion on the real server and worker that `make serve` starts.

Data event → monitor → automation → retrain → automation → promote, which waits → approval through the API → the new
champion serves in `score`. Prints the seconds of each step and writes them to bench/e2e.json in the workspace.
`trigger_to_live_s` runs from the event to the end of the promotion, without the training task.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

from tasks.adapters.orchestration.server import free_port, served_url
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.events import about
from tests.benchmarks.e2e_model import DRIFT, NAME, WINDOW_DAYS, land, write_model

START_S, HOP_S, POLL_S = 240, 240, 0.2
NOTICED = DRIFT + timedelta(days=WINDOW_DAYS)
TARGET_S = 60


class NothingHappened(Exception):
    """A step did not complete within HOP_S."""


def free_ports() -> dict[str, int]:
    """Return a free port for each service of `serve`."""
    return {name: free_port() for name in ("prefect", "mlflow", "reports")}


@contextmanager
def served(home: Path, models: Path, log: Path, ports: Mapping[str, int] | None = None) -> Iterator[str]:
    """Run `perennial serve` with these models on a separate workspace. Yields the API's address."""
    os.environ.update({"PERENNIAL_HOME": str(home), "PERENNIAL_MODELS": str(models)})
    options = [part for name, port in (ports or free_ports()).items() for part in (f"--{name}-port", str(port))]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments", "serve", "--no-login", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        await_that(lambda: _is_up(process, log), "serve is healthy", START_S)
        address = served_url(workspace())
        if address is None:
            raise NothingHappened("serve says that it is healthy, but no server answers")
        os.environ["PREFECT_API_URL"] = address
        yield address
    finally:
        process.terminate()
        process.wait(timeout=90)


def _is_up(process: subprocess.Popen[bytes], log: Path) -> bool:
    printed = log.read_text(errors="replace")
    if process.poll() is not None:
        raise NothingHappened(f"serve ended with {process.returncode}:\n{printed[-4000:]}")
    return "Ctrl-C stops everything" in printed


def await_that(condition: Callable[[], Any], what: str, seconds: float = HOP_S) -> Any:
    """Return the value of `condition` once it is true. Raises NothingHappened."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        seen = condition()
        if seen:
            return seen
        sleep(POLL_S)
    raise NothingHappened(f"not within {seconds:.0f} s: {what}")


def prepare() -> None:
    """Prepare the first champion, requested by Ada and approved by Grace, and a window that it served well."""
    from flows.monitor import monitor
    from flows.promote import promote
    from flows.retrain import retrain
    from flows.score import score

    first = DRIFT - timedelta(days=WINDOW_DAYS)
    retrain(NAME, until=first, requested_by="Ada")
    promote(NAME, until=first, approved_by="Grace")
    score(NAME, until=DRIFT)
    monitor(NAME, until=DRIFT)


class Loop:
    """The server's runs and events since `started`, read through its API."""

    def __init__(self, client: Any, started: datetime) -> None:
        self.client, self.started = client, started

    def run_of(self, deployment: str) -> Any:
        """Return the first run of a deployment since then, or None."""
        wanted = self.client.read_deployment_by_name(f"{deployment}/{deployment}").id
        runs = [
            run for run in self.client.read_flow_runs() if run.deployment_id == wanted and run.created > self.started
        ]
        return min(runs, key=lambda run: run.created, default=None)

    def finished(self, deployment: str) -> Any:
        """Return that run once it is completed. Raises NothingHappened if it failed."""
        run = self.run_of(deployment)
        if run is None or run.state is None or not (run.state.is_final() or run.state.is_paused()):
            return None
        if run.state.is_failed() or run.state.is_crashed():
            raise NothingHappened(f"{run.name} is {run.state.name}: {run.state.message}")
        return run

    def seconds_of(self, run_id: UUID, task: str) -> float:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        runs = self.client.read_task_runs(flow_run_filter=of_run)
        return float(sum(run.total_run_time.total_seconds() for run in runs if run.name.startswith(task)))


def walk(folder: Path) -> dict[str, float]:
    """Run the loop once on a running server; return the seconds of each step. Raises NothingHappened."""
    from prefect.client.orchestration import get_client
    from prefect.events import emit_event

    from flows.score import score
    from tasks.adapters.ledger import chain as ledger
    from tasks.adapters.registry import versions as registry

    prepare()
    before = registry.aliases(NAME)[registry.CHAMPION]
    land(folder, DRIFT, NOTICED)
    score(NAME, until=NOTICED)
    with get_client(sync_client=True) as client:
        loop = Loop(client, datetime.now(UTC))
        payload = {"model": NAME, "until": NOTICED.isoformat()}
        emit_event("perennial.data.landed", resource=about("perennial.model", NAME, payload), payload=payload)
        monitored = await_that(lambda: loop.finished("monitor"), "monitor judged the landed window")
        retrained = await_that(lambda: loop.finished("retrain"), "a retrain was started and done")
        asked = await_that(lambda: loop.finished("promote"), "promote waits for approval")
        await_that(lambda: ledger.entries(NAME, kind="approval.requested"), "the question is in the ledger")
        answered = _approve(client, asked.id)
        promoted = await_that(
            lambda: (run := loop.finished("promote")) and run.state.is_completed() and run,
            "the challenger was promoted",
        )
        live = promoted.end_time
        deployment = client.read_deployment_by_name("score/score")
        run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"model": NAME, "until": (NOTICED + timedelta(days=WINDOW_DAYS)).isoformat()}
        )
        land(folder, NOTICED, NOTICED + timedelta(days=WINDOW_DAYS))
        scored = await_that(lambda: loop.finished("score") if run else None, "the new champion scored a window")
        fit_s = loop.seconds_of(retrained.id, "train_challenger")
    after = registry.aliases(NAME)[registry.CHAMPION]
    served_by = ledger.entries(NAME, kind="window.scored")[-1].body
    if after == before or f'"model_version":"{after}"' not in served_by:
        raise NothingHappened(f"champion was {before} and is {after}; the last window was scored so: {served_by[:300]}")
    suspended = asked.state.timestamp
    return {
        "event_to_monitor_s": _between(loop.started, monitored.start_time),
        "monitor_s": _between(monitored.start_time, monitored.end_time),
        "monitor_to_retrain_s": _between(monitored.end_time, retrained.start_time),
        "retrain_s": _between(retrained.start_time, retrained.end_time),
        "fit_s": round(fit_s, 1),
        "retrain_to_question_s": _between(retrained.end_time, suspended),
        "question_to_answer_s": _between(suspended, answered),
        "answer_to_live_s": _between(answered, live),
        "live_to_scored_s": _between(live, scored.end_time),
        "trigger_to_live_s": round(_between(loop.started, live) - fit_s - _between(suspended, answered), 1),
    }


def _approve(client: Any, run_id: UUID) -> datetime:
    """Approve as Grace, through the API."""
    answered = datetime.now(UTC)
    form = {"decision": "approve", "name": "Grace", "comment": "the drifted days are real"}
    response = client.resume_flow_run(run_id, run_input=form)
    if response.status.value != "ACCEPT":
        raise NothingHappened(f"the approval was not taken: {response.details}")
    return answered


def _between(earlier: datetime, later: datetime) -> float:
    return round((later - earlier).total_seconds(), 1)


def run(folder: Path) -> dict[str, float]:
    """Serve, run the loop, stop. `folder` holds the workspace, the model and the service log."""
    models = folder / "models"
    models.mkdir()
    write_model(models)
    with served(folder / "home", models, folder / "serve.log"):
        return walk(models)


def main() -> int:
    path = make_folder(workspace().home / "bench") / "e2e.json"
    with tempfile.TemporaryDirectory(prefix="perennial-e2e-") as folder:
        hops = run(Path(folder))
    for name, seconds in hops.items():
        print(f"{name.removesuffix('_s').replace('_', ' '):<24} {seconds:>6.1f} s")
    print(f"target: trigger to live under {TARGET_S} s on 2 cores; written to {path}")
    path.write_text(json.dumps(hops, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
