"""Is this window sound? A failed one is quarantined: nothing measures, trains on or decides from it."""

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from deployments.config.model import ModelConfig
from tasks.adapters import gates, profiling, registry
from tasks.adapters.storage.workspace import workspace
from tasks.policy.data_quality.quality import Measurement, Roles, explain, measure_quality
from tasks.policy.records.base import Window
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.evidence import History, ModelVersion
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import QualityCheck, QualityReport, Verdict

RECENT_WINDOWS = 6
PAGE = "quality.html"


@task(
    name="check quality",
    task_run_name="check quality {profile.window.name}",
    cache_policy=NO_CACHE,
    timeout_seconds=300,
)
def check_quality(
    config: ModelConfig, profile: WindowProfile, champion: ModelVersion, history: History
) -> QualityReport:
    """Judge a window against its reference and the windows before it, and write the page that says why."""
    reference = registry.version_files.reference_profile(champion)
    report = judge_quality(config, profile, reference, usual_rows(history, profile.window))
    worst = report.reasons[0] if report.reasons else ""
    get_run_logger().info(
        "quality: %s, %s rows, %s failing: %s", report.verdict, report.rows, report.failing_rows, worst
    )
    return report


def usual_rows(history: History, window: Window) -> tuple[int, ...]:
    """Rows of the latest sound windows before this one, which tell how many to expect."""
    earlier = [past for past in history.evidence if past.window.end <= window.start]
    sound = [past.rows for past in earlier if past.quality is None or past.quality.verdict != "fail"]
    return tuple(sound[-RECENT_WINDOWS:])


def judge_quality(
    config: ModelConfig, profile: WindowProfile, reference: ReferenceProfile, recent_rows: Sequence[int] = ()
) -> QualityReport:
    """The verdict on one window: fail where any requirement that must hold is broken, warn for the others.

    `failing_rows` is the largest count of any broken requirement: a row may break several, so it is at least that many.
    """
    leaks = dict.fromkeys((*profiling.leakage.leaks_by_name(config), *reference.leaking))
    roles = Roles(config.columns.key, config.columns.time, tuple(leaks))
    measurements = measure_quality(profile, reference, config.quality, recent_rows, roles)
    judgement = gates.great_expectations.judge(measurements, f"{config.name} {profile.window.name}")
    broken = sorted(judgement.broken, key=lambda one: (one.on_failure != "fail", -one.failing_rows))
    verdict: Verdict = "pass" if not broken else "fail" if broken[0].on_failure == "fail" else "warn"
    reasons = tuple(explain(one) for one in broken) or (
        f"all {len(measurements):,} measurements of {len(profile.features)} features keep to their limits",
    )
    facts = {"rows": f"{profile.rows:,}", "reference": f"{reference.window.name}, {reference.rows:,} rows"}
    path = workspace().report(config.name, profile.window.name, PAGE)
    try:
        uri = gates.great_expectations.write_page(
            path, judgement, f"{config.name} {profile.window.name}: quality", verdict, reasons, facts
        )
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return QualityReport(
        window=profile.window,
        verdict=verdict,
        rows=profile.rows,
        checks=_checks(measurements, broken),
        failing_rows=max((one.failing_rows for one in broken), default=0),
        reasons=reasons,
        report_uri=uri,
    )


def _checks(measurements: Sequence[Measurement], broken: Sequence[Measurement]) -> tuple[QualityCheck, ...]:
    """Every broken requirement by column; the others once each, however many columns keep to them."""
    failed = [one.as_check(one.on_failure) for one in broken]
    kept: dict[str, int] = {}
    for one in measurements:
        if one.excess <= 0:
            kept[one.check] = kept.get(one.check, 0) + 1
    passed = [
        QualityCheck(name, None, "pass", "within the limit", f"in {count} measurements") for name, count in kept.items()
    ]
    return (*failed, *passed)
