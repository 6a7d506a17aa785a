"""What a server shows of the runs of deployments, when the flows called in tests are hundreds more on the same server."""

from typing import Any

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterState
from prefect.client.schemas.sorting import FlowRunSort


def deployed_runs(client: Any, state: FlowRunFilterState | None = None) -> list[Any]:
    """The latest 200 of deployments; without a filter and an order the server shows 200 of all by their random ids."""
    of_deployments = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(is_null_=False), state=state)
    runs: list[Any] = client.read_flow_runs(flow_run_filter=of_deployments, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return runs
