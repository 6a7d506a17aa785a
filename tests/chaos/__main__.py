"""`make chaos`: kills, faults, rollouts and event storms on real processes; one row each, and .perennial/bench/chaos.json.

`--victim` and `--boundary` (a part of the name) choose cells, `--faults` only the faults.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from tasks.adapters.storage.workspace import workspace
from tests.chaos.faults import FAULTS, lacking, run_fault
from tests.chaos.matrix import BOUNDARIES, VICTIMS, WITHIN_S, Row, run_batch
from tests.chaos.rollout_kills import KILLS, Workspaces, run_kill
from tests.chaos.stack import Stack, stack
from tests.chaos.training_kills import TRAININGS, run_kills

AT_ONCE = 10  # each run is a process of about 400 MB
SPARSE = {"everything", "frozen run", "run asked to stop", "worker asked to stop"}
"""Killed at every fourth boundary only: the other victims cover the differences between boundaries."""


def rows(up: Stack, chosen: argparse.Namespace) -> Iterator[Row]:
    boundaries = [boundary for boundary in BOUNDARIES if chosen.boundary in boundary]
    for victim in VICTIMS if not chosen.faults else ():
        if victim in (chosen.victim or VICTIMS):
            some = boundaries[:: 4 if victim in SPARSE else 1]
            for first in range(0, len(some), AT_ONCE):
                prefix = f"{victim.replace(' ', '_')}_{first}"
                yield from run_batch(up, prefix, victim, some[first : first + AT_ONCE])
    missing = lacking()
    for number, fault in enumerate(FAULTS if chosen.faults or not chosen.victim else ()):
        yield Row(fault, "skipped", 0, (missing[fault],)) if fault in missing else run_fault(up, number, fault)


def storms() -> Iterator[Row]:
    """Hundreds of events on a separate server; see `tests.chaos.storm`."""
    for events, models, cut in ((500, 1, False), (50, 50, False), (60, 6, True)):
        with tempfile.TemporaryDirectory(prefix="perennial-storm-") as folder:
            out = Path(folder) / "storm.json"
            sizes = ("--events", str(events), "--models", str(models), "--out", str(out), *["--cut"] * cut)
            ended = subprocess.run(
                [sys.executable, "-m", "tests.chaos.storm", *sizes], capture_output=True, text=True, check=False
            )
            found = json.loads(out.read_text()) if out.exists() else {}
            problems = () if found.get("ok") else ((ended.stdout + ended.stderr)[-1000:],)
            yield Row(
                f"storm: {events} events, {models} models{', all killed' * cut}", "", found.get("seconds", 0), problems
            )


def rollouts(part: str) -> Iterator[Row]:
    """Runs that carry a rollout on, killed at their boundaries, with a Prefect server of their own."""
    from prefect.testing.utilities import prefect_test_harness

    chosen = [boundary for boundary in KILLS if part in f"rollout, {boundary}"]
    if chosen:
        with (
            tempfile.TemporaryDirectory(prefix="perennial-rollouts-") as folder,
            prefect_test_harness(server_startup_timeout=240),
        ):
            for boundary in chosen:
                yield run_kill(Workspaces(Path(folder)), boundary)


def print_row(row: Row) -> None:
    stated = f" (stated {WITHIN_S[row.victim]})" if row.victim in WITHIN_S else ""
    outcome = "; ".join(row.problems) or "completed, consistent"
    print(f"{row.boundary:<48} {row.victim:<11} {row.seconds:>6.1f} s{stated:<14} {outcome}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--victim", action="append", choices=VICTIMS)
    parser.add_argument("--boundary", default="", help="part of a boundary's name")
    parser.add_argument("--faults", action="store_true", help="only the faults")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that started processes end too
    report = workspace().home / "bench" / "chaos.json"
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="perennial-chaos-", ignore_cleanup_errors=True) as home:
        os.environ["PERENNIAL_HOME"] = home
        with stack() as up:
            os.environ["MLFLOW_TRACKING_URI"] = up.mlflow
            for row in rows(up, chosen):
                found.append(row)
                print_row(row)
    if "flow" in (chosen.victim or VICTIMS) and not chosen.faults:
        for row in rollouts(chosen.boundary):
            found.append(row)
            print_row(row)
        for row in (run_kills(name) for name in TRAININGS if chosen.boundary in name):
            found.append(row)
            print_row(row)
    if not chosen.victim and not chosen.faults and find_spec("tests.chaos.storm"):
        for row in storms():
            found.append(row)
            print_row(row)
    report.parent.mkdir(parents=True, exist_ok=True)
    records = [asdict(row) | {"stated_s": WITHIN_S.get(row.victim), "ok": not row.problems} for row in found]
    report.write_text(json.dumps({"rows": records}, indent=1), encoding="utf-8")
    failed = [row for row in found if row.problems and row.victim != "skipped"]
    print(f"{len(found) - len(failed)} of {len(found)} completed and are consistent; {Path(report)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
