"""Check a window's data quality. A failed window is quarantined: no stage measures, trains on or decides from it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prefect import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, gates, lake, profiling, registry
from tasks.adapters.orchestration.stage import stage
from tasks.adapters.storage.workspace import workspace
from tasks.policy.data_quality.acceptance import decimals_of
from tasks.policy.data_quality.expectations import window_parameters
from tasks.policy.data_quality.logged_predictions import LogCounts, LogLimits, check_log
from tasks.policy.data_quality.quality import Finding, check_columns, worst_first
from tasks.policy.evidence.monitoring import History
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import QualityCheck, QualityReport, Snapshot, Verdict

if TYPE_CHECKING:  # Great Expectations and pandas are imported only when a window is judged
    from tasks.adapters.gates.expectation_suite import Suite, SuiteExpectation
    from tasks.adapters.gates.great_expectations import WindowRows
    from tasks.adapters.gates.window_rows import Reader

RECENT_WINDOWS = 6
PAGE = "quality.html"
SHORT = 12
"""Digits of a suite's hash on the page; the report has all of them."""


@dataclass(frozen=True)
class QualityReference:
    """Reference profile of a version and the suite learned from it; `suite` is None for versions older than suites.

    `logged` counts the faults in the log of a service of the user's own; None where the predictions are ours.
    """

    reference: ReferenceProfile
    suite: str | None = None
    logged: LogCounts | None = None


# Retried because the registry or the object store may be briefly unavailable.
@stage(
    name="check quality",
    task_run_name="check quality {snapshot.window.name}",
    retries=2,
    timeout_seconds=3600,
)
def check_quality(
    config: ModelConfig, snapshot: Snapshot, profile: WindowProfile, champion: ModelVersion, history: History
) -> QualityReport:
    """Judge a window's rows by the champion's learned suite and the owner's own suite; write the quality page."""
    baseline = QualityReference(
        registry.version_files.reference_profile(champion),
        registry.version_files.expectation_suite(champion),
        _count_logged(config, snapshot) if config.predictions else None,
    )
    read = partial(lake.read_batches, snapshot) if snapshot.rows else lambda _: ()
    report = judge_quality(config, profile, baseline, read, usual_rows(history, profile.window))
    worst = report.reasons[0] if report.reasons else ""
    get_run_logger().info(
        "quality: %s, %s rows, %s failing: %s", report.verdict, report.rows, report.failing_rows, worst
    )
    return report


def _count_logged(config: ModelConfig, snapshot: Snapshot) -> LogCounts | None:
    """Count the faults in the window's log of predictions; None for a window without rows."""
    if not snapshot.rows:
        return None
    return evaluation.prediction_log.count_logged(lake.read_predictions(config, snapshot.window), snapshot.rows)


def usual_rows(history: History, window: Window) -> tuple[int, ...]:
    """Return the row counts of the latest sound windows before this one, from which the expected count is derived."""
    earlier = [past for past in history.evidence if past.window.end <= window.start]
    sound = [past.rows for past in earlier if past.quality is None or past.quality.verdict != "fail"]
    return tuple(sound[-RECENT_WINDOWS:])


def judge_quality(
    config: ModelConfig,
    profile: WindowProfile,
    baseline: QualityReference,
    read: "Reader",
    recent_rows: Sequence[int] = (),
) -> QualityReport:
    """Judge one window and write its page: fail if an expectation of severity fail is broken, warn for the others.

    `failing_rows` is the largest count of any broken expectation. A row may break several, so this is a lower bound.
    Raises WorkspaceError if the page cannot be written.
    """
    learned, own = _suites(config, baseline)
    on_rows, on_labels = own.split(config.columns.label)
    rows = gates.great_expectations.WindowRows(read, profile, config.quality.rows_in_memory)
    findings = _findings(config, rows, baseline.reference, (learned.expectations, on_rows), recent_rows)
    if config.predictions and baseline.logged:
        own_log = config.predictions
        limits = LogLimits(own_log.max_missing_share, own_log.max_duplicate_share, own_log.max_invalid_share)
        findings = (*findings, *check_log(baseline.logged, limits))
    broken = worst_first(findings)
    verdict: Verdict = broken[0].on_failure if broken else "pass"
    holding = f"all {len(findings):,} expectations on {len(profile.features)} features hold"
    path, reference = workspace().report(config.name, profile.window.name, PAGE), baseline.reference
    report = QualityReport(
        window=profile.window,
        verdict=verdict,
        rows=profile.rows,
        checks=_checks(findings, broken),
        failing_rows=max((one.failing_rows for one in broken), default=0),
        reasons=tuple(one.sentence for one in broken) or (holding,),
        report_uri=str(path),
        learned_suite_sha256=learned.sha256,
        own_suite_sha256=own.sha256,
    )
    facts = {
        "rows": f"{profile.rows:,}",
        "reference": f"{reference.window.name}, {reference.rows:,} rows",
        "learned suite": _short(learned),
    }
    if config.quality.suite:
        facts["own suite"] = f"{config.quality.suite}, {_short(own)}"
    if on_labels:
        facts["labels"] = (
            f"{len(on_labels)} of {len(own.expectations)} expectations of the own suite: judged when labels are known"
        )
    try:
        gates.quality_page.write_page(path, f"{config.name} {profile.window.name}: quality", report, findings, facts)
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return report


def _suites(config: ModelConfig, baseline: QualityReference) -> "tuple[Suite, Suite]":
    """Return the suite learned from the reference, and the owner's suite, which is empty without `quality.suite`."""
    text = gates.expectation_suite.current_suite(config, baseline.reference, baseline.suite)
    setting = config.quality.suite
    own = gates.expectation_suite.own_suite(setting) if setting else gates.expectation_suite.Suite()
    return gates.expectation_suite.read_suite(text), own


def _short(suite: "Suite") -> str:
    return f"SHA-256 {str(suite.sha256)[:SHORT]}"


def _findings(
    config: ModelConfig,
    rows: "WindowRows",
    reference: ReferenceProfile,
    suites: "tuple[Sequence[SuiteExpectation], Sequence[SuiteExpectation]]",
    recent_rows: Sequence[int],
) -> tuple[Finding, ...]:
    """Collect the findings of the schema checks, the learned suite and the owner's suite."""
    columns, (learned, own) = config.columns, suites
    roles = gates.expectation_suite.roles_of(
        config, dict.fromkeys((*profiling.leakage.leaks_by_name(config), *reference.leaking))
    )
    shown = gates.sentences.Shown(
        window_parameters(rows.profile.window, reference, config.quality, recent_rows),
        frozenset((*columns.personal, *columns.protected, columns.key)),
        {feature.feature: decimals_of(feature) for feature in reference.features if feature.kind == "numeric"},
    )
    return (
        *check_columns(rows.profile, reference, config.quality, roles),
        *gates.great_expectations.judge_learned(learned, rows, reference, roles, shown),
        *gates.great_expectations.judge_own(own, rows, shown),
    )


def _checks(findings: Sequence[Finding], broken: Sequence[Finding]) -> tuple[QualityCheck, ...]:
    """List every broken expectation by column, and each fulfilled one once with its number of cases."""
    met = Counter(one.check for one in findings if one.met)
    passed = [QualityCheck(name, None, "pass", "as expected", f"in {count} cases") for name, count in met.items()]
    return (*(one.as_check() for one in broken), *passed)
