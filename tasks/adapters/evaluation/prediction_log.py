"""Join a window's logged predictions with the labels known so far.

If two versions served a window (a canary), only the rows of the version with most rows are used.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.lake.row_identity import first_match
from tasks.adapters.models.encoding import encode_labels
from tasks.adapters.models.label_alignment import with_misses
from tasks.adapters.models.slice_values import groups_of
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
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

    @property
    def labelled(self) -> tuple[Floats, Floats]:
        """(labels, predictions) of the labelled rows, encoded for metrics: a class unknown to the version is a miss."""
        known = ~np.isnan(self.y_true)
        y_true, (y_pred,) = with_misses(self.y_true[known], [self.y_pred[known]], len(self.classes))
        return y_true, y_pred

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
    """Read the window's logged predictions with the labels known at `as_of`; version "none" and no rows without any."""
    columns = config.columns
    log = lake.read_predictions(config, window).select(["id", "prediction", "model_version"]).to_pandas()
    if log.empty:
        return LoggedPredictions("none", np.empty(0), np.empty(0))
    version = str(log["model_version"].mode()[0])
    own = log[log["model_version"] == version].drop_duplicates("id")
    logged_ids = pa.chunked_array([pa.array(own["id"])])
    labelled = _labelled(config, window, as_of)
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
    return LoggedPredictions(version, np.stack(own["prediction"].to_numpy()).astype(float), y_true, classes, slices)


def _labelled(config: ModelConfig, window: Window, as_of: datetime) -> pa.Table:
    wanted = [config.columns.key, config.columns.label]
    try:
        return lake.labelled_rows(config, window, as_of, [*wanted, *config.performance.slices])
    except LakeError:  # the window may predate the slice columns; any other fault is raised by the next read
        return lake.labelled_rows(config, window, as_of, wanted)
