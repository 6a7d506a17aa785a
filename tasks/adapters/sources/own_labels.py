"""Read labels that have a source of their own, and join them with the rows that have landed.

Such labels have no production time, only an id and the time at which each became known. A label belongs to the latest
row of its id at or before that time. Labels of no landed row, and repeated labels, are counted.
"""

from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import MOMENT
from tasks.adapters.lake.schemas import label_columns, sort_labels, stored_label_columns
from tasks.adapters.sources.read import inside, read_columns, time_form, where
from tasks.policy.records.base import Window


@dataclass(frozen=True)
class OwnLabels:
    """Labels in the columns of `schemas.sort_labels`, with the time of their row, and unusable ones with their `fault`.

    `orphans` are labels of no landed row, `duplicates` say the same about the same id at the same time.
    """

    labels: pa.Table
    broken: pa.Table
    orphans: int
    duplicates: int

    @property
    def remark(self) -> str | None:
        """The counts in a sentence; None if both are 0."""
        counts = ((self.orphans, "belong to no row that has landed"), (self.duplicates, "repeat another label"))
        return ", ".join(f"{count:,} labels {what}" for count, what in counts if count) or None


def read_own_labels(config: ModelConfig, known_by: Window, rows: pa.Table, searched: Window) -> OwnLabels:
    """Read the labels that became known in `known_by`; keep those of rows in `searched`.

    `rows` has id and time of the landed rows, of a longer time than `searched`: what is not among them is an orphan.
    Raises SourceError, SourceUnreachable.
    """
    view = _view(config)
    table = read_columns(view, known_by, label_columns(view))
    labels, broken = sort_labels(view, table, where(view), time_form(view), with_unknown=True)
    labels, broken = inside(labels, known_by), inside(broken, known_by)
    distinct = labels.group_by(labels.column_names).aggregate([]).num_rows
    labels, broken = labels.filter(pc.is_valid(labels.column(0))), broken.filter(pc.is_valid(broken.column(0)))
    kept, orphans = _with_row_times(config, labels, rows)
    return OwnLabels(
        inside(kept, searched),
        inside(_with_row_times(config, broken, rows)[0], searched),
        orphans,
        len(labels) - distinct,
    )


def _view(config: ModelConfig) -> ModelConfig:
    """Return the configuration of the labels' source, whose time is when a label became known."""
    own = config.labels
    if own is None:
        raise AssertionError(f"{config.name} has no labels of its own")
    names = {"id": own.id or config.columns.id, "time": own.time, "label": own.label or config.columns.label}
    columns = config.columns.model_copy(update={**names, "label_time": None})
    return config.model_copy(update={"source": own.source, "columns": columns})


def _with_row_times(config: ModelConfig, labels: pa.Table, rows: pa.Table) -> tuple[pa.Table, int]:
    """Return the labels of landed rows, with the row's time in place of the label's, and the number of the others."""
    key, time = config.columns.key, config.columns.time
    ids = labels.column(0)
    known = rows.filter(pc.and_(pc.is_valid(rows.column(0)), pc.is_valid(rows.column(1))))
    if ids.type != known.column(0).type:
        ids, known = ids.cast(pa.string()), known.set_column(0, key, known.column(0).cast(pa.string()))
    left = pd.DataFrame({"id": ids.to_pandas(), "at": labels.column(1).to_pandas(), "place": range(len(labels))})
    right = pd.DataFrame({"id": known.column(0).to_pandas(), "row_time": known.column(1).to_pandas()})
    left, right = left.sort_values("at", kind="stable"), right.sort_values("row_time", kind="stable")
    joined = pd.merge_asof(left, right, left_on="at", right_on="row_time", by="id").sort_values("place")
    times = pa.chunked_array([pa.Array.from_pandas(joined["row_time"]).cast(MOMENT, safe=False)])
    names = [key, time, config.columns.label, stored_label_columns(config)[2], *labels.column_names[4:]]
    found = labels.set_column(1, time, times).rename_columns(names)
    has_row = joined["row_time"].notna()
    latest = (
        joined.groupby(["id", "row_time"])["at"].transform("max") == joined["at"]
    )  # a later entry replaces earlier ones
    return found.filter(pa.array(has_row & latest)), int((~has_row).sum())
