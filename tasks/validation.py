"""Whether the challenger is no worse than the champion, on rows that neither has seen; `tasks.policy.promotion` judges.

The challenger is loaded from the registry and answers the rows before it may pass: a good metric of a model that
cannot be served is worth nothing. What cannot be measured becomes a reason to fail, not an exception.
"""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from deployments.model_config import ModelConfig
from tasks.adapters.outages import may_pass
from tasks.policy.evidence import ModelVersion, ValidationReport
from tasks.policy.promotion import decide_validation
from tasks.policy.reports import Snapshot


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
    from tasks.adapters import lake, registry, trial

    rows = lake.read_labelled(holdout)
    report = decide_validation(config.validation, trial.compare(config, challenger, champion, holdout.window, rows))
    registry.tag(challenger.model, challenger.version, validation=report.verdict)
    get_run_logger().info("validation: version %s: %s; %s", challenger.version, report.verdict, report.reasons[0])
    return report
