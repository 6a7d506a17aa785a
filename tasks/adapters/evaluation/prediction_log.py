"""Join a window's logged predictions with the labels known so far.

Only the champion's predictions are its performance: those of a challenger, served or as a shadow, are compared in
`rollout_evidence` or `service_split`. If the champion changed within the window, the rows of the champion with most rows are
used.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.lake.casts import moment
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.models.encoding import category_texts, encode_labels
from tasks.adapters.models.label_alignment import with_misses
from tasks.policy.comparison.predictions import missing_rows
from tasks.policy.comparison.split import takes_over
from tasks.policy.custom_metrics.labels import Labels
from tasks.policy.data_quality.logged_predictions import DUPLICATE, LogCounts
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
from tasks.policy.rollout.traffic import Role
from tasks.policy.statistics.metrics import Floats


class LoggedPredictions(NamedTuple):
    """Predictions of one version and the labels of the same rows, as codes into the version's classes or as numbers.

    A label is NaN where unknown, and one past the last class where its class is unknown to this version.
    """

    version: str
    y_pred: Floats
    y_true: Floats
    classes: tuple[str, ...] = ()
    slices: Mapping[str, NDArray[np.str_]] = {}
    """The rows' values of each column of `performance.slices`; empty for rows without a label."""
    columns: Mapping[str, NDArray[Any]] = {}
    """The rows' values of each column that metrics of the user's own read; any value for rows without a label."""

    @property
    def labelled(self) -> tuple[Floats, Floats]:
        """(labels, predictions) of the labelled rows, encoded for metrics: a class unknown to the version is a miss."""
        known = ~np.isnan(self.y_true)
        y_true, (y_pred,) = with_misses(self.y_true[known], [self.y_pred[known]], len(self.classes))
        read = {name: column[known] for name, column in self.columns.items()}
        return Labels.of(y_true, read) if read else y_true, y_pred

    @property
    def labelled_slices(self) -> dict[str, NDArray[np.str_]]:
        """The slices of the rows in `labelled`."""
        known = ~np.isnan(self.y_true)
        return {name: groups[known] for name, groups in self.slices.items()}

    @property
    def of_known_classes(self) -> tuple[Floats, Floats]:
        """(labels, predictions) of the labelled rows whose class the version knows, which show its calibration."""
        known = self.y_true < len(self.classes) if self.classes else ~np.isnan(self.y_true)
        return self.y_true[known], self.y_pred[known]


def read_logged(config: ModelConfig, window: Window, as_of: datetime) -> LoggedPredictions:
    """Read the champion's predictions of a window with the labels known at `as_of`; version "none" without any."""
    columns = config.columns
    log = answered(with_role(lake.read_predictions(config, window), "champion"))
    log = log.select(["id", "prediction", "model_version"]).to_pandas()
    if log.empty:
        return LoggedPredictions("none", np.empty(0), np.empty(0))
    version = _most_rows(config, Counter(log["model_version"]))
    own = log[log["model_version"] == version].drop_duplicates("id")
    logged_ids = pa.chunked_array([pa.array(own["id"])])
    optional = (*config.performance.slices, *config.metric_columns)
    labelled = read_labelled(config, window, as_of, (columns.key, columns.label), optional)
    classes = registry.classes(config.name, version) if config.task != "regression" else ()
    codes = encode_labels(labelled.column(columns.label), classes, unknown=len(classes))
    y_true = np.full(len(own), np.nan)
    indices = first_match(labelled.column(columns.key), logged_ids).fill_null(-1).to_numpy()
    y_true[indices[indices >= 0]] = codes[indices >= 0]
    slices = {}
    for name in (name for name in config.performance.slices if name in labelled.column_names):
        groups = groups_of(config, name, labelled.column(name))
        slices[name] = np.full(len(own), "", groups.dtype)
        slices[name][indices[indices >= 0]] = groups[indices >= 0]
    read = {}
    for name in (name for name in config.metric_columns if name in labelled.column_names and len(labelled)):
        values = labelled.column(name).to_pandas().to_numpy()
        read[name] = np.full(len(own), values[0], values.dtype)
        read[name][indices[indices >= 0]] = values[indices >= 0]
    predictions = np.stack(own["prediction"].to_numpy()).astype(float)
    return LoggedPredictions(version, predictions, y_true, classes, slices, read)


def _most_rows(config: ModelConfig, rows: Mapping[str, int]) -> str:
    """Return the version with most rows; of those of somebody else's service that share the traffic evenly, the oldest."""
    most = max(rows.values())
    even = [
        number
        for number, count in rows.items()
        if count == most or (config.predictions and not takes_over(count, most))
    ]
    return min(even, key=int)


def logged_answers(config: ModelConfig, version: str, rows: pa.Table) -> tuple[NDArray[np.bool_], Floats]:
    """Return (mask of the rows for which this version's answer was logged, those answers in the order of the rows).

    Rows are matched window by window, because an id identifies a row within its window.
    """
    times = rows[config.columns.time]
    if not len(rows):
        return np.zeros(0, bool), np.empty(0)
    span = Window(pc.min(times).as_py(), pc.max(times).as_py() + timedelta(seconds=1))
    places, parts = [], []
    numbered = rows.append_column(_PLACE, pa.array(np.arange(len(rows))))
    for window in lake.predicted_windows(config, span):
        log = finite_answers(with_role(lake.read_predictions(config, window), "champion"))
        log = log.filter(pc.equal(log["model_version"], version))
        own = inside(numbered, config.columns.time, window)
        found = first_match(own[config.columns.key], log["id"])
        answered = pc.is_valid(found)
        places.append(own[_PLACE].filter(answered).to_numpy())
        parts.append(predictions_of(log["prediction"].take(found.filter(answered))))
    mask = np.zeros(len(rows), bool)
    if not places or not sum(map(len, places)):
        return mask, np.empty(0)
    place = np.concatenate(places)
    mask[place] = True
    return mask, np.concatenate([part for part in parts if len(part)])[np.argsort(place, kind="stable")]


_PLACE = "__place"


def with_role(log: pa.Table, *roles: Role) -> pa.Table:
    """Return the rows of the prediction log with one of these roles; rows from before there were roles are the champion's."""
    if "role" not in log.column_names:
        return log if "champion" in roles else log.slice(0, 0)
    return log.filter(pc.is_in(pc.fill_null(log["role"].cast(pa.string()), "champion"), pa.array(roles)))


def answered(log: pa.Table) -> pa.Table:
    """Return the rows of the prediction log that have a prediction and no error."""
    log = log.filter(pc.is_valid(log["prediction"]))
    return log.filter(pc.is_null(log["error"])) if "error" in log.column_names else log


def finite_answers(log: pa.Table) -> pa.Table:
    """Return the rows of the prediction log with a finite prediction and no error."""
    rows = answered(log)
    return rows.filter(pa.array(~missing_rows(predictions_of(rows["prediction"]))))


def count_logged(log: pa.Table, rows: int) -> LogCounts:
    """Count the rows of a window, of which there are `rows`, whose used answer is missing, ambiguous or unusable.

    `log` has the columns id, role and error of these rows.
    """
    served = with_role(log, "champion", "challenger")
    faults = pc.fill_null(served["error"].cast(pa.string()), "") if "error" in served.column_names else pa.array([])
    ids = (
        {
            "double": served.filter(pc.equal(faults, DUPLICATE))["id"],
            "invalid": served.filter(pc.and_(pc.not_equal(faults, ""), pc.not_equal(faults, DUPLICATE)))["id"],
        }
        if len(served)
        else {}
    )
    distinct = {kind: pc.count_distinct(found).as_py() for kind, found in ids.items()}
    missing = rows - pc.count_distinct(served["id"]).as_py()
    return LogCounts(rows, missing, distinct.get("double", 0), distinct.get("invalid", 0))


class ArmRows(NamedTuple):
    """Rows of the prediction log of each version, in the columns of the log."""

    champion: pa.Table
    challenger: pa.Table


def arms_of(log: pa.Table, champion: str, challenger: str) -> ArmRows:
    """Split the prediction log: the champion's own rows, and the challenger's, served or as a shadow."""
    old, new = with_role(log, "champion"), with_role(log, "challenger", "shadow")
    return ArmRows(
        old.filter(pc.equal(old["model_version"], champion)), new.filter(pc.equal(new["model_version"], challenger))
    )


def inside(rows: pa.Table, time: str, span: Window) -> pa.Table:
    """Return the rows whose column `time` lies in the span."""
    return rows.filter(pc.and_(pc.greater_equal(rows[time], moment(span.start)), pc.less(rows[time], moment(span.end))))


def predictions_of(column: pa.ChunkedArray) -> Floats:
    """Return logged predictions without nulls as an array: (n,), or (n, classes)."""
    if pa.types.is_list(column.type):
        found: Floats = pc.list_flatten(column).to_numpy().reshape(len(column), -1) if len(column) else np.empty((0, 1))
        return found
    values: Floats = column.to_numpy()
    return values


def read_labelled(
    config: ModelConfig, window: Window, as_of: datetime, needed: Sequence[str], optional: Sequence[str]
) -> pa.Table:
    """Read columns of a window's labelled rows: those needed, and the optional ones if all of them landed with the window."""
    try:
        return lake.labelled_rows(config, window, as_of, list(dict.fromkeys((*needed, *optional))))
    except LakeError:  # the window may predate an optional column; any other fault is raised by the next read
        return lake.labelled_rows(config, window, as_of, list(needed))


def groups_of(config: ModelConfig, name: str, column: pa.ChunkedArray) -> NDArray[np.str_]:
    """Return each row's group by a slice or protected column.

    Values of a personal column are hidden: its groups are numbered, largest first.
    """
    texts = np.array([value or "(null)" for value in category_texts(column).to_pylist()], dtype=np.str_)
    if name not in config.columns.personal or not len(texts):
        return texts
    _, indices, counts = np.unique(texts, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return np.array([f"group {number}" for number in rank[indices]], dtype=np.str_)
