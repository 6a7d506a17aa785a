"""What people read in the Prefect dashboard about one window: a markdown page, a table, links; and the events that hand over.

The sentences are the decision's own, the same as in the ledger and the log. Category values never appear here.
"""

import os
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.events import emit_event

from deployments.model_config import ModelConfig
from tasks.adapters.workspace import workspace
from tasks.policy.economics import Outcome
from tasks.policy.evidence import (
    DriftReport,
    Judgement,
    MetricDifference,
    PerformanceReport,
    Promotion,
    QualityReport,
    ValidationReport,
)

REPLAYING: ContextVar[bool] = ContextVar("replaying", default=False)
"""Set around the runs of a replay."""
REPORTS_URL = "http://127.0.0.1:4280/reports"  # where `make serve` shows them, so that what a demo linked opens later


def key(kind: str, model: str) -> str:
    """An artifact key as Prefect accepts it: lower case, digits and dashes. One key is one history in the dashboard."""
    return f"{kind}-{model}".replace("_", "-")


def publish_judgement_page(config: ModelConfig, judgement: Judgement) -> None:
    decision, evidence = judgement.decision, judgement.evidence
    parts = [
        f"# {config.name}, {decision.window.name}: {'retrain' if decision.retrain else 'keep the champion'}",
        _bullets(decision.reasons),
        f"## Diagnosis: {decision.diagnosis.replace('_', ' ')}",
        _bullets(judgement.diagnosis_reasons),
        *(["## What would change it", _bullets(decision.would_change)] if decision.would_change else []),
        *([_performance(evidence.performance)] if evidence.performance else []),
        *([_drift(evidence.drift)] if evidence.drift else []),
        *([_quality(evidence.quality)] if evidence.quality else []),
        _links(("drift report", evidence.drift), ("data checks", evidence.quality)),
        f"Champion: version {judgement.champion}. Decision `{decision.decision_id}`, "
        f"judged as of {judgement.as_of:%Y-%m-%d %H:%M} UTC.",
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("decision", config.name), description=decision.reasons[0])


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
        f"Champion: version {report.champion or 'none yet'}; compared on {report.rows:,} rows. MLflow run `{run_id}`.",
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
    emit_event(
        f"perennial.{event}",
        resource={"prefect.resource.id": f"perennial.{kind}.{model}", "prefect.resource.name": model},
        payload=payload,
    )


def _link(uri: str) -> str:
    """Where a browser finds a report: at REPORTS_URL, since dashboards may not open files; elsewhere as it stands."""
    if "://" in uri:
        return uri
    path, reports = Path(uri).resolve(), workspace().reports.resolve()
    if not path.is_relative_to(reports):
        return path.as_uri()
    base = os.environ.get("PERENNIAL_REPORTS_URL", REPORTS_URL).rstrip("/")
    return f"{base}/{quote(path.relative_to(reports).as_posix())}"


def _links(*reports: tuple[str, DriftReport | QualityReport | None]) -> str:
    found = [f"[{name}]({_link(report.report_uri)})" for name, report in reports if report and report.report_uri]
    return " · ".join(found)


def _bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _performance(report: PerformanceReport) -> str:
    rows = [
        (
            m.name,
            f"{m.value:.4g}",
            f"{m.low:.4g} to {m.high:.4g}",
            f"{m.rows:,}",
            "estimated" if m.estimated else "realised",
        )
        for m in report.metrics
    ]
    return f"## Performance: {report.maturity}, {report.completeness:.0%} of labels in\n\n" + _table(
        ("metric", "value", "interval", "rows", "kind"), rows
    )


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
    return f"## Drift: {report.verdict}, {heading}\n\n" + _table(
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
