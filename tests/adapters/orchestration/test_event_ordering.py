"""A restarted server does not wait for events that only its predecessor has seen."""

import asyncio
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from prefect.server.events.ordering import EventArrivedEarly
from prefect.server.events.schemas.events import ReceivedEvent

from tasks.adapters.orchestration import event_ordering


def made_at(moment: float) -> UUID:
    return UUID(int=(int(moment * 1000) << 80) | (7 << 76) | (2 << 62))


def following(leader: UUID) -> ReceivedEvent:
    now = datetime.now(UTC)
    resource = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}
    return ReceivedEvent(
        event="prefect.flow-run.Crashed", occurred=now, received=now, resource=resource, id=uuid4(), follows=leader
    )


async def confirm(leader: UUID) -> None:
    ordering = event_ordering.CausalOrdering(f"test {leader}")
    async with ordering.preceding_event_confirmed(None, following(leader)):
        pass


def test_crash_of_a_run_from_before_the_restart_is_handled_at_once():
    asyncio.run(confirm(made_at(event_ordering.STARTED - 60)))


@pytest.mark.parametrize("leader", [made_at(time.time() + 60), uuid4()])
def test_early_event_waits_for_its_predecessor(leader):
    with pytest.raises(EventArrivedEarly):
        asyncio.run(confirm(leader))


def test_repeated_event_after_restart_is_handled():
    seen = event_ordering.CausalOrdering("said again").event_has_been_seen(made_at(event_ordering.STARTED - 60))
    assert not asyncio.run(seen)


@pytest.mark.parametrize(("moment", "dropped"), [(-60, True), (60, False)])
def test_heartbeat_from_before_restart_starts_no_watch(moment, dropped):
    async def arrives() -> None:
        event = following(uuid4()).model_copy(
            update={"event": event_ordering.HEARTBEAT, "follows": None, "id": made_at(event_ordering.STARTED + moment)}
        )
        async with event_ordering.CausalOrdering("heartbeats").preceding_event_confirmed(None, event):
            pass

    with pytest.raises(EventArrivedEarly) if dropped else nullcontext():
        asyncio.run(arrives())
