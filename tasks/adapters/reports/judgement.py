"""The dashboard page of a judged window: the decision, what would change it, the evidence, and plots.

It is written for the model's owner. The sentences are those of the decision, identical in ledger and log. The only
category values shown are those of `performance.slices`.
"""

from collections.abc import Sequence

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from deployments.config.model import ModelConfig
from tasks.adapters.reports.artifacts import bullets, folded, key, number, table
from tasks.adapters.reports.plots import drift_plot, metric_plot
from tasks.adapters.storage.links import link, version_link
from tasks.policy.data_quality.label_quality import WORDS
from tasks.policy.evidence.monitoring import Judgement, Placement, WindowEvidence, label_reports
from tasks.policy.monitoring.estimate_errors import describe_error, possible
from tasks.policy.monitoring.joint_drift import describe_joint
from tasks.policy.monitoring.slices import describe_worst
from tasks.policy.records.reports import DriftReport, LabelReport, MetricValue, PerformanceReport, QualityReport
from tasks.policy.records.text import plain
from tasks.policy.reporting.decision import as_sentence, headline


def publish_judgement_page(config: ModelConfig, judgement: Judgement) -> None:
    first = headline(judgement.decision, judgement.champion)
    create_markdown_artifact(
        judgement_page(config, judgement, first), key=key("decision", config.name), description=plain(first)
    )


def judgement_page(config: ModelConfig, judgement: Judgement, first: str) -> str:
    """Return Markdown: the decision and its reasons, what would change it, the evidence, and folded policy figures."""
    decision, evidence = judgement.decision, judgement.evidence
    parts = (
        f"# {config.name}, {decision.window.name}",
        f"**{plain(first)}**",
        as_sentence(plain(judgement.online)) if judgement.online else "",
        _section("What would change it", decision.would_change),
        _section("More reasons", decision.reasons[1:]),
        _section("Changed in the registry by others", judgement.registry_changes),
        _placement(decision.placement) if decision.placement else "",
        _section(f"Diagnosis: {decision.diagnosis.replace('_', ' ')}", _diagnosis(judgement)),
        _performance(evidence.performance, judgement) if evidence.performance else "",
        *(_labels(report) for report in label_reports((*judgement.revised, *_own(evidence)))),
        _drift(evidence.drift) if evidence.drift else "",
        _quality(evidence.quality) if evidence.quality else "",
        _links(("drift report", evidence.drift), ("data checks", evidence.quality)),
        folded("Details of the policy", tuple(map(as_sentence, decision.details))) if decision.details else "",
        f"Champion: [version {judgement.champion}]({version_link(config.name, judgement.champion)}). "
        f"Decision `{decision.decision_id}`, judged as of {judgement.as_of:%Y-%m-%d %H:%M} UTC.",
    )
    return "\n\n".join(part for part in parts if part)


def _section(title: str, sentences: Sequence[str]) -> str:
    return f"## {title}\n\n{bullets(tuple(map(as_sentence, sentences)))}" if sentences else ""


def _diagnosis(judgement: Judgement) -> list[str]:
    """Return the diagnosis's reasons that the decision's reasons do not quote already."""
    quoted = " ".join(judgement.decision.reasons)
    return [reason for reason in judgement.diagnosis_reasons if reason not in quoted]


def publish_plots(config: ModelConfig, judgement: Judgement, earlier: Sequence[PerformanceReport]) -> None:
    """Publish plots of the metric over the latest windows and of this window's drift. A replay has its own page."""
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
    return _section(f"Runs on {placement.place}: {placement.rows:,} rows{hours}", placement.reasons)


def _performance(report: PerformanceReport, judgement: Judgement) -> str:
    rows = [_metric_row(metric, "realised") for metric in report.metrics]
    rows += [_metric_row(item.value, f"realised, {item.name}") for item in report.slices]
    if judgement.estimate:
        error = describe_error(judgement.estimate_error)
        rows.append(_metric_row(possible(judgement.estimate), f"estimated without labels; {error}"))
    reading = [f"Each row is one metric with its confidence interval; {_better(report)}."]
    if report.smallest_shift is not None:
        reading.append(f"This window can show a worsening of {report.primary} by {report.smallest_shift:.2g} or more.")
    worst = describe_worst(report.slices)
    reading += [as_sentence(worst)] if worst else []
    shown = table(("metric", "value", "interval", "rows", "kind"), rows)
    heading = f"## Performance: {report.completeness:.0%} of labels are in ({report.maturity})"
    return f"{heading}\n\n{plain(' '.join(reading))}\n\n{shown}"


def _better(report: PerformanceReport) -> str:
    value = report.metric(report.primary)
    if value is None:
        return f"{report.primary} is the metric that decides"
    return f"{report.primary} decides, and {'higher' if value.higher_is_better else 'lower'} is better"


def _own(evidence: WindowEvidence) -> tuple[PerformanceReport, ...]:
    return (evidence.performance,) if evidence.performance else ()


def _labels(report: LabelReport) -> str:
    rows = [
        (c.name, c.verdict, c.expected, c.observed) for c in report.checks if c.verdict != "pass" or c.name == WORDS
    ]
    if not rows:
        return ""
    shown = _checks(table(("check", "verdict", "expected", "observed"), rows))
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
    heading = f"## Drift: {report.verdict}, {past} of {len(report.features)} features ({report.drifted_share:.0%} by importance)"
    reading = "Each row compares a feature with the training data; it has drifted where the effect reaches the limit."
    together = f" {as_sentence(describe_joint(report.joint, past > 0))}" if report.joint else ""
    shown = table(("feature", "verdict", "effect", "limit", "q", "mean shift in σ", "moved prediction by"), rows)
    warned = f"Warnings:\n\n{bullets(report.warnings)}\n\n" if report.warnings else ""
    return f"{heading}\n\n{plain(reading + together)}\n\n{_evidently(report)}{warned}{shown}"


def _evidently(report: DriftReport) -> str:
    """Summarise Evidently's result on its sample; empty for older judgements without one."""
    opinion = report.second_opinion
    if opinion is None:
        return ""
    failed = sum(not test.passed for test in report.own_tests)
    own = [f"{failed} of {len(report.own_tests)} tests of drift.evidently failed"] if report.own_tests else []
    return f"{bullets((opinion.summary, *own, *report.unknown_tests))}\n\n"


def _quality(report: QualityReport) -> str:
    rows = [(c.name, c.column or "", c.verdict, c.expected, c.observed) for c in report.checks if c.verdict != "pass"]
    shown = (
        _checks(table(("check", "column", "verdict", "expected", "observed"), rows)) if rows else "All checks passed."
    )
    return f"## Data checks: {report.verdict}, {report.failing_rows:,} of {report.rows:,} rows failing\n\n{shown}"


def _checks(shown: str) -> str:
    return f"Each row is a check that did not pass, with what it expected and what it found.\n\n{shown}"
