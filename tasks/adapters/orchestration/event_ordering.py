"""The event ordering of a single Prefect server: Prefect's own in-memory ordering, with two gaps closed.

*After a restart.* Prefect holds an event back until it has seen the one it follows, for 15 minutes at most. In memory, a
restarted server never sees what its predecessor saw, so a crash in its first minutes wakes no automation for a quarter of
an hour. Here no event waits for one made before this start. Prefect's Redis ordering, for several servers, has no such
gap. Prefect 3.9.1 has it; we found no issue upstream.

*After a run's end.* A process may emit a heartbeat after its run has ended (PrefectHQ/prefect#18653, #21932). Prefect 3.9
counts an end that occurred after the last heartbeat, in whatever order they arrive, but not one that occurred before it:
the automation for silent runs would ask to crash what has completed or waits for a person. Such a heartbeat is left out.

Set by `PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=tasks.adapters.orchestration.event_ordering`, which `make serve` does.
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
