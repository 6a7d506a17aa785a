"""Measure challenger and champion during a rollout, from the predictions that both logged.

What needs no labels is measured as soon as a window is scored. Gains are measured on rows whose labels are all due:
early labels often belong to one class. Predictions are joined with labels window by window, because an id identifies a
row within its window.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.evaluation.prediction_log import answered, predictions_of, read_labelled, with_role
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.models.encoding import category_texts, encode_labels
from tasks.adapters.models.label_alignment import all_classes, in_order, with_misses
from tasks.adapters.models.slice_values import groups_of
from tasks.policy.records.base import Window
from tasks.policy.records.evidence import PredictionHistogram, ValidationReport
from tasks.policy.records.reports import Latency
from tasks.policy.rollout.comparison import shares_in
from tasks.policy.rollout.guardrails import ArmStatistics, GuardrailEvidence
from tasks.policy.rollout.stages import Rollout
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats

Groups = NDArray[np.str_]
SLICE = "slice "
"""Prefix of a slice column among the columns of labelled rows, whose own names are id, time, label and unit."""


class ArmRows(NamedTuple):
    """Rows of the prediction log of each version, in the columns of the log."""

    champion: pa.Table
    challenger: pa.Table


class LabelledSpan(NamedTuple):
    """The production time to compare in, the time at which labels are known, and what is known about the windows."""

    span: Window
    as_of: datetime
    closed: Collection[Window] = ()
    """Windows all of whose labels count, although some could still arrive."""
    excluding: Collection[str] = ()
    """Names of windows to leave out: quarantined, or with labels that cannot be trusted."""


class LabelledPairs(NamedTuple):
    """Labelled rows that both versions predicted. `clusters` has each row's unit or day."""

    pairs: PairedPredictions
    clusters: Groups
    slices: Mapping[str, Groups]
    """Each row's group by column: those of `validation.slices`, then the protected ones."""
    until: datetime
    """Time of the latest row."""


class LabelledArm(NamedTuple):
    """Labelled rows that one version served. `strata` has the window and step of each row."""

    y_true: Floats
    y_pred: Floats
    clusters: Groups
    strata: Groups
    slices: Mapping[str, Groups]
    until: datetime


def read_arms(config: ModelConfig, span: Window, champion: str, challenger: str) -> ArmRows:
    """Read what both versions predicted in the span: the champion's own rows, the challenger's served or as a shadow."""
    windows = lake.predicted_windows(config, span)
    logs = [_inside(lake.read_predictions(config, window), "time", span) for window in windows]
    log = pa.concat_tables(logs or [lake.read_predictions(config, span)], promote_options="default")
    return _arms(log, champion, challenger)


def measure_answers(
    config: ModelConfig, span: Window, validation: ValidationReport, latencies: Mapping[str, Latency] | None = None
) -> GuardrailEvidence | None:
    """Measure what needs no labels, for both versions of a validation; None if the challenger answered nothing.

    `latencies` are those of batch scoring by version; without them, the column `latency_s` of the log is used.
    """
    champion, challenger = validation.champion or "none", validation.challenger
    arms = read_arms(config, span, champion, challenger)
    if not len(arms.challenger):
        return None
    timed = latencies or {}
    return GuardrailEvidence(
        span,
        arm_statistics(champion, arms.champion, validation.champion_predictions, timed.get(champion)),
        arm_statistics(challenger, arms.challenger, validation.challenger_predictions, timed.get(challenger)),
    )


def arm_statistics(
    version: str, log: pa.Table, validation: PredictionHistogram | None = None, latency: Latency | None = None
) -> ArmStatistics:
    """Summarise the rows that one version answered or refused. A row with an `error` was refused."""
    refused = int(pc.sum(pc.is_valid(log["error"])).as_py() or 0) if "error" in log.column_names else 0
    y_pred = predictions_of(_finite(log)["prediction"])
    p95_s, timed = (latency.p95_s, latency.batches) if latency else _latency(log)
    counts = np.unique(y_pred, axis=0, return_counts=True)[1]
    return ArmStatistics(
        version=version,
        rows=len(log),
        refused=refused,
        missing=len(log) - refused - len(y_pred),
        most_common_share=float(counts.max() / len(y_pred)) if len(y_pred) else 0.0,
        latency_p95_s=p95_s,
        histogram=shares_in(validation.edges, y_pred) if validation else (),
        validation=validation,
        timed=timed,
    )


def labelled_pairs(config: ModelConfig, rollout: Rollout, at: LabelledSpan) -> LabelledPairs | None:
    """Return the labelled rows that both versions of the rollout predicted, served or not; None without any."""
    parts = []
    for _, rows, log in _labelled_windows(config, rollout, at):
        arms = _arms(log, rollout.champion, rollout.version)
        champion, challenger = (_prediction_of_each(rows, _finite(arm)) for arm in arms)
        both = rows.append_column("champion", champion).append_column("challenger", challenger)
        parts.append(both.filter(pc.and_(pc.is_valid(champion), pc.is_valid(challenger))))
    table = _joined(parts)
    if not len(table):
        return None
    own, classes = _classes(config, rollout)
    predictions = [
        in_order(names, predictions_of(table[role]), classes)
        for names, role in zip(own, ("champion", "challenger"), strict=True)
    ]
    y_true, (champion, challenger) = _aligned(table, predictions, classes)
    groups = _clusters(config, table), _slices(config, table)
    return LabelledPairs(PairedPredictions(y_true, champion, challenger), *groups, _latest(table))


def labelled_arms(config: ModelConfig, rollout: Rollout, at: LabelledSpan) -> tuple[LabelledArm, LabelledArm] | None:
    """Return the labelled rows that champion and challenger served in the rollout's steps; None if one served none.

    Rows without a unit are left out: they always get the champion, and are no random part of the traffic.
    """
    steps = pa.array([step.name for step in rollout.steps if step.share > 0], pa.string())
    parts: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    for window, rows, log in _labelled_windows(config, rollout, at):
        served, with_unit = with_role(log, "champion", "challenger"), rows.filter(pc.is_valid(rows["unit"]))
        if "step" in served.column_names:
            served = served.filter(pc.is_in(served["step"].cast(pa.string()), steps))
            for own, arm in zip(parts, _arms(served, rollout.champion, rollout.version), strict=True):
                own.append(_served_rows(with_unit, _finite(arm), window))
    tables = [_joined(own) for own in parts]
    if not all(map(len, tables)):
        return None
    own_classes, classes = _classes(config, rollout)
    answers = [
        in_order(names, predictions_of(table["prediction"]), classes)
        for names, table in zip(own_classes, tables, strict=True)
    ]
    both = pa.concat_tables(tables, promote_options="default")
    y_true, (y_pred,) = _aligned(both, [np.concatenate(answers)], classes)
    arms = LabelledArm(
        y_true, y_pred, _clusters(config, both), _texts(both["stratum"]), _slices(config, both), _latest(both)
    )
    count = len(tables[0])
    return _rows_of(arms, slice(0, count)), _rows_of(arms, slice(count, None))


def _labelled_windows(
    config: ModelConfig, rollout: Rollout, at: LabelledSpan
) -> Iterator[tuple[Window, pa.Table, pa.Table]]:
    """Yield (window, labelled rows, prediction log) for windows with rows whose labels are all due.

    The rows have the columns id, time, label and unit, and one for each slice.
    """
    columns = config.columns
    names = {"id": columns.key, "time": columns.time, "label": columns.label, "unit": rollout.unit or columns.key}
    slices = dict.fromkeys((*config.validation.slices, *columns.protected))
    due_until = moment(at.as_of - columns.all_labels_within)
    for window in lake.predicted_windows(config, at.span):
        if window.name in at.excluding:
            continue
        rows = _inside(
            read_labelled(config, window, at.as_of, tuple(dict.fromkeys(names.values())), tuple(slices)),
            columns.time,
            at.span,
        )
        if window not in at.closed:
            rows = rows.filter(pc.less(rows[columns.time], due_until))
        if len(rows):
            landed = {f"{SLICE}{name}": rows[name] for name in slices if name in rows.column_names}
            fields = {field: rows[name] for field, name in names.items()} | landed
            yield window, pa.table(fields), lake.read_predictions(config, window)


def _arms(log: pa.Table, champion: str, challenger: str) -> ArmRows:
    own = with_role(log, "champion"), with_role(log, "challenger", "shadow")
    return ArmRows(
        *(
            rows.filter(pc.equal(rows["model_version"], name))
            for rows, name in zip(own, (champion, challenger), strict=True)
        )
    )


def _inside(rows: pa.Table, time: str, span: Window) -> pa.Table:
    return rows.filter(pc.and_(pc.greater_equal(rows[time], moment(span.start)), pc.less(rows[time], moment(span.end))))


def _finite(log: pa.Table) -> pa.Table:
    """Return the rows with a finite prediction and no error."""
    rows = answered(log)
    y_pred = predictions_of(rows["prediction"])
    return rows.filter(pa.array(np.isfinite(y_pred.reshape(len(rows), -1)).all(axis=1))) if len(rows) else rows


def _latency(log: pa.Table) -> tuple[float | None, int]:
    """Return (95th percentile in seconds, number of timed answers) of the log; (None, 0) without times."""
    seconds = log["latency_s"].drop_null().to_numpy() if "latency_s" in log.column_names else ()
    return (float(np.quantile(seconds, 0.95)), len(seconds)) if len(seconds) else (None, 0)


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


def _classes(config: ModelConfig, rollout: Rollout) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Return the classes of champion and challenger, and the order of classes to compare in; empty for a regression."""
    versions = (rollout.champion, rollout.version)
    own = [registry.classes(config.name, name) if config.task != "regression" else () for name in versions]
    return own, all_classes(own)


def _aligned(table: pa.Table, predictions: list[Floats], classes: tuple[str, ...]) -> tuple[Floats, list[Floats]]:
    return with_misses(encode_labels(table["label"], classes, unknown=len(classes)), predictions, len(classes))


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


def _rows_of(arm: LabelledArm, rows: slice) -> LabelledArm:
    slices = {name: groups[rows] for name, groups in arm.slices.items()}
    return LabelledArm(arm.y_true[rows], arm.y_pred[rows], arm.clusters[rows], arm.strata[rows], slices, arm.until)
