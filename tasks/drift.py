"""Has the data moved from what the model learned? Every feature measured on all rows, and a page to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.adapters.workspace import WorkspaceError, workspace
from tasks.policy.attribution import Shift, explain_predictions, prediction_shifts
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
    shifts = measure_prediction_shifts(profile, champion)
    report = report_drift(config, profile, reference, registry.feature_importance(champion), shifts)
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
    shifts: Sequence[Shift] = (),
) -> DriftReport:
    """The same, for a reference at hand. RuntimeError where Evidently's gate does not agree with every verdict."""
    from tasks.adapters import evidently_workspace
    from tasks.adapters.drift_reports import draw_report
    from tasks.adapters.shared_scripts import share_scripts

    report = _with_shifts(measure(profile, reference, config.drift, importances), shifts, config)
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


def measure_prediction_shifts(profile: WindowProfile, champion: ModelVersion) -> tuple[Shift, ...]:
    """How far each feature moved the champion's mean prediction since training, on the window's bounded sample.

    Empty without SHAP values: another estimator, no row, or a personal feature, which no sample holds.
    """
    import pyarrow.parquet as pq

    from tasks.adapters import attribution, registry
    from tasks.adapters.encoding import FeatureError

    frozen = registry.attribution(champion)
    if frozen is None or profile.sample_uri is None:
        return ()
    try:
        contributed = attribution.contributions(registry.load_scorer(champion), pq.read_table(profile.sample_uri))
    except FeatureError:  # a column of another type: the quality gate has told
        return ()
    return () if contributed is None else prediction_shifts(frozen, contributed)


def _with_shifts(report: DriftReport, shifts: Sequence[Shift], config: ModelConfig) -> DriftReport:
    """The report with each feature's part in the moved predictions, and the sentence that ranks the drifted ones."""
    moved = {shift.feature: shift.moved for shift in shifts}
    features = tuple(replace(drift, prediction_shift=moved.get(drift.feature)) for drift in report.features)
    drifted = [drift.feature for drift in report.features if drift.verdict == "drifted"]
    unit = (config.columns.label_unit or "in the label's unit") if config.task == "regression" else "in log-odds"
    told = explain_predictions(shifts, drifted, unit)
    reasons = (*report.reasons, told) if told else report.reasons
    return replace(report, features=features, reasons=reasons, explanation=told)
