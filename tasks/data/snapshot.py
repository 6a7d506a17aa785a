"""Ingest new data: a window's rows from the model's source, and the labels that have arrived since the last run.

Both are stored permanently in the lake (`tasks.adapters.lake.tables`); every later stage reads the same rows, now and
in a year. A stored window is not read from its source again. Wrong columns, types and clocks raise SourceError before
anything is written.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    import pyarrow as pa


def _is_transient(_task: "Task[..., object]", _run: TaskRun, state: State) -> bool:
    """Return whether a retry can help: only after SourceUnreachable. Invalid data fails the same way again."""
    return isinstance(state.result(raise_on_failure=False), SourceUnreachable)


# Retried because a host, bucket or database may be briefly unavailable.
@stage(
    retries=3,
    retry_condition_fn=_is_transient,
    timeout_seconds=1800,
)
def take_snapshot(config: ModelConfig, window: Window, may_be_empty: bool = False) -> Snapshot:
    """Return the snapshot of a window; read and store its rows first if the lake does not have them.

    If the source has no rows and `may_be_empty` is true, as on a holiday, returns a snapshot of 0 rows and stores
    nothing; rows that arrive late can still be ingested. Raises SourceError (SourceEmpty, SourceUnreachable) and
    WorkspaceError, in which case nothing has been stored.
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


def _read_labels(config: ModelConfig, searched: Window, as_of: datetime) -> "tuple[pa.Table, pa.Table]":
    """Read the labels of the rows of a time, and those that cannot be used; says what belongs to no row."""
    if config.labels is None:
        return sources.read_sorted_labels(config, searched, with_unknown=True)
    before = max(config.period.start, searched.start - config.columns.all_labels_within)
    known_by = Window(searched.start, as_of + timedelta(microseconds=1))  # a label known at `as_of` counts
    rows = lake.landed_keys(config, Window(before, searched.end))
    own = sources.own_labels.read_own_labels(config, known_by, rows, searched)
    if own.remark:
        get_run_logger().warning("labels: %s", own.remark)
    return own.labels, own.broken


@stage(
    retries=3,
    retry_condition_fn=_is_transient,
    timeout_seconds=1800,
)
def land_labels(config: ModelConfig, as_of: datetime, period: Window | None = None) -> int:
    """Store the labels known by `as_of` that are new, corrected or withdrawn; return their count.

    Searches the production time whose labels may have arrived since the last call, up to `columns.label_lookback_days`
    after they were due. A given `period` is searched instead, for labels that arrive even later.
    """
    due = None if period else lake.labels_due(config, as_of, timedelta(days=config.columns.label_lookback_days))
    searched = due.window if due else period
    if searched is None:
        get_run_logger().info("labels: no rows have landed before %s, nothing to search", as_of.isoformat())
        return 0
    labels, broken = lake.cast_to_stored_type(config, *_read_labels(config, searched, as_of))
    stored = lake.land_labels(config, labels, as_of, due)
    lake.land_label_faults(config, searched, labels, broken, as_of)
    get_run_logger().info("labels: %d new by %s, searched in %s", stored, as_of.isoformat(), searched.name)
    if broken.num_rows:
        kinds = ", ".join(map(str, pc.unique(broken["fault"])))
        get_run_logger().warning("labels: %d cannot be used: %s", broken.num_rows, kinds)
    return stored
