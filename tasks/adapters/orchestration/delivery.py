"""Wait until the Prefect server has stored an emitted event: emitting only adds it to a queue of this process.

Prefect 3.9 has no call that waits until an event is stored, and we found no issue upstream that asks for one.

If a run ends or a server restarts within seconds of a hand-over, the event could be lost, and with it the next flow. A
deployed run therefore ends only after the server has stored its hand-over events.
"""

import time
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

WAIT_S = 90  # a server takes 10 to 40 s to restart, and stores events every 5 s
POLL_S = 0.5
AT_ANY_TIME = {"since": "1970-01-01T00:00:00Z", "until": "2999-12-31T00:00:00Z"}
"""All times. The server's default, the half year up to now, would miss events of a host whose clock is ahead."""


class NotDelivered(PrefectException):
    """The server has not stored the event. Emitting it again is safe, as each decision acts once."""


def await_stored(event: UUID) -> None:
    """Return once the server has stored the event. Raises NotDelivered after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    wanted = {"filter": {"id": {"id": [str(event)]}, "occurred": AT_ANY_TIME}, "limit": 1}
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            if client.request("POST", "/events/filter", json=wanted).json()["events"]:
                return
            time.sleep(POLL_S)
    raise NotDelivered(
        f"event {event} was emitted but is not stored by the server after {WAIT_S} s; expected it within seconds; "
        "look at the server's log, then run this again with the same parameters"
    )
