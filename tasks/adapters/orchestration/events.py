"""Emit the events that connect flows and notify people; automations in prefect.yaml act on them."""

from typing import Any

from prefect.context import FlowRunContext
from prefect.events import emit_event

from tasks.adapters.orchestration import delivery
from tasks.adapters.orchestration.runs import run_mode
from tasks.policy.records.events import RunMode, about

HANDED_OVER = {
    "window.scored",
    "retraining.requested",
    "return.requested",
    "challenger.validated",
    "rollout.ready",
    "rollout.ended",
    "champion.degraded",
}
"""Events that start the next flow, where a lost one would stop the loop, and those that the ledger records as delivered."""


def announce(event: str, model: str, payload: dict[str, Any]) -> None:
    """Emit `perennial.<event>` about a model; automations turn it into runs and notifications.

    When another flow runs this one, as in a replay, the caller starts the next flow. The event is then about
    `perennial.replay.<model>`, which no automation matches: a replay must not start live runs.
    """
    run = FlowRunContext.get()
    handed_on = run is not None and run.flow_run is not None and run.flow_run.parent_task_run_id is not None
    kind = "replay" if handed_on or run_mode() != RunMode.LIVE else "model"
    emitted = emit_event(
        f"perennial.{event}",
        resource=about(f"perennial.{kind}", model, payload),
        payload=payload,
    )
    deployed = run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
    if emitted and kind == "model" and deployed and event in HANDED_OVER:
        delivery.await_stored(emitted.id)
