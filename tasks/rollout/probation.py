"""Check during probation whether a new champion is worse than the version it replaced.

The previous champion scores the same rows only if the realised metric falls short of validation; otherwise the check
costs nothing. `tasks.policy.rollout.probation` decides.
"""

from collections.abc import Sequence

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.ledger import Past, windows_to_exclude
from tasks.policy.evidence.monitoring import MonitorRun
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, from_json
from tasks.policy.records.errors import VersionGone
from tasks.policy.records.reports import MetricValue, PerformanceReport
from tasks.policy.rollout.probation import (
    Degradation,
    confidence_per_look,
    decide_degradation,
    is_below_forecast,
    probation,
)


# one retry: the registry or the lake may be briefly unavailable; the stage writes nothing
@stage(retries=1, timeout_seconds=1800)
def watch_fresh_champion(
    config: ModelConfig, run: MonitorRun, reports: Sequence[PerformanceReport]
) -> Degradation | None:
    """Return why the champion must be rolled back; None if it stays or is no longer on probation."""
    champion, as_of = run.champion, run.as_of
    served = probation(
        config.promotion, run.history.champion_since, as_of, config.window_days, config.columns.label_delay
    )
    realised, forecast = _realised(champion, reports), _forecast(run.past, champion)
    if served is None or realised is None or forecast is None:
        return None
    if not is_below_forecast(realised, forecast, config.validation.margin(realised.name, forecast)):
        return None
    found = _compare(config, run, served, realised, forecast)
    if found:
        get_run_logger().warning("probation: %s", found.reasons[0])
    else:
        get_run_logger().info(
            "probation: %s %.4g is below the forecast %.4g, but version %s is not worse than the one before",
            realised.name, realised.value, forecast, champion.version,
        )  # fmt: skip
    return found


def _compare(
    config: ModelConfig, run: MonitorRun, served: Window, realised: MetricValue, forecast: float
) -> Degradation | None:
    number = registry.aliases(config.name).get(registry.PREVIOUS)
    if number is None:
        return None
    try:
        before = registry.version(config.name, number)
    except VersionGone as error:
        get_run_logger().warning("probation: there is no version to roll back to: %s", error)
        return None
    excluding = windows_to_exclude(run.past.entries, run.as_of)
    rows = lake.labelled_rows(config, served, run.as_of, excluding=excluding)
    level = {"confidence": confidence_per_look(config.promotion), "slices": ()}
    validation = config.validation.model_copy(update=level)
    columns = config.columns.model_copy(update={"protected": ()})  # compared on all rows, without slices
    watched = config.model_copy(update={"validation": validation, "columns": columns})
    compared = evaluation.challenger.compare(watched, run.champion, before, served, rows)
    return decide_degradation(config.validation, compared, realised, forecast, run.as_of)


def _realised(champion: ModelVersion, reports: Sequence[PerformanceReport]) -> MetricValue | None:
    """Return this version's latest realised value of the primary metric, from windows with sound labels."""
    own = [report for report in reports if report.model_version == champion.version and report.metric(report.primary)]
    own = [report for report in own if report.has_sound_labels]
    latest = max(own, key=lambda report: report.window, default=None)
    return latest.metric(latest.primary) if latest else None


def _forecast(past: Past, champion: ModelVersion) -> float | None:
    """Return the value of the primary metric that validation measured for this version."""
    for entry in reversed(past.of("challenger.validated")):
        report = from_json(ValidationReport, entry.body)
        if report.challenger == champion.version:  # the latest: a version that returned was validated again
            return next((item.challenger for item in report.differences if item.slice_name is None), None)
    return None
