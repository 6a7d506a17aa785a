"""When labels came: how long they take, and whether a window that was measured has got some since."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.model_config import ModelConfig
from tasks.adapters.delta_table import LandedTable
from tasks.adapters.landed_span import overlap, window_named
from tasks.adapters.schemas import moment
from tasks.adapters.workspace import workspace
from tasks.policy.records import Window


def label_lag(config: ModelConfig, as_of: datetime, share: float) -> timedelta | None:
    """How long after its row this share of the labels known at `as_of` first came; None where none is known."""
    rows, labels = (LandedTable.open(workspace().table(config.name, name)) for name in ("rows", "labels"))
    lags = [np.empty(0)]
    for file in rows.files() if rows and labels else ():
        first_known = [labels.opened(own).table() for own in labels.files() if own.window == file.window]
        if first_known:
            row = rows.opened(file)
            keys = row.table(row.schema().names[:2])
            stored = pa.concat_tables(first_known)
            known = stored.filter(pc.less_equal(stored["label_at"], moment(as_of)))
            came = known["label_at"].take(pc.index_in(keys.column(0), value_set=known.column(0)))
            lags.append(pc.subtract(came, keys.column(1)).drop_null().cast(pa.int64()).to_numpy())
    every = np.concatenate(lags)
    return timedelta(microseconds=float(np.quantile(every, share))) if len(every) else None


def labels_came(config: ModelConfig, window: Window, after: datetime, until: datetime) -> bool:
    """Whether a label of the window's rows, or its correction, became known later than `after` and by `until`."""
    labels = LandedTable.open(workspace().table(config.name, "labels"))
    for file in labels.files() if labels else ():
        if overlap(window_named(file.window), window):
            known_at = labels.opened(file).table(["label_at"])["label_at"]
            came = pc.and_(pc.greater(known_at, moment(after)), pc.less_equal(known_at, moment(until)))
            if pc.any(came, min_count=0).as_py():
                return True
    return False
