"""Faults of the infrastructure: a locked database, a full disk, an unreachable MLflow, a moving clock.

Each run must complete, or fail with a reason and an alert; once the fault is over, the same run completes.
"""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.adapters import ledger
from tasks.adapters.storage import lease
from tests.chaos.matrix import Row, inconsistencies, wait_until_complete
from tests.chaos.stack import Stack, wait_for

UNTIL = "2024-01-21T00:00:00Z"
ENOUGH_S = 600


def lacking() -> dict[str, str]:
    """Return the faults that this machine cannot simulate, and what is missing."""
    found = {}
    if shutil.which("cc") is None:
        found |= dict.fromkeys(("the clock jumps ahead", "the clock jumps back"), "needs a C compiler, cc")
    if os.geteuid() != 0 or shutil.which("mount") is None or not _may_mount():
        found |= dict.fromkeys(
            ("the lake's disk is full", "the ledger's disk is full"), "needs the right to mount a tmpfs"
        )
    return found


def _may_mount() -> bool:
    place = Path("/tmp/perennial-may-mount")
    place.mkdir(exist_ok=True)
    try:
        with tmpfs(place, "64k"):
            return True
    except subprocess.CalledProcessError:
        return False


@contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a small disk at this path; yield a function that enlarges it."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield lambda larger: _remount(place, larger)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _remount(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Lock the SQLite file against writers, and against readers if it has no write-ahead log."""
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def registry_locked(stack: Stack, name: str) -> Iterator[None]:
    """MLflow's database is locked for 20 s while a challenger is registered."""
    with (
        at(stack, name, "tasks.adapters.registry.registration.register before 1"),
        locked(stack.space.home / "mlflow.db"),
    ):
        stack.go(name)
        time.sleep(20)
    yield


def prefect_locked(stack: Stack, name: str) -> Iterator[None]:
    """Prefect's database is locked for 20 s while a challenger is validated."""
    database = stack.space.home / "prefect" / "prefect.db"
    with at(stack, name, "tasks.training.train.train_challenger after 1"), locked(database):
        stack.go(name)
        time.sleep(20)
    yield


def mlflow_away(stack: Stack, name: str) -> Iterator[None]:
    """MLflow's server is down for a minute when a challenger is registered."""
    with at(stack, name, "tasks.adapters.registry.registration.register before 1"):
        stack.kill("mlflow")
    time.sleep(60)
    stack.start("mlflow")
    yield


def clock_ahead(stack: Stack, name: str) -> Iterator[None]:
    """The clock of the run's process jumps two days ahead between training and validation."""
    _move_clock(stack, name, "172800")
    yield


def clock_back(stack: Stack, name: str) -> Iterator[None]:
    """The clock of the run's process jumps two days back between training and validation."""
    _move_clock(stack, name, "-172800")
    yield


def _move_clock(stack: Stack, name: str, jump: str) -> None:
    offset, library = stack.plans / f"{name}.clock", stack.plans / "clock.so"
    offset.write_text("0")
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(offset)}
    with at(stack, name, "tasks.training.train.train_challenger after 1", **environment):
        offset.write_text(jump)


def lake_full(stack: Stack, name: str) -> Iterator[None]:
    """The lake is on a disk that is too small; with more space the same run completes."""
    yield from _full(stack, name, "lake", "64k", "cannot be written to")


def ledger_full(stack: Stack, name: str) -> Iterator[None]:
    """The ledger is on a disk that is too small; with more space the same run completes."""
    yield from _full(stack, name, "ledger", "4k", "cannot be read or written")


def _full(stack: Stack, name: str, part: str, size: str, words: str) -> Iterator[None]:
    with tmpfs(stack.space.home / part / name, size) as enlarge:
        run = stack.run("retrain", model=name, until=UNTIL, reason="a fault")
        state = wait_for(lambda: stack.final_state(run), f"{name} did not end", ENOUGH_S)
        assert state["type"] == "FAILED" and words in state["message"], f"ended as {state}"
        wait_for(lambda: _notified(stack, run), f"nobody was told that {name} failed")
        stack.delete_run(run)
        enlarge("200m")
        stack.run("retrain", model=name, until=UNTIL, reason="a fault")
        yield


def _notified(stack: Stack, run: str) -> bool:
    """Return whether the event exists that triggers "notify about a failed run"."""
    wanted = {"resource": {"id": [f"prefect.flow-run.{run}"]}, "event": {"name": ["prefect.flow-run.Failed"]}}
    return bool(stack.ask("events/filter", filter=wanted)["events"])


def lease_held(stack: Stack, name: str) -> Iterator[None]:
    """Another run holds the lease for longer than a run waits; the run is requeued and comes back."""
    with lease.hold(name, "a long training elsewhere"):
        run = stack.run("retrain", model=name, until=UNTIL, reason="a fault")
        wait_for(lambda: "AwaitingRetry" in stack.states(run), f"{name} did not give its place back", ENOUGH_S)
        assert not ledger.entries(name)
    yield


@contextmanager
def at(stack: Stack, name: str, point: str, **environment: str) -> Iterator[None]:
    """Hold a run at this point until the end of the block."""
    stack.plan(name, f"{point} wait")
    stack.run("retrain", {"env": environment}, model=name, until=UNTIL, reason="a fault")
    wait_for((stack.plans / f"{name}.reached").exists, f"{name} never reached {point}")
    yield
    stack.go(name)


FAULTS: dict[str, Callable[[Stack, str], Iterator[None]]] = {
    "MLflow's database is locked for 20 s": registry_locked,
    "Prefect's database is locked for 20 s": prefect_locked,
    "MLflow is away for a minute": mlflow_away,
    "the clock jumps ahead": clock_ahead,
    "the clock jumps back": clock_back,
    "the lake's disk is full": lake_full,
    "the ledger's disk is full": ledger_full,
    "another process holds the lease": lease_held,
}


def run_fault(stack: Stack, number: int, fault: str) -> Row:
    """Cause the fault during a first training; afterwards all runs complete and nothing was done twice."""
    name = f"fault_{number}"
    stack.add_model(name)
    began = time.monotonic()
    with contextmanager(FAULTS[fault])(stack, name):
        problems = (*wait_until_complete(stack, name, ENOUGH_S), *inconsistencies(stack, name))
    return Row(fault, "", round(time.monotonic() - began, 1), problems)
