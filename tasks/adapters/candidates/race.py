"""Run a race: fit each entrant to the rows before the judged windows, and score it on each of them.

Only rows whose labels were due before the first judged window are learned from, as a training then would have. The losses
go to `tasks.policy.training.race`, which decides.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from time import perf_counter, process_time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.candidates import strategies
from tasks.adapters.models.estimators import in_order
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.label_alignment import with_columns
from tasks.policy.records.base import Window
from tasks.policy.records.errors import EstimatorError, FeatureError, TrainingRefused
from tasks.policy.statistics import metrics
from tasks.policy.statistics.resampling import thin
from tasks.policy.training.race import Entrant, RaceReport, Strategy

MAX_ROWS = 200_000
"""Rows that an entrant is fitted to at most; of more, a random part is drawn, the same for all entrants."""


def judged_windows(config: ModelConfig, start: datetime, end: datetime, count: int) -> tuple[Window, ...]:
    """Return the latest `count` complete windows of [start, end) that leave at least as many windows to learn from."""
    windows = config.grid.between(start, end)
    return windows[len(windows) - min(count, len(windows) // 2) :]


def run(
    config: ModelConfig,
    rows: pa.Table,
    windows: Sequence[Window],
    entrants: Sequence[Strategy],
    bases: Mapping[str, Scorer],
) -> RaceReport:
    """Return the entrants' losses on the windows, without a winner yet; `bases` are models by version number.

    `rows` are labelled. An entrant that cannot be fitted is refused with its reason.
    """
    began = perf_counter(), process_time()
    rows = in_order(rows, config.columns.time, config.columns.key)
    learned = _between(config, rows, None, windows[0].start - config.columns.label_delay)
    learned = learned.take(thin(len(learned), -(-len(learned) // MAX_ROWS), config.training.seed))
    parts = [_between(config, rows, window.start, window.end) for window in windows]
    found = tuple(_enter(config, strategy, learned, parts, bases.get(strategy.version or "")) for strategy in entrants)
    used = perf_counter() - began[0], process_time() - began[1]
    return RaceReport(
        tuple(windows),
        config.performance.metric,
        found,
        Strategy(),
        0.0,
        0.0,
        0.0,
        0,
        (),
        cpu_s=used[1],
        wall_s=used[0],
    )


def _enter(
    config: ModelConfig, strategy: Strategy, learned: pa.Table, parts: Sequence[pa.Table], base: Scorer | None
) -> Entrant:
    began = process_time()
    try:
        if strategy.kind == "earlier_champion":
            if base is None:
                return Entrant(
                    strategy, refused="its model cannot be loaded, or it has learned from the judged windows"
                )
            scorer = base
        else:
            scorer = strategies.fit(config, strategy, learned, base).scorer
        losses = tuple(window_loss(config, scorer, part) for part in parts)
    except (EstimatorError, FeatureError, TrainingRefused) as error:
        return Entrant(strategy, cpu_s=process_time() - began, refused=str(error))
    return Entrant(strategy, losses, process_time() - began)


def window_loss(config: ModelConfig, scorer: Scorer, rows: pa.Table) -> float | None:
    """Return the primary metric on a window's labelled rows, as a loss; None if it is undefined there."""
    if not len(rows):
        return None
    metric, label = config.primary_metric, rows.column(config.columns.label)
    y_true, y_pred = scorer.predict_labelled(rows, label)
    known = np.isfinite(scorer.labels(label))
    y_true = with_columns(config, y_true, rows.filter(pa.array(known)))
    if not len(y_pred) or metrics.undefined(metric, y_true, metrics.class_count(y_pred)):
        return None
    value = metrics.as_loss(metric, metrics.compute(metric, y_true, y_pred))
    return value if np.isfinite(value) else None


def _between(config: ModelConfig, rows: pa.Table, start: datetime | None, end: datetime) -> pa.Table:
    """Return the rows of [start, end), without a copy; `rows` are in order of time."""
    time = rows.column(config.columns.time)
    first, last = (0 if at is None else pc.sum(pc.less(time, pa.scalar(at))).as_py() or 0 for at in (start, end))
    return rows.slice(first, last - first)
