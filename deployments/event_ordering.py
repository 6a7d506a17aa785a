"""How a single Prefect server orders events: as its own in-memory ordering does, but knowing that it was restarted.

Prefect holds an event back until it has seen the one it follows, for 15 minutes at most. In memory, a server that was
restarted never sees what its predecessor saw: a crash that it is told of in the first minutes would wake no automation
for a quarter of an hour. Here, what was made before this start counts as seen. Several servers share Prefect's Redis
ordering instead, which has no such gap.

Set by `PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=deployments.event_ordering`, which `make serve` does.
"""

import time
from uuid import UUID

from prefect.server.events.ordering import memory
from prefect.server.events.schemas.events import Event

STARTED = time.time()


class CausalOrdering(memory.CausalOrdering):  # type: ignore[misc]
    """Prefect's ordering in memory, which takes what its predecessor saw for seen."""

    async def event_has_been_seen(self, event: UUID | Event) -> bool:
        return made_before(event.id if isinstance(event, Event) else event, STARTED) or bool(
            await super().event_has_been_seen(event)
        )


def made_before(event: UUID, moment: float) -> bool:
    """Whether an event's id says that it was made before a time; Prefect's state changes bear such ids (RFC 9562, 5.7)."""
    return event.version == 7 and (event.int >> 80) / 1000 < moment
