"""Restore the previous champion, check that it can predict, and quarantine the bad version."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameters import (
    Actor,
    DecisionId,
    Model,
    Moment,
    Reason,
    manual_decision_id,
    resolve_as_of,
    run_name,
    wall_clock,
)
from tasks.adapters.orchestration import run_identity
from tasks.policy.evidence.versions import Promotion
from tasks.policy.governance.requests import RunRequest
from tasks.policy.reporting.preview import Preview
from tasks.record.preview import preview_rollback
from tasks.record.publication import publish_promotion
from tasks.rollout.access import admit, check_decision, check_trigger
from tasks.rollout.lease import with_lease
from tasks.rollout.promotion import plan_rollback, restore_previous
from tasks.rollout.steps import end_rollout


@flow(name="rollback", flow_run_name=run_name("rollback"))
@with_lease("retrain")  # a rollback does not wait for a retrain: a bad champion must stop serving
def rollback(
    model: Model,
    reason: Reason,
    requested_by: Actor = "unnamed",
    until: Moment | None = None,
    decision_id: DecisionId | None = None,
    champion: Annotated[str, Field(pattern=r"^[0-9]{1,9}$")] | None = None,
    dry_run: bool = False,
) -> Promotion | Preview:
    """Restore the previous champion and quarantine the present one.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        reason: What is wrong with the present champion, in one sentence; recorded in the ledger.
        requested_by: Who requests this; recorded in the ledger.
        until: When this takes effect (UTC). Now, when left empty.
        decision_id: The decision that requested this; a second run with it changes nothing. Derived when left empty.
        champion: The version to roll back; refused if another one serves by now. The present champion, when left empty.
        dry_run: Only check that the previous champion can predict, and show what would be restored.
    """
    config = admit(model)
    as_of, principal = resolve_as_of(config, until), run_identity.creator(requested_by)
    decision_id = decision_id or manual_decision_id(config, until, reason)
    request = RunRequest("rollback", model, principal, requested_by, as_of, wall_clock(), reason)
    if dry_run:
        return preview_rollback(config, request, plan_rollback(config, champion))
    check_trigger(config, request)
    request = check_decision(config, request, decision_id, champion)
    end_rollout(config, request, "superseded", (f"the champion is rolled back: {request.reason}",))
    promotion = restore_previous(config, request, decision_id, champion)
    publish_promotion(config, promotion, as_of, request.actor, request.reason)
    return promotion
