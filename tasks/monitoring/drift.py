"""Has the data moved from what the model learned? Every feature measured on all rows, and a page to look at."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from deployments.config.model import ModelConfig
from tasks.adapters import dashboards, gates, models, profiling, registry, storage
from tasks.adapters.storage.workspace import workspace
from tasks.policy.monitoring.attribution import Shift, explain_predictions, prediction_shifts
from tasks.policy.monitoring.drift import measure
from tasks.policy.monitoring.drift_reasons import describe
from tasks.policy.monitoring.joint_drift import describe_joint
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.errors import FeatureError, WorkspaceError
from tasks.policy.records.evidence import ModelVersion
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import DriftReport
from tasks.policy.reference.calendar_match import Matched, match_calendar
from tasks.policy.statistics.power import rows_needed

PAGE = "drift.html"


@task(
    name="measure drift",
    task_run_name="measure drift {profile.window.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=600,
)
def measure_drift(config: ModelConfig, profile: WindowProfile, champion: ModelVersion) -> DriftReport:
    """Measure a window against the champion's frozen reference, features weighted by their importance to it."""
    reference = registry.version_files.reference_profile(champion)
    shifts = partial(measure_prediction_shifts, profile, champion)
    importance, coded = registry.version_files.feature_importance(champion), registry.version_files.coded_rows(champion)
    report = report_drift(config, profile, reference, importance, shifts, coded)
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
    measure_shifts: Callable[[], Sequence[Shift]] = tuple,
    coded: CodedRows | None = None,
) -> DriftReport:
    """The same, for a reference at hand. RuntimeError where Evidently's gate does not agree with every verdict.

    With `coded` training rows the reference is matched to the window's phase of the calendar, and features are looked at
    together. Shifts of predictions are measured only where a feature drifted, as they cost more than the rest.
    """
    sample = None if coded is None else _read_sample(config, profile, reference, importances or {})
    matched = _match(config, profile, reference, coded, sample)
    reference = matched.reference if matched else reference
    report = measure(profile, reference, config.drift, importances)
    if any(feature.verdict == "drifted" for feature in report.features):
        report = _with_shifts(report, measure_shifts(), config)
    report = _with_rows(config, report, coded, sample, matched, reference.stable_auc)
    title = f"{config.name} {profile.window.name}: {report.verdict}"
    drawn = gates.evidently.draw_report(report, reference, profile.sample_uri, config.drift.plots, title)
    drifted = {feature.feature for feature in report.features if feature.verdict == "drifted"}
    if drawn.failed != drifted:
        raise RuntimeError(
            f"{title}: Evidently fails {sorted(drawn.failed)}, measured as drifted were {sorted(drifted)}"
        )
    path = workspace().report(config.name, profile.window.name, PAGE)
    try:
        storage.atomic_files.write_whole(
            path, dashboards.shared_scripts.share_scripts(drawn.html, path, workspace().reports)
        )
        dashboards.evidently_workspace.keep(drawn.snapshot, config.name, profile.window.name, profile.window.end)
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return replace(report, report_uri=str(path))


def measure_prediction_shifts(profile: WindowProfile, champion: ModelVersion) -> tuple[Shift, ...]:
    """How far each feature moved the champion's mean prediction since training, on the window's bounded sample.

    Empty without SHAP values: another estimator, no row, or a personal feature, which no sample holds.
    """
    frozen = registry.version_files.attribution(champion)
    if frozen is None or profile.sample_uri is None:
        return ()
    try:
        contributed = models.shap.contributions(
            registry.version_files.load_scorer(champion), pq.read_table(profile.sample_uri)
        )
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


def _read_sample(
    config: ModelConfig, profile: WindowProfile, reference: ReferenceProfile, importances: Mapping[str, float]
) -> CodedRows | None:
    """The window's sample as codes: its hours, and the features that weigh most as far as they are looked at together."""
    if profile.sample_uri is None:
        return None
    held = set(pq.read_schema(profile.sample_uri).names)
    ordered = sorted(reference.features, key=lambda frozen: -importances.get(frozen.feature, 0.0))
    features = tuple(frozen for frozen in ordered if frozen.feature in held)[
        : profiling.domain_classifier.COLUMNS if config.drift.joint else 0
    ]
    columns = [*dict.fromkeys([*(frozen.feature for frozen in features), *({config.columns.time} & held)])]
    table = pq.read_table(profile.sample_uri, columns=columns, use_threads=False)
    return profiling.binned_rows.code_rows(config, replace(reference, features=features), table)


def _match(
    config: ModelConfig,
    profile: WindowProfile,
    reference: ReferenceProfile,
    coded: CodedRows | None,
    sample: CodedRows | None,
) -> Matched | None:
    """The reference at the window's phase, where that leaves rows enough to show the limit; the test is symmetric."""
    if coded is None or sample is None:
        return None
    settings, features = config.drift, max(1, len(reference.features))
    needed = rows_needed(settings.threshold, settings.method, profile.rows, settings.alpha / features, settings.power)
    enough = max(settings.min_rows, needed or 0)
    return match_calendar(reference, coded, profile.window, sample.hours, settings.calendar, enough)


def _with_rows(
    config: ModelConfig,
    report: DriftReport,
    coded: CodedRows | None,
    sample: CodedRows | None,
    matched: Matched | None,
    stable_auc: float | None,
) -> DriftReport:
    """The report with what single rows tell: which part of the reference was compared, and how features moved together."""
    told = [matched.told] if matched else []
    if coded is None or sample is None or not config.drift.joint:
        return replace(report, reasons=(*report.reasons, *told))
    weights, limit = matched.weights if matched else None, max(config.drift.joint_threshold, stable_auc or 0.0)
    joint = profiling.domain_classifier.tell_apart(
        coded, sample, tuple(sample.codes), limit, config.drift.min_rows, weights
    )
    told.append(describe_joint(joint, any(feature.verdict == "drifted" for feature in report.features)))
    return replace(report, joint=joint, reasons=(*report.reasons, *told))
