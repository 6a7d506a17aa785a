"""Measure drift from the model's reference: every feature on all rows, and a bounded sample with Evidently.

The verdict of record is the one on all rows. Evidently's findings and the user's own tests are reported with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from prefect import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import dashboards, gates, models, profiling, registry
from tasks.adapters.orchestration.stage import stage
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring.attribution import Shift, explain_predictions, prediction_shifts
from tasks.policy.monitoring.drift import describe, measure
from tasks.policy.monitoring.joint_drift import describe_joint
from tasks.policy.monitoring.second_opinion import with_own_tests, with_second_opinion
from tasks.policy.records.base import digest
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.errors import FeatureError, WorkspaceError
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import DriftReport, SecondOpinion
from tasks.policy.reference.calendar_match import Matched, match_calendar

if TYPE_CHECKING:  # loaded only when a window is measured
    from tasks.adapters.gates.evidently_columns import Samples
    from tasks.adapters.profiling.reference_sample import ReferenceSample

PAGE = "drift.html"
NO_SAMPLE = "this version was registered before a sample of its training rows was stored; the next retrain stores one"
NO_ROW = "no row of the window was sampled"


@dataclass(frozen=True)
class DriftReference:
    """Reference data stored with a version: its profile, its feature importances, and training rows."""

    profile: ReferenceProfile
    importances: Mapping[str, float] = field(default_factory=dict)
    coded: CodedRows | None = None
    """Training rows, encoded as bins of the profile."""
    sample: "ReferenceSample | None" = None
    """A sample of these rows with their values."""


@stage(
    name="measure drift",
    task_run_name="measure drift {profile.window.name}",
    timeout_seconds=600,
)
def measure_drift(config: ModelConfig, profile: WindowProfile, champion: ModelVersion) -> DriftReport:
    """Measure a window against the champion's frozen reference; features are weighted by the champion's importances."""
    baseline = DriftReference(
        registry.version_files.reference_profile(champion),
        registry.version_files.feature_importance(champion),
        registry.version_files.coded_rows(champion),
        registry.version_files.reference_sample(champion),
    )
    report = report_drift(config, profile, baseline, partial(measure_prediction_shifts, profile, champion))
    drifted = sum(feature.verdict == "drifted" for feature in report.features)
    worst = describe(report.features[0]) if report.features else "no feature"
    get_run_logger().info(
        "drift: %s, %s of %s features past their limit (worst: %s)",
        report.verdict,
        drifted,
        len(report.features),
        worst,
    )
    for warning in (*report.unknown_tests, *report.warnings):
        get_run_logger().warning("drift: %s", warning)
    return report


def report_drift(
    config: ModelConfig,
    profile: WindowProfile,
    baseline: DriftReference,
    measure_shifts: Callable[[], Sequence[Shift]] = tuple,
) -> DriftReport:
    """Measure a window against a given reference, write the drift page, and return the report.

    Coded training rows allow two more steps: the reference is matched to the window's phase of the calendar, and joint
    drift is tested. Prediction shifts are measured only if a feature drifted, because they cost more than the rest.
    """
    sample = None if baseline.coded is None else _read_sample(config, profile, baseline)
    matched = None if sample is None else _match(config, profile, baseline, sample)
    reference = replace(baseline, profile=matched.reference) if matched else baseline
    report = measure(profile, reference.profile, config.drift, reference.importances)
    if any(feature.verdict == "drifted" for feature in report.features):
        report = _with_shifts(report, measure_shifts(), config)
    report = _with_joint(config, report, reference, sample, matched)
    samples = _draw_samples(config, profile, reference, matched)
    return _with_evidently(config, report, samples, NO_SAMPLE if reference.sample is None else NO_ROW)


def _draw_samples(
    config: ModelConfig, profile: WindowProfile, baseline: DriftReference, matched: Matched | None
) -> "Samples | None":
    """Draw current and reference rows for Evidently, matched to the window's phase; None if either has no rows."""
    if baseline.sample is None or profile.sample_uri is None:
        return None
    seed = int(digest(config.name, profile.window.name, length=8), 16)
    drawn = baseline.sample.draw(config.drift.sample_rows, seed, matched.weights if matched else None)
    frozen = {feature.feature: feature for feature in baseline.profile.features}
    held = set(pq.read_schema(profile.sample_uri).names)
    names = [name for name in drawn.rows.column_names if name in held]
    current = pq.read_table(profile.sample_uri, columns=names, use_threads=False)
    return gates.evidently_columns.Samples(current, drawn.rows, drawn.days, frozen)


def _with_evidently(config: ModelConfig, report: DriftReport, samples: "Samples | None", why_none: str) -> DriftReport:
    """Add Evidently's opinion and the user's own tests to the report; write its page and snapshots.

    `why_none` is the reason shown where `samples` is None. Raises WorkspaceError if the page cannot be written.
    """
    measured = gates.evidently.measure_samples(report, samples, config.drift) if samples else None
    opinion = measured.opinion if measured else SecondOpinion("insufficient", 0, 0, unavailable=why_none)
    report = with_second_opinion(report, opinion, config.drift.max_share)
    items, moment = config.drift.evidently, report.window.end
    own = gates.evidently_metrics.without_samples(items, why_none)
    if samples and items:
        own = gates.evidently_metrics.compute_items(items, samples, moment)
    report = with_own_tests(report, own.tests, own.uncomputed)
    snapshots = {"": gates.evidently.draw_report(report, measured, config.drift.plots), **own.snapshots}
    name, window = config.name, report.window.name
    path = workspace().report(name, window, PAGE)
    try:
        gates.evidently_page.write_page(
            path, workspace().reports, f"{name} {window}: {report.verdict}", report, snapshots
        )
        for item, snapshot in snapshots.items():
            dashboards.evidently_workspace.store_snapshot(snapshot, name, f"{window} {item}".strip(), moment)
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return replace(report, report_uri=str(path))


def measure_prediction_shifts(profile: WindowProfile, champion: ModelVersion) -> tuple[Shift, ...]:
    """Measure how far each feature moved the champion's mean prediction since training, on the window's bounded sample.

    Empty without SHAP values: an estimator without them, no row, or a personal feature, which no sample contains.
    """
    frozen = registry.version_files.attribution(champion)
    if frozen is None or profile.sample_uri is None:
        return ()
    try:
        contributed = models.shap.contributions(
            registry.version_files.load_scorer(champion), pq.read_table(profile.sample_uri)
        )
    except FeatureError:  # a column of another type: the quality gate has reported it
        return ()
    return () if contributed is None else prediction_shifts(frozen, contributed)


def _with_shifts(report: DriftReport, shifts: Sequence[Shift], config: ModelConfig) -> DriftReport:
    """Add each feature's part of the prediction shift to the report, and a sentence that ranks the drifted features."""
    moved = {shift.feature: shift.moved for shift in shifts}
    features = tuple(replace(drift, prediction_shift=moved.get(drift.feature)) for drift in report.features)
    drifted = [drift.feature for drift in report.features if drift.verdict == "drifted"]
    unit = (config.columns.label_unit or "in the label's unit") if config.task == "regression" else "in log-odds"
    explanation = explain_predictions(shifts, drifted, unit)
    reasons = (*report.reasons, explanation) if explanation else report.reasons
    return replace(report, features=features, reasons=reasons, explanation=explanation)


def _read_sample(config: ModelConfig, profile: WindowProfile, baseline: DriftReference) -> CodedRows | None:
    """Read the window's sample as bin codes: its hours, and the most important features if joint drift is tested."""
    if profile.sample_uri is None:
        return None
    held, reference = set(pq.read_schema(profile.sample_uri).names), baseline.profile
    ordered = sorted(reference.features, key=lambda frozen: -baseline.importances.get(frozen.feature, 0.0))
    features = tuple(frozen for frozen in ordered if frozen.feature in held)[
        : profiling.domain_classifier.COLUMNS if config.drift.joint else 0
    ]
    columns = [*dict.fromkeys([*(frozen.feature for frozen in features), *({config.columns.time} & held)])]
    table = pq.read_table(profile.sample_uri, columns=columns, use_threads=False)
    return profiling.binned_rows.code_rows(config, replace(reference, features=features), table)


def _match(config: ModelConfig, profile: WindowProfile, baseline: DriftReference, sample: CodedRows) -> Matched | None:
    """Match the reference to the window's phase of the calendar; None without coded training rows or without a match."""
    if baseline.coded is None:
        return None
    return match_calendar(baseline.profile, baseline.coded, profile, sample.hours, config.drift)


def _with_joint(
    config: ModelConfig,
    report: DriftReport,
    reference: DriftReference,
    sample: CodedRows | None,
    matched: Matched | None,
) -> DriftReport:
    """Add row-level findings to the report: the part of the reference that was compared, and joint drift."""
    reasons = (*report.reasons, matched.description) if matched else report.reasons
    if reference.coded is None or sample is None or not config.drift.joint:
        return replace(report, reasons=reasons)
    weights = matched.weights if matched else None
    limit = max(config.drift.joint_threshold, reference.profile.stable_auc or 0.0)
    joint = profiling.domain_classifier.measure_joint_drift(
        reference.coded, sample, limit, config.drift.min_rows, weights
    )
    sentence = describe_joint(joint, any(feature.verdict == "drifted" for feature in report.features))
    return replace(report, joint=joint, reasons=(*reasons, sentence))
