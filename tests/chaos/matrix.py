"""The kill matrix: where a run is stopped, what is killed there, and what must hold once the loop has completed by itself."""

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tasks.adapters import lease, ledger, registry
from tests.chaos.stack import Stack, wait_for

BOUNDARIES = {
    "retrain: before anything": "tasks.snapshot.take_snapshot before 1",
    "retrain: history landed": "tasks.snapshot.take_snapshot after 1",
    "retrain: labels landed": "tasks.snapshot.land_labels after 1",
    "retrain: rows split": "tasks.split.split_labelled_rows after 1",
    "retrain: trained, not registered": "tasks.adapters.registration.register before 1",
    "retrain: version made, registration not ended": "tasks.adapters.registration._settle_race before 1",
    "retrain: registered, not the challenger": "tasks.adapters.registration.register after 1",
    "retrain: challenger": "tasks.training.train_challenger after 1",
    "retrain: validated": "tasks.validation.validate_challenger after 1",
    "retrain: one of two facts in the ledger": "tasks.adapters.ledger.append after 1",
    "retrain: both facts in the ledger": "tasks.adapters.ledger.append after 2",
    "retrain: handed over": "tasks.adapters.artifacts.announce after 1",
    "retrain: told": "tasks.publication.publish_validation after 1",
    "promote: before anything": "tasks.promotion.promote_challenger before 1",
    "promote: before the move": "tasks.adapters.alias_move.move before 1",
    "promote: first alias moved": "mlflow.tracking.client.MlflowClient.set_registered_model_alias after 2",
    "promote: aliases moved": "tasks.adapters.alias_move.move after 1",
    "promote: tagged": "tasks.promotion.promote_challenger after 1",
    "promote: fact in the ledger": "tasks.publication.publish_promotion after 1",
}
VICTIMS = ("flow", "worker", "machine", "prefect", "mlflow")
"""`machine`: the worker and the run's process at once, so that nobody is left to report it."""
WITHIN_S = {"flow": 120, "worker": 240, "machine": 300, "prefect": 240, "mlflow": 180}
"""The stated times from kill to completion on two unloaded cores; the machine's is dominated by 90 s of missed heartbeats."""
PATIENCE = 4
"""A loaded machine takes longer; the test waits so many times the stated time before it calls it stuck."""


@dataclass(frozen=True)
class Row:
    """One cell's outcome."""

    boundary: str
    victim: str
    seconds: float
    problems: tuple[str, ...]


def run_cell(stack: Stack, number: int, boundary: str, victim: str) -> Row:
    """Stop a first training and promotion at the boundary, kill the victim, restart it, and see that all completes."""
    name = f"cell_{number}"
    stack.add_model(name)
    action = "kill" if victim == "flow" else "wait"
    stack.plan(name, f"{BOUNDARIES[boundary]} {action}")
    stack.run("retrain", model=name, until="2024-01-21T00:00:00Z", reason="a kill at a boundary")
    wait_for((stack.plans / f"{name}.reached").exists, f"{name} ({boundary}) was never reached")
    killed = time.monotonic()
    _kill(stack, name, victim)
    stack.go(name)
    if victim != "flow":
        stack.start("worker" if victim == "machine" else victim)
    problems = wait_until_complete(stack, name, WITHIN_S[victim] * PATIENCE)
    seconds = round(time.monotonic() - killed, 1)
    return Row(boundary, victim, seconds, (*problems, *inconsistencies(stack, name)))


def _kill(stack: Stack, name: str, victim: str) -> None:
    pid = int((stack.plans / f"{name}.pid").read_text())
    if victim == "flow":
        wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "the kill")
        return
    stack.kill("worker" if victim == "machine" else victim)
    if victim == "machine":
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until_complete(stack: Stack, name: str, seconds: float) -> tuple[str, ...]:
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
    """What does not hold of: one version per decision, aliases, the ledger, runs, and a free lease."""
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
    if facts != {"challenger.registered": 1, "challenger.validated": 1, "champion.promoted": 1}:
        problems.append(f"facts: {dict(facts)}")
    for flow in ("retrain", "promote"):
        states = [run["state"]["name"] for run in stack.runs(flow, name)]
        if states != ["Completed"] and not (flow == "promote" and set(states) == {"Completed"}):
            problems.append(f"runs of {flow}: {states}")
    with lease.hold(name, "test", patience_s=lease.TTL_S * 3):
        pass
    return tuple(problems)
