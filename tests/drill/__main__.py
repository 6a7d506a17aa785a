"""`make drill`: give bad challengers a part of live traffic, and measure how soon they lose it; one row each.

Real parts: haproxy, a process per model server with a registered version, clients that never pause, and the flows
`retrain`, `promote`, `rollout` and `monitor`. `--fault` (a part of a name) chooses exercises. Exits with 1 if a fault is not
detected, a request fails, or the healthy challenger is returned. Results are in .perennial/bench/drill.json.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import registry
from tasks.adapters.storage.workspace import workspace
from tests.drill.exercise import Exercise, Outcome
from tests.drill.faults import FAULTS
from tests.drill.model import HISTORY_UNTIL, WINDOW, rows, write_model
from tests.support.haproxy import BALANCE, haproxy_before

RETRIES = "retry-on 500 conn-failure empty-response\n  retries 2\n  option redispatch 1"
"""What a challenger refuses, haproxy asks the champion."""


def train(model: str) -> None:
    """Train the champion, serve a window with it, and validate a challenger."""
    after = HISTORY_UNTIL + WINDOW
    retrain(model, until=HISTORY_UNTIL)
    promote(model, until=HISTORY_UNTIL)
    score(model, until=after)
    monitor(model, until=after)
    validation = retrain(model, until=after, reason="a challenger for the drill")
    assert validation.verdict == "pass", validation.reasons


@contextmanager
def serving(folder: Path, model: str) -> Iterator[tuple[str, str]]:
    """Run both model servers, each in its own process; yield their addresses."""
    numbers = registry.aliases("drill")
    with ExitStack() as stack:
        ports = []
        for role in (registry.CHAMPION, registry.CHALLENGER):
            command = [sys.executable, "-m", "tests.drill.serving", model, numbers[role], role, str(folder / role)]
            server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(server.kill)
            ports.append(server)
        addresses = [f"127.0.0.1:{each.stdout.readline().strip()}" for each in ports if each.stdout]
        yield addresses[0], addresses[1]


def exercises(folder: Path, chosen: str) -> Iterator[Outcome]:
    """Run the exercises, each in its own copy of the workspace."""
    model = str(write_model(folder, None))
    train(model)
    prepared = folder / "home"
    live = folder / "live.parquet"
    frame = rows()
    frame[frame["at"] >= HISTORY_UNTIL + WINDOW].to_parquet(live)
    with serving(folder, model) as addresses, haproxy_before(folder, addresses, f"{BALANCE}\n  {RETRIES}") as up:
        write_model(folder, up.control)
        logs = {role: folder / role for role in (registry.CHAMPION, registry.CHALLENGER)}
        exercise = Exercise(model, live, logs, addresses[1])
        for number, fault in enumerate(each for each in FAULTS if chosen in each.name):
            home = folder / f"home{number}"
            shutil.copytree(prepared, home)
            os.environ["PERENNIAL_HOME"] = str(home)
            yield exercise.run(fault)


def print_row(row: Outcome) -> None:
    minutes = f"{row.production_minutes:.0f} min" if row.production_minutes is not None else ""
    restored = f"{row.restored_s:.1f} s" if row.restored_s is not None else ""
    print(
        f"{row.fault:<34} {minutes:>8} {restored:>8} {row.failed:>4} of {row.requests:<5} {row.units:>5}  "
        f"{'; '.join(row.problems) or 'ok'} ({row.found})",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", default="")
    chosen = parser.parse_args().fault
    results = workspace().home / "bench" / "drill.json"
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as folder,
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ |= {"PERENNIAL_HOME": f"{folder}/home", "PERENNIAL_MODELS": folder}
        print(f"{'challenger':<34} {'detected':>8} {'restored':>8} {'failed':>4} {'':<8} {'units':>5}  outcome")
        for row in exercises(Path(folder), chosen):
            print_row(row)
            found.append(row)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps([asdict(row) for row in found], indent=1))
    return int(not found or any(row.problems for row in found))


if __name__ == "__main__":
    sys.exit(main())
