"""Kill the run that carries a rollout on at each boundary, run it again, and check that each step was taken once.

The killed run is a process of its own on a copy of a prepared workspace. The second run is this process's, which waits
until the lease of the dead one has expired, and a third run must change nothing.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from prefect.settings import PREFECT_API_URL

from tasks.policy.records.base import utc
from tests.chaos.matrix import Row
from tests.chaos.stack import ROOT, wait_for
from tests.support.small_model import write_model

NAME, BEGUN, DUE = "small", "2024-01-25", "2024-01-27"
RAN_S = 600


@dataclass(frozen=True)
class Scenario:
    """A rollout that began on BEGUN and whose next change is due on DUE, and what is right after that change."""

    settings: str
    status: str
    end: str | None
    split: tuple[str, float]
    status_of_challenger: str
    aliases: tuple[tuple[str, str], ...]
    facts: tuple[str, ...]
    flow: str = "monitor"
    broken: bool = False
    """Whether the challenger fails to answer the rows of the window that is judged on DUE."""


UNPROMOTED = (("challenger", "2"), ("champion", "1"))
SCENARIOS = {
    "step": Scenario(
        "{shares: [0.2, 0.5], min_units: 30, verdict: {margin: 0.5}}",
        "running", None, ("canary", 0.2), "registered", UNPROMOTED, ("started", "looked", "moved"),
    ),
    "return": Scenario(
        "{feedback: false}",
        "ended", "returned", ("none", 0.0), "quarantined", UNPROMOTED, ("started", "looked", "ended", "announced"), broken=True,
    ),
    "end": Scenario(
        "{feedback: false, min_units: 100000, max_days: 1}",
        "ended", "inconclusive", ("none", 0.0), "registered", UNPROMOTED, ("started", "looked", "ended", "announced"),
    ),
    "promotion": Scenario(
        "{feedback: false}",
        "ended", "promoted", ("none", 0.0), "champion", (("champion", "2"), ("previous", "1")),
        ("started", "looked", "moved", "ended", "announced"), flow="promote",
    ),
}  # fmt: skip
WRITE, PAGE = "tasks.adapters.traffic.split_store.write_split", "tasks.adapters.reports.rollout.publish_rollout_page"
KILLS = {
    "step: look recorded": "tasks.rollout.steps._carry_out before 1",
    "step: move recorded, traffic not written": f"{WRITE} before 1",
    "step: traffic written": f"{WRITE} after 1",
    "step: artifact published": f"{PAGE} after 1",
    "return: look recorded": "tasks.rollout.steps._carry_out before 1",
    "return: traffic returned, version not quarantined": f"{WRITE} after 1",
    "return: quarantined, end not in the ledger": "tasks.adapters.registry.versions.tag after 1",
    "return: end in the ledger, not announced": f"{PAGE} before 1",
    "return: end announced, not recorded as announced": "tasks.adapters.orchestration.events.announce after 1",
    "end: end in the ledger, traffic not written": f"{WRITE} before 1",
    "promotion: champion moved, challenger not": "mlflow.tracking.client.MlflowClient.delete_registered_model_alias before 1",
    "promotion: aliases moved, rollout not ended": "tasks.rollout.promotion.promote_challenger after 1",
    "promotion: rollout ended, promotion not recorded": "tasks.record.publication.publish_promotion before 1",
}
"""Boundaries by scenario, and where the process stops; see `stopping_points`."""


class Workspaces:
    """One prepared workspace per scenario in this folder, and copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def copy(self, scenario: str, cell: str) -> Iterator[Path]:
        """Use a copy of the scenario's workspace as the current one; yields its model's file."""
        place = self.folder / scenario
        if not place.exists():
            with self._use(place / "home", place):
                _begin(place, SCENARIOS[scenario])
        with self._use(self.folder / cell, place):
            shutil.copytree(place / "home", self.folder / cell)
            yield place / f"{NAME}.yaml"

    @contextmanager
    def _use(self, home: Path, models: Path) -> Iterator[None]:
        with patch.dict(os.environ, {"PERENNIAL_HOME": str(home), "PERENNIAL_MODELS": str(models)}):
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            yield


def _begin(folder: Path, scenario: Scenario) -> None:
    """Begin the rollout of a second version, and score the window that is judged on DUE."""
    from flows.monitor import monitor
    from flows.promote import promote
    from flows.retrain import retrain
    from flows.score import score
    from tasks.adapters import evaluation

    model = write_model(folder, **{"{mode: none}": scenario.settings})
    for moment in ("2024-01-21", BEGUN):
        retrain(model, until=utc(moment), reason=f"a model of {moment}")
        promote(model, until=utc(moment))
        if moment != BEGUN:
            score(model, until=utc(BEGUN))
            monitor(model, until=utc(BEGUN))
    answer = evaluation.challenger.try_predict_rows

    def broken(version: Any, *arguments: Any) -> Any:
        return "it cannot predict" if version.version == "2" else answer(version, *arguments)

    with patch.object(evaluation.challenger, "try_predict_rows", broken if scenario.broken else answer):
        score(model, until=utc(DUE))
    if scenario.flow == "promote":
        monitor(model, until=utc(DUE))


def run_kill(spaces: Workspaces, boundary: str) -> Row:
    """Kill the run at the boundary and run it twice again; return what is not right then, in sentences."""
    scenario, cell = boundary.partition(":")[0], f"cell_{list(KILLS).index(boundary)}"
    with spaces.copy(scenario, cell) as model:
        process = start(spaces.folder / f"{cell}_stops", SCENARIOS[scenario].flow, model, f"{KILLS[boundary]} kill")
        ended = process.wait(RAN_S)
        struck, problems = time.monotonic(), () if ended == -signal.SIGKILL else (f"the run ended with {ended}",)
        for _ in range(2):
            _run_flow(SCENARIOS[scenario].flow, model)
        seconds = round(time.monotonic() - struck, 1)
        return Row(f"rollout, {boundary}", "flow", seconds, (*problems, *wrong(SCENARIOS[scenario])))


def start(stops: Path, flow: str, model: Path, plan: str) -> subprocess.Popen[bytes]:
    """Start a flow as of DUE as a process that stops where planned; its output is in `stops`."""
    stops.mkdir()
    (stops / f"{NAME}.plan").write_text(plan)
    code = f"import sys; from flows.{flow} import {flow}; {flow}(sys.argv[1], until=sys.argv[2])"
    environment = {
        **os.environ,
        "CHAOS_FOLDER": str(stops),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'chaos' / 'stopping_points'}",
    }
    with (stops / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(model), f"{DUE}T00:00:00Z"],
            env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _run_flow(flow: str, model: Path) -> None:
    from flows.monitor import monitor
    from flows.promote import promote

    (monitor if flow == "monitor" else promote)(str(model), until=utc(DUE))


def wrong(scenario: Scenario) -> tuple[str, ...]:
    """Return the violated invariants: state, traffic, registry, ledger, and a free lease."""
    from tasks.adapters import ledger, registry, reports, traffic
    from tasks.adapters.storage import lease
    from tasks.policy.rollout.state import rollout_state

    entries, split = ledger.entries(NAME), traffic.read_split(NAME)
    state = rollout_state(entries)
    if state is None:
        return ("no rollout is in the ledger",)
    page = reports.page.rollout_path(NAME, state.plan)
    facts = tuple(entry.kind.removeprefix("rollout.") for entry in entries if entry.kind.startswith("rollout."))
    promotions = Counter(entry.kind for entry in entries)["champion.promoted"]
    checks = {
        "status": (state.status, scenario.status),
        "end": (state.end and state.end.end, scenario.end),
        "looks": (len({look.window for look in state.looks}), len(state.looks)),
        "facts": (facts, scenario.facts),
        "split": (split, state.split(NAME)),
        "traffic": ((split.mode, split.share), scenario.split),
        "aliases": (tuple(sorted(registry.aliases(NAME).items())), scenario.aliases),
        "status of version 2": (registry.tags(NAME, "2").get("status"), scenario.status_of_challenger),
        "promotions": (promotions, 2 if scenario.end == "promoted" else 1),
        "ledger": (ledger.verify(NAME).problems, ()),
        "page": (page.exists(), True),
    }
    with lease.hold(NAME, "test", patience_s=lease.TTL_S * 3):  # a run with nothing left to do did not take it over
        pass
    return tuple(f"{what}: {found}, expected {right}" for what, (found, right) in checks.items() if found != right)


def freeze(stops: Path) -> int:
    """Stop the process that waits at its boundary, as a suspended machine does; return its id."""
    wait_for((stops / f"{NAME}.reached").exists, "the boundary was not reached", RAN_S)
    pid = int((stops / f"{NAME}.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    return pid


def wake(stops: Path, process: subprocess.Popen[bytes]) -> str:
    """Resume a frozen process; return what it wrote until its end."""
    (stops / f"{NAME}.go").touch()
    os.kill(process.pid, signal.SIGCONT)
    process.wait(RAN_S)
    return (stops / "output").read_text(errors="replace")
