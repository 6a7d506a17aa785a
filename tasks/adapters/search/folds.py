"""Forward folds of training rows, and losses on them: train on what was known before, judge on what came after.

The latest half of the rows is cut into equal blocks in time order. The rows before a block train its fold, except those
whose labels were not known yet when the block began (`columns.label_delay_hours`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.models.estimators import in_order
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.label_alignment import align_labels, with_columns
from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Floats


@dataclass(frozen=True)
class ForwardFold:
    """Rows to train on and later rows to judge by, both in time order."""

    training: pa.Table
    judged: pa.Table


def forward_folds(config: ModelConfig, rows: pa.Table, count: int) -> tuple[ForwardFold, ...]:
    """Return `count` folds of labelled rows, the earliest first."""
    rows = in_order(rows, config.columns.time, config.columns.key)
    time, half = rows.column(config.columns.time), len(rows) // 2
    edges = [half + (len(rows) - half) * number // count for number in range(count + 1)]
    folds = []
    for start, end in pairwise(edges):
        known = pc.less(time[:start], _shifted(time[start], config.columns.label_delay))
        folds.append(ForwardFold(rows.slice(0, start).filter(known), rows.slice(start, end - start)))
    return tuple(folds)


def _shifted(moment: Any, delay: timedelta) -> pa.Scalar:
    return pc.subtract(moment, pa.scalar(delay, pa.duration("us")))


def thinned(rows: pa.Table, share: float) -> pa.Table:
    """Return this share of the rows, evenly spaced; all from a share of 1 on."""
    if share >= 1:
        return rows
    return rows.take(np.unique(np.linspace(0, len(rows) - 1, max(1, int(len(rows) * share))).round().astype(int)))


def block_losses(config: ModelConfig, scorer: Scorer, rows: pa.Table, blocks: int = 1) -> Floats:
    """Return the primary metric as a loss on equal blocks of rows in time order; NaN where it is undefined."""
    labels, (predicted,) = align_labels(rows.column(config.columns.label), [(scorer.classes, scorer.predict(rows))])
    labels, metric = with_columns(config, labels, rows), config.primary_metric
    known = np.flatnonzero(np.isfinite(labels))
    parts: Sequence[Any] = np.array_split(known, blocks)
    values = [metrics.compute(metric, labels[part], predicted[part]) for part in parts]
    return np.array([metrics.as_loss(metric, value) for value in values])
