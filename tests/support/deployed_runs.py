"""Read the runs of deployments from a server that also has hundreds of flow runs called directly by tests."""

from typing import Any

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId, FlowRunFilterState
from prefect.client.schemas.sorting import FlowRunSort


def deployed_runs(client: Any, state: FlowRunFilterState | None = None) -> list[Any]:
    """Return the latest 200 runs of deployments; unfiltered and unsorted, the server returns any 200 by random id."""
    of_deployments = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(is_null_=False), state=state)
    runs: list[Any] = client.read_flow_runs(flow_run_filter=of_deployments, sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    return runs
