"""Preview `retrain`, `promote` and `rollback` (dry run): show what they would do now.

A dry run only reads: it takes no lease, trains nothing and writes no ledger entry. An artifact of the run shows the
result. Missing rights are shown as a sentence and are not recorded as a refusal, because nothing was attempted.
"""

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import candidates, evaluation, ledger, own_training, registry, reports, search, sources
from tasks.adapters.orchestration.stage import stage
from tasks.policy.economics.budget import usages
from tasks.policy.economics.costs import BudgetCheck
from tasks.policy.economics.placement import decide_placement
from tasks.policy.evidence.ledger import Past
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.access import why_not_override, why_not_trigger
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import EstimatorError, SourceError
from tasks.policy.records.reports import Snapshot
from tasks.policy.reporting.preview import (
    Preview,
    collect_refusals,
    describe_cost,
    describe_first_training_data,
    describe_place,
    describe_rollback,
    describe_rollout,
    describe_start,
    describe_training_data,
    describe_validation,
    too_few_rows,
    why_not_started,
)
from tasks.policy.rollout.restorable import RollbackPlan
from tasks.policy.rollout.state import rollout_of
from tasks.policy.rollout.validation import why_not_promote
from tasks.policy.training.race import RACED, RaceReport, describe_race
from tasks.policy.training.search import expected_search_usd


@stage
def preview_retraining(
    config: ModelConfig,
    request: RunRequest,
    split: tuple[Snapshot, Snapshot] | None,
    budget: BudgetCheck,
    recorded: ValidationReport | None,
) -> Preview:
    """Preview a retrain: its training rows, its cost in USD, and why it would be refused.

    `split` is None before the first model. `recorded` is the decision's validation, if it was carried out.
    """
    if split:
        champion = registry.version(config.name, registry.CHAMPION)
        rows, learns = split[0].rows, describe_training_data(*split, champion)
        few = too_few_rows(split[0], config.training.min_rows)
    else:
        rows, few = _rows_of_history(config), None
        learns = describe_first_training_data(config.history(), rows, config.validation.holdout_days)
    learns += "; the model that passes would be fitted again with all of them" if config.training.is_refitted else ""
    access = _access_refusals(config, request, budget.refusal)
    refusals = collect_refusals((_done(recorded), *access, few, _unusable(config)))
    place = decide_placement(config.placement, rows, config.columns.personal)
    cost = describe_cost(config.budget, budget.spent_usd, budget.cost_usd)
    reasons = (learns, *_describe_ways(config), *_describe_search(config), cost, describe_place(place))
    return _shown(Preview(config.name, "retraining", refusals, reasons))


@stage
def preview_trial(
    config: ModelConfig,
    request: RunRequest,
    earlier: ModelVersion,
    holdout: Snapshot,
    recorded: ValidationReport | None,
) -> Preview:
    """Preview the validation of an earlier champion as challenger; it trains and costs nothing."""
    champion = registry.aliases(config.name)[registry.CHAMPION]
    reason = (
        f"version {earlier.version}, which was trained until {earlier.trained.end:%Y-%m-%d}, would be compared with champion "
        f"{champion} on {holdout.labelled_rows or 0:,} rows of {holdout.window.name}; nothing would be trained"
    )
    refusals = collect_refusals((_done(recorded), *_access_refusals(config, request)))
    return _shown(Preview(config.name, "trial", refusals, (reason,)))


@stage
def preview_update(config: ModelConfig, request: RunRequest, holdout: Snapshot) -> Preview:
    """Preview the validation of a device's update, which was found sound; `request.reason` describes it."""
    champion = registry.aliases(config.name)[registry.CHAMPION]
    reason = (
        f"{request.reason}; it would be compared with champion {champion} on {holdout.labelled_rows or 0:,} rows of "
        f"{holdout.window.name}; nothing would be trained"
    )
    return _shown(Preview(config.name, "import", collect_refusals(_access_refusals(config, request)), (reason,)))


@stage
def preview_promotion(
    config: ModelConfig, request: RunRequest, challenger: ModelVersion, validation: ValidationReport
) -> Preview:
    """Preview a promotion: the gates' verdict on the validated challenger, its smoke test, and who must approve."""
    aliases = registry.aliases(config.name)
    serving = aliases.get(registry.CHAMPION)
    status = registry.tags(config.name, challenger.version).get("status")
    warned = "a warning of validation" if request.override and validation.verdict == "warn" else None
    access = _access_refusals(config, request, warned)
    applied = config.accepting_warnings() if warned and warned not in access else config
    gate = why_not_promote(config.validation, applied.promotion, challenger, serving, validation)
    if serving == challenger.version:
        gate = f"version {serving} serves already"
    gate = gate or evaluation.alias_transaction.why_not_move_aliases(config.name, aliases)
    if evaluation.alias_transaction.was_rolled_back(config.name, challenger.version):
        status = "quarantined"
    barred = f"it is {status}, expected a version that may serve" if status in ("quarantined", "rejected") else None
    past = Past(ledger.entries(config.name))
    rollout = rollout_of(past.entries, challenger.decision_id)
    waits = why_not_started(rollout, config.rollout, request.as_of)
    smoke_test = evaluation.challenger.smoke_test(challenger, config.training.imported)
    served_elsewhere = config.predictions.why_not_promote(challenger.version) if config.predictions else None
    refusals = collect_refusals((*access, served_elsewhere, gate, barred, waits, smoke_test))
    asked = f"approval: one of {', '.join(config.access.approve) or 'anybody else'} would be asked"
    approval = asked if config.needs_approval else "approval: none is needed"
    begins = serving is not None and config.rollout.steps and rollout is None
    forecast = evaluation.rollout_look.forecast_rollout(config, past, validation) if begins else None
    steps = describe_rollout(config.rollout, forecast) if begins else ()
    first = describe_start(challenger.version, serving, config.rollout, rollout)
    reasons = (first, *describe_validation(validation), *steps, approval)
    return _shown(Preview(config.name, "promotion", refusals, reasons))


@stage
def preview_rollback(config: ModelConfig, request: RunRequest, plan: RollbackPlan) -> Preview:
    """Preview a rollback: the version that it would restore, and why it would be refused."""
    refusals = collect_refusals((*_access_refusals(config, request), plan.refusal))
    return _shown(Preview(config.name, "rollback", refusals, (describe_rollback(plan),)))


def _describe_ways(config: ModelConfig) -> tuple[str, ...]:
    """Describe what a training would try, and what that costs."""
    found = []
    if config.training.race:
        entries = ledger.entries(config.name)
        versions = tuple(one.version for one in candidates.bases.champions(config, entries))
        entrants = candidates.strategies.entrants(config, candidates.bases.changed_at(entries), versions)
        raced = [from_json(RaceReport, entry.body) for entry in entries if entry.kind == RACED]
        found.append(describe_race(config.training.race, entrants, raced[-1] if raced else None))
    return tuple(found)


def _done(recorded: ValidationReport | None) -> str | None:
    """Return that the decision was carried out; None if it was not."""
    return f"this decision was already carried out: version {recorded.challenger}" if recorded else None


def _rows_of_history(config: ModelConfig) -> int:
    """Count the source's rows of the history without storing them."""
    return len(sources.read_window(config, config.history()))


def _describe_search(config: ModelConfig) -> tuple[str, ...]:
    """Say what the search for better settings would try and cost; nothing if none is asked for, or it cannot be used."""
    policy = config.training.search
    if policy is None or _unusable(config):
        return ()
    past = [usage for _, usage in usages(ledger.entries(config.name))]
    described = search.space.describe(config, expected_search_usd(policy, config.budget, past))
    return (described,) if described else ()


def _unusable(config: ModelConfig) -> str | None:
    """Return why the configured estimator or source function cannot be used; None if both can."""
    try:
        sources.check_function(config)
        own_training.trainer.check(config)
        search.space.check(config)
    except (SourceError, EstimatorError) as error:
        return str(error)
    return None


def _access_refusals(config: ModelConfig, request: RunRequest, exception: str | None = None) -> tuple[str | None, ...]:
    """Return (why the caller may not start this, the `exception` that would block it).

    The second is None if there is none or a valid override covers it.
    """
    outside = why_not_trigger(config.access, request.principal, request.requested_by)
    if exception is None or request.override is None:
        return outside, exception
    invalid = why_not_override(config.access, request.override, request.principal, request.now)
    return outside, invalid and f"{exception}; {invalid}"


def _shown(preview: Preview) -> Preview:
    reports.artifacts.publish_preview_page(preview)
    get_run_logger().info("dry run: %s", preview.headline)
    return preview
