"""One exercise: a challenger takes 20 % of live traffic, becomes faulty, and `monitor` has to return the traffic.

The load goes on through haproxy all the time, also while a window is judged and the weights change.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path

import pandas as pd
import pyarrow as pa

from deployments.config.model import ModelConfig, load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.rollout import rollout
from tasks.adapters import lake, ledger, traffic
from tasks.policy.records.base import Window
from tasks.policy.rollout.stages import RolloutState, rollout_state
from tests.drill.faults import Fault

RATE = 60.0
"""Requests a second."""
MOST_WINDOWS = 5
ANSWERED_WITHIN_S = 120.0
AFTER_S = 3.0
"""Seconds for which the load goes on after the traffic was returned."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answered or failed request."""

    row: int
    status: int
    version: str
    at: float
    """Seconds since the epoch at which the answer was complete."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one exercise."""

    fault: str
    problems: tuple[str, ...]
    found: str
    """What detected the fault, in a sentence."""
    production_minutes: float | None = None
    """Production time from the first faulty answer to the end of the window in which it was detected."""
    restored_s: float | None = None
    """Seconds from the end of that window to the challenger's last answer."""
    requests: int = 0
    failed: int = 0
    units: int = 0
    """Units that the faulty challenger answered."""


@dataclass(slots=True)
class Load:
    """Requests that are sent by another process."""

    process: subprocess.Popen[str]
    requests: list[Request] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            row, status, version, at = line.split()
            self.requests.append(Request(int(row), int(status), version, float(at)))

    def wait_until(self, count: int) -> None:
        """Wait until the first `count` rows were answered or failed."""
        deadline = time.monotonic() + ANSWERED_WITHIN_S
        while sum(request.row < count for request in list(self.requests)) < count:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(f"{count} rows were not answered; exit status {self.process.poll()}")
            time.sleep(0.05)


@contextmanager
def running_load(rows: Path, url: str) -> Iterator[Load]:
    """Send the rows until the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.drill.load", str(rows), url, str(RATE)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        load = Load(process)
        reading = threading.Thread(target=load.read)
        reading.start()
        try:
            yield load
        finally:
            assert process.stdin is not None
            process.stdin.close()
            reading.join()


@dataclass(frozen=True, slots=True)
class Exercise:
    """The model's file, its live rows, and the log and address of each server by role."""

    model: str
    live: Path
    logs: dict[str, Path]
    challenger: str
    """host:port of the challenger's server."""

    def run(self, fault: Fault) -> Outcome:
        """Roll the challenger out, and judge window after window until the rollout ends."""
        config = load_model_config(self.model)
        assert config.rollout.control is not None and config.rollout.control.kind == "haproxy"
        frame = pd.read_parquet(self.live)
        windows = [*_windows(config, frame)]
        begin = windows[fault.begins_after].start
        _make_faulty(self.challenger, fault.name, begin)
        for log in self.logs.values():
            log.write_text("")
        promote(self.model, until=windows[0].start)
        rollout(self.model, action="advance", reason="drill", until=windows[0].start)
        with running_load(self.live, config.rollout.control.url) as load:
            for window in windows[:MOST_WINDOWS]:
                load.wait_until(int((frame["at"] < window.end).sum()))
                judged = time.time()
                self._land(config, window)
                monitor(self.model, until=window.end)
                state = rollout_state(ledger.entries(config.name))
                assert state is not None
                if not state.is_active or state.status == "passed":
                    break
            time.sleep(AFTER_S)
            over = time.time()
        return _outcome(fault, state, frame, load.requests, (begin, judged, over))

    def _land(self, config: ModelConfig, window: Window) -> None:
        """Land what both servers logged in a window."""
        split = traffic.read_split(config.name)
        parts = []
        for role, log in self.logs.items():
            for line in log.read_text().splitlines():
                entry = json.loads(line)
                moment = datetime.fromisoformat(entry["time"])
                if window.start <= moment < window.end:
                    version = split.challenger if role == "challenger" else split.champion
                    parts.append({**entry, "time": moment, "model_version": version, "role": role, "step": split.step})
        kinds = {"time": pa.timestamp("us", "UTC"), "prediction": pa.float64(), "latency_s": pa.float64()}
        names = ("id", "time", "prediction", "model_version", "role", "step", "unit", "latency_s", "error")
        table = pa.table(
            {name: pa.array([part[name] for part in parts], kinds.get(name, pa.string())) for name in names}
        )
        lake.land_predictions(config, window, str(split.champion), table)


def _windows(config: ModelConfig, frame: pd.DataFrame) -> Iterator[Window]:
    start = frame["at"].iloc[0].to_pydatetime()
    window = config.window_until(start + (config.windows(end=start)[-1].end - config.windows(end=start)[-1].start))
    while window.end <= frame["at"].iloc[-1]:
        yield window
        window = window.next()


def _make_faulty(address: str, name: str, begin: datetime) -> None:
    connection = HTTPConnection(address, timeout=10)
    body = json.dumps({"name": name, "from": begin.isoformat()})
    connection.request("POST", "/fault", body, {"content-type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()


def _outcome(
    fault: Fault,
    state: RolloutState,
    frame: pd.DataFrame,
    requests: list[Request],
    times: tuple[datetime, float, float],
) -> Outcome:
    begin, judged, over = times
    challenger = [each for each in requests if each.version == state.plan.version and each.status == 200]
    faulty = [each for each in challenger if frame["at"].iloc[each.row] >= begin]
    failed = sum(each.status != 200 for each in requests)
    problems = [f"{failed} requests failed"] if failed else []
    returned = state.end is not None and state.end.end == "returned"
    look = state.looks[-1]
    found = [breach.guardrail for breach in look.breaches]
    if look.verdict is not None and look.verdict.conclusion == "worse":
        found.append("verdict")
    if not fault.guardrails:
        problems += [f"returned: {state.moves[-1].reasons[0]}"] if returned else []
        reason = state.moves[-1].reasons[-1]
        return Outcome(fault.name, tuple(problems), f"{state.status}: {reason}", None, None, len(requests), failed, 0)
    if not returned:
        problems.append(f"not returned after {len(state.looks)} windows")
        return Outcome(fault.name, tuple(problems), state.status, None, None, len(requests), failed, len(faulty))
    if not set(found) & set(fault.guardrails):
        problems.append(f"found by {', '.join(found)}, expected {' or '.join(fault.guardrails)}")
    last = max(each.at for each in challenger)
    if last > over - AFTER_S / 2:
        problems.append("the challenger still answers")
    reason = next((breach.reason for breach in look.breaches), look.verdict.reason if look.verdict else "")
    return Outcome(
        fault.name,
        tuple(problems),
        f"{', '.join(found)}: {reason}",
        (look.window.end - begin).total_seconds() / 60,
        last - judged,
        len(requests),
        failed,
        len({frame["customer"].iloc[each.row] for each in faulty}),
    )
