"""Compare versions that somebody else's service runs side by side, or splits its traffic between, once labels mature.

Rows that both versions predicted are paired; of a split, the groups that each version answered are compared within windows,
if its rows are assigned at random. Each closed window is a look, and the verdict keeps its level over all looks, as in a
rollout. Nothing follows from it here: people are told, and the service decides.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
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
from tasks.policy.comparison.split import why_not_unpaired
from tasks.policy.evidence.ledger import Fact, windows_to_exclude
from tasks.policy.evidence.monitoring import Judgement, MonitorRun, latest_performances
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.records.events import Handover, RunMode
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.rollout.state import Rollout, RolloutStep

COMPARED = "versions.compared"
NO_PAIRS = "no labels of rows that both versions predicted have matured"
NO_ARMS = "no labels of rows that each version answered have matured"


# one retry: the lake or the registry may be briefly unavailable; every write is idempotent
@stage(retries=1, timeout_seconds=1800)
def compare_versions(config: ModelConfig, run: MonitorRun, judgement: Judgement) -> tuple[SideBySide, ...]:
    """Look at every version that the log of the window has beside the champion; record the looks and tell people verdicts.

    Empty in a dry run or a back-fill, and without another version. Versions of earlier windows are looked at until the
    labels of their rows have matured.
    """
    if run.mode in (RunMode.DRY_RUN, RunMode.BACKFILL):
        return ()
    _compare_performance(config, run, judgement)
    earlier = defaultdict(list)
    for entry in run.past.of(COMPARED):
        look = from_json(SideBySide, entry.body)
        earlier[look.comparison].append(look)
    looks = {look.comparison: look for look in _new_looks(config, run)}
    for comparison, before in earlier.items():
        if comparison not in looks and _is_maturing(config, run, before):
            looks[comparison] = SideBySide(
                comparison,
                before[-1].champion,
                before[-1].challenger,
                run.window,
                run.as_of,
                split=before[-1].split,
                answered_until=before[-1].answered_until,
            )
    found = [_look(config, run, judgement, look, earlier[comparison]) for comparison, look in looks.items()]
    return tuple(look for look in found if look is not None)


def _new_looks(config: ModelConfig, run: MonitorRun) -> Iterator[SideBySide]:
    """Yield a look, without evidence, at each version that the window's log has beside the champion.

    In a split the older version is compared as the champion: most of the traffic may go to either in turn.
    """
    log, champion, with_role = (
        lake.read_predictions(config, run.window),
        run.champion.version,
        evaluation.prediction_log.with_role,
    )
    for number in sorted(set(pc.unique(log["model_version"]).to_pylist()) - {champion}, key=int):
        trial = with_role(log.filter(pc.equal(log["model_version"], number)), "challenger", "shadow")
        both = pc.sum(pc.is_in(trial["id"], with_role(log, "champion")["id"])).as_py() or 0
        split = not len(with_role(trial, "shadow")) and both <= len(trial) / 2
        old, new = sorted((champion, number), key=int) if split else (champion, number)
        comparison = digest(config.name, "split" if split else "side by side", old, new)
        yield SideBySide(comparison, old, new, run.window, run.as_of, split=split, answered_until=run.window.end)


def _is_maturing(config: ModelConfig, run: MonitorRun, looks: Sequence[SideBySide]) -> bool:
    """Whether labels that decide an undecided comparison may have arrived since its last look."""
    until = looks[-1].answered_until
    if until is None or any(look.is_decided for look in looks):
        return False
    return run.as_of < until + config.columns.all_labels_within + 2 * (run.window.end - run.window.start)


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


def _look(
    config: ModelConfig, run: MonitorRun, judgement: Judgement, look: SideBySide, earlier: Sequence[SideBySide]
) -> SideBySide | None:
    """Judge and record a look, and tell people; None for a version that took over instead of sharing the traffic."""
    model, look_id = config.name, digest(look.comparison, run.window.name)
    known = next((each for each in earlier if each.window == run.window), None)
    judged = known or (_judge_split if look.split else _judge_pairs)(config, run, judgement, look, earlier)
    if judged is None:
        return None
    ledger.append(model, Fact(COMPARED, judged, run.as_of, look_id))
    old, new = (f"{each} ({registry.version(model, each).observed_as})" for each in (look.champion, look.challenger))
    beside = f"version {new} beside champion {old}"
    text = f"{f'traffic split between versions {old} and {new}' if look.split else beside}: {judged.reason}"
    get_run_logger().info("comparison: %s", text)
    reports.artifacts.publish_comparison(model, text)
    if judged.is_news_after(earlier):
        handover = Handover(model, look_id, (text,), run.as_of, look.challenger)
        orchestration.events.announce(COMPARED, model, handover.payload())
    return judged


def _judge_pairs(
    config: ModelConfig, run: MonitorRun, judgement: Judgement, look: SideBySide, earlier: Sequence[SideBySide]
) -> SideBySide:
    """Return the look with its evidence and verdict, on all rows since the first look that both predicted."""
    refusal = why_not_paired(config.rollout.feedback)
    if refusal:
        return replace(look, reason=refusal)
    span = _span(run, judgement, earlier)
    pairs = evaluation.rollout_labels.labelled_pairs(config, _plan(config, look, span.span), span)
    if pairs is None:
        return replace(look, reason=NO_PAIRS)
    return _verdict(config, judgement, replace(look, evidence=pairs.gain(config.primary_metric)), earlier)


def _judge_split(
    config: ModelConfig, run: MonitorRun, judgement: Judgement, look: SideBySide, earlier: Sequence[SideBySide]
) -> SideBySide | None:
    """Return the look with its evidence and verdict, on all rows since the first look in windows that are split."""
    split, span = evaluation.service_split, _span(run, judgement, earlier)
    versions = split.Versions(look.champion, look.challenger)
    found = split.read_split(config, versions, span, registry.version_files.reference_profile(run.champion))
    if found is None:
        why = split.why_not_split(config, versions, run.window)
        get_run_logger().info("comparison: no split between versions %s and %s: %s", *versions, why)
        return None
    metric, mismatch = config.primary_metric, found.why_not_random()
    refusal = why_not_unpaired(metric) or mismatch
    if refusal:
        return replace(look, mismatch=mismatch, reason=refusal)
    arms = evaluation.rollout_labels.split_arms(config, _plan(config, look, span.span), span, found.served)
    if arms is None:
        return replace(look, reason=NO_ARMS)
    return _verdict(config, judgement, replace(look, evidence=arms.gain(metric)), earlier, found.share)


def _span(
    run: MonitorRun, judgement: Judgement, earlier: Sequence[SideBySide]
) -> "evaluation.rollout_labels.LabelledSpan":
    start = earlier[0].window.start if earlier else run.window.start
    performances = _performances(run, judgement)
    closed = tuple(each.window for each in performances if each.maturity == "closed" and each.has_sound_labels)
    excluding = windows_to_exclude(run.past.entries, run.as_of)
    return evaluation.rollout_labels.LabelledSpan(Window(start, run.window.end), run.as_of, closed, excluding)


def _plan(config: ModelConfig, look: SideBySide, span: Window) -> Rollout:
    steps = (RolloutStep("shadow", 0.0),)
    return Rollout(look.comparison, look.challenger, look.champion, steps, config.rollout.unit, "", span.start)


def _verdict(
    config: ModelConfig,
    judgement: Judgement,
    look: SideBySide,
    earlier: Sequence[SideBySide],
    share: float | None = None,
) -> SideBySide:
    """Return the look, which has evidence, with its verdict; `share` is the challenger's of a split."""
    if look.evidence is None:
        return look
    policy = config.rollout.verdict
    margin = policy.margin or config.validation.margin(config.performance.metric, look.evidence.champion)
    traffic = ExpectedTraffic(
        1.0 if policy.cluster == "day" else judgement.evidence.rows / judgement.evidence.window.days,
        config.window_days,
        config.columns.label_delay / timedelta(days=1),
        share,
    )
    return judge_side_by_side(policy, look, earlier, margin, traffic)
