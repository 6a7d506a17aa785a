"""What people read in the Prefect dashboard about one window: a markdown page, a table, links; and the events that hand over.

The sentences are the decision's own, the same as in the ledger and the log. Category values never appear here.
"""

from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.events import emit_event

from deployments.model_config import ModelConfig
from tasks.policy.evidence import (
    DriftReport,
    Judgement,
    MetricDifference,
    PerformanceReport,
    Promotion,
    QualityReport,
    ValidationReport,
)


def key(kind: str, model: str) -> str:
    """An artifact key as Prefect accepts it: lower case, digits and dashes. One key is one history in the dashboard."""
    return f"{kind}-{model}".replace("_", "-")


def publish_judgement_page(config: ModelConfig, judgement: Judgement) -> None:
    decision, evidence = judgement.decision, judgement.evidence
    parts = [
        f"# {config.name}, {decision.window.name}: {'retrain' if decision.retrain else 'keep the champion'}",
        _bullets(decision.reasons),
        *([f"Diagnosis: **{decision.diagnosis.replace('_', ' ')}**."] if evidence.drift else []),
        *(["## What would change it", _bullets(decision.would_change)] if decision.would_change else []),
        *([_performance(evidence.performance)] if evidence.performance else []),
        *([_drift(evidence.drift)] if evidence.drift else []),
        *([_quality(evidence.quality)] if evidence.quality else []),
        f"Champion: version {judgement.champion}. Decision `{decision.decision_id}`, judged as of {judgement.as_of:%Y-%m-%d %H:%M} UTC.",
    ]
    create_markdown_artifact("\n\n".join(parts), key=key("decision", config.name), description=decision.reasons[0])
    for kind, report in (("drift-report", evidence.drift), ("data-checks", evidence.quality)):
        if report and report.report_uri:
            create_link_artifact(
                _link(report.report_uri), key=key(kind, config.name), link_text=f"{kind} {decision.window.name}"
            )


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


def announce(event: str, model: str, payload: dict[str, Any]) -> None:
    """Emit `perennial.<event>` about a model; automations turn it into runs and notifications."""
    emit_event(
        f"perennial.{event}",
        resource={"prefect.resource.id": f"perennial.model.{model}", "prefect.resource.name": model},
        payload=payload,
    )


def _link(uri: str) -> str:
    return Path(uri).resolve().as_uri() if "://" not in uri else uri


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
        )
        for f in worst
    ]
    return f"## Drift: {report.drifted_share:.0%} of features, {report.verdict}\n\n" + _table(
        ("feature", "verdict", "effect", "limit", "q", "mean shift in σ"), rows
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
