"""Train a challenger on the latest labelled rows and compare it with the champion on rows that neither has seen.

For a challenger that passes, the run emits `perennial.challenger.validated`. One that fails is refused with its reasons,
and the champion stays.
"""

from dataclasses import replace
from datetime import datetime

from prefect import flow

from deployments.config.model import ModelConfig
from flows.parameters import (
    Actor,
    DecisionId,
    EarlierVersion,
    Model,
    Moment,
    Reason,
    UpdateFile,
    manual_decision_id,
    resolve_as_of,
    run_name,
    wall_clock,
)
from tasks.adapters.orchestration import run_identity
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.data.split import after, split_labelled_rows
from tasks.monitoring.decision import check_budget
from tasks.policy.economics.costs import BudgetCheck
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.access import Override
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.reports import Snapshot
from tasks.policy.reporting.preview import Preview
from tasks.record.edge import read_update, record_update
from tasks.record.history import find_champion, find_earlier, load_validation, next_cost_usd, spent_usd
from tasks.record.preview import preview_retraining, preview_trial, preview_update
from tasks.record.publication import hand_over_again, publish_validation, refuse_retraining
from tasks.rollout.access import admit, check_decision, check_named, check_trigger, use_override
from tasks.rollout.lease import with_lease
from tasks.training.device_updates import take_in_update
from tasks.training.race import race_strategies
from tasks.training.readiness import require_training
from tasks.training.shared_budget import claim_shared_budget
from tasks.training.slots import with_training_slot
from tasks.training.train import longest_training_s, train_challenger
from tasks.training.validation import validate_challenger


@flow(name="retrain", flow_run_name=run_name("retrain"))
@with_training_slot
@with_lease()
def retrain(
    model: Model,
    until: Moment | None = None,
    decision_id: DecisionId | None = None,
    reason: Reason = "asked for by hand",
    requested_by: Actor = "unnamed",
    override: Override | None = None,
    dry_run: bool = False,
    earlier: EarlierVersion | None = None,
    update: UpdateFile | None = None,
) -> ValidationReport | Preview | None:
    """Train a challenger and compare it with the champion. The first model is compared with a constant prediction.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        until: Train as of this time (UTC); nothing that became known later is read. Now, when left empty.
        decision_id: The decision that requested this; a second run with it changes nothing. Derived when left empty.
        reason: Reason in one sentence, recorded in the ledger.
        requested_by: Who requests this; recorded in the ledger.
        override: Exceed the budget in the name of a person, with a reason and an expiry; recorded in the ledger.
        dry_run: Only show the training rows, their cost and what would block the retrain. Nothing is changed or stored.
        earlier: Version number of an earlier champion to validate again. Nothing is trained and no budget is used.
        update: Path of a device's signed update, to validate as the challenger. Nothing is trained and no budget is used.
    """
    config = admit(model)
    as_of, principal = resolve_as_of(config, until), run_identity.creator(requested_by)
    decision_id = decision_id or manual_decision_id(config, until, reason)
    request = RunRequest("retrain", model, principal, requested_by, as_of, wall_clock(), reason, override)
    if update:
        return _validate_update(config, request, update, dry_run)
    require_training(config)
    if dry_run:
        return _preview(config, request, decision_id, earlier)
    check_trigger(config, request)
    request = check_decision(config, request, decision_id, earlier)
    recorded = load_validation(config, decision_id)
    if recorded:
        hand_over_again(config, recorded, decision_id, as_of)
        return recorded
    champion = find_champion(config)
    if champion is None:
        take_snapshot(config, config.history())
    refusal = None if earlier else _check_budgets(config, decision_id, as_of).refusal
    if refusal and not use_override(config, request, "the budget"):
        return refuse_retraining(config, request, decision_id, refusal)
    land_labels(config, as_of)
    split = split_labelled_rows(config, as_of)
    challenger = _find_or_train(config, request, split, decision_id, earlier)
    validation = validate_challenger(config, challenger, champion, split[1])
    publish_validation(config, request, challenger, validation)
    return validation


def _find_or_train(
    config: ModelConfig,
    request: RunRequest,
    split: tuple[Snapshot, Snapshot],
    decision_id: str,
    earlier: str | None,
) -> ModelVersion:
    """Return the earlier champion that is asked for or wins the race; else train by the race's winner."""
    race = None if earlier else race_strategies(config, split[0], decision_id, request.as_of)
    again = earlier or (race.earlier_version if race else None)
    if again:
        return find_earlier(config, again, decision_id)
    train = train_challenger.with_options(timeout_seconds=longest_training_s(config))
    return train(config, split[0], decision_id, split[1], race)


def _validate_update(
    config: ModelConfig, request: RunRequest, address: str, dry_run: bool
) -> ValidationReport | Preview:
    """Validate what a device learned as the challenger: the champion's trees with other leaf values."""
    if not dry_run:
        check_trigger(config, request)
        check_named(config, request)
    champion = find_champion(config, required=True)
    signed = read_update(config, address, champion, request.now)
    request = replace(request, reason=signed.update.sentence)
    if not dry_run:
        check_decision(config, request, signed.update.decision_id)
        land_labels(config, request.as_of)
    _, holdout = split_labelled_rows(config, request.as_of)
    holdout = after(config, holdout, signed.update.seen_until(champion))
    if dry_run:
        return preview_update(config, request, holdout)
    challenger = take_in_update(config, champion, signed)
    record_update(config, request, signed.update)
    validation = validate_challenger(config, challenger, champion, holdout)
    publish_validation(config, request, challenger, validation)
    return validation


def _preview(config: ModelConfig, request: RunRequest, decision_id: str, earlier: str | None) -> Preview:
    split = split_labelled_rows(config, request.as_of) if find_champion(config) else None
    recorded = load_validation(config, decision_id)
    if earlier and split:
        challenger = find_earlier(config, earlier, decision_id)
        return preview_trial(config, request, challenger, split[1], recorded)
    budget = _check_budgets(config, decision_id, request.as_of, dry_run=True)
    return preview_retraining(config, request, split, budget, recorded)


def _check_budgets(config: ModelConfig, decision_id: str, as_of: datetime, dry_run: bool = False) -> BudgetCheck:
    """Check the model's own budget, and the one that it shares."""
    spent, cost = spent_usd(config, as_of, decision_id), next_cost_usd(config, as_of)
    refusal = check_budget(config, spent, cost)
    return BudgetCheck(spent, cost, refusal or claim_shared_budget(config, decision_id, cost, as_of, dry_run))
