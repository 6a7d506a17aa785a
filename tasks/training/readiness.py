"""Check before a run that the estimator, the source function and the data named in a model's file are usable."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, gates, inspection, models, own_training, profiling, search, sources
from tasks.policy.records.base import Window
from tasks.policy.records.errors import FeatureError, TrainingRefused
from tasks.policy.statistics.metrics import compute

PROBED = 20
"""Made-up rows on which a metric is tried; for classes, as many of each."""
MOST_LINTED = 2_000_000
"""Rows that lints read."""


def check_training(config: ModelConfig) -> tuple[str, ...]:
    """Check that a model's file can be trained with, without reading its data; return what its training does not offer.

    Raises:
        SourceError: The source's function cannot be imported.
        MetricError: A metric of your own cannot be imported or computed.
        EstimatorError: What trains the model cannot be used.
        FeatureError: A feature leaks the label by its name; training refuses such a feature.
        SuiteError: An expectation of `quality.suite` cannot be used.
        ModelConfigError: `drift.evidently` names something that Evidently does not have.
    """
    if leaks := profiling.leakage.leaks_by_name(config):
        raise FeatureError(f"{config.name}: columns.features: {'; '.join(leaks)}")
    sources.check_function(config)
    for name in config.metrics:
        _probe(config, name)
    found = (*own_training.trainer.check(config), *search.space.check(config))
    if config.drift.evidently:
        gates.evidently_metrics.check_items(config)
    if config.quality.suite:
        gates.expectation_suite.own_suite(config.quality.suite)
    return found


def _probe(config: ModelConfig, name: str) -> None:
    """Compute a metric of the user's own on made-up rows, unless it reads columns. Raises MetricError.

    Labels of a regression are positive, as some errors are defined for these only.
    """
    metric, own = config.metric(name), config.metrics[name]
    if own.columns:
        return
    random = np.random.default_rng(0)
    if config.task == "regression":
        y_true = np.linspace(1.0, 10.0, PROBED)
        compute(metric, y_true, y_true + random.uniform(0.1, 0.9, PROBED))
        return
    costs = own.parameters.get("costs")
    listed = len(costs) if isinstance(costs, list) else len(config.columns.classes)
    count = 2 if config.task == "binary" else max(3, listed)
    shares = random.dirichlet(np.ones(count), PROBED * count)
    compute(metric, np.arange(PROBED * count) % count * 1.0, shares[:, 1] if count == 2 else shares)


def why_not_train_here(config: ModelConfig) -> str | None:
    """Return why no model is trained here; None if the model's file says how."""
    if config.predictions is None or not config.retraining.advise_only:
        return None
    return (
        "nothing is trained here: the predictions are those of your own service (retraining.advise_only); expected a block "
        "training, which says how; or train where your model is trained: its next version shows in the log"
    )


def require_training(config: ModelConfig) -> None:
    """Raise TrainingRefused if no model is trained here."""
    if refusal := why_not_train_here(config):
        raise TrainingRefused(f"{config.name}: {refusal}")


def describe_data(config: ModelConfig) -> tuple[str, ...]:
    """Describe the last window of the history in sentences. Raises SourceError if it cannot be read as configured."""
    end = config.period.history_until
    window = Window(max(config.period.start, end - timedelta(days=config.window_days)), end)
    rows = sources.read_window(config, window)
    labels, remark = _labels_of(config, window, rows)
    ids, label = rows.column(0), labels.column(2)
    repeated = len(ids) - pc.count_distinct(ids, mode="all").as_py()
    found = [
        f"data: {len(rows):,} rows in {window.name}, {len(labels):,} with a label so far",
        f"data: {repeated:,} rows repeat the {config.columns.id} of another row; each row needs its own"
        if repeated
        else f"data: each {config.columns.id} occurs once",
    ]
    found += [f"data: {remark}"] if remark else []
    found += _describe_log(config, window, rows, label) if config.predictions else []
    for name in rows.column_names[2:]:
        nulls = rows.column(name).null_count / len(rows)
        if pa.types.is_nested(rows.schema.field(name).type):  # Arrow does not compare lists
            found += [f"data: {name} has {nulls:.1%} nulls"] if nulls > 0 else []
            continue
        values = pc.count_distinct(rows.column(name), mode="only_valid").as_py()
        if nulls > 0 or values < 2:
            found.append(f"data: {name} has {nulls:.1%} nulls and {values:,} different values")
    if config.task != "regression" and len(labels):
        counts = sorted(pc.value_counts(label).to_pylist(), key=lambda each: -each["counts"])[:12]
        found.append("data: labels are " + ", ".join(f"{each['values']} ({each['counts']:,})" for each in counts))
        if config.task == "binary" and len(pc.unique(label)) != 2:
            found.append(f"data: {len(pc.unique(label))} classes in a binary model, expected 2")
    return tuple(found)


def _describe_log(config: ModelConfig, window: Window, rows: pa.Table, labels: pa.ChunkedArray) -> list[str]:
    """Describe what the user's own service logged for a window's rows."""
    listed = pa.chunked_array([pa.array(config.columns.classes, pa.string())])
    classes = models.eligibility.classes_of(config, listed if config.columns.classes else labels)
    if config.task != "regression" and len(classes) < 2:
        return [
            "data: the log is not read, as the labels show fewer than 2 classes so far; list them in columns.classes"
        ]
    keys = rows.select([config.columns.key, config.columns.time])
    known = sources.own_predictions.read_known_ids(config, window)
    own = sources.own_predictions.read_own_predictions(config, window, keys, classes, known)
    counts = evaluation.prediction_log.count_logged(own.log, len(keys))
    found = [
        f"data: the log has {counts.missing:,} of {counts.rows:,} rows without a prediction, {counts.duplicates:,} with two "
        f"different ones, {counts.invalid:,} with an unusable one" + (f"; {own.remark}" if own.remark else "")
    ]
    versions = pc.value_counts(own.log["version"]).to_pylist()
    named = ", ".join(f"{each['values']} ({each['counts']:,})" for each in versions[:12])
    found += [f"data: the log's versions are {named}"] if versions else []
    usable = evaluation.prediction_log.predictions_of(own.log["prediction"].drop_null())
    if config.task != "regression" and len(usable) and bool(np.isin(usable, (0.0, 1.0)).all()):
        found.append("data: every logged probability is 0 or 1, as a class is; log the probability itself")
    return found


def lint_data(config: ModelConfig, now: datetime) -> tuple[str, ...]:
    """Return what looks wrong in the recorded rows, one line each with the fix. Raises SourceError as a run would.

    Reads the history and what follows it, up to `period.end`.
    """
    period = Window(config.period.start, config.period.end or max(now, config.history().end))
    own = {config.columns.label, config.columns.label_time} if config.labels else set()
    names = sorted({*config.columns.used} - own)
    rows = sources.read.read_columns(config, period, names)
    return inspection.lints.find_lints(config, rows.slice(0, MOST_LINTED), now)


def _labels_of(config: ModelConfig, window: Window, rows: pa.Table) -> tuple[pa.Table, str | None]:
    """Return the labels of a window's rows, and what is strange about them; those of a source of their own are joined."""
    if config.labels is None:
        return sources.read_labels(config, window), None
    known_by = Window(window.start, window.end + config.columns.all_labels_within)
    keys = rows.select([config.columns.key, config.columns.time])
    own = sources.own_labels.read_own_labels(config, known_by, keys, window)
    return own.labels.filter(pc.is_valid(own.labels[config.columns.label])), own.remark
