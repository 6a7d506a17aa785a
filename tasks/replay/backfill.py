"""Plan a back-fill from the ledger, and publish the plan."""

from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, registry, reports
from tasks.adapters.orchestration.stage import stage
from tasks.policy.decision.retraining import decision_id
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import BackfillRefused
from tasks.policy.records.reports import Scoring
from tasks.policy.reporting.backfill import Backfill, divide_windows


def plan_backfill(config: ModelConfig, start: datetime, end: datetime, max_windows: int) -> Backfill:
    """Divide the windows of [start, end) into missing, done, and trained on by the champion.

    Raises BackfillRefused if the range has no window or more than `max_windows` missing ones, and NoChampion if the
    model has no champion yet.
    """
    end = min(end, config.period.end) if config.period.end else end
    windows = tuple(window for window in config.windows(end=end) if window.start >= start)
    if not windows:
        raise BackfillRefused(
            f"{config.name}: no window of {config.window_length} between {start:%Y-%m-%d} and {end:%Y-%m-%d}; "
            f"expected start < end, both after {config.period.history_until:%Y-%m-%d}, at least one window apart"
        )
    champion = registry.version(config.name, registry.CHAMPION)
    entries = ledger.entries(config.name)
    scored = {from_json(Scoring, entry.body).window for entry in entries if entry.kind == "window.scored"}
    judged = {
        window
        for entry in entries
        if entry.kind == "window.judged"
        and entry.decision_id
        == decision_id(config.name, config.retraining, window := from_json(Judgement, entry.body).evidence.window)
    }
    plan = divide_windows(windows, scored, judged, champion.trained.end)
    if len(plan.missing) > max_windows:
        raise BackfillRefused(
            f"{config.name}: {len(plan.missing)} windows are to be filled in, max_windows allows {max_windows}; "
            "choose a shorter range, or raise max_windows"
        )
    return plan


# two retries: the API server may be restarting; the stage writes only the artifact
@stage(retries=2)
def publish_backfill(config: ModelConfig, plan: Backfill, dry_run: bool) -> None:
    """Publish which windows were filled in, or would be with `dry_run`."""
    reports.artifacts.publish_backfill_page(config.name, plan, dry_run)
    get_run_logger().info("backfill: %s%s", plan.headline, ", only shown" if dry_run else "")
