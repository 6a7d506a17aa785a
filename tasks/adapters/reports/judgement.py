"""What people read in the Prefect dashboard about one judged window: the decision with its reasons and evidence, and plots.

The sentences are the decision's own, the same as in the ledger and the log. Category values never appear here, but those
of `performance.slices`.
"""

from collections.abc import Sequence

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from deployments.config.model import ModelConfig
from tasks.adapters.orchestration.events import REPLAYING
from tasks.adapters.reports.markdown import bullets, key, number, table
from tasks.adapters.reports.plots import drift_plot, metric_plot
from tasks.adapters.storage.links import link, version_link
from tasks.policy.data_quality.label_quality import WORDS
from tasks.policy.monitoring.estimate_errors import describe_error, possible
from tasks.policy.monitoring.joint_drift import describe_joint
from tasks.policy.monitoring.slices import describe_worst
from tasks.policy.records.evidence import Judgement, Placement, WindowEvidence, label_reports
from tasks.policy.records.reports import DriftReport, LabelReport, MetricValue, PerformanceReport, QualityReport
from tasks.policy.records.text import plain


def publish_judgement_page(config: ModelConfig, judgement: Judgement) -> None:
    decision, evidence = judgement.decision, judgement.evidence
    parts = [
        f"# {config.name}, {decision.window.name}: {decision.words}",
        bullets(decision.reasons),
        *(
            ["## Changed in the registry by others", bullets(judgement.registry_changes)]
            if judgement.registry_changes
            else []
        ),
        f"## Diagnosis: {decision.diagnosis.replace('_', ' ')}",
        bullets(judgement.diagnosis_reasons),
        *(["## What would change it", bullets(decision.would_change)] if decision.would_change else []),
        *([_placement(decision.placement)] if decision.placement else []),
        *([_performance(evidence.performance, judgement)] if evidence.performance else []),
        *(_labels(report) for report in label_reports((*judgement.revised, *_own(evidence)))),
        *([_drift(evidence.drift)] if evidence.drift else []),
        *([_quality(evidence.quality)] if evidence.quality else []),
        _links(("drift report", evidence.drift), ("data checks", evidence.quality)),
        f"Champion: [version {judgement.champion}]({version_link(config.name, judgement.champion)}). "
        f"Decision `{decision.decision_id}`, "
        f"judged as of {judgement.as_of:%Y-%m-%d %H:%M} UTC.",
    ]
    create_markdown_artifact(
        "\n\n".join(parts), key=key("decision", config.name), description=plain(decision.reasons[0])
    )


def publish_plots(config: ModelConfig, judgement: Judgement, earlier: Sequence[PerformanceReport]) -> None:
    """The metric over the latest windows and the drift of this one, as images. A replay's are on its own page."""
    if REPLAYING.get():
        return
    window, evidence = judgement.decision.window.name, judgement.evidence
    reports = [*earlier, *([evidence.performance] if evidence.performance else [])]
    metric = metric_plot(reports, f"{config.name}: {config.performance.metric} until {window.split('..')[1]}")
    drift = drift_plot(evidence.drift.features, f"{config.name}: drift in {window}") if evidence.drift else None
    for kind, address in (("metric", metric), ("drift", drift)):
        if address:
            create_image_artifact(address, key=key(f"plot-{kind}", config.name), description=f"{kind}, {window}")


def _links(*reports: tuple[str, DriftReport | QualityReport | None]) -> str:
    found = [f"[{name}]({link(report.report_uri)})" for name, report in reports if report and report.report_uri]
    return " · ".join(found)


def _placement(placement: Placement) -> str:
    hours = f", about {placement.hours:.2g} h" if placement.hours is not None else ""
    return f"## Runs on {placement.place}: {placement.rows:,} rows{hours}\n\n{bullets(placement.reasons)}"


def _performance(report: PerformanceReport, judgement: Judgement) -> str:
    rows = [_metric_row(metric, "realised") for metric in report.metrics]
    rows += [_metric_row(item.value, f"realised, {item.name}") for item in report.slices]
    if judgement.estimate:
        error = describe_error(judgement.estimate_error)
        rows.append(_metric_row(possible(judgement.estimate), f"estimated without labels; {error}"))
    shown = report.smallest_shift
    power = f", shows a worsening of the {report.primary} from {shown:.2g} on" if shown is not None else ""
    worst = describe_worst(report.slices)
    told = f"{plain(worst[0].upper() + worst[1:])}.\n\n" if worst else ""
    return f"## Performance: {report.maturity}, {report.completeness:.0%} of labels in{power}\n\n{told}" + table(
        ("metric", "value", "interval", "rows", "kind"), rows
    )


def _own(evidence: WindowEvidence) -> tuple[PerformanceReport, ...]:
    return (evidence.performance,) if evidence.performance else ()


def _labels(report: LabelReport) -> str:
    rows = [
        (c.name, c.verdict, c.expected, c.observed) for c in report.checks if c.verdict != "pass" or c.name == WORDS
    ]
    shown = table(("check", "verdict", "expected", "observed"), rows) if rows else "All checks passed."
    return f"## Labels of {report.window.name}: {report.verdict}\n\n{shown}"


def _metric_row(metric: MetricValue, kind: str) -> tuple[str, ...]:
    interval = f"{metric.low:.4g} to {metric.high:.4g}"
    return metric.name, f"{metric.value:.4g}", interval, f"{metric.rows:,}", kind


def _drift(report: DriftReport) -> str:
    worst = sorted(report.features, key=lambda feature: feature.effect_size / feature.threshold, reverse=True)[:8]
    rows = [
        (
            f.feature,
            f.verdict,
            f"{f.effect_size:.3g} ({f.method})",
            f"{f.threshold:g}",
            number(f.q_value),
            number(f.mean_shift_sigma),
            number(f.prediction_shift),
        )
        for f in worst
    ]
    past = sum(feature.verdict == "drifted" for feature in report.features)
    heading = f"{past} of {len(report.features)} features past their limit, {report.drifted_share:.0%} by importance"
    together = f"{plain(describe_joint(report.joint, past > 0))}\n\n" if report.joint else ""
    return f"## Drift: {report.verdict}, {heading}\n\n{together}" + table(
        ("feature", "verdict", "effect", "limit", "q", "mean shift in σ", "moved prediction by"), rows
    )


def _quality(report: QualityReport) -> str:
    rows = [(c.name, c.column or "", c.verdict, c.expected, c.observed) for c in report.checks if c.verdict != "pass"]
    shown = table(("check", "column", "verdict", "expected", "observed"), rows) if rows else "All checks passed."
    return f"## Data checks: {report.verdict}, {report.failing_rows:,} of {report.rows:,} rows failing\n\n{shown}"
