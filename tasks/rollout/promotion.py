"""Move the aliases champion, challenger and previous in one transaction, and check which version serves afterwards.

Tasks here have no retries, because a retry would roll back siblings of the transaction. Promotion and rollback are
idempotent: rerun after an interruption, they reach the same state, return the same record and complete the ledger. A
quarantined version never serves again.
"""

from collections.abc import Mapping
from dataclasses import replace

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, ledger, registry, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.errors import AdoptionRefused, LeaseHeld, PromotionRefused
from tasks.policy.rollout.restorable import RollbackPlan
from tasks.policy.rollout.validation import why_not_promote
from tasks.policy.rollout.versions import MOVES, OutsideMove, why_not_serve, why_not_trusted

PATIENCE_S = 20.0
"""Wait for another run's lease before a move from outside is left to the next run."""


def require_serving(config: ModelConfig, number: str) -> None:
    """Raise PromotionRefused if a service of the user's own decides which version answers."""
    if config.predictions is not None:
        raise PromotionRefused(f"{config.name}: {config.predictions.why_not_promote(number)}")


@stage
def promote_challenger(
    config: ModelConfig, challenger: ModelVersion, validation: ValidationReport, decision_id: str
) -> Promotion:
    """Make the challenger champion, and the champion previous.

    Raises PromotionRefused if a gate refuses, and MoveFailed if the move failed and was undone.
    """
    model, number = config.name, challenger.version
    now, tags = registry.aliases(model), registry.tags(model, number)
    if now.get(registry.CHAMPION) == number and tags.get("promoted_by") == decision_id:
        get_run_logger().info("promotion: version %s is champion already, by the same decision", number)
        return _promoted_before(model, decision_id, number, tags, validation)
    before = evaluation.alias_transaction.aliases_before_move(model, number, decision_id)
    champion, waiting = before.get(registry.CHAMPION), before.get(registry.CHALLENGER)
    refusal = why_not_promote(config.validation, config.promotion, challenger, champion, validation)
    refusal = refusal or evaluation.alias_transaction.why_not_move_aliases(model, before)
    if refusal is None and (
        tags.get("status") == "quarantined" or evaluation.alias_transaction.was_rolled_back(model, number)
    ):
        refusal = "it is quarantined, expected a version that was never rolled back"
    refusal = refusal or evaluation.challenger.smoke_test(challenger, config.training.imported)
    if refusal:
        raise PromotionRefused(f"{model}: version {number} is not promoted: {refusal}")
    # previous first: interrupted at any step, the serving champion stays known
    wanted = {registry.PREVIOUS: champion, registry.CHAMPION: number}
    wanted[registry.CHALLENGER] = None if waiting == number else waiting
    evaluation.alias_transaction.move(model, decision_id, before, wanted, config.training.imported)
    if champion is not None:
        registry.tag(model, champion, status="stale", replaced_by=number)
    registry.tag(model, number, status="champion", promoted_by=decision_id)
    get_run_logger().info("promotion: champion %s → %s; %s", champion or "none", number, validation.reasons[-1])
    return Promotion(model, decision_id, number, champion, "promoted", validation.reasons)


def check_adoptable(config: ModelConfig, decision_id: str) -> None:
    """Raise AdoptionRefused if a version of this model has served, unless this decision made it champion.

    Also if another team's alias champion is on this registered model, unless the file says `registry.outside_moves: record`.
    """
    other = _foreign_champion(config, decision_id)
    if other is not None and config.registry.outside_moves == "refuse":
        raise AdoptionRefused(
            f"{config.name}: alias champion of the registered model {config.name} is on version {other}, which Perennial did "
            "not set, so what loads it by this alias would get the adopted copy; expected a registered model without one; give "
            "the model's file another name, or let Perennial move the alias by registry: {outside_moves: record}"
        )
    moves = [entry for entry in ledger.entries(config.name) if entry.kind in MOVES]
    if moves and moves[0].decision_id != decision_id:
        serving = registry.aliases(config.name).get(registry.CHAMPION)
        raise AdoptionRefused(
            f"{config.name}: version {serving or 'none'} serves, and Perennial has promoted it; expected a model without a "
            "champion; train a challenger, or adopt under another name"
        )


@stage
def promote_adopted(config: ModelConfig, version: ModelVersion, validation: ValidationReport) -> Promotion:
    """Make a version that was trained elsewhere champion. Raises AdoptionRefused if it cannot serve, and MoveFailed."""
    source = dict(version.tags).get("adopted_from", "elsewhere")
    other = _foreign_champion(config, version.decision_id)
    moved = (
        f"alias champion was on version {other}, which Perennial did not set; it now names the checked copy, version"
    )
    taken_over = (f"{moved} {version.version}",) if other else ()
    promotion = _serve(config, version, None, (f"adopted from {source}", *taken_over, *validation.reasons))
    if taken_over:
        get_run_logger().warning("adoption: %s", taken_over[0])
    if validation.verdict == "warn":
        get_run_logger().warning("adoption: version %s is champion: %s", version.version, validation.reasons[0])
    get_run_logger().info("adoption: version %s is champion; %s", version.version, validation.reasons[-1])
    return promotion


@stage
def follow_outside_move(
    config: ModelConfig, moved: OutsideMove, version: ModelVersion, validation: ValidationReport | None
) -> Promotion | None:
    """Let a version that someone else made champion in MLflow serve, once its files are checked and it predicts.

    `version` is the one that they named, or its copy with its `validation` if the ledger did not know it. Returns None if
    another run holds the model's lease; the next run follows then. Raises AdoptionRefused if it cannot serve, or if the
    ledger holds a verdict against it; the alias is left alone.
    """
    if refusal := why_not_serve(ledger.entries(config.name), version.version):
        raise AdoptionRefused(f"{config.name}: {refusal}")
    if validation and validation.verdict != "pass":
        get_run_logger().warning("registry: version %s: %s", version.version, validation.reasons[0])
    stored = registry.stored_version(config.name, moved.number)
    by = f" by {stored.user_id}" if stored.user_id else ""
    copied = "" if version.version == moved.number else f", taken in as version {version.version}"
    reason = f"alias champion was moved from version {moved.replaced} to {moved.number}{by} in MLflow{copied}"
    try:
        with storage.lease.hold(config.name, "outside move", patience_s=PATIENCE_S):
            reasons = (reason, *(validation.reasons if validation else ()))
            promotion = _serve(config, replace(version, decision_id=moved.decision_id), moved.replaced, reasons)
    except LeaseHeld as held:
        get_run_logger().warning("registry: %s; the next run records the move: %s", reason, held)
        return None
    get_run_logger().info("registry: %s", reason)
    return promotion


def _foreign_champion(config: ModelConfig, decision_id: str) -> str | None:
    """Return the version that the alias champion is on, or was before this decision moved it, if Perennial set none."""
    if any(entry.kind in MOVES and entry.decision_id != decision_id for entry in ledger.entries(config.name)):
        return None
    now = registry.aliases(config.name).get(registry.CHAMPION)
    if now is None:
        return None
    return evaluation.alias_transaction.aliases_before_move(config.name, now, decision_id).get(registry.CHAMPION)


def _serve(config: ModelConfig, version: ModelVersion, previous: str | None, reasons: tuple[str, ...]) -> Promotion:
    """Move `champion` to a version that passed no comparison with the present one; a person decided that it serves."""
    model, number, decision_id = config.name, version.version, version.decision_id
    promotion = Promotion(model, decision_id, number, previous, "promoted", reasons)
    now = registry.aliases(model)
    if now.get(registry.CHAMPION) == number and registry.tags(model, number).get("promoted_by") == decision_id:
        return promotion
    refusal = why_not_trusted(version, config.training.trust)
    refusal = refusal or evaluation.challenger.smoke_test(version, config.training.imported)
    if refusal:
        raise AdoptionRefused(f"{model}: version {number} does not become champion: {refusal}")
    before = evaluation.alias_transaction.aliases_before_move(model, number, decision_id)
    waiting = before.get(registry.CHALLENGER)
    wanted = {registry.PREVIOUS: previous, registry.CHAMPION: number}
    wanted[registry.CHALLENGER] = None if waiting == number else waiting
    evaluation.alias_transaction.move(model, decision_id, before, wanted, config.training.imported)
    if previous is not None:
        registry.tag(model, previous, status="stale", replaced_by=number)
    registry.tag(model, number, status="champion", promoted_by=decision_id)
    return promotion


@stage
def restore_previous(
    config: ModelConfig, request: RunRequest, decision_id: str, expected: str | None = None
) -> Promotion:
    """Make the previous champion serve again and quarantine the current one. Raises PromotionRefused or MoveFailed.

    `expected` is the version to roll back, if the request names one; a late or repeated request must not affect
    another.
    """
    model, actor, reason = config.name, request.actor, request.reason
    now: Mapping[str, str] = registry.aliases(model)
    serving = now.get(registry.CHAMPION)
    tags = registry.tags(model, serving) if serving else {}
    if serving and tags.get("restored_by") == decision_id:
        get_run_logger().info("rollback: version %s serves again already, by the same decision", serving)
        return _restored_before(model, decision_id, serving, tags)
    before = evaluation.alias_transaction.aliases_before_move(model, serving, decision_id) if serving else now
    interrupted = evaluation.alias_transaction.interrupted_promotion(model, before)
    before = _as_before(before, interrupted)
    refusal = _why_not_roll_back(config, before, expected)
    if refusal:
        raise PromotionRefused(f"{model}: {refusal}")
    bad, target = before[registry.CHAMPION], before[registry.PREVIOUS]
    if interrupted:
        evaluation.alias_transaction.undo_interrupted_promotion(model, *interrupted)
    wanted = {registry.CHAMPION: target, registry.PREVIOUS: None}
    evaluation.alias_transaction.move(model, decision_id, before, wanted, config.training.imported)
    registry.tag(model, bad, status="quarantined", quarantined_by=actor, quarantine_reason=reason)
    registry.tag(model, target, status="champion", restored_by=decision_id)
    get_run_logger().info("rollback: champion %s → %s, %s quarantined by %s: %s", bad, target, bad, actor, reason)
    return Promotion(model, decision_id, target, None, "rolled_back", (f"{actor}: {reason}",))


@stage
def plan_rollback(config: ModelConfig, expected: str | None = None) -> RollbackPlan:
    """Return what a rollback would do now, and why it would be refused, without changing anything."""
    now = registry.aliases(config.name)
    aliases = _as_before(now, evaluation.alias_transaction.interrupted_promotion(config.name, now))
    refusal = _why_not_roll_back(config, aliases, expected)
    return RollbackPlan(aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS), refusal)


def _promoted_before(
    model: str, decision_id: str, number: str, tags: Mapping[str, str], validation: ValidationReport
) -> Promotion:
    """Return the record of this decision's earlier promotion; `unchanged` if a later move brought the version back."""
    before = evaluation.alias_transaction.recorded_aliases(tags, decision_id)
    if before is None:
        return Promotion(model, decision_id, number, registry.aliases(model).get(registry.PREVIOUS), "unchanged")
    return Promotion(model, decision_id, number, before.get(registry.CHAMPION), "promoted", validation.reasons)


def _restored_before(model: str, decision_id: str, serving: str, tags: Mapping[str, str]) -> Promotion:
    """Return the record of this decision's earlier rollback; actor and reason are tags of the quarantined version."""
    before = evaluation.alias_transaction.recorded_aliases(tags, decision_id)
    if before is None:
        return Promotion(model, decision_id, serving, registry.aliases(model).get(registry.PREVIOUS), "unchanged")
    bad = registry.tags(model, before[registry.CHAMPION])
    reasons = (f"{bad['quarantined_by']}: {bad['quarantine_reason']}",)
    return Promotion(model, decision_id, serving, None, "rolled_back", reasons)


def _as_before(now: Mapping[str, str], interrupted: tuple[str, Mapping[str, str]] | None) -> Mapping[str, str]:
    """Return the aliases with `previous` as it was before a promotion that was interrupted after its first alias."""
    if interrupted is None:
        return now
    restored = {**now, registry.PREVIOUS: interrupted[1].get(registry.PREVIOUS)}
    return {alias: number for alias, number in restored.items() if number is not None}


def _why_not_roll_back(config: ModelConfig, aliases: Mapping[str, str], expected: str | None) -> str | None:
    """Return why the previous version may not serve again; None if it may."""
    model = config.name
    bad, target = aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS)
    if bad is None or target is None or bad == target:
        return (
            f"nothing to roll back to: champion is {bad or 'none'}, previous is {target or 'none'}; "
            "a rollback needs a previous champion and clears that alias; promote another version instead"
        )
    if expected not in (None, bad):
        return f"version {bad} serves now, not {expected}; nothing is rolled back"
    if changed := evaluation.alias_transaction.why_not_move_aliases(model, aliases, needs_previous=True):
        return f"nothing is rolled back: {changed}"
    version = registry.version(model, target)
    is_quarantined = dict(version.tags).get("status") == "quarantined" or evaluation.alias_transaction.was_rolled_back(
        model, target
    )
    refusal = (
        "it is quarantined" if is_quarantined else evaluation.challenger.smoke_test(version, config.training.imported)
    )
    return f"previous version {target} cannot serve: {refusal}; {bad} keeps serving" if refusal else None
