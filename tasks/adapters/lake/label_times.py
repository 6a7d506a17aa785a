"""Label arrival times: the delay of labels, and whether a measured window has received labels since."""

from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.delta.table import LandedTable
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.lake.window_scan import overlap, parse_window
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window

LABELS_OF_A_CLASS = 30
"""Minimum number of labels of a class for an estimate of its delay."""


def label_lag(config: ModelConfig, as_of: datetime, share: float) -> timedelta | None:
    """Return the delay after the row within which this share of the labels known at `as_of` first arrived, or None.

    `share` is a fraction from 0 to 1. The delay is that of the slowest class with at least `LABELS_OF_A_CLASS` labels:
    chargebacks are few and arrive after a month, while all other labels arrive within a day. None means that no label
    is known.
    """
    rows, labels = (LandedTable.open(workspace().table(config.name, name)) for name in ("rows", "labels"))
    return _lag(rows, labels, as_of, share, config.task != "regression") if rows and labels else None


def labels_due_by(config: ModelConfig, as_of: datetime) -> datetime | None:
    """Return the time before which nearly all labels are due; None if labels have no times of their own.

    It is `as_of` less the delay within which the share `performance.closed_at` of labels arrived, bounded below by
    `label_delay` and above by `all_labels_within`; without known labels it is `as_of` less `all_labels_within`.
    """
    if not config.columns.has_label_time:
        return None
    lag = label_lag(config, as_of, config.performance.closed_at)
    longest = config.columns.all_labels_within
    return as_of - (longest if lag is None else min(max(lag, config.columns.label_delay), longest))


@lru_cache(maxsize=64)  # a table at a version never changes; a run asks once per window
def _lag(rows: LandedTable, labels: LandedTable, as_of: datetime, share: float, by_class: bool) -> timedelta | None:
    lags = [pa.table({"label": pa.array([], pa.string()), "lag": pa.array([], pa.int64())})]
    for file in rows.files():
        first_known = [labels.opened(own).table() for own in labels.files() if own.window == file.window]
        if first_known:
            row = rows.opened(file)
            keys = row.table(row.schema().names[:2])
            stored = pa.concat_tables([part.rename_columns(["id", "label", "label_at"]) for part in first_known])
            known = stored.filter(pc.less_equal(stored["label_at"], moment(as_of)))
            first = first_match(keys.column(0), known["id"])
            lag = pc.subtract(known["label_at"].take(first), keys.column(1)).cast(pa.int64())
            name = known["label"].take(first).cast(pa.string()) if by_class else pa.nulls(len(lag), pa.string())
            lags.append(pa.table({"label": name, "lag": lag}).filter(pc.is_valid(lag)))
    found = pa.concat_tables(lags).to_pandas()
    if found.empty:
        return None
    groups = [found["lag"], *(own for _, own in found.groupby("label")["lag"] if len(own) >= LABELS_OF_A_CLASS)]
    return timedelta(microseconds=max(float(np.quantile(own, share)) for own in groups))


def labels_arrived(config: ModelConfig, window: Window, after: datetime, until: datetime) -> bool:
    """Return whether a label or a correction for the window's rows became known after `after` and up to `until`."""
    labels = LandedTable.open(workspace().table(config.name, "labels"))
    if labels is None:
        return False
    for file in labels.files():
        if overlap(parse_window(file.window), window):
            opened = labels.opened(file)
            known_at = opened.table(opened.schema().names[2:]).column(0)
            came = pc.and_(pc.greater(known_at, moment(after)), pc.less_equal(known_at, moment(until)))
            if pc.any(came, min_count=0).as_py():
                return True
    return False
