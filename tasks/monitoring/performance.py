"""Measure model performance per window: logged predictions against the labels known so far.

Labels come late. Earlier windows that are not closed are measured again and returned with the current one. A closed
window is measured again if its labels arrived or were corrected within `label_lookback_days`.
"""

import statistics
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from prefect.logging import get_run_logger

from deployments.config.model import CLASS_METRICS, REGRESSION_METRICS, ModelConfig
from tasks.adapters import evaluation, gates, lake, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.data_quality.label_quality import LabelFacts, judge_labels
from tasks.policy.data_quality.quality import Finding
from tasks.policy.monitoring.performance import (
    best_past_level,
    closed_values,
    confidence_histogram,
    decide_maturity,
    noise_before_collapse,
    shift_p_value,
    smallest_shift,
)
from tasks.policy.monitoring.slices import describe_worst, measure_slices
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError
from tasks.policy.records.evidence import History, ModelVersion, MonitorRun
from tasks.policy.records.profile import LabelProfile
from tasks.policy.records.reports import NEVER_SCORED, LabelReport, Latency, MetricValue, PerformanceReport
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import metric_intervals
from tasks.policy.statistics.metrics import Floats

if TYPE_CHECKING:
    from tasks.adapters.evaluation.prediction_log import Served

BOOTSTRAP_DRAWS = 500
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
    window, as_of, history, champion = run.window, run.as_of, run.history, run.champion
    revised = []
    for earlier in history.performances:
        if earlier.window < window and _may_differ(config, earlier, window, as_of):
            again = _measure(config, earlier.window, as_of, history, earlier.latency, champion)
            if _said(again) != _said(earlier):
                revised.append(again)
    report = _measure(config, window, as_of, history.revised(revised), latency, champion)
    get_run_logger().info("performance: %s", describe(report))
    for each in (report, *revised):
        if each.labels and each.labels.reasons:
            get_run_logger().warning(
                "labels of %s: %s, %s", each.window.name, each.labels.verdict, each.labels.reasons[0]
            )
    return (report, *revised)


def _may_differ(config: ModelConfig, earlier: PerformanceReport, window: Window, as_of: datetime) -> bool:
    """Return whether measuring again can change the report. Labels past `label_lookback_days` are not read."""
    if (
        earlier.maturity != "closed" or not earlier.has_sound_labels
    ):  # the label limits may have changed since the labels failed
        return True
    columns = config.columns
    sought_until = earlier.window.end + columns.label_delay + timedelta(days=columns.label_lookback_days)
    return sought_until > window.start and lake.labels_came(config, earlier.window, earlier.as_of, as_of)


def _said(report: PerformanceReport) -> tuple[object, ...]:
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


def _measure(
    config: ModelConfig,
    window: Window,
    as_of: datetime,
    history: History,
    latency: Latency | None,
    champion: ModelVersion | None,
) -> PerformanceReport:
    served = evaluation.prediction_log.read_served(config, window, as_of)
    truth, predicted = served.judged
    rows, labelled_rows = len(served.truth), len(truth)
    settings, primary, floor = config.performance, config.performance.metric, config.retraining.min_labelled_rows
    classes = max(2, len(served.classes))
    values = _metrics(config, truth, predicted, classes)
    least, quantile = config.validation.slice_min_rows, settings.quantile
    slices = measure_slices(primary, truth, predicted, served.judged_slices, least, BOOTSTRAP_DRAWS, quantile)
    before = [report for report in history.performances if report.window < window]
    value = next((metric for metric in values if metric.name == primary), None)
    best = best_past_level(before, primary, floor)
    noise, windows = noise_before_collapse(closed_values(before, primary, floor))
    p_value, smallest = None, None  # noise is known before labels arrive, and is needed to judge an estimate
    if value is not None and best is not None:
        p_value = shift_p_value(value, best[0], noise, windows)
        smallest = smallest_shift(value, best[0], noise, windows)
    return PerformanceReport(
        window=window,
        as_of=as_of,
        model_version=served.version,
        rows=rows,
        labelled_rows=labelled_rows,
        maturity=decide_maturity(
            rows,
            labelled_rows,
            as_of >= window.end + config.columns.all_labels_within,
            settings.maturing_at,
            settings.closed_at,
        ),
        metrics=values,
        primary=primary,
        confidence_histogram=() if config.task == "regression" else confidence_histogram(served.predicted),
        latency=latency,
        baseline=best[0] if best else None,
        baseline_window=best[1] if best else None,
        shift_p_value=p_value,
        noise=noise,
        noise_windows=windows if noise is not None else None,
        smallest_shift=smallest,
        slices=slices,
        undefined=metrics.undefined(primary, truth, classes, each=True) if labelled_rows else None,
        labels=_judge_labels(config, window, as_of, history, served, champion),
    )


def _judge_labels(
    config: ModelConfig,
    window: Window,
    as_of: datetime,
    history: History,
    served: "Served",
    champion: ModelVersion | None,
) -> LabelReport | None:
    """Judge the labels of the served rows; None without served rows, or if no label has arrived and none is overdue."""
    if not len(served.truth):
        return None
    known = np.isfinite(served.truth)
    faults, words, conflicts = lake.label_faults.sorted_faults(lake.read_label_faults(config, window, as_of))
    reference = _learned_labels(config, served.version, champion)
    due_by = lake.labels_due_by(config, as_of)
    due = window.end <= (due_by if due_by is not None else as_of - config.columns.label_delay)
    closed = known.mean() >= config.performance.closed_at or as_of >= window.end + config.columns.all_labels_within
    own, own_suite_sha256 = _judge_own(config, window, as_of, mature=due or bool(closed))
    facts = LabelFacts(
        window=window,
        column=config.columns.label,
        rows=len(served.truth),
        due=due,
        y_true=served.truth[known],
        y_pred=served.predicted[known],
        classes=served.classes,
        usual_share=_usual_share(history, window, reference),
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
    served = champion if champion.version == version else registry.version(config.name, version)
    return registry.version_files.reference_profile(served).labels


def _usual_share(history: History, window: Window, reference: LabelProfile | None) -> float | None:
    """Return the usual share of rows with a label once all are due.

    The median of the latest closed windows with sound labels, else the share in training, else None.
    """
    before = [past for past in history.performances if past.window < window and past.maturity == "closed"]
    shares = [past.completeness for past in before if past.has_sound_labels and past.labels][-USUAL_WINDOWS:]
    if len(shares) >= USUAL_FROM:
        return statistics.median(shares)
    return reference.labelled_share if reference else None


def _metrics(config: ModelConfig, truth: Floats, predicted: Floats, classes: int) -> tuple[MetricValue, ...]:
    """Compute every metric of the task that these rows define, with its interval."""
    if not len(truth):
        return ()
    names = REGRESSION_METRICS if config.task == "regression" else CLASS_METRICS
    quantile, found = config.performance.quantile, []
    intervals = metric_intervals(names, truth, predicted, draws=BOOTSTRAP_DRAWS, quantile=quantile)
    for name in names:
        if metrics.undefined(name, truth, classes, each=True):
            continue
        value, (low, high) = metrics.compute(name, truth, predicted, quantile), intervals[name]
        if value == value and low == low:  # NaN: undefined on these rows
            found.append(MetricValue(name, value, low, high, len(truth), metrics.HIGHER_IS_BETTER[name]))
    return tuple(found)
