"""How the served predictions met the labels that are known by now, window by window.

Labels come late, so earlier windows that were not closed are measured again and handed back beside the present one, and
so are closed ones of which labels have come or were corrected since, as long as these are sought (`label_lookback_days`).
"""

from datetime import datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from deployments.model_config import CLASS_METRICS, REGRESSION_METRICS, ModelConfig
from tasks.policy.evidence import History
from tasks.policy.metrics import Floats
from tasks.policy.records import Window
from tasks.policy.reports import NEVER_SCORED, Latency, MetricValue, PerformanceReport

BOOTSTRAP_DRAWS = 500


# two retries: the lake may be out of reach for a moment; measuring writes nothing
@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=10, timeout_seconds=1800)
def measure_performance(
    config: ModelConfig, window: Window, as_of: datetime, history: History, latency: Latency | None = None
) -> tuple[PerformanceReport, ...]:
    """The window's report with the labels known at `as_of`, then those of earlier windows that have matured since."""
    revised = []
    for earlier in history.performances:
        if earlier.window < window and _may_differ(config, earlier, window, as_of):
            again = _measure(config, earlier.window, as_of, history, earlier.latency)
            if _said(again) != _said(earlier):
                revised.append(again)
    report = _measure(config, window, as_of, history.revised(revised), latency)
    get_run_logger().info("performance: %s", describe(report))
    return (report, *revised)


def _may_differ(config: ModelConfig, earlier: PerformanceReport, window: Window, as_of: datetime) -> bool:
    """Whether measuring again may say something else. Labels of old windows are not even looked at: none is sought."""
    from tasks.adapters import lake

    if earlier.maturity != "closed":
        return True
    columns = config.columns
    sought_until = earlier.window.end + columns.label_delay + timedelta(days=columns.label_lookback_days)
    return sought_until > window.start and lake.labels_came(config, earlier.window, earlier.as_of, as_of)


def _said(report: PerformanceReport) -> tuple[str, int, tuple[MetricValue, ...]]:
    return report.maturity, report.labelled_rows, report.metrics


def describe(report: PerformanceReport) -> str:
    """Verdict, number, limit in one line."""
    from tasks.policy.slices import describe_worst

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
    config: ModelConfig, window: Window, as_of: datetime, history: History, latency: Latency | None
) -> PerformanceReport:
    from tasks.adapters.served import read_served
    from tasks.policy.metrics import undefined
    from tasks.policy.performance import (
        best_past_level,
        closed_values,
        confidence_histogram,
        decide_maturity,
        noise_before_collapse,
        shift_p_value,
        smallest_shift,
    )
    from tasks.policy.slices import measure_slices

    served = read_served(config, window, as_of)
    truth, predicted = served.judged
    rows, labelled_rows = len(served.truth), len(truth)
    settings, primary, floor = config.performance, config.performance.metric, config.retraining.min_labelled_rows
    classes = max(2, len(served.classes))
    metrics = _metrics(config, truth, predicted, classes)
    least, quantile = config.validation.slice_min_rows, settings.quantile
    slices = measure_slices(primary, truth, predicted, served.judged_slices, least, BOOTSTRAP_DRAWS, quantile)
    before = [report for report in history.performances if report.window < window]
    value = next((metric for metric in metrics if metric.name == primary), None)
    best = best_past_level(before, primary, floor)
    noise, windows = noise_before_collapse(closed_values(before, primary, floor))
    p_value, smallest = None, None  # the noise is known before labels are: an estimate is judged by it
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
        metrics=metrics,
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
        undefined=undefined(primary, truth, classes, each=True) if labelled_rows else None,
    )


def _metrics(config: ModelConfig, truth: Floats, predicted: Floats, classes: int) -> tuple[MetricValue, ...]:
    """Every metric of the task that these rows define, with its interval."""
    from tasks.policy import metrics, statistics

    if not len(truth):
        return ()
    names = REGRESSION_METRICS if config.task == "regression" else CLASS_METRICS
    quantile, found = config.performance.quantile, []
    intervals = statistics.metric_intervals(names, truth, predicted, draws=BOOTSTRAP_DRAWS, quantile=quantile)
    for name in names:
        if metrics.undefined(name, truth, classes, each=True):
            continue
        value, (low, high) = metrics.compute(name, truth, predicted, quantile), intervals[name]
        if value == value and low == low:  # NaN: these rows do not define it
            found.append(MetricValue(name, value, low, high, len(truth), metrics.HIGHER_IS_BETTER[name]))
    return tuple(found)
