"""`make e2e`: from drifted rows to a new champion on the real server and worker that `make serve` starts.

Data event → score → automation → monitor → automation → retrain → automation → promote, which starts the shadow → the next
window passes it → automation → promote, which waits → approval through the API → canary → the next window passes it →
automation → promote → the new champion serves in `score`. Prints the seconds of each step and writes them to bench/e2e.json in the workspace.
`trigger_to_shadow_s` is without the training task; `trigger_to_live_s` is the loop's own time, scoring included, without the
person and the windows' arrival.
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
from tests.benchmarks.e2e_model import DRIFT, NAME, ROWS_PER_DAY, WINDOW_DAYS, land, write_model

START_S, HOP_S, POLL_S = 240, 240, 0.2
WINDOW = timedelta(days=WINDOW_DAYS)
NOTICED = DRIFT + WINDOW
SHADOWED, SERVED = NOTICED + WINDOW, NOTICED + 2 * WINDOW
"""Ends of the window of the shadow, and of the window of which the canary answers a part."""
LABELLED = SERVED + timedelta(hours=12)
"""All labels of the canary's window have arrived, and the next window is not complete."""
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
    """The server's runs for the model since `started`, read through its API."""

    def __init__(self, client: Any, started: datetime) -> None:
        self.client, self.started = client, started

    def run_of(self, deployment: str, number: int = 1) -> Any:
        """Return the run of a deployment with this number since then, counted from 1, or None."""
        wanted = self.client.read_deployment_by_name(f"{deployment}/{deployment}").id
        runs = [
            run
            for run in self.client.read_flow_runs()
            if run.deployment_id == wanted
            and run.created > self.started
            and (run.parameters.get("until") or "") > DRIFT.isoformat()  # not one that `prepare` caused
        ]
        return sorted(runs, key=lambda run: run.created)[number - 1] if len(runs) >= number else None

    def ended(self, deployment: str, number: int = 1, suspended: bool = False) -> Any:
        """Return that run once it is completed, or suspended. Raises NothingHappened if it failed."""
        run = self.run_of(deployment, number)
        if run is None or run.state is None or not (run.state.is_final() or run.state.is_paused()):
            return None
        if run.state.is_failed() or run.state.is_crashed():
            raise NothingHappened(f"{run.name} is {run.state.name}: {run.state.message}")
        return run if suspended or run.state.is_completed() else None

    def announce_rows(self, until: datetime) -> datetime:
        """Emit the event of landed rows, which starts `score` as of this time, and then `monitor`; return when."""
        from prefect.events import emit_event

        payload = {"model": NAME, "until": until.isoformat()}
        emitted = datetime.now(UTC)
        emit_event("perennial.data.landed", resource=about("perennial.model", NAME, payload), payload=payload)
        return emitted

    def seconds_of(self, run_id: UUID, task: str) -> float:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        runs = self.client.read_task_runs(flow_run_filter=of_run)
        return float(sum(run.total_run_time.total_seconds() for run in runs if run.name.startswith(task)))


def walk(folder: Path) -> dict[str, float]:
    """Run the loop once on a running server; return the seconds of each step. Raises NothingHappened."""
    from prefect.client.orchestration import get_client

    from tasks.adapters.ledger import chain as ledger
    from tasks.adapters.registry import versions as registry

    prepare()
    before = registry.aliases(NAME)[registry.CHAMPION]
    land(folder, DRIFT, NOTICED)
    with get_client(sync_client=True) as client:
        loop = Loop(client, datetime.now(UTC))
        triggered = loop.announce_rows(NOTICED)
        noticed = await_that(lambda: loop.ended("score"), "the landed window was scored")
        monitored = await_that(lambda: loop.ended("monitor"), "monitor judged the landed window")
        retrained = await_that(lambda: loop.ended("retrain"), "a retrain was started and done")
        started = await_that(lambda: loop.ended("promote"), "promote started the rollout")
        _check_traffic("shadow", 0.0)

        land(folder, NOTICED, SHADOWED)
        shadow_landed = loop.announce_rows(SHADOWED)
        shadowed = await_that(lambda: loop.ended("monitor", 2), "monitor judged the shadow")
        asked = await_that(lambda: loop.ended("promote", 2, suspended=True), "promote waits for approval")
        await_that(lambda: ledger.entries(NAME, kind="approval.requested"), "the question is in the ledger")
        _check_traffic("shadow", 0.0)
        answered = _approve(client, asked.id)
        approved = await_that(lambda: loop.ended("promote", 2), "the approved canary serves")
        _check_traffic("canary", 0.5)

        land(folder, SHADOWED, SERVED)
        canary_landed = loop.announce_rows(LABELLED)
        passed = await_that(lambda: loop.ended("monitor", 3), "monitor judged the canary")
        promoted = await_that(lambda: loop.ended("promote", 3), "the challenger was promoted")
        _check_traffic("none", 0.0)

        land(folder, SERVED, SERVED + WINDOW)
        last_landed = loop.announce_rows(SERVED + WINDOW)
        scored = await_that(lambda: loop.ended("score", 4), "the new champion answered")
        fit_s = loop.seconds_of(retrained.id, "train_challenger")
    after = registry.aliases(NAME)[registry.CHAMPION]
    served_by = ledger.entries(NAME, kind="window.scored")[-1].body
    if after == before or f'"model_version":"{after}"' not in served_by:
        raise NothingHappened(f"champion was {before} and is {after}; the last window was scored so: {served_by[:300]}")
    _check_rollout()
    suspended, live = asked.state.timestamp, promoted.end_time
    own = (
        (triggered, started.end_time),
        (shadow_landed, suspended),
        (answered, approved.end_time),
        (canary_landed, live),
    )
    return {
        "event_to_score_s": _between(triggered, noticed.start_time),
        "score_s": _between(noticed.start_time, noticed.end_time),
        "score_to_monitor_s": _between(noticed.end_time, monitored.start_time),
        "monitor_s": _between(monitored.start_time, monitored.end_time),
        "monitor_to_retrain_s": _between(monitored.end_time, retrained.start_time),
        "retrain_s": _between(retrained.start_time, retrained.end_time),
        "fit_s": round(fit_s, 1),
        "retrain_to_shadow_s": _between(retrained.end_time, started.end_time),
        "trigger_to_shadow_s": round(_between(triggered, started.end_time) - fit_s, 1),
        "shadow_to_question_s": _between(shadowed.end_time, suspended),
        "question_to_answer_s": _between(suspended, answered),
        "answer_to_canary_s": _between(answered, approved.end_time),
        "passed_to_live_s": _between(passed.end_time, live),
        "landed_to_scored_s": _between(last_landed, scored.end_time),
        "trigger_to_live_s": round(sum(_between(*part) for part in own) - fit_s, 1),
    }


def _check_traffic(mode: str, share: float) -> None:
    """Raise NothingHappened unless this is the traffic split in force."""
    from tasks.adapters.traffic import split_store

    split = split_store.read_split(NAME)
    found = (split.mode if split.challenger else "none", split.share)
    if found != (mode, share):
        raise NothingHappened(f"the traffic is {found[0]} {found[1]:.3g}, expected {mode} {share:.3g}")


def _check_rollout() -> None:
    """Raise NothingHappened unless the ledger holds one rollout with each step once, and each served row once."""
    from deployments.config.loading import load_model_config
    from tasks.adapters import lake
    from tasks.adapters.ledger import chain as ledger
    from tasks.policy.records.base import Window

    kinds = [entry.kind for entry in ledger.entries(NAME) if entry.kind.startswith("rollout.")]
    expected = [
        "started",
        "looked",
        "moved",
        "moved",
        "looked",
        "moved",
        "ended",
        "announced",
    ]  # waits, approved, passed
    if kinds != [f"rollout.{kind}" for kind in expected]:
        raise NothingHappened(f"the ledger has {kinds}, expected {expected}")
    config, faults = load_model_config(NAME), ledger.verify(NAME).problems
    if faults:
        raise NothingHappened(f"the ledger does not verify: {faults}")
    for window, roles in (
        (Window(NOTICED, SHADOWED), {"champion", "shadow"}),
        (Window(SHADOWED, SERVED), {"champion", "challenger"}),
    ):
        log = lake.read_predictions(config, window)
        served = [
            row for row, role in zip(log["id"].to_pylist(), log["role"].to_pylist(), strict=True) if role != "shadow"
        ]
        if (
            set(log["role"].to_pylist()) != roles
            or len(served) != len(set(served))
            or len(served) != WINDOW_DAYS * ROWS_PER_DAY
        ):
            raise NothingHappened(f"{window.name}: {len(served)} answers with roles {set(log['role'].to_pylist())}")


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
    print(f"target: trigger to shadow under {TARGET_S} s on 2 cores; written to {path}")
    path.write_text(json.dumps(hops, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
