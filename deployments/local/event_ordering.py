"""How a single Prefect server orders events: as its own in-memory ordering does, with two gaps closed.

Prefect holds an event back until it has seen the one it follows, for 15 minutes at most. In memory, a server that was
restarted never sees what its predecessor saw: a crash that it is told of in the first minutes would wake no automation
for a quarter of an hour. Here, nothing waits for what was made before this start. Such an event itself is still acted
on: it was said again by a client that is not sure of it, or its host's clock is behind. Several servers share Prefect's
Redis ordering instead, which has no such gap.

A heartbeat travels another way than the changes of a run's state and follows none of them, so the last one may come
after the run's end. An automation that waits for the next would find the run silent: it would ask to crash what has
completed, and crash what waits for its next try or for a person. Such a heartbeat is left out.

Set by `PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=deployments.local.event_ordering`, which `make serve` does.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

from cachetools import LRUCache
from prefect.server.events.ordering import EventArrivedEarly, event_handler, memory
from prefect.server.events.schemas.events import ReceivedEvent

STARTED = time.time()
HEARTBEAT, STATE = "prefect.flow-run.heartbeat", "prefect.flow-run."
AT_REST = {
    "AwaitingRetry",
    "Cancelled",
    "Completed",
    "Crashed",
    "Failed",
    "Late",
    "Paused",
    "Resuming",
    "Scheduled",
    "Suspended",
}
"""States in which no process runs; one that runs a run again sets it Pending or Running first."""
REMEMBERED = 100_000


class CausalOrdering(memory.CausalOrdering):  # type: ignore[misc]  # Prefect is not followed by mypy, so its class is Any
    """Prefect's ordering in memory, which waits for nothing from before its start and for no heartbeat after a run's end."""

    _at_rest: LRUCache[str, bool] = LRUCache(REMEMBERED)

    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        """As Prefect's; what the predecessor may have seen is not waited for."""
        if event.follows is None or not made_before(event.follows, STARTED):
            await super().wait_for_leader(event)

    @asynccontextmanager
    async def preceding_event_confirmed(
        self, handler: event_handler, event: ReceivedEvent, depth: int = 0
    ) -> AsyncGenerator[None, None]:
        """As Prefect's. Raises EventArrivedEarly, which drops an event that nothing waits for, on a late heartbeat."""
        late = self._at_rest.get(event.resource.id) or made_before(event.id, STARTED)
        if event.event == HEARTBEAT and late:
            raise EventArrivedEarly(event)
        async with super().preceding_event_confirmed(handler, event, depth):
            if event.event.startswith(STATE) and event.event != HEARTBEAT:
                self._at_rest[event.resource.id] = event.event.removeprefix(STATE) in AT_REST
            yield


def made_before(event: UUID, moment: float) -> bool:
    """Whether an event's id says that it was made before a time; Prefect's state changes bear such ids (RFC 9562, 5.7)."""
    return event.version == 7 and (event.int >> 80) / 1000 < moment
