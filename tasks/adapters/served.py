"""What a window's rows were predicted to be and what came true: the prediction log joined with the labels known.

Where two versions served a window (a canary), the one with most rows speaks, with its rows alone.
"""

from datetime import datetime
from typing import NamedTuple

import numpy as np

from deployments.model_config import ModelConfig
from tasks.adapters import lake, registry
from tasks.adapters.encoding import encode_labels, in_order
from tasks.policy.metrics import Floats
from tasks.policy.records import Window


class Served(NamedTuple):
    """Predictions of one version and the labels of the same rows, as metrics read them; NaN where none is known."""

    version: str
    predicted: Floats
    truth: Floats

    @property
    def known(self) -> "Served":
        """The rows whose label is known."""
        labelled = ~np.isnan(self.truth)
        return Served(self.version, self.predicted[labelled], self.truth[labelled])


def read_served(config: ModelConfig, window: Window, as_of: datetime) -> Served:
    """The window's served rows with the labels known at `as_of`; version "none" and no rows where none was served."""
    columns = config.columns
    log = lake.read_predictions(config, window).select(["id", "prediction", "model_version"]).to_pandas()
    if log.empty:
        return Served("none", np.empty(0), np.empty(0))
    version = str(log["model_version"].mode()[0])
    own = log[log["model_version"] == version].drop_duplicates("id")
    labelled = lake.labelled_rows(config, window, as_of, [columns.id, columns.label])
    classes = registry.classes(config.name, version) if config.task != "regression" else ()
    predicted = np.stack(own["prediction"].to_numpy()).astype(float)
    unknown = len(classes) if predicted.ndim == 2 else np.nan
    codes = encode_labels(labelled.column(columns.label), classes, unknown)
    truth = np.full(len(own), np.nan)
    places = own.set_index("id").index.get_indexer(labelled.column(columns.id).to_pandas())
    truth[places[places >= 0]] = codes[places >= 0]
    if (truth == unknown).any():  # a class that this version never saw: a miss, to which it gave no probability
        predicted = in_order(classes, predicted, (*classes, ""))
    return Served(version, predicted, truth)
