"""Compare the challenger with the champion on rows that neither was trained on.

`tasks.policy.rollout.validation` decides. The challenger is loaded from the registry to score the rows, which proves
that it can be served. A comparison that cannot be measured fails the challenger; it raises no exception.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, model_gates, models, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.data_quality.label_quality import WORDS, LabelFacts, judge_labels
from tasks.policy.evidence.validation import RefitCheck, ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.reports import LabelReport, Snapshot
from tasks.policy.rollout.validation import decide_validation
from tasks.policy.training.refit import decide_refit, with_refit


def _judge_labels(
    config: ModelConfig, challenger: ModelVersion, holdout: Snapshot, rows: "pa.Table"
) -> LabelReport | None:
    """Judge the holdout's labels against those that the challenger was trained on; None if nothing could be scored."""
    outcome = evaluation.challenger.try_predict(challenger, rows, config.training.imported) if len(rows) else ""
    if isinstance(outcome, str):
        return None
    scorer, predicted = outcome
    y_true = models.encoding.encode_labels(
        rows.column(config.columns.label), scorer.classes, unknown=len(scorer.classes)
    )
    known = np.isfinite(y_true)
    facts = LabelFacts(
        window=holdout.window,
        column=config.columns.label,
        rows=holdout.rows,
        due=False,
        y_true=y_true[known],
        y_pred=predicted[known],
        classes=scorer.classes,
        words=lake.label_faults.sorted_faults(
            lake.read_label_faults(config, challenger.trained, holdout.as_of or holdout.window.end)
        )[1],
        reference=registry.version_files.reference_profile(challenger).labels,
    )
    return judge_labels(facts, config.quality.labels)


def _with_labels(report: ValidationReport, labels: LabelReport | None) -> ValidationReport:
    """Add the label verdict to the report: failed labels fail the validation, because it rests on them."""
    if labels is None:
        return report
    if labels.verdict != "fail":
        words = tuple(f"labels ({check.column}): {check.observed}" for check in labels.checks if check.name == WORDS)
        return replace(report, reasons=(*report.reasons, *labels.reasons, *words))
    return replace(report, verdict="fail", reasons=(*labels.reasons, *report.reasons))


def _check_refit(config: ModelConfig, challenger: ModelVersion, holdout: Snapshot, rows: pa.Table) -> RefitCheck | None:
    """Compare the model that serves with the validated one; None if they are the same, or it was refitted elsewhere."""
    if challenger.before(holdout.window.start) == challenger:
        return None
    start = holdout.window.start
    return decide_refit(config.validation, evaluation.challenger.compare_refit(config, challenger, start, rows))


# one retry: the registry or the lake may be briefly unavailable; a verdict is never retried
@stage(
    retries=1,
    timeout_seconds=3600,
)
def validate_challenger(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, holdout: Snapshot
) -> ValidationReport:
    """Compare both versions on the holdout's labelled rows and decide. `champion` is None for the first model."""
    rows = lake.read_labelled(holdout)
    validated = challenger.before(holdout.window.start)
    compared = evaluation.challenger.compare(config, challenger, champion, holdout.window, rows)
    gates = model_gates.measure.measure_gates(config, challenger, champion, holdout.window.start, rows)
    report = decide_validation(config.validation, replace(compared, gates=gates))
    report = _with_labels(report, _judge_labels(config, validated, holdout, rows))
    report = with_refit(report, _check_refit(config, challenger, holdout, rows))
    registry.tag(challenger.model, challenger.version, validation=report.verdict)
    get_run_logger().info("validation: version %s: %s; %s", challenger.version, report.verdict, report.reasons[0])
    return report
