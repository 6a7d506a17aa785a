"""Preview `retrain` and `promote` (dry run): show what they would do now.

A dry run only reads: it takes no lease, trains nothing and writes no ledger entry. An artifact of the run shows the
result. Missing rights are shown as a sentence and are not recorded as a refusal, because nothing was attempted.
"""

from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, models, orchestration, registry, reports, sources
from tasks.adapters.orchestration.stage import stage
from tasks.policy.economics.costs import over_budget
from tasks.policy.economics.placement import decide_placement
from tasks.policy.governance.access import Override, why_not_override, why_not_trigger
from tasks.policy.records.errors import EstimatorError, SourceError
from tasks.policy.records.evidence import ModelVersion, ValidationReport
from tasks.policy.records.reports import Snapshot
from tasks.policy.reporting.preview import (
    Preview,
    stopped_by,
    too_few_rows,
    what_it_costs,
    what_it_learns_from,
    what_the_first_learns_from,
    what_validation_said,
    where_it_runs,
)
from tasks.policy.rollout.validation import why_not_promote


@stage
def preview_retraining(
    config: ModelConfig,
    champion: ModelVersion | None,
    split: tuple[Snapshot, Snapshot] | None,
    spent_usd: float,
    cost_usd: float | None,
    recorded: ValidationReport | None,
    requested_by: str,
    override: Override | None,
    now: datetime,
    shared: str | None = None,
) -> Preview:
    """Preview a retrain: its training rows, its cost in USD, and why it would be refused.

    `split` is None before the first model. `shared` is why the shared budget would refuse the retrain.
    """
    if champion and split:
        rows, learns = split[0].rows, what_it_learns_from(*split, champion)
        few = too_few_rows(split[0], config.training.min_rows)
    else:
        rows, few = _rows_of_history(config), None
        learns = what_the_first_learns_from(config.history(), rows, config.validation.holdout_days)
    budget = over_budget(config.budget, spent_usd, cost_usd) or shared
    done = f"this decision was carried out: version {recorded.challenger} stands" if recorded else None
    refusals = stopped_by((done, *_not_let_in(config, requested_by, budget, override, now), few, _unusable(config)))
    place = decide_placement(config.placement, rows, config.columns.personal)
    said = (learns, what_it_costs(config.budget, spent_usd, cost_usd), where_it_runs(place))
    return _shown(Preview(config.name, "retraining", refusals, said))


@stage
def preview_trial(
    config: ModelConfig,
    earlier: ModelVersion,
    champion: ModelVersion,
    holdout: Snapshot,
    recorded: ValidationReport | None,
    requested_by: str,
    now: datetime,
) -> Preview:
    """Preview the validation of an earlier champion as challenger; it trains and costs nothing."""
    done = f"this decision was carried out: version {recorded.challenger} stands" if recorded else None
    said = (
        f"version {earlier.version}, which learned until {earlier.trained.end:%Y-%m-%d}, would meet champion "
        f"{champion.version} on {holdout.labelled_rows or 0:,} rows of {holdout.window.name}; nothing would be trained"
    )
    refusals = stopped_by((done, *_not_let_in(config, requested_by, None, None, now)))
    return _shown(Preview(config.name, "trial", refusals, (said,)))


@stage
def preview_promotion(
    config: ModelConfig,
    challenger: ModelVersion,
    validation: ValidationReport,
    requested_by: str,
    override: Override | None,
    now: datetime,
) -> Preview:
    """Preview a promotion: the gates' verdict on the validated challenger, its smoke test, and who must approve."""
    aliases = registry.aliases(config.name)
    serving = aliases.get(registry.CHAMPION)
    status = registry.tags(config.name, challenger.version).get("status")
    warned = "a warning of validation" if override and validation.verdict == "warn" else None
    access = _not_let_in(config, requested_by, warned, override, now)
    judged = config.accepting_warnings() if warned and warned not in access else config
    gate = why_not_promote(config.validation, judged.promotion, challenger, serving, validation)
    if serving == challenger.version:
        gate = f"version {serving} serves already"
    gate = gate or evaluation.alias_transaction.why_aliases_stay(config.name, aliases)
    if evaluation.alias_transaction.was_rolled_back(config.name, challenger.version):
        status = "quarantined"
    barred = f"it is {status}, expected a version that may serve" if status in ("quarantined", "rejected") else None
    refusals = stopped_by(
        (*access, gate, barred, evaluation.challenger.smoke_test(challenger, config.training.estimator))
    )
    asked = f"approval: one of {', '.join(config.access.approve) or 'anybody else'} would be asked"
    approval = asked if config.needs_approval else "approval: none is needed"
    return _shown(Preview(config.name, "promotion", refusals, (*what_validation_said(validation, serving), approval)))


def _rows_of_history(config: ModelConfig) -> int:
    """Count the source's rows of the history without storing them."""
    return len(sources.read_window(config, config.history()))


def _unusable(config: ModelConfig) -> str | None:
    """Return why the configured estimator or source function cannot be used; None if both can."""
    try:
        sources.check_function(config)
        models.estimators.try_out(config)
    except (SourceError, EstimatorError) as error:
        return str(error)
    return None


def _not_let_in(
    config: ModelConfig, requested_by: str, exception: str | None, override: Override | None, now: datetime
) -> tuple[str | None, ...]:
    """Return (why the caller may not start this, the `exception` that would block it).

    The second is None if there is none or a valid override covers it.
    """
    principal = orchestration.run_identity.creator(requested_by)
    outside = why_not_trigger(config.access, principal, requested_by)
    if exception is None or override is None:
        return outside, exception
    invalid = why_not_override(config.access, override, principal, now)
    return outside, invalid and f"{exception}; {invalid}"


def _shown(preview: Preview) -> Preview:
    reports.artifacts.publish_preview_page(preview)
    get_run_logger().info("dry run: %s", preview.headline)
    return preview
