"""An event counts as delivered once the server has stored it."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.events import emit_event

from tasks.adapters.orchestration import delivery

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_stored_event_is_delivered():
    emitted = emit_event("perennial.challenger.validated", resource={"prefect.resource.id": "perennial.model.small"})
    delivery.await_stored(emitted.id)


@pytest.mark.parametrize("days", [-365, 2])
def test_event_from_a_host_with_wrong_clock_is_found(days):
    emitted = emit_event(
        "perennial.challenger.validated",
        resource={"prefect.resource.id": "perennial.model.small"},
        occurred=datetime.now(UTC) + timedelta(days=days),
    )
    delivery.await_stored(emitted.id)


def test_missing_event_is_not_delivered(monkeypatch):
    monkeypatch.setattr(delivery, "WAIT_S", 1)
    with pytest.raises(delivery.NotDelivered, match=r"is not stored by the server after 1 s"):
        delivery.await_stored(uuid4())
