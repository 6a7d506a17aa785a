"""Measure by fairlearn how much further apart the challenger treats protected groups than the champion does.

fairlearn gives the differences of both models, `tasks.policy.model_gates.parity` the interval of their increase, because
fairlearn resamples one model at a time. A person's group is never shown for a personal column, only its number.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, mean_absolute_error

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.prediction_log import groups_of
from tasks.policy.comparison.differences import DRAWS
from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.model_gates import parity
from tasks.policy.model_gates.dependence import time_blocks
from tasks.policy.monitoring.slices import largest_groups
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, predicted_codes
from tasks.policy.statistics.resampling import Resampling

DEFINITIONS = 2
"""Differences that are measured for two classes: demographic parity and equalized odds."""


def measure_fairness(config: ModelConfig, rows: pa.Table, pairs: PairedPredictions) -> tuple[GateMeasure, ...]:
    """The increase of each difference for each protected column; one measure that says why if there is none."""
    if not config.columns.protected:
        return (GateMeasure("fairness", skipped="the model's file names no protected column (columns.protected)"),)
    found: list[GateMeasure] = []
    for column in config.columns.protected:
        found += _of_column(config, rows, pairs, column)
    return tuple(found)


def _of_column(config: ModelConfig, rows: pa.Table, pairs: PairedPredictions, column: str) -> tuple[GateMeasure, ...]:
    least = config.validation.slice_min_rows
    if column not in rows.column_names:
        return (GateMeasure("fairness", column, skipped=f"the rows have no column {column}"),)
    names = groups_of(config, column, rows.column(column))
    large = largest_groups(names, least)
    if len(large) < 2:
        return (GateMeasure("fairness", column, skipped=f"fewer than two groups of {column} have {least} rows"),)
    inside = np.isin(names, large)
    codes = np.searchsorted(np.array(large), names[inside])
    blocks = time_blocks(rows.column(config.columns.time).to_numpy())[inside]
    groups, compared = parity.Groups(column, codes.astype(np.int64), blocks), pairs.where(inside)
    tests = len(config.columns.protected) * (1 if config.task == "regression" else DEFINITIONS)
    level = 1 - (1 - config.validation.confidence) / tests  # Bonferroni: each column and definition is one more chance
    resampling = Resampling(level, DRAWS, config.training.seed)
    if config.task == "regression":
        measures: tuple[GateMeasure, ...] = (parity.compare_errors(compared, groups, resampling),)
    else:
        measures = parity.compare_parity(compared, groups, resampling)
    return tuple(_by_fairlearn(measure, compared, names[inside]) for measure in measures)


def _by_fairlearn(measure: GateMeasure, pairs: PairedPredictions, groups: NDArray[np.str_]) -> GateMeasure:
    """The measure with fairlearn's differences of the champion and the challenger."""
    old, new = (_difference(measure.subject, pairs.y_true, one, groups) for one in (pairs.champion, pairs.challenger))
    if measure.subject.startswith("mean error"):
        scale = float(np.abs(pairs.champion - pairs.y_true).mean())
        old, new = old / scale, new / scale
    return replace(measure, champion=old, challenger=new, value=new - old)


def _difference(subject: str, y_true: Floats, y_pred: Floats, groups: NDArray[np.str_]) -> float:
    labels = np.asarray(y_true, float)
    if subject.startswith("mean error"):
        frame = MetricFrame(metrics=mean_absolute_error, y_true=labels, y_pred=y_pred, sensitive_features=groups)
        return float(frame.difference())
    given = {"y_true": labels, "y_pred": predicted_codes(y_pred), "sensitive_features": groups}
    if subject.startswith("demographic parity"):
        return float(demographic_parity_difference(**given))
    if subject.startswith("equalized odds"):
        return float(equalized_odds_difference(**given))
    return float(MetricFrame(metrics=accuracy_score, **given).difference())
