"""Compare a version that somebody else's service runs as a shadow or in a trial with its champion, once labels mature.

Rows that both versions predicted are paired. Each closed window is a look, and the verdict keeps its level over all looks,
as in a rollout. Nothing follows from it here: people are told, and the service decides.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pyarrow.compute as pc
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, ledger, orchestration, registry, reports
from tasks.adapters.orchestration.stage import stage
from tasks.policy.comparison.evidence import why_not_paired
from tasks.policy.comparison.plan import ExpectedTraffic
from tasks.policy.comparison.side_by_side import SideBySide, judge_side_by_side
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.records.events import Handover, RunMode
from tasks.policy.records.evidence import Fact, Judgement, MonitorRun, latest_performances, windows_to_exclude
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.rollout.state import Rollout, RolloutStep

COMPARED = "versions.compared"
NO_PAIRS = "no labels of rows that both versions predicted have matured"


# one retry: the lake or the registry may be briefly unavailable; every write is idempotent
@stage(retries=1, timeout_seconds=1800)
def compare_versions(config: ModelConfig, run: MonitorRun, judgement: Judgement) -> tuple[SideBySide, ...]:
    """Look at every version that the log of the window has beside the champion; record the looks and tell people verdicts.

    Empty in a dry run or a back-fill, and without another version.
    """
    if run.mode in (RunMode.DRY_RUN, RunMode.BACKFILL):
        return ()
    _compare_performance(config, run, judgement)
    log = evaluation.prediction_log.with_role(lake.read_predictions(config, run.window), "challenger", "shadow")
    if not len(log):
        return ()
    beside = [number for number in pc.unique(log["model_version"]).to_pylist() if number != run.champion.version]
    return tuple(_look(config, run, judgement, number) for number in sorted(beside, key=int))


def _compare_performance(config: ModelConfig, run: MonitorRun, judgement: Judgement) -> None:
    """Tell the primary metric of each version that has answered, over its closed windows."""
    metric, measured = config.performance.metric, defaultdict(list)
    for report in _performances(run, judgement):
        value = report.metric(metric)
        if value is not None and report.maturity == "closed" and report.has_sound_labels:
            measured[report.model_version].append(value)
    if len(measured) < 2:
        return
    parts = []
    for number, values in measured.items():
        mean = sum(value.value * value.rows for value in values) / sum(value.rows for value in values)
        name = registry.version(config.name, number).observed_as
        parts.append(f"{mean:.4g} with version {number} ({name}, {len(values)} windows)")
    text = f"{metric} by version: {', '.join(parts)}"
    get_run_logger().info("comparison: %s", text)
    reports.artifacts.publish_comparison(config.name, text, "versions")


def _performances(run: MonitorRun, judgement: Judgement) -> tuple[PerformanceReport, ...]:
    judged = (from_json(Judgement, entry.body) for entry in run.past.of("window.judged"))
    return latest_performances([*judged, judgement])


def _look(config: ModelConfig, run: MonitorRun, judgement: Judgement, number: str) -> SideBySide:
    champion, model = run.champion.version, config.name
    comparison = digest(model, "side by side", champion, number)
    entries = ledger.entries(model, kind=COMPARED)
    earlier = [look for entry in entries if (look := from_json(SideBySide, entry.body)).comparison == comparison]
    look_id = digest(comparison, run.window.name)
    known = next((look for look in earlier if look.window == run.window), None)
    new = SideBySide(comparison, champion, number, run.window, run.as_of)
    look = known or _judge(config, run, judgement, new, earlier)
    ledger.append(model, Fact(COMPARED, look, run.as_of, look_id))
    names = {each: registry.version(model, each).observed_as for each in (champion, number)}
    text = f"version {number} ({names[number]}) beside champion {champion} ({names[champion]}): {look.reason}"
    get_run_logger().info("comparison: %s", text)
    reports.artifacts.publish_comparison(model, text)
    if look.is_decided and not any(before.is_decided for before in earlier):
        handover = Handover(model, look_id, (text,), run.as_of, number)
        orchestration.events.announce(COMPARED, model, handover.payload())
    return look


def _judge(
    config: ModelConfig, run: MonitorRun, judgement: Judgement, look: SideBySide, earlier: Sequence[SideBySide]
) -> SideBySide:
    """Return the look with its evidence and verdict, on all rows since the first look."""
    refusal = why_not_paired(config.rollout.feedback)
    if refusal:
        return replace(look, reason=refusal)
    start = earlier[0].window.start if earlier else run.window.start
    performances = _performances(run, judgement)
    closed = tuple(each.window for each in performances if each.maturity == "closed" and each.has_sound_labels)
    span = evaluation.rollout_labels.LabelledSpan(
        Window(start, run.window.end), run.as_of, closed, windows_to_exclude(run.past.entries, run.as_of)
    )
    steps = (RolloutStep("shadow", 0.0),)
    plan = Rollout(look.comparison, look.challenger, look.champion, steps, config.rollout.unit, "", start)
    pairs = evaluation.rollout_labels.labelled_pairs(config, plan, span)
    if pairs is None:
        return replace(look, reason=NO_PAIRS)
    evidence = pairs.gain(config.primary_metric)
    policy = config.rollout.verdict
    margin = policy.margin or config.validation.margin(config.performance.metric, evidence.champion)
    by_day = policy.cluster == "day"
    traffic = ExpectedTraffic(
        1.0 if by_day else judgement.evidence.rows / run.window.days,
        config.window_days,
        config.columns.label_delay / timedelta(days=1),
    )
    return judge_side_by_side(policy, replace(look, evidence=evidence), earlier, margin, traffic)
