"""A rollout whose traffic goes through a real haproxy: weights follow each step, and a return is repeated until it took."""

import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from flows.monitor import monitor
from flows.score import score
from tasks.adapters import evaluation, ledger, traffic
from tasks.policy.records.base import utc
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.state import RolloutState, rollout_state
from tests.flows.test_rollout import CANARY
from tests.support.haproxy import Haproxy, ModelServer, needs_haproxy, running_haproxy
from tests.support.small_rollout import begin_rollout, serve

pytestmark = [needs_haproxy, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def up() -> Iterator[Haproxy]:
    """haproxy in front of servers that answer as versions 1 and 2."""
    servers = ModelServer("1"), ModelServer("2")
    with TemporaryDirectory(prefix="haproxy-") as folder, running_haproxy(Path(folder), *servers) as running:
        running.control = running.control.model_copy(update={"probes": 100})
        yield running


def controlled(up: Haproxy) -> dict[str, str]:
    (old, new), *_ = CANARY.items()
    return {old: f"{new.removesuffix('}')}, control: {up.control.model_dump_json()}}}"}


def share(up: Haproxy) -> float:
    return traffic.control_of(up.control).observe()["challenger"]


def state() -> RolloutState:
    found = rollout_state(ledger.entries("small"))
    assert found is not None
    return found


def test_weights_follow_the_steps(tmp_path, begin, up):
    model = begin_rollout(begin, tmp_path, **controlled(up))
    assert (state().current.mode, share(up)) == ("shadow", 0.0)
    serve(model, 27)
    assert (state().current.share, share(up)) == (0.2, pytest.approx(0.2, abs=0.002))
    serve(model, 29)
    assert (state().current.share, share(up)) == (0.5, 0.5)


def test_weights_that_a_restart_reset_are_set_by_the_next_run(tmp_path, begin, up):
    model = begin_rollout(begin, tmp_path, **controlled(up))
    serve(model, 27)
    up.ask("set server models/challenger weight 0")
    monitor(model, until=utc("2024-01-27"))
    assert share(up) == pytest.approx(0.2, abs=0.002)


def test_a_return_is_repeated_until_haproxy_follows(tmp_path, begin, up, monkeypatch):
    """haproxy is suspended while the challenger is returned: the run fails, and the rollout is not recorded as ended."""
    model = begin_rollout(begin, tmp_path, **controlled(up))
    serve(model, 27)
    answer = evaluation.challenger.try_predict_rows

    def broken(version, rows, estimator=None):
        return np.full(len(rows), np.nan) if version.version == "2" else answer(version, rows, estimator)

    monkeypatch.setattr(evaluation.challenger, "try_predict_rows", broken)
    score(model, until=utc("2024-01-29"))
    up.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TrafficError, match="does not answer"):
            monitor(model, until=utc("2024-01-29"))
    finally:
        up.process.send_signal(signal.SIGCONT)
    assert state().is_active
    monitor(model, until=utc("2024-01-29"))
    assert (state().end.end, share(up)) == ("returned", 0.0)
