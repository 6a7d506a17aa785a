"""Event ordering for a single Prefect server: Prefect's own in-memory ordering, with two gaps closed.

*After a restart.* Prefect holds an event back until it has seen the event that it follows, for at most 15 minutes. The
in-memory ordering of a restarted server has not seen the events before the restart, so a crash in its first minutes
triggers no automation for a quarter of an hour. Here, no event waits for one created before this server's start.
Prefect 3.9.1 has the gap, except in its Redis ordering for several servers; we found no issue upstream.

*After a run's end.* A process may emit a heartbeat after its run has ended (PrefectHQ/prefect#18653, #21932). Prefect
3.9 accepts an end that occurred after the last heartbeat, in any order of arrival, but not one that occurred before it:
the automation for silent runs would then try to crash a run that is completed or suspended. Such heartbeats are
dropped.

Enabled by `PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=tasks.adapters.orchestration.event_ordering`, which `make serve` sets.
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
"""States in which a run has no process; before it runs again, Prefect sets it to Pending or Running."""
REMEMBERED = 100_000


class CausalOrdering(memory.CausalOrdering):
    """Prefect's in-memory ordering, which neither waits for events before its start nor passes on late heartbeats."""

    _at_rest: LRUCache[str, bool] = LRUCache(REMEMBERED)

    async def wait_for_leader(self, event: ReceivedEvent) -> None:
        """Wait as Prefect does, except for an event from before this server's start."""
        if event.follows is None or not created_before(event.follows, STARTED):
            await super().wait_for_leader(event)

    @asynccontextmanager
    async def preceding_event_confirmed(
        self, handler: event_handler, event: ReceivedEvent, depth: int = 0
    ) -> AsyncGenerator[None, None]:
        """Confirm as Prefect does. Raises EventArrivedEarly for a late heartbeat, which thereby is dropped."""
        late = self._at_rest.get(event.resource.id) or created_before(event.id, STARTED)
        if event.event == HEARTBEAT and late:
            raise EventArrivedEarly(event)
        async with super().preceding_event_confirmed(handler, event, depth):
            if event.event.startswith(STATE) and event.event != HEARTBEAT:
                self._at_rest[event.resource.id] = event.event.removeprefix(STATE) in AT_REST
            yield


def created_before(event: UUID, moment: float) -> bool:
    """Whether an event id's timestamp is earlier; Prefect's state changes have such ids (UUIDv7, RFC 9562, 5.7)."""
    return event.version == 7 and (event.int >> 80) / 1000 < moment
