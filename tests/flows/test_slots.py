"""Training slots limit how many retrains of a place run in parallel."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any

import pytest
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import Abort, ObjectNotFound
from prefect.flow_engine import run_flow

from flows.retrain import retrain
from tasks.adapters import registry
from tasks.adapters.orchestration.server import free_port, running_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace
from tasks.policy.economics.placement import DEDICATED, PLACE_SETTING, training_limit
from tasks.policy.records.base import utc
from tasks.policy.records.events import RunMode
from tasks.training import slots
from tests.support.small_model import write_model

FIRST = utc("2024-01-21")
LIMIT = training_limit(DEDICATED)


@pytest.fixture
def limit(prefect_server: None) -> Iterator[Any]:
    """Create the limit of the dedicated hosts with this many slots; remove it afterwards."""

    def make(count: int) -> None:
        with get_client(sync_client=True) as client:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=count))

    yield make
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(LIMIT)


def slots_taken() -> int:
    with get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name(LIMIT).active_slots)


class Meeting:
    """Replaces a step of `retrain`: each run waits there for another one, and the maximum at once is counted."""

    def __init__(self, patience_s: float) -> None:
        self.now = self.most = 0
        self.met, self._lock, self._patience_s = Event(), Lock(), patience_s

    def __call__(self, *_: object) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if self.now > 1:
            self.met.set()
        self.met.wait(self._patience_s)
        with self._lock:
            self.now -= 1


def two_models(folder: Path) -> list[str]:
    return [write_model(folder / name, **{"name: small": f"name: {name}"}) for name in ("one", "two")]


def retrain_both(models: list[str], meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import retrain as module

    land_labels = module.land_labels

    def meet_and_land(*arguments: Any) -> Any:
        meeting()
        return land_labels(*arguments)

    monkeypatch.setattr(module, "land_labels", meet_and_land)
    with ThreadPoolExecutor(2) as elsewhere:
        for running in [elsewhere.submit(retrain, model, until=FIRST) for model in models]:
            running.result()


@pytest.mark.slow("one retrain waits for the other")
def test_one_slot_serialises_retrains(tmp_path, limit, monkeypatch):
    limit(1)
    meeting = Meeting(patience_s=8)
    retrain_both(two_models(tmp_path), meeting, monkeypatch)
    assert meeting.most == 1
    assert {name: registry.aliases(name)[registry.CHALLENGER] for name in ("one", "two")} == {"one": "1", "two": "1"}
    assert slots_taken() == 0


def test_two_slots_allow_parallel_retrains(tmp_path, limit, monkeypatch):
    limit(2)
    meeting = Meeting(patience_s=120)
    retrain_both(two_models(tmp_path), meeting, monkeypatch)
    assert meeting.most == 2
    assert slots_taken() == 0


def test_without_a_limit_retrains_run_in_parallel(tmp_path, prefect_server, monkeypatch):
    with get_client(sync_client=True) as client, pytest.raises(ObjectNotFound):
        client.read_global_concurrency_limit_by_name(LIMIT)
    meeting = Meeting(patience_s=120)
    retrain_both(two_models(tmp_path), meeting, monkeypatch)
    assert meeting.most == 2


def test_other_places_dry_runs_and_replays_take_no_slot(tmp_path, limit, monkeypatch):
    limit(1)
    model = write_model(tmp_path)
    with concurrency(LIMIT):
        assert retrain(model, until=FIRST, dry_run=True).refusals == ()
        monkeypatch.setenv(PLACE_SETTING, "ecs")
        assert retrain(model, until=FIRST).verdict == "pass"
        monkeypatch.delenv(PLACE_SETTING)
        with tags(RunMode.REPLAY.tag):
            assert retrain(model, until=FIRST, reason="as recorded") is not None


def deployed_run(client, model):
    deployment = client.create_deployment(client.create_flow(retrain), name="retrain")
    return client.create_flow_run_from_deployment(deployment, parameters={"model": model, "until": FIRST.isoformat()})


def test_deployed_run_without_slot_is_requeued(tmp_path, limit, monkeypatch):
    limit(1)
    monkeypatch.setattr(slots, "PATIENCE_S", 1.0)
    model = write_model(tmp_path)
    with get_client(sync_client=True) as client:
        run = deployed_run(client, model)
        with concurrency(LIMIT), pytest.raises(Abort):
            run_flow(retrain, flow_run=run, parameters=run.parameters, return_type="state")
        state = client.read_flow_run(run.id).state
        assert (state.name, state.message) == ("AwaitingRetry", f"all 1 slots of {LIMIT} are taken")
    assert registry.aliases("small") == {}


def test_resumed_run_takes_over_its_slot(tmp_path, limit, monkeypatch):
    limit(1)
    monkeypatch.setattr(slots, "PATIENCE_S", 5.0)
    model = write_model(tmp_path)
    with get_client(sync_client=True) as client:
        run = deployed_run(client, model)
        held = client.increment_concurrency_slots_with_lease([LIMIT], 1, "concurrency", slots.LEASE_S).json()
        client.update_flow_run_labels(run.id, {slots.HELD: held["lease_id"]})  # as its process did before it was killed
        assert slots_taken() == 1
        again = client.read_flow_run(run.id)
        state = run_flow(retrain, flow_run=again, parameters=run.parameters, return_type="state")
        assert state.is_completed()
        noted = client.read_flow_run(run.id).labels[slots.HELD]
        assert noted != held["lease_id"], "the next process must find the slot of this one"
    assert slots_taken() == 0


@pytest.mark.slow("starts a server twice and waits until a lease has expired")
@pytest.mark.timeout(900)
def test_slot_of_a_dead_holder_is_released():
    import httpx

    from tests.chaos.stack import wait_for

    port, space = free_port(), workspace()
    limits = f"http://127.0.0.1:{port}/api/v2/concurrency_limits"
    with running_server(space, port) as environment:
        wait_until_healthy(environment["PREFECT_API_URL"])
        httpx.post(f"{limits}/", json={"name": LIMIT, "limit": 1}).raise_for_status()
        taken = {"names": [LIMIT], "slots": 1, "lease_duration": slots.LEASE_S}
        httpx.post(f"{limits}/increment-with-lease", json=taken).raise_for_status()
        assert httpx.get(f"{limits}/{LIMIT}").json()["active_slots"] == 1
    with running_server(space, port) as environment:
        wait_until_healthy(environment["PREFECT_API_URL"])
        wait_for(lambda: httpx.get(f"{limits}/{LIMIT}").json()["active_slots"] == 0, "the slot is given back", 300)
