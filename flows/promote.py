"""Start the rollout of a validated challenger, and promote it to champion once it has passed.

The verdict is read from the ledger, never taken from the caller, so a challenger that did not pass cannot be promoted. For
a model of high risk, or with `promotion.mode: approval`, the run suspends until a named person approves on its form.
A rejection, or no answer in time, refuses the challenger. `monitor` moves the rollout on; this flow runs again, by the event
`perennial.rollout.ready`, when a step serves for the first time and needs approval, and when the rollout has passed.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from deployments.config.model import ModelConfig
from flows.parameters import Actor, DecisionId, Model, Moment, resolve_as_of, run_name, wall_clock
from tasks.adapters.orchestration import run_identity
from tasks.policy.evidence.versions import Promotion
from tasks.policy.governance.access import Approval, Override
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.text import OneLine
from tasks.policy.reporting.preview import Preview
from tasks.policy.rollout.state import RolloutState
from tasks.record.history import find_challenger, require_validation
from tasks.record.preview import preview_promotion
from tasks.record.publication import publish_answer, publish_promotion
from tasks.rollout.access import admit, check_trigger, check_verdict_time, use_override
from tasks.rollout.approval import approval_of
from tasks.rollout.lease import with_lease
from tasks.rollout.promotion import promote_challenger, require_serving
from tasks.rollout.steps import approve_step, end_rollout, open_rollout


@flow(name="promote", flow_run_name=run_name("promote"))
@with_lease()
def promote(
    model: Model,
    decision_id: DecisionId | None = None,
    until: Moment | None = None,
    approved_by: Actor | None = None,
    comment: Annotated[OneLine, Field(max_length=2000)] = "",
    requested_by: Actor = "unnamed",
    override: Override | None = None,
    dry_run: bool = False,
) -> Promotion | RolloutState | Approval | Preview:
    """Roll out the validated challenger; once its rollout has passed it is champion, and the one it replaces `previous`.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        decision_id: The decision whose challenger to promote. The challenger validated last, when left empty.
        until: When this takes effect (UTC). Now, when left empty.
        approved_by: The person who approves. If the model requires approval and this is empty, the run waits for one.
        comment: The approver's comment, recorded in the ledger.
        requested_by: Who requests the promotion; this person may not approve it.
        override: Accept a validation warning in the name of a person. A failed gate cannot be overridden.
        dry_run: Only show the validation verdict and what would block the promotion. Nothing is changed or requested.
    """
    config = admit(model)
    as_of, principal = resolve_as_of(config, until), run_identity.creator(requested_by)
    request = RunRequest(
        "promote", model, principal, requested_by, as_of, wall_clock(),
        override=override, approved_by=approved_by, comment=comment,
    )  # fmt: skip
    if dry_run:
        return _preview(config, request, decision_id)
    check_trigger(config, request)
    validation = require_validation(config, model, decision_id)
    if validation.verdict == "warn" and use_override(config, request, "a warning"):
        config = config.accepting_warnings()
    challenger = find_challenger(config, validation, decision_id)
    require_serving(config, challenger.version)
    check_verdict_time(config, request, challenger.decision_id)
    rollout = open_rollout(config, request, challenger, validation)
    if rollout is not None and rollout.status in ("running", "held"):
        return rollout
    approval = approval_of(config, request, challenger, validation)
    if approval.verdict in ("rejected", "expired"):
        end_rollout(config, request, "aborted", approval.reasons, challenger.decision_id)
    if approval.verdict not in ("approved", "not_needed"):
        return publish_answer(config, challenger, approval, as_of)
    if rollout is not None and rollout.status == "awaiting_approval":
        return approve_step(config, rollout, request, approval.by)
    promotion = promote_challenger(config, challenger, validation, challenger.decision_id)
    end_rollout(config, request, "promoted", ("it passed every step",), challenger.decision_id)
    publish_promotion(config, promotion, as_of, approval.by, approval.comment)
    return promotion


def _preview(config: ModelConfig, request: RunRequest, decision_id: str | None) -> Preview:
    validation = require_validation(config, request.model, decision_id)
    return preview_promotion(config, request, find_challenger(config, validation, decision_id), validation)
