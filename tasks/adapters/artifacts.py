"""What people read in the Prefect dashboard about one window: a markdown page, a table, links; and the events that hand over.

The sentences are the decision's own, the same as in the ledger and the log. Category values never appear here.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from deployments.model_config import ModelConfig
from tasks.adapters import delivery
from tasks.adapters.plots import drift_plot, metric_plot
from tasks.adapters.report_links import link, version_link
from tasks.policy.access import Approval, ApprovalRequest
from tasks.policy.backfill import Backfill
from tasks.policy.economics import Outcome
from tasks.policy.estimate_errors import describe_error, possible
from tasks.policy.evidence import (
    DriftReport,
    Judgement,
    MetricDifference,
    MetricValue,
    ModelVersion,
    PerformanceReport,
    Placement,
    Promotion,
    QualityReport,
    ValidationReport,
)
from tasks.policy.fleet import Fleet
from tasks.policy.handover import about
from tasks.policy.joint_drift import describe_joint
from tasks.policy.preview import Preview

REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)
"""Set around the runs of a replay."""
HANDED_OVER = {"retraining.requested", "return.requested", "challenger.validated", "champion.degraded"}
"""Events that start the next flow; were one lost, the loop would stand still."""


def key(kind: str, model: str) -> str:
    """An artifact key as Prefect accepts it: lower case, digits and dashes. One key is one history in the dashboard."""
    return f"{kind}-{model}".replace("_", "-")


def publish_judgement_page(config: ModelConfig, judgement: Judgement) -> None:
    decision, evidence = judgement.decision, judgement.evidence
    parts = [
        f"# {config.name}, {decision.window.name}: {decision.words}",
        _bullets(decision.reasons),
        f"## Diagnosis: {decision.diagnosis.replace('_', ' ')}",
        _bullets(judgement.diagnosis_reasons),
        *(["## What would change it", _bullets(decision.would_change)] if decision.would_change else []),
        *([_placement(decision.placement)] if decision.placement else []),
        *([_performance(evidence.performance, judgement)] if evidence.performance else []),
        *([_drift(evidence.drift)] if evidence.drift else []),
        *([_quality(evidence.quality)] if evidence.quality else []),
        _links(("drift report", evidence.drift), ("data checks", evidence.quality)),
        f"Champion: [version {judgement.champion}]({version_link(config.name, judgement.champion)}). "
        f"Decision `{decision.decision_id}`, "
        f"judged as of {judgement.as_of:%Y-%m-%d %H:%M} UTC.",
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("decision", config.name), description=decision.reasons[0])


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


def publish_backfill_page(model: str, plan: Backfill, dry_run: bool) -> None:
    lists = (
        ("would be filled in" if dry_run else "filled in", plan.missing),
        ("done before", plan.done),
        ("left out, the champion learned from them", plan.learned),
    )
    parts = [f"# {model}: back-fill{' (dry run)' if dry_run else ''}", f"{plan.headline}."]
    parts += [
        f"## {words.capitalize()}\n\n{_bullets(tuple(w.name for w in windows))}" for words, windows in lists if windows
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("backfill", model), description=plan.headline)


def publish_preview_page(preview: Preview) -> None:
    """What a dry run found; one history for each model and flow."""
    stopped = ["## What would stop it", _bullets(preview.refusals)] if preview.refusals else []
    parts = [f"# {preview.model}: {preview.action} (dry run)", f"{preview.headline}. Nothing was changed.", *stopped]
    parts += ["## What it would do", _bullets(preview.reasons)]
    named = key(f"preview-{preview.action}", preview.model)
    create_markdown_artifact("\n\n".join(parts), key=named, description=preview.headline)


def publish_fleet(fleet: Fleet, page: str) -> None:
    """The state of every model as a table; one artifact for all, so that its history shows how they fared."""
    from tasks.adapters.fleet_page import markdown

    create_markdown_artifact(markdown(fleet, page), key="fleet", description=fleet.headline)


def publish_backtest(model: str, sentence: str, yaml: str, rows: list[dict[str, str]], page: str) -> None:
    """The back-test's recommendation, the YAML to paste and every policy's figures."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names), *(" | ".join(row.values()) for row in rows)]
    parts = [f"# {model}: back-test of retraining policies", sentence]
    parts += [f"```yaml\n{yaml}```"] if yaml else []
    parts += ["\n".join(f"| {line} |" for line in lines), f"Page with plots: {page}"]
    create_markdown_artifact("\n\n".join(parts), key=key("backtest", model), description=sentence)


def publish_validation_page(config: ModelConfig, report: ValidationReport, run_id: str, reason: str) -> None:
    verdict = {"pass": "passed", "warn": "passed with a warning", "fail": "refused"}[report.verdict]
    parts = [
        f"# {config.name}: challenger {report.challenger} {verdict}",
        f"Asked for because: {reason}",
        _bullets(report.reasons),
        _differences(report.differences),
        f"Champion: version {report.champion or 'none yet'}; compared on {report.rows:,} rows. "
        f"[MLflow: version {report.challenger}]({version_link(config.name, report.challenger)}), run `{run_id}`.",
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("validation", config.name), description=report.reasons[0])


def publish_promotion_page(config: ModelConfig, promotion: Promotion, actor: str, comment: str) -> None:
    said = f"\n\n> {comment}" if comment else ""
    create_markdown_artifact(
        f"# {config.name}: {promotion.action.replace('_', ' ')}\n\nChampion is version {promotion.champion}, previous is "
        f"{promotion.previous or 'none'}; by {actor}.{said}\n\n{_bullets(promotion.reasons)}",
        key=key("promotion", config.name),
        description=f"champion is version {promotion.champion}",
    )


def approval_evidence(
    config: ModelConfig,
    report: ValidationReport,
    challenger: ModelVersion,
    request: ApprovalRequest,
    refusal: str | None = None,
) -> str:
    """What a person reads above the form that asks for approval."""
    who = ", ".join(config.access.approve) or "any named person who did not ask for it"
    parts = [
        *([f"**The last answer did not count:** {refusal}"] if refusal else []),
        f"# May version {challenger.version} of {config.name} serve?",
        f"{config.purpose} Risk: {config.risk}. It would replace {report.champion or 'nothing, it is the first'}.",
        _bullets(report.reasons),
        _differences(report.differences),
        f"Trained on {challenger.training_rows:,} rows from {challenger.trained.name}; compared on {report.rows:,} rows "
        f"that neither has seen. MLflow run `{challenger.run_id}`, decision `{challenger.decision_id}`.",
        f"Asked for by {', '.join(request.requesters) or 'automation'}; may be answered by {who}, until "
        f"{request.expires_at:%Y-%m-%d %H:%M} UTC. No answer is a no.",
    ]
    return "\n\n".join(part for part in parts if part)


def publish_answer_page(config: ModelConfig, approval: Approval) -> None:
    said = f"\n\n> {approval.comment}" if approval.comment else ""
    title = f"# {config.name}: version {approval.version} {approval.verdict.replace('_', ' ')}"
    create_markdown_artifact(
        f"{title}{said}\n\n{_bullets(approval.reasons)}",
        key=key("approval", config.name),
        description=approval.reasons[0],
    )


def publish_outcome(model: str, version: str, outcome: Outcome) -> None:
    """Whether a promotion paid."""
    create_markdown_artifact(
        f"# {model}, version {version}: {outcome.verdict}\n\n{outcome.reason}",
        key=key("outcome", model),
        description=outcome.reason,
    )


def announce(event: str, model: str, payload: dict[str, Any]) -> None:
    """Emit `perennial.<event>` about a model; automations turn it into runs and notifications.

    A flow that another one runs is handed on by its caller, as a replay does. What it says is about
    `perennial.replay.<model>`, which no automation matches: recorded history must not start live runs.
    """
    run = FlowRunContext.get()
    handed_on = run is not None and run.flow_run is not None and run.flow_run.parent_task_run_id is not None
    kind = "replay" if handed_on or REPLAYING.get() else "model"
    emitted = emit_event(
        f"perennial.{event}",
        resource=about(f"perennial.{kind}", model, payload),
        payload=payload,
    )
    deployed = run is not None and run.flow_run is not None and run.flow_run.deployment_id is not None
    if emitted and kind == "model" and deployed and event in HANDED_OVER:
        delivery.await_stored(emitted.id)


def _links(*reports: tuple[str, DriftReport | QualityReport | None]) -> str:
    found = [f"[{name}]({link(report.report_uri)})" for name, report in reports if report and report.report_uri]
    return " · ".join(found)


def _bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _placement(placement: Placement) -> str:
    hours = f", about {placement.hours:.2g} h" if placement.hours is not None else ""
    return f"## Runs on {placement.place}: {placement.rows:,} rows{hours}\n\n{_bullets(placement.reasons)}"


def _performance(report: PerformanceReport, judgement: Judgement) -> str:
    rows = [_metric_row(metric, "realised") for metric in report.metrics]
    if judgement.estimate:
        told = describe_error(judgement.estimate_error)
        rows.append(_metric_row(possible(judgement.estimate), f"estimated without labels; {told}"))
    shown = report.smallest_shift
    power = f", shows a worsening of the {report.primary} from {shown:.2g} on" if shown is not None else ""
    return f"## Performance: {report.maturity}, {report.completeness:.0%} of labels in{power}\n\n" + _table(
        ("metric", "value", "interval", "rows", "kind"), rows
    )


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
            _number(f.q_value),
            _number(f.mean_shift_sigma),
            _number(f.prediction_shift),
        )
        for f in worst
    ]
    past = sum(feature.verdict == "drifted" for feature in report.features)
    heading = f"{past} of {len(report.features)} features past their limit, {report.drifted_share:.0%} by importance"
    together = f"{describe_joint(report.joint, past > 0)}\n\n" if report.joint else ""
    return f"## Drift: {report.verdict}, {heading}\n\n{together}" + _table(
        ("feature", "verdict", "effect", "limit", "q", "mean shift in σ", "moved prediction by"), rows
    )


def _quality(report: QualityReport) -> str:
    rows = [(c.name, c.column or "", c.verdict, c.expected, c.observed) for c in report.checks if c.verdict != "pass"]
    table = _table(("check", "column", "verdict", "expected", "observed"), rows) if rows else "All checks passed."
    return f"## Data checks: {report.verdict}, {report.failing_rows:,} of {report.rows:,} rows failing\n\n{table}"


def _differences(differences: tuple[MetricDifference, ...]) -> str:
    rows = [
        (
            d.slice_name or "all rows",
            d.name,
            f"{d.champion:.4g}",
            f"{d.challenger:.4g}",
            f"{d.gain:+.4g} ({d.low:+.4g} to {d.high:+.4g})",
            f"{d.rows:,}",
        )
        for d in differences
    ]
    return _table(("slice", "metric", "champion", "challenger", "gain (interval)", "rows"), rows) if rows else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
