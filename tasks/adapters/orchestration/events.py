"""Events that connect flows and notify people; automations in prefect.yaml act on them."""

from contextvars import ContextVar
from typing import Any

from prefect.context import FlowRunContext
from prefect.events import emit_event

from tasks.adapters.orchestration import delivery
from tasks.policy.records.events import about

REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)
"""Set around the runs of a replay and of a back-fill."""
BACKFILLING: ContextVar[bool] = ContextVar("backfilling", default=False)
"""Set around the runs of a back-fill, on whose decisions nobody acts; a replay acts on its own."""
HANDED_OVER = {"retraining.requested", "return.requested", "challenger.validated", "champion.degraded"}
"""Events that start the next flow; were one lost, the loop would stand still."""


def announce(event: str, model: str, payload: dict[str, Any]) -> None:
    """Emit `perennial.<event>` about a model; automations turn it into runs and notifications.

    A flow that another one runs is handed on by its caller, as a replay does. What it says is about
    `perennial.replay.<model>`, which no automation matches: recorded history must not start live runs.
    """
    run = FlowRunContext.get()
    handed_on = run is not None and run.flow_run is not None and run.flow_run.parent_task_run_id is not None
    kind = "replay" if handed_on or REPLAYING.get() else "model"
    emitted = emit_event(
        f"perennial.{event}",
        resource=about(f"perennial.{kind}", model, payload),
        payload=payload,
    )
    deployed = run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
    if emitted and kind == "model" and deployed and event in HANDED_OVER:
        delivery.await_stored(emitted.id)
