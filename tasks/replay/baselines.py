"""Baselines of a replay: the first model never retrained, and a model retrained before every window.

Both score the champion's rows at the same time and are measured with the same labels. Baselines are not registered and
write no ledger entry; their predictions are stored beside the replay's records.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters import lake, models, own_training, registry, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window
from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics import intervals, metrics


def score_baselines(config: ModelConfig, first: ModelVersion, folder: Path, window: Window) -> Path:
    """Write one window's columns `id`, `never` and `every` (predictions) to Parquet; keep an existing file."""
    path = folder / f"{window.name}.parquet"
    if path.exists():
        return path
    as_of = window.start
    start = config.period.start
    if config.training.window_days:
        start = max(start, as_of - timedelta(days=config.training.window_days))
    columns = config.columns
    needed = [columns.key, columns.time, *columns.features.names, *config.metric_columns, columns.label]
    every = own_training.trainer.fit(config, lake.labelled_rows(config, Window(start, as_of), as_of, needed)).scorer
    landed = lake.landed_rows(config, window)
    if landed is None:
        raise AssertionError(f"{config.name}: {window.name} was scored, yet its rows are not in the lake")
    rows = lake.read_rows(landed)
    scorers = {"never": registry.version_files.load_scorer(first, config.training.imported), "every": every}
    frame = pd.DataFrame({name: list(scorer.predict(rows)) for name, scorer in scorers.items()})
    frame.attrs = {name: scorer.classes for name, scorer in scorers.items()}
    frame.insert(0, "id", rows[config.columns.key].to_pandas())
    with storage.atomic_files.atomic_file(path) as own:
        frame.to_parquet(own)
    return path


@dataclass(frozen=True, slots=True)
class BaselineScores:
    """Primary metric of one window on the same labelled rows; None without labels, or with too few of a class."""

    rows: int
    labelled_rows: int
    loop: MetricValue | None = None
    never: float | None = None
    every: float | None = None


@stage
def compare_with_baselines(
    config: ModelConfig, served: Sequence[tuple[Window, str]], as_of: datetime, folder: Path
) -> tuple[BaselineScores, ...]:
    """Compare each served window's version with the baselines, with the labels known at `as_of`."""
    return tuple(
        _compare(config, window, version, as_of, folder / f"{window.name}.parquet") for window, version in served
    )


def _compare(config: ModelConfig, window: Window, version: str, as_of: datetime, baselines: Path) -> BaselineScores:
    columns, metric = config.columns, config.primary_metric
    read = config.metric_columns
    labelled = lake.labelled_rows(config, window, as_of, [columns.key, columns.label, *read])
    labels = labelled.rename_columns(["id", "label", *(f"read {name}" for name in read)]).to_pandas()
    logged = lake.read_predictions(config, window).to_pandas()
    served = logged[logged["model_version"] == version]
    scored = pd.read_parquet(baselines)
    frame = labels.merge(served, on="id").merge(scored, on="id")
    if frame.empty:
        return BaselineScores(len(served), 0)
    own = {"prediction": registry.classes(config.name, version) if config.task != "regression" else ()}
    own |= {name: tuple(scored.attrs[name]) for name in ("never", "every")}
    answers = [(known, np.stack(frame[column].to_numpy())) for column, known in own.items()]
    y_true, aligned = models.label_alignment.align_labels(pa.chunked_array([frame["label"]]), answers)
    predicted = dict(zip(own, aligned, strict=True))
    rows = pa.table({name: pa.array(frame[f"read {name}"]) for name in read})
    y_true = models.label_alignment.with_columns(config, y_true, rows)
    if metrics.undefined(metric, y_true, max(2, len(own["prediction"])), each=True):
        return BaselineScores(len(served), len(frame))
    value = {column: metrics.compute(metric, y_true, y_pred) for column, y_pred in predicted.items()}
    low, high = intervals.metric_interval(metric, y_true, predicted["prediction"])
    loop = MetricValue(metric.name, value["prediction"], low, high, len(frame), metric.higher_is_better)
    return BaselineScores(len(served), len(frame), loop, value["never"], value["every"])
