"""Direct a running rollout by hand: hold it, resume it, advance it to its next step, or abort it.

`promote` starts a rollout and `monitor` carries it on; this form is for people. It can shorten a step, but neither lift a
breached guardrail nor promote a challenger without a verdict.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameters import Actor, Model, Moment, Reason, resolve_as_of, run_name, wall_clock
from tasks.adapters.orchestration import run_identity
from tasks.policy.governance.requests import RunRequest
from tasks.policy.rollout.stages import RolloutAction
from tasks.policy.rollout.state import RolloutState
from tasks.rollout.access import admit, check_director, check_trigger
from tasks.rollout.lease import with_lease
from tasks.rollout.steps import direct, show_rollout


@flow(name="rollout", flow_run_name=run_name("rollout"))
@with_lease("retrain")  # a person who holds or aborts does not wait for a retrain
def rollout(
    model: Model,
    action: Annotated[RolloutAction, Field(examples=["hold"])],
    reason: Reason,
    requested_by: Actor = "unnamed",
    until: Moment | None = None,
    dry_run: bool = False,
) -> RolloutState | None:
    """Hold, resume, advance or abort the rollout of a model's challenger.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        action: `hold` keeps the present step, `resume` lets it go on, `advance` takes the next step now, `abort` sends all
            traffic to the champion and rejects the challenger.
        reason: Why, in one sentence; recorded in the ledger.
        requested_by: Who requests this; recorded in the ledger.
        until: When this takes effect (UTC). Now, when left empty.
        dry_run: Only show the rollout and whether the action would be refused.
    """
    config = admit(model)
    as_of, principal = resolve_as_of(config, until), run_identity.creator(requested_by)
    request = RunRequest("rollout", model, principal, requested_by, as_of, wall_clock(), reason)
    if dry_run:
        return show_rollout(config, action)
    check_trigger(config, request)
    check_director(config, request, action)
    return direct(config, request, action)
