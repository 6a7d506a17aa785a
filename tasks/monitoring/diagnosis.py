"""Diagnose the kind of change in a window, together with a label-free performance estimate.

The estimate needs no labels of the window. From the latest closed windows it learns how well calibrated the predicted
probabilities are (classification) or how large the loss of similar predictions was (regression), and applies that to
the window's predictions. Multiclass models have no estimate yet.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, models, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.monitoring import MonitorRun, WindowEvidence, newest_labels
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring import attribution, estimation
from tasks.policy.monitoring.diagnosis import Diagnosis, decide_diagnosis
from tasks.policy.monitoring.estimate_errors import Estimate, describe_estimate, past_error, widened
from tasks.policy.records.base import Window
from tasks.policy.records.reports import DriftReport, MetricValue, PerformanceReport
from tasks.policy.statistics import metrics

LEARN_FROM = 3
"""Number of latest closed windows that the estimate learns from."""


# one retry: the lake may be briefly unavailable; the stage writes nothing
@stage(retries=1, timeout_seconds=1800)
def diagnose_window(
    config: ModelConfig, run: MonitorRun, evidence: WindowEvidence, revised: Sequence[PerformanceReport] = ()
) -> Diagnosis:
    """Diagnose a window: the kind of change, its reasons, the features that explain it, and the estimate."""
    estimate, labels = _estimate(config, run, evidence), newest_labels(evidence, run.history, revised)
    found = decide_diagnosis(evidence, estimate, labels, config.diagnosis, config.quality.columns)
    get_run_logger().info("diagnosis: %s, %s", found.kind, found.reasons[-1])
    explanations = explain_change(config, evidence, run.champion, run.as_of)
    if estimate and _is_only_value(evidence.performance):
        explanations = (describe_estimate(estimate), *explanations)
    return replace(found, estimate=estimate, explanations=explanations)


def _estimate(config: ModelConfig, run: MonitorRun, evidence: WindowEvidence) -> Estimate | None:
    """Estimate the primary metric, with an interval that fits the error of earlier estimates; None for failed data."""
    if evidence.quality is None or evidence.quality.verdict == "fail":
        return None
    value = estimate_performance(config, evidence.window, run.history.performances, run.as_of)
    error = past_error(run.history, config.performance.metric)
    return Estimate(widened(value, error), error) if value else None


def _is_only_value(performance: PerformanceReport | None) -> bool:
    """Return whether the estimate is the only available value of the primary metric."""
    return performance is None or performance.maturity == "open" or performance.metric(performance.primary) is None


def explain_change(
    config: ModelConfig, evidence: WindowEvidence, champion: ModelVersion, as_of: datetime
) -> tuple[str, ...]:
    """Describe which drifted features moved the predictions, and which moved the loss; empty if nothing drifted."""
    drift, explanations = evidence.drift, []
    if drift is None or not any(feature.verdict == "drifted" for feature in drift.features):
        return ()
    if drift.explanation:
        explanations.append(drift.explanation)
    report = evidence.performance
    if (
        report
        and report.has_sound_labels
        and report.maturity != "open"
        and report.labelled_rows >= config.retraining.min_labelled_rows
    ):
        loss = explain_loss(config, evidence.window, champion, as_of, drift)
        explanations += [loss] if loss else []
    return tuple(explanations)


def explain_loss(
    config: ModelConfig, window: Window, champion: ModelVersion, as_of: datetime, drift: DriftReport
) -> str | None:
    """Describe which drifted features moved the champion's mean loss, on a bounded sample of labelled rows.

    None for a version without stored SHAP values, or where no row has a label.
    """
    frozen = registry.version_files.attribution(champion)
    if frozen is None:
        return None
    scorer = registry.version_files.load_scorer(champion, config.training.imported)
    rows = lake.labelled_rows(config, window, as_of)
    rows = rows.filter(rows.column(config.columns.label).is_valid())
    rows = rows.take(models.shap.sample_indices(len(rows), models.shap.ROWS))
    contributed, y_true = models.shap.contributions(scorer, rows), scorer.labels(rows.column(config.columns.label))
    name = config.performance.metric
    name = name if name in ("mae", "pinball", "brier") else "mae" if config.task == "regression" else "log_loss"
    known = np.isfinite(y_true)
    metric = metrics.Metric(name, config.performance.quantile)
    losses = metrics.row_losses(metric, y_true[known], scorer.predict(rows)[known])
    if contributed is None or losses is None or not known.any():
        return None
    drifted = [feature.feature for feature in drift.features if feature.verdict == "drifted"]
    return attribution.explain_loss(attribution.loss_shifts(frozen, contributed[known], losses), drifted, name)


def estimate_performance(
    config: ModelConfig, window: Window, performances: Sequence[PerformanceReport], as_of: datetime
) -> MetricValue | None:
    """Estimate the window's primary metric without its labels.

    None for multiclass models, for a metric of the user's own, without a prediction in the window, before an earlier window
    of this version has closed with sound labels, and with fewer than `retraining.min_labelled_rows` rows to learn from.
    """
    logged = evaluation.prediction_log.read_logged(config, window, as_of)
    closed = [
        report.window
        for report in performances
        if report.maturity == "closed"
        and report.window < window
        and report.model_version == logged.version
        and report.has_sound_labels
    ]
    if config.task == "multiclass" or config.performance.metric in config.metrics:
        return None
    if not closed and config.predictions:  # the first windows of a service learn from the log of the history
        closed = [
            earlier
            for earlier in lake.predicted_windows(config, config.history())
            if evaluation.prediction_log.read_logged(config, earlier, as_of).version == logged.version
        ]
    if not closed or not len(logged.y_pred):
        return None
    learned = [
        evaluation.prediction_log.read_logged(config, earlier, as_of).of_known_classes
        for earlier in closed[-LEARN_FROM:]
    ]
    y_true, y_pred = (np.concatenate(parts) for parts in zip(*learned, strict=True))
    if len(y_true) < config.retraining.min_labelled_rows:
        return None
    name = config.performance.metric
    if config.task == "regression":
        return estimation.estimate_loss(estimation.learn_losses(config.primary_metric, y_true, y_pred), logged.y_pred)
    estimates = estimation.estimate_classes(logged.y_pred, estimation.calibrate(y_true, y_pred))
    return next((estimate for estimate in estimates if estimate.name == name), None)
