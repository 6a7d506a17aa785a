"""`make drill`: give bad challengers a part of live traffic, and measure how soon they lose it; one row each.

Real parts: the gateway, or haproxy and a process per model server; clients in a process of their own that never pause; and
the flows `retrain`, `promote`, `rollout` and `monitor`. `--fault` (a part of a name) and `--service` choose exercises. Exits
with 1 if a fault is not detected, a request fails, or a sound challenger is returned. Results are in
.perennial/bench/drill.json.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters.storage.workspace import workspace
from tests.drill.exercise import Outcome, run_exercise
from tests.drill.faults import FAULTS
from tests.drill.model import HISTORY_UNTIL, WINDOW, rows, write_model
from tests.drill.services import gateway, haproxy
from tests.support.haproxy import HAPROXY

SERVICES = {"gateway": gateway, "haproxy": haproxy}


def train(model: str) -> None:
    """Train the champion, serve a window with it, and validate a challenger."""
    after = HISTORY_UNTIL + WINDOW
    retrain(model, until=HISTORY_UNTIL)
    promote(model, until=HISTORY_UNTIL)
    score(model, until=after)
    monitor(model, until=after)
    validation = retrain(model, until=after, reason="a challenger for the drill")
    assert validation.verdict == "pass", validation.reasons


def exercises(folder: Path, chosen: argparse.Namespace) -> Iterator[tuple[str, Outcome]]:
    """Run the exercises, each with its own copy of the workspace and its own processes."""
    model, live, frame = str(write_model(folder, None)), folder / "live.parquet", rows()
    frame[frame["at"] >= HISTORY_UNTIL + WINDOW].to_parquet(live)
    train(model)
    for name, service in SERVICES.items():
        faults = [fault for fault in FAULTS if not fault.is_shadow or name == "gateway"]
        for number, fault in enumerate(fault for fault in faults if chosen.fault in fault.name):
            if chosen.service in name:
                home = folder / f"{name}-{number}"
                shutil.copytree(folder / "home", home)
                os.environ["PERENNIAL_HOME"] = str(home)
                named = folder / f"{name}-{number}-fault"
                named.write_text('{"name": "healthy", "begins": ""}')
                with service(folder, named) as up:
                    yield name, run_exercise(up, model, live, fault)


def print_row(service: str, row: Outcome) -> None:
    minutes = "" if row.production_minutes is None else f"{row.production_minutes:.0f} min"
    restored = "" if row.restored_s is None else f"{row.restored_s:.1f} s"
    print(
        f"{service:<8} {row.fault:<34} {minutes:>8} {restored:>8} {row.failed:>6} of {row.requests:<5} {row.units:>5}  "
        f"{'; '.join(row.problems) or 'ok'} ({row.found})",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", default="")
    parser.add_argument("--service", default="", choices=["", *SERVICES])
    chosen, results, found = parser.parse_args(), workspace().home / "bench" / "drill.json", []
    if not Path(HAPROXY).exists() and chosen.service != "gateway":
        print("drill: no haproxy found; apt-get install haproxy, or choose --service gateway", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as folder,
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        for name in ("prefect", "prefect.flow_runs", "prefect.task_runs", "mlflow", "great_expectations"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ |= {"PERENNIAL_HOME": f"{folder}/home", "PERENNIAL_MODELS": folder}
        print(
            f"{'service':<8} {'challenger':<34} {'detected':>8} {'restored':>8} {'failed':>6} {'':<8} {'units':>5}  outcome"
        )
        for service, row in exercises(Path(folder), chosen):
            print_row(service, row)
            found.append({"service": service, **asdict(row)})
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1))
    return int(not found or any(row["problems"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
