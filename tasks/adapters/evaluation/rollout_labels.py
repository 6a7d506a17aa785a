"""Labelled rows of a rollout: pairs of predictions where both versions predicted, and arms where each served a part.

Only rows whose labels are all due are read: early labels often belong to one class. Predictions are joined with labels
window by window, because an id identifies a row within its window.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.evaluation.prediction_log import (
    ArmRows,
    arms_of,
    finite_answers,
    groups_of,
    inside,
    predictions_of,
    read_labelled,
    with_role,
)
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.models.encoding import category_texts, encode_labels
from tasks.adapters.models.label_alignment import all_classes, in_order, with_columns, with_misses
from tasks.policy.comparison.arms import ServedArm
from tasks.policy.comparison.evidence import Evidence, paired_evidence, served_evidence
from tasks.policy.comparison.guardrails import LabelledGain, paired_calibration_gain, served_calibration_gain
from tasks.policy.monitoring.slices import largest_groups
from tasks.policy.records.base import Window
from tasks.policy.rollout.state import Rollout
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, Metric

Groups = NDArray[np.str_]
SLICE, READ = "slice ", "read "
"""Prefixes of slice columns, and of those that metrics read, among the columns of labelled rows: id, time, label, unit."""


class LabelledSpan(NamedTuple):
    """The production time to compare in, the time at which labels are known, and what is known about the windows."""

    span: Window
    as_of: datetime
    closed: Collection[Window] = ()
    """Windows all of whose labels count, although some could still arrive."""
    excluding: Collection[str] = ()
    """Names of windows to leave out: quarantined, or with labels that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Labelled rows that both versions predicted."""

    pairs: PairedPredictions
    clusters: Groups
    """Each row's unit or day."""
    slices: Mapping[str, Groups]
    """Each row's group by column: those of `validation.slices`, then the protected ones."""
    until: datetime
    """Time of the latest row."""

    def gain(self, metric: Metric) -> Evidence:
        return paired_evidence(metric, self.pairs, self.clusters, self.until)

    def calibration_gain(self) -> LabelledGain | None:
        return paired_calibration_gain(self.pairs, self.clusters)

    def defines(self, metric: Metric) -> bool:
        """Whether the labels define the metric."""
        return not metrics.undefined(metric, self.pairs.y_true, metrics.class_count(self.pairs.challenger))

    def by_group(self, min_rows: int) -> Iterator[tuple[str, "LabelledPairs"]]:
        """Yield (slice, its rows) for the largest groups of each column, such as `origin=JFK`."""
        for column, groups in self.slices.items():
            for name in largest_groups(groups, min_rows):
                rows = groups == name
                yield f"{column}={name}", LabelledPairs(self.pairs.where(rows), self.clusters[rows], {}, self.until)


@dataclass(frozen=True, slots=True)
class LabelledArms:
    """Labelled rows that each version served; a stratum is a step within a window."""

    champion: ServedArm
    challenger: ServedArm
    slices: Mapping[str, Groups]
    """Each row's group by column, those of the champion's rows first."""
    until: datetime

    def gain(self, metric: Metric) -> Evidence:
        return served_evidence(metric, self.champion, self.challenger, self.until)

    def calibration_gain(self) -> LabelledGain | None:
        return served_calibration_gain(self.champion, self.challenger)

    def defines(self, metric: Metric) -> bool:
        """Whether the labels of both arms define the metric."""
        arms = (self.champion, self.challenger)
        return not any(metrics.undefined(metric, arm.y_true, metrics.class_count(arm.y_pred)) for arm in arms)

    def by_group(self, min_rows: int) -> Iterator[tuple[str, "LabelledArms"]]:
        """Yield (slice, its rows) for the largest groups that have `min_rows` rows in either arm."""
        for column, groups in self.slices.items():
            champion, challenger = np.split(groups, [len(self.champion.y_true)])
            for name in largest_groups(challenger, min_rows):
                if (champion == name).sum() >= min_rows:
                    arms = self.champion.where(champion == name), self.challenger.where(challenger == name)
                    yield f"{column}={name}", LabelledArms(*arms, {}, self.until)


def labelled_pairs(config: ModelConfig, rollout: Rollout, at: LabelledSpan) -> LabelledPairs | None:
    """Return the labelled rows that both versions of the rollout predicted, served or not; None without any."""
    parts = []
    for _, rows, log in _labelled_windows(config, rollout, at):
        arms = arms_of(log, rollout.champion, rollout.version)
        champion, challenger = (_prediction_of_each(rows, finite_answers(arm)) for arm in arms)
        both = rows.append_column("champion", champion).append_column("challenger", challenger)
        parts.append(both.filter(pc.and_(pc.is_valid(champion), pc.is_valid(challenger))))
    table = _joined(parts)
    if not len(table):
        return None
    predictions, classes = _in_one_order(config, rollout, [table["champion"], table["challenger"]])
    y_true, (old, new) = _with_labels(config, table, predictions, classes)
    groups = _clusters(config, table), _slices(config, table)
    return LabelledPairs(PairedPredictions(y_true, old, new), *groups, _latest(table))


def labelled_arms(config: ModelConfig, rollout: Rollout, at: LabelledSpan) -> LabelledArms | None:
    """Return the labelled rows that each version served in the rollout's steps; None if one of them served none.

    Left out are rows without a unit, which always get the champion, and rows that the champion answered because the
    challenger failed: neither is a random part of the traffic.
    """
    steps = pa.array([step.name for step in rollout.steps if step.share > 0], pa.string())

    def served(_: Window, log: pa.Table) -> ArmRows | None:
        own = with_role(log, "champion", "challenger")
        if "step" not in own.column_names:
            return None
        own = own.filter(pc.is_in(own["step"].cast(pa.string()), steps))
        return arms_of(own, rollout.champion, rollout.version)

    return _labelled_arms(config, rollout, at, served)


def split_arms(
    config: ModelConfig, rollout: Rollout, at: LabelledSpan, served: Mapping[Window, ArmRows]
) -> LabelledArms | None:
    """Return the labelled rows among those that each version `served` in a window; None if one of them has none."""
    return _labelled_arms(config, rollout, at, lambda window, _: served.get(window))


def _labelled_arms(
    config: ModelConfig, rollout: Rollout, at: LabelledSpan, served: Callable[[Window, pa.Table], ArmRows | None]
) -> LabelledArms | None:
    parts: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    for window, rows, log in _labelled_windows(config, rollout, at):
        arms, with_unit = served(window, log), rows.filter(pc.is_valid(rows["unit"]))
        if arms is None:
            continue
        failed = pc.is_valid(first_match(with_unit["id"], arms.challenger["id"]))
        parts[0].append(_served_rows(with_unit.filter(pc.invert(failed)), finite_answers(arms.champion), window))
        parts[1].append(_served_rows(with_unit, finite_answers(arms.challenger), window))
    tables = [_joined(own) for own in parts]
    if not all(map(len, tables)):
        return None
    predictions, classes = _in_one_order(config, rollout, [table["prediction"] for table in tables])
    both = pa.concat_tables(tables, promote_options="default")
    y_true, (y_pred,) = _with_labels(config, both, [np.concatenate(predictions)], classes)
    arm = ServedArm(y_true, y_pred, _clusters(config, both), _texts(both["stratum"]))
    of_challenger = np.arange(len(both)) >= len(tables[0])
    return LabelledArms(arm.where(~of_challenger), arm.where(of_challenger), _slices(config, both), _latest(both))


def _labelled_windows(
    config: ModelConfig, rollout: Rollout, at: LabelledSpan
) -> Iterator[tuple[Window, pa.Table, pa.Table]]:
    """Yield (window, labelled rows, prediction log) for windows with rows whose labels are all due.

    The rows have the columns id, time, label and unit, and one for each slice and for each column that a metric reads.
    """
    columns, unit = config.columns, rollout.unit or config.columns.key
    names = {"id": columns.key, "time": columns.time, "label": columns.label}
    slices = dict.fromkeys((*config.validation.slices, *columns.protected))
    due_until = moment(at.as_of - columns.all_labels_within)
    for window in lake.predicted_windows(config, at.span):
        if window.name in at.excluding:
            continue
        rows = inside(
            read_labelled(config, window, at.as_of, tuple(names.values()), (unit, *slices, *config.metric_columns)),
            columns.time,
            at.span,
        )
        if window not in at.closed:
            rows = rows.filter(pc.less(rows[columns.time], due_until))
        if len(rows):
            landed = {f"{SLICE}{name}": rows[name] for name in slices if name in rows.column_names}
            landed |= {f"{READ}{name}": rows[name] for name in config.metric_columns if name in rows.column_names}
            units = (
                rows[unit] if unit in rows.column_names else pa.nulls(len(rows))
            )  # the window may predate the setting
            fields = {field: rows[name] for field, name in names.items()} | {"unit": units} | landed
            yield window, pa.table(fields), lake.read_predictions(config, window)


def _prediction_of_each(rows: pa.Table, arm: pa.Table) -> pa.ChunkedArray:
    """Return the arm's prediction of each row, or null."""
    return arm["prediction"].take(first_match(rows["id"], arm["id"]))


def _served_rows(rows: pa.Table, arm: pa.Table, window: Window) -> pa.Table:
    """Return the rows that this arm served, with its predictions; a stratum is one step within one window."""
    place = first_match(rows["id"], arm["id"])
    stratum = pc.binary_join_element_wise(window.name, arm["step"].cast(pa.string()).take(place), " ")
    served = rows.append_column("prediction", arm["prediction"].take(place)).append_column("stratum", stratum)
    return served.filter(pc.is_valid(place))


def _joined(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts, promote_options="default") if parts else pa.table({})


def _in_one_order(
    config: ModelConfig, rollout: Rollout, logged: list[pa.ChunkedArray]
) -> tuple[list[Floats], tuple[str, ...]]:
    """Return the predictions of champion and challenger in one order of classes, and these; none for a regression."""
    versions = (rollout.champion, rollout.version)
    own = [registry.classes(config.name, name) if config.task != "regression" else () for name in versions]
    classes = all_classes(own)
    return [
        in_order(names, predictions_of(column), classes) for names, column in zip(own, logged, strict=True)
    ], classes


def _with_labels(
    config: ModelConfig, table: pa.Table, predictions: list[Floats], classes: tuple[str, ...]
) -> tuple[Floats, list[Floats]]:
    y_true, found = with_misses(encode_labels(table["label"], classes, unknown=len(classes)), predictions, len(classes))
    read = {name: f"{READ}{name}" for name in config.metric_columns if f"{READ}{name}" in table.column_names}
    rows = pa.table({name: table[column] for name, column in read.items()})
    return with_columns(config, y_true, rows), found


def _clusters(config: ModelConfig, table: pa.Table) -> Groups:
    """Return the unit of each row, or its day; a row without a unit is its own cluster."""
    if config.rollout.verdict.cluster == "day":
        return _texts(table["time"].cast(pa.date32()))
    return _texts(pc.coalesce(category_texts(table["unit"]), category_texts(table["id"])))


def _slices(config: ModelConfig, table: pa.Table) -> dict[str, Groups]:
    columns = {name.removeprefix(SLICE): name for name in table.column_names if name.startswith(SLICE)}
    return {name: groups_of(config, name, table[column]) for name, column in columns.items()}


def _texts(column: pa.ChunkedArray) -> Groups:
    return np.array(column.cast(pa.string()).to_pylist(), dtype=np.str_)


def _latest(table: pa.Table) -> datetime:
    latest: datetime = pc.max(table["time"]).as_py()
    return latest
