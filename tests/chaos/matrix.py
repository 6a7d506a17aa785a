"""The kill matrix: where a run is stopped, what is killed, and the invariants after recovery."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tasks.adapters import ledger, registry
from tasks.adapters.storage import lease
from tests.chaos.stack import Stack, wait_for

BOUNDARIES = {
    "retrain: before anything": "tasks.data.snapshot.take_snapshot before 1",
    "retrain: history landed": "tasks.data.snapshot.take_snapshot after 1",
    "retrain: labels landed": "tasks.data.snapshot.land_labels after 1",
    "retrain: rows split": "tasks.data.split.split_labelled_rows after 1",
    "retrain: trained, not registered": "tasks.adapters.registry.registration.register before 1",
    "retrain: version made, registration not ended": "tasks.adapters.registry.registration._resolve_race before 1",
    "retrain: registered, not the challenger": "tasks.adapters.registry.registration.register after 1",
    "retrain: challenger": "tasks.training.train.train_challenger after 1",
    "retrain: validated": "tasks.training.validation.validate_challenger after 1",
    "retrain: one of two facts in the ledger": "tasks.adapters.ledger.chain.append after 1",
    "retrain: both facts in the ledger": "tasks.adapters.ledger.chain.append after 2",
    "retrain: handed over": "tasks.adapters.orchestration.events.announce after 1",
    "retrain: told": "tasks.record.publication.publish_validation after 1",
    "promote: before anything": "tasks.rollout.promotion.promote_challenger before 1",
    "promote: before the move": "tasks.adapters.evaluation.alias_transaction.move before 1",
    "promote: champion moved, challenger not": "mlflow.tracking.client.MlflowClient.delete_registered_model_alias before 1",
    "promote: aliases moved": "tasks.adapters.evaluation.alias_transaction.move after 1",
    "promote: tagged": "tasks.rollout.promotion.promote_challenger after 1",
    "promote: fact in the ledger": "tasks.record.publication.publish_promotion after 1",
}
VICTIMS = {
    "flow": (),
    "worker": ("worker",),
    "machine": ("worker",),
    "prefect": ("prefect",),
    "mlflow": ("mlflow",),
    "everything": ("worker", "prefect", "mlflow"),
    "frozen run": (),
    "run asked to stop": (),
    "worker asked to stop": ("worker",),
}
"""Services that are killed, or sent SIGTERM if they should stop orderly."""
RUNS_END = {
    "machine": signal.SIGKILL,
    "everything": signal.SIGKILL,
    "frozen run": signal.SIGSTOP,
    "run asked to stop": signal.SIGTERM,
}
"""How the run's own process is ended; with `flow` it kills itself at the boundary."""
WITHIN_S = {"flow": 60, "worker": 60, "machine": 180, "prefect": 120, "mlflow": 90, "everything": 240}
WITHIN_S |= {"frozen run": 180, "run asked to stop": 60, "worker asked to stop": 60}
"""Stated times from the kill to completion, for one run on two idle cores. If nothing is left to report a run's death,
90 s of missed heartbeats and 20 s of silence come first."""
REACHED_S = 900
PATIENCE = 5
"""Factor for several runs on a loaded machine; a run that takes longer counts as stuck."""


@dataclass(frozen=True)
class Row:
    """One result: what was killed or failed, where, the time to completion, and violated invariants."""

    boundary: str
    victim: str
    seconds: float
    problems: tuple[str, ...]


def run_batch(stack: Stack, prefix: str, victim: str, boundaries: Sequence[str]) -> Iterator[Row]:
    """Stop first trainings and promotions at their boundaries, kill the victim, restart it, and wait until all complete."""
    cells = {f"{prefix}_{number}": boundary for number, boundary in enumerate(boundaries)}
    for name, boundary in cells.items():
        stack.add_model(name)
        stack.plan(name, f"{BOUNDARIES[boundary]} {'kill' if victim == 'flow' else 'wait'}")
        stack.run("retrain", model=name, until="2024-01-21T00:00:00Z", reason="a kill at a boundary")
    for name, boundary in cells.items():
        wait_for((stack.plans / f"{name}.reached").exists, f"{name} ({boundary}) was never reached", REACHED_S)
    killed_at = time.time()
    for service in VICTIMS[victim]:
        stack.kill(service, signal.SIGTERM if "asked" in victim else signal.SIGKILL)
    for name in cells:
        if victim in RUNS_END:
            with suppress(ProcessLookupError):
                os.kill(int((stack.plans / f"{name}.pid").read_text()), RUNS_END[victim])
        stack.go(name)
    stack.start(*(service for service in reversed(VICTIMS[victim])))
    for name, boundary in cells.items():
        struck_at = (stack.plans / f"{name}.reached").stat().st_ctime if victim == "flow" else killed_at
        problems = wait_until_complete(stack, name, WITHIN_S[victim] * PATIENCE)
        seconds = round(time.time() - struck_at, 1)
        if victim == "frozen run":
            _wake(int((stack.plans / f"{name}.pid").read_text()))
        yield Row(boundary, victim, seconds, (*problems, *inconsistencies(stack, name)))


def _wake(pid: int) -> None:
    """Resume a run that another process has completed; return once it has ended."""
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")


def wait_until_complete(stack: Stack, name: str, seconds: float) -> tuple[str, ...]:
    """Return once both flows have completed and a champion is in the ledger; a sentence on timeout."""

    def complete() -> bool:
        promoted = [entry for entry in ledger.entries(name) if entry.kind == "champion.promoted"]
        runs = [*stack.runs("retrain", name), *stack.runs("promote", name)]
        return bool(promoted) and len(runs) >= 2 and all(run["state"]["type"] == "COMPLETED" for run in runs)

    try:
        wait_for(complete, name, seconds)
    except TimeoutError as late:
        return (str(late),)
    return ()


def inconsistencies(stack: Stack, name: str, champion: str = "1") -> tuple[str, ...]:
    """Return violated invariants: one version per decision, aliases, ledger, runs, free lease."""
    problems = []
    versions = registry.client().search_model_versions(f"name='{name}'")
    decisions = Counter(version.tags["decision_id"] for version in versions)
    if not decisions or set(decisions.values()) != {1}:
        problems.append(f"versions per decision: {dict(decisions)}")
    if registry.aliases(name) != {"champion": champion}:
        problems.append(f"aliases: {registry.aliases(name)}")
    elif registry.tags(name, champion).get("status") != "champion":
        problems.append(f"tags of the champion: {registry.tags(name, champion)}")
    problems += ledger.verify(name).problems
    facts = Counter(entry.kind for entry in ledger.entries(name))
    if facts != {"model.bound": 1, "challenger.registered": 1, "challenger.validated": 1, "champion.promoted": 1}:
        problems.append(f"facts: {dict(facts)}")
    for flow in ("retrain", "promote"):
        states = [run["state"]["name"] for run in stack.runs(flow, name)]
        if states != ["Completed"] and not (flow == "promote" and set(states) == {"Completed"}):
            problems.append(f"runs of {flow}: {states}")
    with lease.hold(name, "test", patience_s=lease.TTL_S * 3):
        pass
    return tuple(problems)
