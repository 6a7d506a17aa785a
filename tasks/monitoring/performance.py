"""Measure model performance per window: logged predictions against the labels known so far.

Labels come late. Earlier windows that are not closed are measured again and returned with the current one. A closed
window is measured again if its labels arrived or were corrected within `label_lookback_days`.
"""

import statistics
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, gates, lake, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.data_quality.label_quality import LabelFacts, judge_labels
from tasks.policy.data_quality.quality import Finding
from tasks.policy.evidence.monitoring import History, MonitorRun
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring.performance import (
    best_past_level,
    closed_values,
    confidence_histogram,
    decide_maturity,
    noise_before_collapse,
    shift_p_value,
    smallest_shift,
)
from tasks.policy.monitoring.slices import RESAMPLING, describe_worst, measure_slices
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
from tasks.policy.records.profile import LabelProfile
from tasks.policy.records.reports import NEVER_SCORED, LabelReport, Latency, MetricValue, PerformanceReport
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import metric_intervals
from tasks.policy.statistics.metrics import Floats

if TYPE_CHECKING:
    from tasks.adapters.evaluation.prediction_log import LoggedPredictions

USUAL_WINDOWS, USUAL_FROM = 6, 3
"""The usual labelled share is the median of the latest `USUAL_WINDOWS` closed windows, given at least `USUAL_FROM`."""


# two retries: the lake may be briefly unavailable; the stage writes nothing
@stage(retries=2, timeout_seconds=1800)
def measure_performance(
    config: ModelConfig, run: MonitorRun, latency: Latency | None = None
) -> tuple[PerformanceReport, ...]:
    """Measure the window with the labels known at `as_of`, then earlier windows whose labels have changed since.

    Returns the window's report, followed by the reports of earlier windows that differ from their last one.
    """
    revised = []
    for earlier in run.history.performances:
        if earlier.window < run.window and _may_differ(config, run, earlier):
            again = _measure(config, run, earlier.window, earlier.latency)
            if _findings(again) != _findings(earlier):
                revised.append(again)
    report = _measure(config, run.with_labels(revised), run.window, latency)
    get_run_logger().info("performance: %s", describe(report))
    for each in (report, *revised):
        if each.labels and each.labels.reasons:
            get_run_logger().warning(
                "labels of %s: %s, %s", each.window.name, each.labels.verdict, each.labels.reasons[0]
            )
    return (report, *revised)


def _may_differ(config: ModelConfig, run: MonitorRun, earlier: PerformanceReport) -> bool:
    """Return whether measuring again can change the report. Labels past `label_lookback_days` are not read."""
    if (
        earlier.maturity != "closed" or not earlier.has_sound_labels
    ):  # the label limits may have changed since the labels failed
        return True
    columns = config.columns
    sought_until = earlier.window.end + columns.label_delay + timedelta(days=columns.label_lookback_days)
    return sought_until > run.window.start and lake.labels_arrived(config, earlier.window, earlier.as_of, run.as_of)


def _findings(report: PerformanceReport) -> tuple[object, ...]:
    """Return what labels can change in a report."""
    labels = report.labels
    return report.maturity, report.labelled_rows, report.metrics, labels and (labels.verdict, labels.reasons)


def describe(report: PerformanceReport) -> str:
    """Describe a report in one line: verdict, value, limit."""
    if not report.rows:
        return f"{NEVER_SCORED} of {report.window.name}"
    value, labels = report.metric(report.primary), f"{report.labelled_rows} of {report.rows} labels, {report.maturity}"
    if value is None:
        return f"{report.undefined or f'{report.primary} is not known yet'} ({labels})"
    level = report.baseline
    against = f", best past level {level.value:.4g} (p={report.shift_p_value:.2g})" if level else ", no past level yet"
    worst = describe_worst(report.slices)
    return f"{value.name} {value.value:.4g} ({value.low:.4g} to {value.high:.4g}){against}; {labels}" + (
        f"; {worst}" if worst else ""
    )


def _measure(config: ModelConfig, run: MonitorRun, window: Window, latency: Latency | None) -> PerformanceReport:
    logged = evaluation.prediction_log.read_logged(config, window, run.as_of)
    y_true, y_pred = logged.labelled
    rows, labelled_rows = len(logged.y_true), len(y_true)
    settings, primary, floor = config.performance, config.performance.metric, config.retraining.min_labelled_rows
    classes = max(2, len(logged.classes))
    values = _metrics(config, y_true, y_pred, classes)
    least = config.validation.slice_min_rows
    slices = measure_slices(config.primary_metric, y_true, y_pred, logged.labelled_slices, least)
    before = [report for report in run.history.performances if report.window < window]
    value = next((metric for metric in values if metric.name == primary), None)
    best = best_past_level(before, primary, floor)
    noise = noise_before_collapse(closed_values(before, primary, floor))
    p_value, smallest = None, None  # noise is known before labels arrive, and is needed to judge an estimate
    if value is not None and best is not None:
        p_value = shift_p_value(value, best[0], noise)
        smallest = smallest_shift(value, best[0], noise)
    return PerformanceReport(
        window=window,
        as_of=run.as_of,
        model_version=logged.version,
        rows=rows,
        labelled_rows=labelled_rows,
        maturity=decide_maturity(
            rows,
            labelled_rows,
            run.as_of >= window.end + config.columns.all_labels_within,
            settings.maturing_at,
            settings.closed_at,
        ),
        metrics=values,
        primary=primary,
        confidence_histogram=() if config.task == "regression" else confidence_histogram(logged.y_pred),
        latency=latency,
        baseline=best[0] if best else None,
        baseline_window=best[1] if best else None,
        shift_p_value=p_value,
        noise=noise.sigma if noise else None,
        noise_windows=noise.windows if noise else None,
        smallest_shift=smallest,
        slices=slices,
        undefined=metrics.undefined(config.primary_metric, y_true, classes, each=True) if labelled_rows else None,
        labels=_judge_labels(config, run, window, logged),
    )


def _judge_labels(
    config: ModelConfig, run: MonitorRun, window: Window, logged: "LoggedPredictions"
) -> LabelReport | None:
    """Judge the labels of the predicted rows; None without any, or if no label has arrived and none is overdue."""
    if not len(logged.y_true):
        return None
    known = np.isfinite(logged.y_true)
    faults, words, conflicts = lake.label_faults.sorted_faults(lake.read_label_faults(config, window, run.as_of))
    reference = _learned_labels(config, logged.version, run.champion)
    due_by, all_by = lake.labels_due_by(config, run.as_of), window.end + config.columns.all_labels_within
    due = window.end <= (due_by if due_by is not None else run.as_of - config.columns.label_delay)
    closed = known.mean() >= config.performance.closed_at or run.as_of >= all_by
    own, own_suite_sha256 = _judge_own(config, window, run.as_of, mature=due or bool(closed))
    facts = LabelFacts(
        window=window,
        column=config.columns.label,
        rows=len(logged.y_true),
        due=due,
        y_true=logged.y_true[known],
        y_pred=logged.y_pred[known],
        classes=logged.classes,
        usual_share=_usual_share(run.history, window, reference),
        faults=faults,
        words=words,
        conflicts=conflicts,
        reference=reference,
        own=own,
        own_suite_sha256=own_suite_sha256,
    )
    return judge_labels(facts, config.quality.labels)


def _judge_own(
    config: ModelConfig, window: Window, as_of: datetime, mature: bool
) -> tuple[tuple[Finding, ...], str | None]:
    """Return the results of the expectations of `quality.suite` that read the label, and the suite's hash."""
    columns = config.columns
    suite = gates.expectation_suite.own_suite(config.quality.suite) if config.quality.suite else None
    on_labels = suite.split(columns.label)[1] if suite else ()
    if not suite or not on_labels:
        return (), None
    landed = (columns.key, columns.time, *columns.features.names, *columns.protected, *columns.extra)
    needed = {name for one in on_labels for name in one.reads(landed)} & {*landed}
    try:
        labelled = lake.labelled_rows(config, window, as_of, [*sorted(needed), columns.label])
    except LakeError:  # the window may predate a column; any other fault is raised by the next read
        labelled = lake.labelled_rows(config, window, as_of, [columns.label])
    shown = gates.sentences.Shown(
        {"window_start": window.start, "window_end": window.end},
        frozenset((*columns.personal, *columns.protected, columns.key)),
    )
    judge = gates.great_expectations.judge_own_labels
    return judge(on_labels, labelled, columns.label, mature, shown), suite.sha256


def _learned_labels(config: ModelConfig, version: str, champion: ModelVersion | None) -> LabelProfile | None:
    """Return the profile of the labels that the version was trained on; None if it was not stored."""
    if champion is None or version == "none":
        return None
    trained = champion if champion.version == version else registry.version(config.name, version)
    return registry.version_files.reference_profile(trained).labels


def _usual_share(history: History, window: Window, reference: LabelProfile | None) -> float | None:
    """Return the usual share of rows with a label once all are due.

    The median of the latest closed windows with sound labels, else the share in training, else None.
    """
    before = [past for past in history.performances if past.window < window and past.maturity == "closed"]
    shares = [past.completeness for past in before if past.has_sound_labels and past.labels][-USUAL_WINDOWS:]
    if len(shares) >= USUAL_FROM:
        return statistics.median(shares)
    return reference.labelled_share if reference else None


def _metrics(config: ModelConfig, y_true: Floats, y_pred: Floats, classes: int) -> tuple[MetricValue, ...]:
    """Compute every metric of the task that these rows define, with its interval."""
    if not len(y_true):
        return ()
    measured, found = config.measured_metrics, []
    intervals = metric_intervals(measured, y_true, y_pred, RESAMPLING)
    for metric in measured:
        if metrics.undefined(metric, y_true, classes, each=True):
            continue
        value, (low, high) = metrics.compute(metric, y_true, y_pred), intervals[metric.name]
        if value == value and low == low:  # NaN: undefined on these rows
            found.append(MetricValue(metric.name, value, low, high, len(y_true), metric.higher_is_better))
    return tuple(found)
