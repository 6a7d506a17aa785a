"""The two ways to serve: Perennial's gateway, and haproxy in front of one server per version; both as real processes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry, traffic
from tasks.policy.records.base import Window
from tests.drill.faults import Fault
from tests.drill.model import NAME, write_model
from tests.support.haproxy import haproxy_before

UP_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Service:
    """What serves the model: its address, and how its log reaches the lake."""

    url: str
    fault: Path
    land: Callable[[ModelConfig, Window, int], None]
    """Land what was answered in a window with this number of rows."""
    await_step: Callable[[float], None]
    """Wait until the challenger has this share."""

    def make_faulty(self, fault: Fault, begins: datetime) -> None:
        self.fault.write_text(json.dumps({"name": fault.name, "begins": begins.isoformat()}))


@contextmanager
def gateway(folder: Path, fault: Path) -> Iterator[Service]:
    """Run the gateway; both versions answer in its process, and it follows the stored split."""
    model = str(write_model(folder, None))
    challenger = registry.aliases(NAME)[registry.CHALLENGER]
    with _process("tests.drill.gateway", model, challenger, str(fault)) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]

        def await_step(share: float) -> None:
            def follows() -> bool:
                status = httpx.get(f"{address}/ready").json()["models"][NAME]
                return status.get("challenger") == challenger and status["share"] == share

            _wait_for(follows, f"the gateway does not follow the share {share}")

        yield Service(f"{address}/invocations", fault, _await_log, await_step)


@contextmanager
def haproxy(folder: Path, fault: Path) -> Iterator[Service]:
    """Run a server for each version behind haproxy, whose weights `rollout.control` sets."""
    model, numbers = str(write_model(folder, None)), registry.aliases(NAME)
    logs = {role: Path(f"{fault}-{role}") for role in (registry.CHAMPION, registry.CHALLENGER)}
    healthy = Path(f"{fault}-none")
    healthy.write_text(json.dumps({"name": "healthy", "begins": ""}))
    with ExitStack() as stack:
        servers = [
            stack.enter_context(_process("tests.drill.serving", model, numbers[role], str(own), str(logs[role])))
            for role, own in ((registry.CHAMPION, healthy), (registry.CHALLENGER, fault))
        ]
        addresses = [each.stdout.readline().strip() for each in servers if each.stdout]
        up = stack.enter_context(haproxy_before(folder, addresses))
        write_model(folder, up.control)
        yield Service(
            up.control.url, fault, lambda config, window, rows: _land(config, window, logs), lambda share: None
        )


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_log(config: ModelConfig, window: Window, rows: int) -> None:
    """The gateway lands its log itself; wait until every row of the window has an answer in the lake."""

    def landed() -> bool:
        log = lake.read_predictions(config, window)
        served = log.filter(pc.and_(pc.is_valid(log["prediction"]), pc.not_equal(log["role"], "shadow")))
        return len(pc.unique(served["id"])) >= rows

    _wait_for(landed, f"the log of {window.name} is not in the lake")


def _land(config: ModelConfig, window: Window, logs: dict[str, Path]) -> None:
    """Land what both servers logged in a window; a row that was asked again is logged once per server."""
    split, found = traffic.read_split(config.name), {}
    for role, log in logs.items():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            moment = datetime.fromisoformat(entry["time"])
            if window.start <= moment < window.end:
                version = split.challenger if role == registry.CHALLENGER else split.champion
                own = {"time": moment, "model_version": version, "role": role, "step": split.step}
                found.setdefault((role, entry["id"]), {**entry, **own})
    kinds = {"time": pa.timestamp("us", "UTC"), "prediction": pa.float64(), "latency_s": pa.float64()}
    names = ("id", "time", "prediction", "model_version", "role", "step", "unit", "latency_s", "error")
    columns = {name: pa.array([row[name] for row in found.values()], kinds.get(name, pa.string())) for name in names}
    lake.land_predictions(config, window, str(split.champion), pa.table(columns))


def _wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.2)
