"""Event storms on a real server and worker: however often a retrain is requested, a model is retrained once.

    python -m tests.chaos.storm --events 500 --models 1
    python -m tests.chaos.storm --events 50 --models 50
    python -m tests.chaos.storm --events 60 --models 6 --cut

Every event requests the same decision of its model, like repeated and reordered events. With `--cut`, server and worker
are killed while the first retrain runs, everything is started again, and the same events are emitted once more. Prints
a row and, with `--out`, writes it as JSON. Exits with 1 if a model was not retrained exactly once, or if more retrains
ran at once than their limit allows.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import Decision, Judgement, WindowEvidence
from tasks.policy.records.base import Window
from tasks.policy.records.events import about
from tests.benchmarks.bench_e2e import await_that, free_ports, served
from tests.benchmarks.e2e_model import DRIFT, WINDOW_DAYS, write_model

PATIENCE_S = 1800
FIRST = DRIFT - timedelta(days=WINDOW_DAYS)


@dataclass(frozen=True)
class Storm:
    """Result. `most_runs` is the largest number of runs of one model; `retrained` counts models with one version."""

    events: int
    models: int
    runs: int
    most_runs: int
    retrained: int
    versions: int
    most_at_once: int
    limit: int
    seconds: float
    cut: bool = False

    @property
    def ok(self) -> bool:
        return self.retrained == self.versions == self.models and self.most_at_once <= self.limit

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "NOT OK"
        return (
            f"storm{', all killed meanwhile' if self.cut else ''}  {self.events} events, {self.models} models: {self.versions} retrains of {self.retrained} models by "
            f"{self.runs} runs (at most {self.most_runs} a model, {self.most_at_once} at once, limit {self.limit}) in "
            f"{self.seconds:.0f} s  {verdict}"
        )


def storm(folder: Path, events: int, models: int, cut: bool = False) -> Storm:
    """Serve, emit events, count. `folder` holds the workspace, the models and the service logs."""
    names = [f"storm_{number:03d}" for number in range(models)]
    (folder / "models").mkdir()
    for name in names:
        write_model(folder / "models", name)
    started, ports = monotonic(), free_ports()
    if cut:
        with served(folder / "home", folder / "models", folder / "cut.log", ports):
            _ask(names, events)
            _await_retrain()
            _kill_all()
    with served(folder / "home", folder / "models", folder / "serve.log", ports):
        _ask(names, events, before=events if cut else 0)
        runs, most_at_once, limit = _watch(names)
        versions = _versions(names)
    return Storm(
        events=events * (1 + cut),
        models=models,
        runs=sum(runs.values()),
        most_runs=max(runs.values(), default=0),
        retrained=sum(count == 1 for count in versions.values()),
        versions=sum(versions.values()),
        most_at_once=most_at_once,
        limit=limit,
        seconds=round(monotonic() - started, 1),
        cut=cut,
    )


def _decide(name: str) -> None:
    """Record the decision to retrain; without it, events have no effect."""
    from tasks.adapters.ledger import chain as ledger

    window = Window(FIRST - timedelta(days=WINDOW_DAYS), FIRST)
    decision = Decision(_decision_id(name), name, window, True, ("a storm",))
    judgement = Judgement(FIRST, "none", WindowEvidence(window, 0), decision)
    ledger.append(name, Fact("window.judged", judgement, FIRST, decision.decision_id))


def _decision_id(name: str) -> str:
    return f"{name.replace('_', '-')}-decision"


def _kill_all() -> None:
    """Kill all started processes and their children, like a power cut."""
    family = psutil.Process().children(recursive=True)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family)


def _await_retrain() -> None:
    """Wait until a retrain runs."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        await_that(
            lambda: any(run.state is not None and run.state.is_running() for run in _runs(client, deployment.id)),
            "a retrain runs",
            PATIENCE_S,
        )


def _ask(names: Sequence[str], events: int, before: int = 0) -> None:
    """Emit retrain requests for each model in turn, and wait until the server has all events, including `before`."""
    from prefect.client.orchestration import get_client
    from prefect.events import emit_event

    for name in names:
        _decide(name)
    for number in range(events):
        name = names[number % len(names)]
        payload = {
            "model": name,
            "decision_id": _decision_id(name),
            "until": FIRST.isoformat(),
            "reasons": ["a storm"],
        }
        emit_event("perennial.retraining.requested", about("perennial.model", name, payload), payload=payload)
    body = {"filter": {"event": {"name": ["perennial.retraining.requested"]}}, "limit": 1}
    deadline = monotonic() + PATIENCE_S
    with get_client(sync_client=True) as client:
        while (
            client.request("POST", "/events/filter", json=body).json()["total"] < events + before
            and monotonic() < deadline
        ):
            sleep(0.5)


def _watch(names: Sequence[str]) -> tuple[Counter[str], int, int]:
    """Return (runs per model, maximum at once, limit), once every model has a run and none is active."""
    from prefect.client.orchestration import get_client

    most, quiet_since, deadline = 0, None, monotonic() + PATIENCE_S
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/retrain")
        while monotonic() < deadline:
            runs = _runs(client, deployment.id)
            most = max(most, sum(run.state is not None and run.state.is_running() for run in runs))
            done = {run.parameters["model"] for run in runs} >= set(names) and all(
                run.state is not None and run.state.is_final() for run in runs
            )
            quiet_since = (quiet_since or monotonic()) if done else None
            if (
                quiet_since is not None and monotonic() - quiet_since > 10
            ):  # a late second run would have appeared by then
                break
            sleep(0.5)
    limit = deployment.global_concurrency_limit
    return Counter(run.parameters["model"] for run in runs), most, limit.limit if limit else 0


def _runs(client: Any, deployment_id: Any) -> list[Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    of_retrain = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
    found: list[Any] = []
    while len(page := client.read_flow_runs(deployment_filter=of_retrain, limit=200, offset=len(found))) == 200:
        found += page
    return found + page


def _versions(names: Sequence[str]) -> Counter[str]:
    """Return the number of registered versions per model; a retrain registers one."""
    from tasks.adapters.ledger import chain as ledger

    return Counter({name: len(ledger.entries(name, kind="challenger.registered")) for name in names})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--models", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the row here as JSON")
    parser.add_argument("--cut", action="store_true", help="kill everything while the first retrain runs, start again")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="perennial-storm-") as folder:
        outcome = storm(Path(folder), options.events, options.models, options.cut)
    print(outcome)
    if options.out:
        options.out.write_text(json.dumps({**asdict(outcome), "ok": outcome.ok}), encoding="utf-8")
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
