"""Train a successor: the latest labelled rows, a challenger, and its proof against the champion on rows neither has seen.

A challenger that passes is handed over by the event `perennial.challenger.validated`; one that does not is refused with
its reasons, and the champion stays.
"""

from datetime import datetime

from prefect import flow

from deployments.model_config import ModelConfig
from flows.parameters import (
    Actor,
    DecisionId,
    Model,
    Moment,
    Reason,
    manual_decision_id,
    present,
    run_from_command_line,
    run_name,
    wall_clock,
)
from tasks.access import admit, check_override, check_trigger
from tasks.decision import check_budget
from tasks.history import find_champion, next_cost_usd, recall_validation, spent_usd
from tasks.lease import one_at_a_time
from tasks.policy.access import Override
from tasks.policy.evidence import ValidationReport
from tasks.policy.preview import Preview
from tasks.preview import preview_retraining
from tasks.publication import hand_over, publish_validation, refuse_retraining
from tasks.shared_budget import claim_shared_budget
from tasks.slots import in_a_training_slot
from tasks.snapshot import land_labels, take_snapshot
from tasks.split import split_labelled_rows
from tasks.training import train_challenger
from tasks.validation import validate_challenger


@flow(name="retrain", flow_run_name=run_name("retrain"))
@in_a_training_slot
@one_at_a_time()
def retrain(
    model: Model,
    until: Moment | None = None,
    decision_id: DecisionId | None = None,
    reason: Reason = "asked for by hand",
    requested_by: Actor = "unnamed",
    override: Override | None = None,
    dry_run: bool = False,
) -> ValidationReport | Preview | None:
    """Train a challenger and compare it with the champion; the first model is compared with its floor.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        until: Train as of this time (UTC); nothing that became known later is read. Now, when left empty.
        decision_id: The decision that asked for this; a second run with it changes nothing. Derived when left empty.
        reason: Why, in a sentence; goes to the ledger.
        requested_by: Who asks for this; goes to the ledger.
        override: A named person's word that the budget may be exceeded, with a reason and an end; goes to the ledger.
        dry_run: Only say what it would train on, what that costs and what would stop it; nothing is changed or landed.
    """
    config = admit(model)
    as_of = present(config, until)
    decision_id = decision_id or manual_decision_id(config, as_of, reason)
    if dry_run:
        return _preview(config, as_of, decision_id, requested_by, override)
    principal = check_trigger(config, "retrain", requested_by, as_of)
    recorded = recall_validation(config, decision_id)
    if recorded:
        hand_over(config, recorded, decision_id, as_of)
        return recorded
    champion = find_champion(config)
    if champion is None:
        take_snapshot(config, config.history())
    cost = next_cost_usd(config, as_of)
    refusal = check_budget(config, spent_usd(config, as_of, decision_id), cost)
    refusal = refusal or claim_shared_budget(config, decision_id, cost, as_of)
    if refusal and override:
        check_override(config, "the budget", override, principal, as_of, wall_clock())
    elif refusal:
        return refuse_retraining(config, decision_id, refusal, as_of, requested_by)
    land_labels(config, as_of)
    training, holdout = split_labelled_rows(config, as_of)
    challenger = train_challenger(config, training, decision_id)
    validation = validate_challenger(config, challenger, champion, holdout)
    publish_validation(config, challenger, validation, as_of, reason, requested_by)
    return validation


def _preview(
    config: ModelConfig, as_of: datetime, decision_id: str, requested_by: str, override: Override | None
) -> Preview:
    champion = find_champion(config)
    split = split_labelled_rows(config, as_of) if champion else None
    spent, cost = spent_usd(config, as_of, decision_id), next_cost_usd(config, as_of)
    recorded = recall_validation(config, decision_id)
    return preview_retraining(config, champion, split, spent, cost, recorded, requested_by, override, wall_clock())


if __name__ == "__main__":
    run_from_command_line(retrain)
