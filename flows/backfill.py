"""Score and judge the missed windows of a date range.

Every write is keyed by its window and decision, so a second run changes nothing. Windows that the champion was trained on
are left out, because its results on them would be too good. A window without rows is recorded as empty and tried again
by a later run. A back-fill starts no retrain: the next live window decides, with the filled-in windows as evidence.
"""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import Field

from flows.parameters import Model, Moment, in_utc, run_name, wall_clock
from tasks.adapters.orchestration.runs import run_as
from tasks.policy.records.events import RunMode
from tasks.policy.reporting.backfill import Backfill
from tasks.replay.backfill import plan_backfill, publish_backfill
from tasks.rollout.access import admit

MAX_WINDOWS = 60


@flow(name="backfill", flow_run_name=run_name("backfill"))
def backfill(
    model: Model,
    start: Moment,
    end: Moment,
    max_windows: Annotated[int, Field(ge=1, le=1000)] = MAX_WINDOWS,
    dry_run: bool = True,
) -> Backfill:
    """Score and judge the missed windows of a date range. Windows that were judged before stay as they are.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        start: Fill in windows that begin at this time (UTC) or later.
        end: Fill in windows that are complete by this time (UTC), and by now.
        max_windows: Refuse a range with more missed windows than this, as a guard against a mistyped year.
        dry_run: Only show which windows would be scored and judged. Switch it off to fill them in.
    """
    config = admit(model)
    plan = plan_backfill(config, start, min(in_utc(end), wall_clock() - config.settling), max_windows)
    empty = []
    if not dry_run:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # subflow heartbeats add a second each
            progress = create_progress_artifact(0.0, f"backfill-{config.name}".replace("_", "-"), plan.headline)
            for number, window in enumerate(plan.missing, start=1):
                run_as(RunMode.BACKFILL, "score", model=model, until=config.read_at(window))
                judgement = run_as(RunMode.BACKFILL, "monitor", model=model, until=config.read_at(window))
                empty += [] if judgement.evidence.rows else [window]
                update_progress_artifact(progress, 100.0 * number / len(plan.missing), f"{window.name} is done")
    plan = plan.without_rows(empty)
    publish_backfill(config, plan, dry_run)
    return plan
