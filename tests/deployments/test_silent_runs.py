"""Silent runs are crashed and ended runs are not, in whatever order events arrive."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml

from deployments.apply.definitions import INDEX
from tasks.adapters.orchestration.server import running_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow("waits for missing heartbeats; Prefect waits at least 10 s")]
SILENT_S = 10  # the minimum that Prefect accepts for a proactive trigger; prefect.yaml has 90
ENDS = ("Completed", "Failed", "Cancelled", "AwaitingRetry", "Suspended")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a client of a server with the shipped automation and a shorter timeout."""
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(tmp_path_factory.mktemp("home")))
        space = workspace()
    shipped = yaml.safe_load(INDEX.read_text(encoding="utf-8"))["definitions"]["automations"]
    names = ("perennial: a silent run has crashed", "perennial: a run that never began is queued again")
    waiting = [each for each in shipped if each["name"] in names]
    for each in waiting:
        each["trigger"]["within"] = SILENT_S
    with running_server(space) as environment:
        wait_until_healthy(environment["PREFECT_API_URL"])
        with (
            temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}),
            get_client(sync_client=True) as opened,
        ):
            for each in waiting:
                opened.create_automation(AutomationCore.model_validate(each))
            yield opened


def run_of_ours(client: Any) -> UUID:
    """Create a running flow run, as started by a worker."""
    from prefect import flow
    from prefect.states import Pending, Running

    run = client.create_flow_run(flow(lambda: None, name="any"), tags=["perennial"], state=Pending())
    client.set_flow_run_state(run.id, Running())
    return UUID(str(run.id))


def beat(client: Any, run: UUID) -> datetime:
    """Send a heartbeat of the run now; return when it was created."""
    made = datetime.now(UTC)
    event = {
        "id": str(uuid4()),
        "occurred": made.isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [{"prefect.resource.id": "prefect.tag.perennial", "prefect.resource.role": "tag"}],
        "payload": {},
    }
    client.request("POST", "/events", json=[event])
    return made


def await_until(condition: Any, seconds: float = 150) -> Any:
    deadline = monotonic() + seconds
    while not (seen := condition()) and monotonic() < deadline:
        sleep(0.3)
    return seen


def seen_by_automations(client: Any, event: str, run: UUID) -> bool:
    body = {"filter": {"event": {"name": [event]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}, "limit": 1}
    return bool(client.request("POST", "/events/filter", json=body).json()["total"])


def asked_to_crash(client: Any) -> set[str]:
    """Return the runs that the automation acted on, whether or not the server accepted it."""
    body = {"filter": {"event": {"prefix": ["prefect.automation.action."]}}, "limit": 50}
    found = client.request("POST", "/events/filter", json=body).json()["events"]
    return {
        related["prefect.resource.id"].removeprefix("prefect.flow-run.")
        for event in found
        for related in event["related"]
        if related["prefect.resource.id"].startswith("prefect.flow-run.")
    }


def test_silent_run_is_crashed_but_ended_run_is_not(client):
    from prefect import states

    silent = run_of_ours(client)
    beat(client, silent)
    ended = {name: run_of_ours(client) for name in ENDS}
    for name, run in ended.items():
        client.set_flow_run_state(run, getattr(states, name)(), force=True)
        assert await_until(lambda: seen_by_automations(client, f"prefect.flow-run.{name}", run))  # noqa: B023
        sleep(0.5)
        beat(client, run)  # it was in transit while the run ended
    assert await_until(lambda: client.read_flow_run(silent).state.is_crashed())
    sleep(2 * SILENT_S)
    assert asked_to_crash(client) == {str(silent)}
    assert {name: client.read_flow_run(run).state.name for name, run in ended.items()} == {name: name for name in ENDS}


def test_resumed_run_is_watched_again(client):
    from prefect.states import AwaitingRetry, Failed, Running

    run = run_of_ours(client)
    client.set_flow_run_state(run, Failed(), force=True)
    client.set_flow_run_state(run, AwaitingRetry(), force=True)
    client.set_flow_run_state(run, Running(), force=True)
    assert await_until(lambda: client.read_flow_run(run).state.is_running())
    sleep(2)
    beat(client, run)
    assert await_until(lambda: client.read_flow_run(run).state.is_crashed())


def test_pending_run_is_requeued_except_in_container_pools(client):
    """Its worker was killed with the process that it started, so nothing else would requeue the Pending run."""
    from prefect import flow
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Cancelling, Pending, Running

    made = {}
    for pool, kind in (("perennial", "process"), ("perennial-ecs", "ecs")):
        client.create_work_pool(WorkPoolCreate(name=pool, type=kind))
        flow_id = client.create_flow(flow(lambda: None, name=pool))
        deployment = client.create_deployment(flow_id, name=pool, work_pool_name=pool, tags=["perennial"])
        for name, then in (("stuck", None), ("begun", Running()), ("cancelled", Cancelling())):
            run = client.create_flow_run_from_deployment(deployment, tags=["perennial"])
            client.set_flow_run_state(run.id, Pending())
            if then:
                client.set_flow_run_state(run.id, then, force=True)
            made[pool, name] = run.id
    assert await_until(lambda: client.read_flow_run(made["perennial", "stuck"]).state.name == "AwaitingRetry")
    sleep(5)
    assert client.read_flow_run(made["perennial", "begun"]).state.is_running()
    assert client.read_flow_run(made["perennial", "cancelled"]).state.is_cancelling()
    assert client.read_flow_run(made["perennial-ecs", "stuck"]).state.is_pending()
