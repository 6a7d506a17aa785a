"""One exercise: a challenger takes 20 % of live traffic, becomes faulty, and `monitor` has to return the traffic.

The load goes on all the time, also while a window is judged and the split changes.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.rollout import rollout
from tasks.adapters import ledger
from tasks.policy.records.base import Window
from tasks.policy.rollout.state import RolloutState, rollout_state
from tests.drill.faults import Fault
from tests.drill.model import ROWS_PER_WINDOW, SHARE, WINDOW
from tests.drill.services import Service

RATE = 60.0
"""Requests a second."""
MOST_WINDOWS = 5
MOST_WAITED_S = 0.1
"""Most seconds that half of the requests may take beside a shadow; the slow one takes as long for each row, and in the way of
four clients it would make them wait for four."""
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
    waited_s: float


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
            row, status, version, at, waited_s = line.split()
            self.requests.append(Request(int(row), int(status), version, float(at), float(waited_s)))

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


def run_exercise(service: Service, model: str, live: Path, fault: Fault) -> Outcome:
    """Roll the challenger out, and judge window after window until the rollout ends."""
    config, frame = load_model_config(model), pd.read_parquet(live)
    windows = list(_windows(frame))
    begins = windows[fault.begins_after].start
    service.make_faulty(fault, begins)
    promote(model, until=windows[0].start)
    if not fault.is_shadow:
        rollout(model, action="advance", reason="drill", until=windows[0].start)
    service.await_step(0.0 if fault.is_shadow else SHARE)
    with running_load(live, service.url) as load:
        for window in windows[:MOST_WINDOWS]:
            load.wait_until(int((frame["at"] < window.end).sum()))
            judged = time.time()
            service.land(config, window, ROWS_PER_WINDOW)
            monitor(model, until=window.end)
            state = rollout_state(ledger.entries(config.name))
            assert state is not None
            if not state.is_active or state.status == "passed":
                break
        time.sleep(AFTER_S)
        over = time.time()
    return _outcome(fault, state, frame, load.requests, (begins, judged, over))


def _windows(frame: pd.DataFrame) -> Iterator[Window]:
    start, end = (frame["at"].iloc[place].to_pydatetime() for place in (0, -1))
    window = Window(start, start + WINDOW)
    while window.end <= end:
        yield window
        window = window.next()


def _outcome(
    fault: Fault,
    state: RolloutState,
    frame: pd.DataFrame,
    requests: list[Request],
    times: tuple[datetime, float, float],
) -> Outcome:
    begins, judged, over = times
    served = [each for each in requests if each.version == state.plan.version and each.status == 200]
    failed = sum(each.status != 200 for each in requests)
    exposed = {frame["customer"].iloc[each.row] for each in served if frame["at"].iloc[each.row] >= begins}
    look, last = state.looks[-1], max((each.at for each in served), default=judged)
    findings = [breach.guardrail for breach in look.breaches]
    if look.verdict is not None and look.verdict.conclusion == "worse":
        findings.append("verdict")
    waited = statistics.median(each.waited_s for each in requests)
    returned = state.end is not None and state.end.end == "returned"
    problems = {
        f"{failed} requests failed": failed > 0,
        "the rollout of a sound challenger ended": state.end is not None and fault.stopped_by is None,
        f"not returned after {len(state.looks)} windows": fault.stopped_by is not None and not returned,
        f"expected that {fault.stopped_by} stops it": returned and fault.stopped_by not in findings,
        f"expected that only {fault.stopped_by} finds it": returned and fault.alone and len(set(findings)) > 1,
        f"half of the requests took {waited:.2f} s beside a shadow": fault.is_shadow and waited > MOST_WAITED_S,
        "the challenger still answers": returned and last > over - AFTER_S / 2,
        "a shadow served": fault.is_shadow and bool(served),
    }
    reason = next((breach.reason for breach in look.breaches), look.verdict.reason if look.verdict else "")
    return Outcome(
        fault.name,
        tuple(problem for problem, is_there in problems.items() if is_there),
        f"{', '.join(findings) or state.status}: {reason}",
        (look.window.end - begins).total_seconds() / 60 if returned else None,
        max(0.0, last - judged) if returned else None,
        len(requests),
        failed,
        len(exposed) if fault.stopped_by else 0,
    )
