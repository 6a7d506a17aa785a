"""Has the data moved from what the model learned? Every feature measured on all rows, and a page to look at."""

from collections.abc import Mapping
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.adapters.workspace import WorkspaceError, workspace
from tasks.policy.drift import describe, measure
from tasks.policy.evidence import DriftReport, ModelVersion
from tasks.policy.profile import ReferenceProfile, WindowProfile

PAGE = "drift.html"


@task(
    name="measure drift",
    task_run_name="measure drift {profile.window.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=600,
)
def measure_drift(config: ModelConfig, profile: WindowProfile, champion: ModelVersion) -> DriftReport:
    """Measure a window against the champion's frozen reference, features weighted by their importance to it."""
    from tasks.adapters import registry

    reference = registry.reference_profile(champion)
    report = report_drift(config, profile, reference, registry.feature_importance(champion))
    drifted = sum(feature.verdict == "drifted" for feature in report.features)
    worst = describe(report.features[0]) if report.features else "no feature"
    get_run_logger().info(
        "drift: %s, %s of %s features past their limit (worst: %s)",
        report.verdict,
        drifted,
        len(report.features),
        worst,
    )
    return report


def report_drift(
    config: ModelConfig,
    profile: WindowProfile,
    reference: ReferenceProfile,
    importances: Mapping[str, float] | None = None,
) -> DriftReport:
    """The same, for a reference at hand. RuntimeError where Evidently's gate does not agree with every verdict."""
    from tasks.adapters import evidently_workspace
    from tasks.adapters.drift_reports import draw_report
    from tasks.adapters.shared_scripts import share_scripts

    report = measure(profile, reference, config.drift, importances)
    title = f"{config.name} {profile.window.name}: {report.verdict}"
    drawn = draw_report(report, reference, profile.sample_uri, config.drift.plots, title)
    drifted = {feature.feature for feature in report.features if feature.verdict == "drifted"}
    if drawn.failed != drifted:
        raise RuntimeError(
            f"{title}: Evidently fails {sorted(drawn.failed)}, measured as drifted were {sorted(drifted)}"
        )
    path = workspace().report(config.name, profile.window.name, PAGE)
    try:
        path.write_text(share_scripts(drawn.html, path, workspace().reports), encoding="utf-8")
        evidently_workspace.keep(drawn.snapshot, config.name, profile.window.name, profile.window.end)
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return replace(report, report_uri=str(path))
