"""Replay recorded history window by window as if live, for a demo or an audit.

For each window, score and monitor. If a retrain is decided, train, validate and start the rollout; once a rollout has
passed, promote. Flows are loaded from the entrypoints that deployments use, with the parameters that an automation would
pass. A window is judged only by what was known then. Each finished window leaves a record, from which an interrupted replay
resumes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from prefect import flow
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from flows.parameters import Model, Moment, run_name
from tasks.adapters.orchestration.runs import run_as
from tasks.policy.evidence.monitoring import Decision
from tasks.policy.evidence.replay import EventKind, Replay, ReplayEvent, ReplayWindow
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.monitoring.performance import decide_maturity
from tasks.policy.records.base import Window
from tasks.policy.records.events import RunMode
from tasks.policy.reporting.rollout_replay import progress, rollout_events
from tasks.record.history import load_degradation
from tasks.replay.baselines import BaselineScores, compare_with_baselines, score_baselines
from tasks.replay.records import (
    first_champion,
    load_window,
    load_windows,
    open_replay,
    record_window,
    report_replay,
    summarise,
)
from tasks.rollout.steps import find_rollout, publish_rollouts


@flow(name="replay", flow_run_name=run_name("replay"))
def replay(model: Model, start: Moment | None = None, end: Moment | None = None) -> Replay:
    """Replay a model's recorded history through the loop, and compare it with never and with always retraining.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        start: Start of the first window to serve (UTC). The end of the model's history, when left empty.
        end: End of the replay (UTC). The end of the recorded data, when left empty.
    """
    config = load_model_config(model)
    windows = config.windows(start, end)
    folder = open_replay(config, windows)
    steps = _Steps(model)
    # only the replay itself sends heartbeats; a subflow's would add a second each
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), ThreadPoolExecutor(1) as background:
        first = first_champion(config) or _train_first(config, steps, windows[0])

        def score_in_background(window: Window) -> Future[Path]:
            return background.submit(score_baselines, config, first, folder, window)

        progress = create_progress_artifact(0.0, f"replay-{config.name}".replace("_", "-"), f"{len(windows)} windows")
        for number, window in enumerate(windows, start=1):
            if load_window(folder, window) is None:
                record_window(folder, _replay_window(config, steps, window, score_in_background))
                update_progress_artifact(progress, 100.0 * number / len(windows), f"{number} of {len(windows)} windows")
    records = load_windows(folder, windows)
    served = tuple((record.window, record.champion) for record in records if record.rows)
    scores = compare_with_baselines(config, served, windows[-1].end, folder)
    known = {window: score for (window, _), score in zip(served, scores, strict=True)}
    outcome = _outcome(config, records, [known.get(record.window, BaselineScores(0, 0)) for record in records])
    publish_rollouts(config)
    page = report_replay(outcome)
    get_run_logger().info("replay: %s; page: %s", outcome.headline, page)
    return outcome


class _Steps:
    """Run the flows of one model and record the wall time of each."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self, name: str, **parameters: Any) -> Any:
        started = perf_counter()
        outcome = run_as(RunMode.REPLAY, name, model=self.model, **parameters)
        self.seconds[name] += perf_counter() - started
        return outcome

    def wait(self, name: str, work: "Future[Any]") -> None:
        """Wait for `work`; raise its exception. Only the wait is counted, because the rest ran beside other steps."""
        started = perf_counter()
        work.result()
        self.seconds[name] += perf_counter() - started


def _train_first(config: ModelConfig, steps: _Steps, window: Window) -> ModelVersion:
    steps.run("retrain", until=window.start, reason="there is no champion yet", requested_by="replay")
    steps.run("promote", until=window.start)
    first = first_champion(config)
    if first is None:
        raise AssertionError(f"{config.name}: the first model was promoted, yet the registry shows no champion")
    return first


def _replay_window(
    config: ModelConfig, steps: _Steps, window: Window, score_in_background: "Callable[[Window], Future[Path]]"
) -> ReplayWindow:
    """Run one window through the loop, including every flow that its decision starts.

    Baselines share no state with the loop, so `score_in_background` starts them in another thread.
    """
    steps.seconds.clear()
    baselines: Future[Path] | None = None
    if steps.run("score", until=config.read_at(window)):  # None if the window has no rows, as on a holiday
        baselines = score_in_background(window)
    before = find_rollout(config)
    judgement = steps.run("monitor", until=config.read_at(window))
    events = _roll_back(config, steps, window, judgement.champion)
    events += _promote_ready(config, steps, window)
    acts = judgement.decision.retrain or judgement.decision.go_back_to
    events += _carry_out(config, steps, window, judgement.decision) if acts else ()
    if baselines:
        steps.wait("baselines", baselines)
    after = find_rollout(config)
    record = summarise(config, judgement, (*events, *rollout_events(before, after)))
    active = after if after and (after.is_active or after != before) else None
    return replace(record, seconds=tuple(steps.seconds.items()), rollout=progress(active))


def _roll_back(config: ModelConfig, steps: _Steps, window: Window, champion: str) -> tuple[ReplayEvent, ...]:
    """Roll back a new champion that has degraded, as the automation does."""
    degraded = load_degradation(config, champion)
    if degraded is None or degraded.at != config.read_at(window):
        return ()
    undone = steps.run(
        "rollback", reason=degraded.reasons[0], requested_by="replay", until=config.read_at(window), champion=champion
    )
    return (ReplayEvent("rolled_back", f"version {undone.champion} serves again: {degraded.reasons[0]}"),)


def _promote_ready(config: ModelConfig, steps: _Steps, window: Window) -> tuple[ReplayEvent, ...]:
    """Promote a challenger whose rollout has passed, as the automation does."""
    state = find_rollout(config)
    if state is None or state.status not in ("passed", "awaiting_approval"):
        return ()
    outcome = steps.run("promote", decision_id=state.plan.decision_id, until=config.read_at(window))
    return _promoted(outcome)


def _promoted(outcome: Any) -> tuple[ReplayEvent, ...]:
    """Return the event of a promotion; a rollout that only began or moved on has events of its own."""
    if not isinstance(outcome, Promotion):
        return ()
    return (ReplayEvent("promoted", f"version {outcome.champion} in place of {outcome.previous}"),)


def _carry_out(config: ModelConfig, steps: _Steps, window: Window, decision: Decision) -> tuple[ReplayEvent, ...]:
    """Carry out a decision to retrain or to go back, as automations do: validate a challenger and promote it if it passes."""
    validation = steps.run(
        "retrain",
        until=config.read_at(window),
        decision_id=decision.decision_id,
        reason=decision.reasons[0],
        requested_by="replay",
        earlier=decision.go_back_to,
    )
    if validation is None:
        return (ReplayEvent("budget_refused", "the budget refused this retrain"),)
    kind: EventKind = "recalled" if decision.go_back_to else "retrained"
    retrained = ReplayEvent(kind, f"version {validation.challenger}: {decision.reasons[0]}")
    if not config.promotion.accepts(validation.verdict):
        return retrained, ReplayEvent("refused", f"version {validation.challenger}: {' '.join(validation.reasons)}")
    outcome = steps.run("promote", decision_id=decision.decision_id, until=config.read_at(window))
    return retrained, *_promoted(outcome)


def _outcome(config: ModelConfig, records: Sequence[ReplayWindow], scores: Sequence[BaselineScores]) -> Replay:
    """Complete the windows' records with the labels and baselines known at the end of the replay."""
    last = records[-1].window.end
    completed = tuple(
        replace(
            record,
            labelled_rows=score.labelled_rows,
            maturity=decide_maturity(
                score.rows,
                score.labelled_rows,
                record.window.end + config.columns.all_labels_within <= last,
                config.performance.maturing_at,
                config.performance.closed_at,
            )
            if score.rows
            else record.maturity,
            metric=score.loop,
            never=score.never,
            every=score.every,
        )
        for record, score in zip(records, scores, strict=True)
    )
    seconds: Counter[str] = Counter()
    for record in records:
        seconds.update(dict(record.seconds))
    metric = config.performance.metric
    return Replay(
        config.name,
        config.purpose,
        config.task,
        metric,
        config.primary_metric.higher_is_better,
        completed,
        tuple(seconds.items()),
        unit=config.columns.label_unit,
    )
