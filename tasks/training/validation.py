"""Compare the challenger with the champion on rows that neither has seen; `tasks.policy.rollout.validation` decides.

The challenger is loaded from the registry and scores the rows before it may pass, because a good metric of a model that
cannot be served is worth nothing. What cannot be measured is a reason to fail, not an exception.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters.orchestration.retry_conditions import may_pass
from tasks.policy.data_quality.label_quality import WORDS
from tasks.policy.records.evidence import ModelVersion, ValidationReport
from tasks.policy.records.reports import LabelReport, Snapshot
from tasks.policy.rollout.validation import decide_validation

if TYPE_CHECKING:
    import pyarrow as pa


def _judge_labels(
    config: ModelConfig, challenger: ModelVersion, holdout: Snapshot, rows: "pa.Table"
) -> LabelReport | None:
    """Whether the holdout's labels can be trusted, held against those that the challenger learned from."""
    import numpy as np

    from tasks.adapters.evaluation import challenger as trial
    from tasks.adapters.lake import tables as lake
    from tasks.adapters.lake.label_faults import sorted_faults
    from tasks.adapters.models.encoding import encode_labels
    from tasks.adapters.registry import version_files
    from tasks.policy.data_quality.label_quality import LabelFacts, judge_labels

    answered = trial.answer(challenger, rows, config.training.estimator) if len(rows) else ""
    if isinstance(answered, str):
        return None
    scorer, predicted = answered
    truth = encode_labels(rows.column(config.columns.label), scorer.classes, unknown=len(scorer.classes))
    known = np.isfinite(truth)
    facts = LabelFacts(
        window=holdout.window,
        column=config.columns.label,
        rows=holdout.rows,
        due=False,
        truth=truth[known],
        predicted=predicted[known],
        classes=scorer.classes,
        words=sorted_faults(lake.label_faults(config, challenger.trained, holdout.as_of or holdout.window.end))[1],
        reference=version_files.reference_profile(challenger).labels,
    )
    return judge_labels(facts, config.quality.labels)


def _with_labels(report: ValidationReport, labels: LabelReport | None) -> ValidationReport:
    """A challenger that was proven by labels which cannot be trusted was not proven."""
    if labels is None:
        return report
    if labels.verdict != "fail":
        words = tuple(f"labels ({check.column}): {check.observed}" for check in labels.checks if check.name == WORDS)
        return replace(report, reasons=(*report.reasons, *labels.reasons, *words))
    return replace(report, verdict="fail", reasons=(*labels.reasons, *report.reasons))


# one retry: the registry or the lake may be out of reach for a moment; a verdict is never retried
@task(
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=10,
    retry_condition_fn=may_pass,
    timeout_seconds=3600,
)
def validate_challenger(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, holdout: Snapshot
) -> ValidationReport:
    """Compare both on the holdout's labelled rows and decide. The first model has `champion=None`."""
    from tasks.adapters.evaluation import challenger as trial
    from tasks.adapters.lake import tables as lake
    from tasks.adapters.registry import versions as registry

    rows = lake.read_labelled(holdout)
    report = decide_validation(config.validation, trial.compare(config, challenger, champion, holdout.window, rows))
    report = _with_labels(report, _judge_labels(config, challenger, holdout, rows))
    registry.tag(challenger.model, challenger.version, validation=report.verdict)
    get_run_logger().info("validation: version %s: %s; %s", challenger.version, report.verdict, report.reasons[0])
    return report
