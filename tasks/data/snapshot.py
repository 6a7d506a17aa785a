"""Take in what is new: a window's rows from the model's source, and the labels that have become known since.

Both are stored once and for good (`tasks.adapters.lake.tables`), so whatever follows reads the same rows, now and in a year.
A window that has landed is not read from its source again. Wrong columns, types and clocks stop here as a SourceError,
before anything is written.
"""

from datetime import datetime, timedelta

import pyarrow.compute as pc
from prefect import get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from deployments.config.model import ModelConfig
from tasks.adapters import lake, sources, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceEmpty, SourceUnreachable
from tasks.policy.records.reports import Snapshot


def _may_pass(_task: "Task[..., object]", _run: TaskRun, state: State) -> bool:
    """Whether trying again may help: only where the source did not answer. Bad data stays bad."""
    return isinstance(state.result(raise_on_failure=False), SourceUnreachable)


# Retries are for a host, bucket or database that does not answer for a moment.
@stage(
    retries=3,
    retry_condition_fn=_may_pass,
    timeout_seconds=1800,
)
def take_snapshot(config: ModelConfig, window: Window, may_be_empty: bool = False) -> Snapshot:
    """The window's rows as they landed, landing them first where they have not.

    Where the source has none and it `may_be_empty`, as on a holiday, a snapshot of 0 rows: nothing lands, so that what
    comes late can still be taken. Raises SourceError (SourceEmpty, SourceUnreachable) and WorkspaceError; then nothing has
    landed.
    """
    logger = get_run_logger()
    landed = lake.landed_rows(config, window)
    if landed is not None:
        logger.info("snapshot: %d rows of %s landed before, version %d", landed.rows, window.name, landed.version)
        return landed
    try:
        rows = sources.read_window(config, window)
    except SourceEmpty as nothing:
        if not may_be_empty:
            raise
        logger.warning("snapshot: %s", nothing)
        return Snapshot(storage.workspace.workspace().table(config.name, "rows"), 0, window, 0, "")
    snapshot = lake.land_rows(config, window, rows)
    logger.info("snapshot: %d rows of %s landed, version %d", snapshot.rows, window.name, snapshot.version)
    return snapshot


@stage(
    retries=3,
    retry_condition_fn=_may_pass,
    timeout_seconds=1800,
)
def land_labels(config: ModelConfig, as_of: datetime, period: Window | None = None) -> int:
    """Store the labels that were known by `as_of`, new, corrected or taken back; how many.

    Looks at production time whose labels may have come since the last time, up to `columns.label_lookback_days` after
    they were due; at `period` instead where one is given, for labels that came later still.
    """
    due = None if period else lake.labels_due(config, as_of, timedelta(days=config.columns.label_lookback_days))
    searched = due.window if due else period
    if searched is None:
        get_run_logger().info("labels: no rows have landed before %s, nothing to look for", as_of.isoformat())
        return 0
    labels, broken = lake.stored_alike(config, *sources.read_sorted_labels(config, searched, with_unknown=True))
    stored = lake.land_labels(config, labels, as_of, due)
    lake.land_label_faults(config, searched, labels, broken, as_of)
    get_run_logger().info("labels: %d new by %s, looked for in %s", stored, as_of.isoformat(), searched.name)
    if broken.num_rows:
        kinds = ", ".join(map(str, pc.unique(broken["fault"])))
        get_run_logger().warning("labels: %d of them say no label that can be used: %s", broken.num_rows, kinds)
    return stored
