"""Gives a deployed run's place back to its worker: the run goes into the queue again, and says why."""

from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry


def is_deployed() -> bool:
    """Whether the present run is one of a deployment, which a worker would take up again."""
    run = FlowRunContext.get()
    return run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None


def come_back_later(why: str, seconds: float) -> None:
    """Put a deployed run back into the queue and end its process by Abort; return where nothing would take it up."""
    run = FlowRunContext.get()
    if run is None or run.flow_run is None or not is_deployed():
        return
    state = AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(seconds=seconds), message=why)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run.flow_run.id, state, force=True)
    get_run_logger().warning("%s; put back into the queue for %g s", why, seconds)
    raise Abort(why)
