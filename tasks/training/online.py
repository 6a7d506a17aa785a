"""Update the champion's online corrector with the windows whose labels have closed, and decide which state serves next.

The state is learned anew from the latest closed windows, so what it is depends on nothing but rows and labels: an update that
was killed is made again bit for bit, and a window whose labels turn out to be wrong is forgotten with the next one. Windows in
quarantine, with labels in doubt or with a fault of the data never teach.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, ledger, online, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.comparison.differences import DRAWS
from tasks.policy.evidence.ledger import Fact, windows_to_exclude
from tasks.policy.evidence.monitoring import Judgement, MonitorRun
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.records.errors import OnlineStateError
from tasks.policy.records.events import RunMode
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling, thin
from tasks.policy.training.online import (
    ROLLED_BACK,
    UPDATED,
    OnlineComparison,
    OnlinePolicy,
    OnlineState,
    OnlineUpdate,
    describe_fallback,
    describe_gain,
    good_states,
    serving_state,
    updates_of,
    why_not_serving,
)

if TYPE_CHECKING:  # XGBoost is loaded only where a corrector learns
    from tasks.adapters.models.files import Scorer
    from tasks.adapters.online.leaves import ScoredWindow
    from tasks.adapters.online.prequential import Judge

FROZEN = "Online corrector: the frozen champion serves"


# two retries: the lake or the ledger may be briefly unavailable; an update is recorded once for each window
@stage(retries=2, timeout_seconds=1800)
def learn_online(config: ModelConfig, run: MonitorRun, judgement: Judgement) -> Judgement:
    """Return the judgement with what the corrector says; without `training.online` it is unchanged.

    A dry run records nothing, and a back-fill does not learn: the champion of today did not serve its windows.
    """
    if config.training.online is None or run.mode is RunMode.BACKFILL:
        return judgement
    sentence = _sentence(config, config.training.online, run, judgement)
    get_run_logger().info("online: %s", sentence)
    return replace(judgement, online=sentence)


def _sentence(config: ModelConfig, policy: OnlinePolicy, run: MonitorRun, judgement: Judgement) -> str:
    updates = updates_of(run.past.entries, run.champion.version)
    closed = _closed_windows(run, judgement)
    lag = _lag(config, run, closed[-1]) if closed else 0
    windows = _without_faults(run, judgement, closed, policy.needed_windows + lag)
    if updates and updates[-1].window >= run.window:
        return updates[-1].sentence
    if not windows:
        return _withdrawn(config, run, updates, "no window since its training has closed with sound labels")
    if updates and updates[-1].newest.learned == windows[-policy.windows :]:
        silent = config.grid.number_at(run.window.start) - config.grid.number_at(updates[-1].window.start)
        if silent <= policy.windows:
            return updates[-1].sentence
        return _withdrawn(config, run, updates, f"no window has closed for {silent} windows, so nothing judges a state")
    scorer = registry.version_files.load_scorer(run.champion, config.training.imported)
    if refusal := online.booster.why_not(scorer):
        return f"{FROZEN}; {refusal}"
    material = _Material(scorer, windows, _scored(config, policy, run, windows, scorer), lag)
    if not any(map(len, material.scored)):
        return _withdrawn(config, run, updates, "no row of the windows since its training has a label")
    update = _update(config, policy, run, material, updates)
    return update.sentence if run.mode is RunMode.DRY_RUN else _record(config, run, update)


def _withdrawn(config: ModelConfig, run: MonitorRun, updates: Sequence[OnlineUpdate], reason: str) -> str:
    """Let the frozen champion serve, and record it where a state has served until now."""
    sentence = f"{FROZEN}; {reason}"
    if serving_state(updates) is not None and run.mode is not RunMode.DRY_RUN:
        _record(config, run, replace(updates[-1], window=run.window, serving=None, sentence=sentence, gain=None))
    return sentence


def _closed_windows(run: MonitorRun, judgement: Judgement) -> tuple[Window, ...]:
    """Return the windows with all labels, sound ones, after the rows that the champion was trained on."""
    own = (judgement.evidence.performance,) if judgement.evidence.performance else ()
    reports = (*run.history.revised(judgement.revised).performances, *own)
    excluded = windows_to_exclude(run.past.entries, run.as_of)
    found = {
        report.window
        for report in reports
        if report.maturity == "closed" and report.has_sound_labels and report.window.name not in excluded
    }
    return tuple(sorted(window for window in found if window.start >= run.champion.trained.end))


def _without_faults(run: MonitorRun, judgement: Judgement, closed: Sequence[Window], most: int) -> tuple[Window, ...]:
    """Return the latest of these windows, without those whose change was diagnosed as a fault of the data."""
    candidates = closed[-2 * most :]  # more than half of them at fault leaves fewer to learn from
    since = candidates[0].start if candidates else run.as_of
    entries = (entry for entry in run.past.of("window.judged") if entry.at >= since)
    judged = (*(from_json(Judgement, entry.body) for entry in entries), judgement)
    latest = {one.decision.window: one.decision.diagnosis for one in judged}
    return tuple(window for window in candidates if latest.get(window) != "upstream_data_fault")[-most:]


@dataclass(frozen=True)
class _Material:
    """What the corrector learns from. The labels of the `lag` windows before one are not known when it is scored."""

    scorer: "Scorer"
    windows: tuple[Window, ...]
    scored: "list[ScoredWindow]"
    lag: int


def _scored(
    config: ModelConfig, policy: OnlinePolicy, run: MonitorRun, windows: Sequence[Window], scorer: "Scorer"
) -> "list[ScoredWindow]":
    """Return the labelled rows of each window as the frozen champion sees them."""
    booster, label = scorer.estimator.get_booster(), config.columns.label
    most, found = max(1, policy.max_rows // len(windows)), []
    for window in windows:
        rows = lake.labelled_rows(config, window, run.as_of, [*scorer.encoding.names, label])
        rows = rows.filter(pa.array(np.isfinite(scorer.labels(rows.column(label)))))
        if len(rows) > most:
            rows = rows.take(thin(len(rows), -(-len(rows) // most), config.training.seed))
        matrix = scorer.encoding.encode(rows)
        found.append(online.booster.score_window(booster, matrix, scorer.labels(rows.column(label))))
    return found


def _lag(config: ModelConfig, run: MonitorRun, latest: Window) -> int:
    """Return how many windows lie between the latest closed window and the one that was judged, itself included."""
    return max(0, config.grid.number_at(run.window.start) - config.grid.number_at(latest.start))


def _update(
    config: ModelConfig,
    policy: OnlinePolicy,
    run: MonitorRun,
    material: _Material,
    updates: Sequence[OnlineUpdate],
) -> OnlineUpdate:
    """Learn the newest state, judge it, and choose what serves."""
    judge = _judge(config)
    nodes = online.booster.node_count(material.scorer.estimator.get_booster())
    lessons = online.prequential.learn_in_order(material.scored, policy, nodes, judge.is_regression, material.lag)
    found = judge.compare(material.scored, [lesson.applied for lesson in lessons.before], policy.judged_windows)
    champion, number = run.champion, updates[-1].newest.number + 1 if updates else 1
    stored = online.store.state_of(champion, number, material.windows[-policy.windows :], lessons.after)
    newest = online.store.recorded(stored) if run.mode is RunMode.DRY_RUN else online.store.write_state(stored)
    refusal = why_not_serving(found, _margin(config, policy, found), policy.min_windows)
    if refusal is None:
        sentence = describe_gain(newest, found)
        return OnlineUpdate(champion.version, run.window, newest, newest, sentence, found.pooled)
    good = _last_good(config, policy, run, material, updates)
    sentence = describe_fallback(newest, refusal, good)
    return OnlineUpdate(champion.version, run.window, newest, good, sentence, found.pooled)


def _last_good(
    config: ModelConfig,
    policy: OnlinePolicy,
    run: MonitorRun,
    material: _Material,
    updates: Sequence[OnlineUpdate],
) -> OnlineState | None:
    """Return the latest state that has served and is still not inferior on the windows that it has not learned from."""
    judge = _judge(config)
    for state in good_states(updates, policy.judged_windows):
        try:
            changes = online.store.read_state(
                online.store.folder(config.name), config.name, run.champion.version, state
            ).array
        except OnlineStateError as error:
            get_run_logger().warning("online: %s", error)
            continue
        pairs = zip(material.windows, material.scored, strict=True)
        unseen = [scored for window, scored in pairs if window > state.learned[-1]]
        found = judge.compare(unseen, [changes] * len(unseen), policy.judged_windows)
        if why_not_serving(found, _margin(config, policy, found), min_windows=1) is None:
            return state
    return None


def _judge(config: ModelConfig) -> "Judge":
    """Compare by the primary metric; by log loss or the mean absolute error where that is one of the user's own."""
    is_regression = config.task == "regression"
    metric = config.primary_metric
    if metric.rule is not None:
        metric = Metric("mae" if is_regression else "log_loss")
    resampling = Resampling(config.validation.confidence, DRAWS, config.training.seed)
    return online.prequential.Judge(metric, is_regression, resampling)


def _margin(config: ModelConfig, policy: OnlinePolicy, found: OnlineComparison) -> float:
    if policy.margin is not None or found.pooled is None:
        return policy.margin or 0.0
    return config.validation.margin(found.pooled.name, found.pooled.champion)


def _record(config: ModelConfig, run: MonitorRun, update: OnlineUpdate) -> str:
    """Record the update, once for each window, and return the sentence of the recorded one."""
    before = serving_state(updates_of(run.past.entries, run.champion.version))
    kind = UPDATED if before is None or update.serving == update.newest else ROLLED_BACK
    decision_id = digest(config.name, "online", update.version, update.window.name)
    entry = ledger.append(config.name, Fact(kind, update, run.as_of, decision_id))
    return from_json(OnlineUpdate, entry.body).sentence
