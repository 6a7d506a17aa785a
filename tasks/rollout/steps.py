"""Carry a rollout through its steps: start it, look at the evidence, move it on, and end it.

Each fact is in the ledger before the traffic follows it, so that a killed run is resumed where it was; only a return of
all traffic to the champion comes first, because it must not wait for anything. Changes are made under the model's lease.
"""

from dataclasses import replace
from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, ledger, orchestration, registry, reports, storage, traffic
from tasks.adapters.orchestration.stage import stage
from tasks.policy.comparison.plan import horizon_warning
from tasks.policy.evidence.ledger import Fact, Past
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.records.errors import LeaseHeld, PromotionRefused, RolloutRefused, VersionGone
from tasks.policy.records.events import Handover, RunMode
from tasks.policy.rollout import stages
from tasks.policy.rollout.stages import RolloutAction
from tasks.policy.rollout.state import (
    ANNOUNCED,
    ENDED,
    LOOKED,
    MOVED,
    STARTED,
    Rollout,
    RolloutEnd,
    RolloutLook,
    RolloutMove,
    RolloutState,
    rollout_of,
    rollout_state,
)
from tasks.policy.rollout.validation import why_not_promote

PATIENCE_S = 60.0


def find_rollout(config: ModelConfig, decision_id: str | None = None) -> RolloutState | None:
    """Return the rollout of this decision's challenger, or the latest one; None if there is none."""
    entries = ledger.entries(config.name)
    return rollout_of(entries, decision_id) if decision_id else rollout_state(entries)


# no retries: a second attempt would find the rollout started
@stage
def open_rollout(
    config: ModelConfig, request: RunRequest, challenger: ModelVersion, validation: ValidationReport
) -> RolloutState | None:
    """Start the rollout of a validated challenger, or return the one that was started; None where it is promoted at once.

    A rollout that is still running is superseded. Raises PromotionRefused if a gate refuses the challenger.
    """
    champion = registry.aliases(config.name).get(registry.CHAMPION)
    state = find_rollout(config, challenger.decision_id)
    if state is not None:
        if state.end is not None and state.end.end != "promoted":
            raise PromotionRefused(
                f"{config.name}: version {challenger.version} is not promoted: its rollout ended on "
                f"{state.end.at:%Y-%m-%d %H:%M} UTC, {state.end.end}: {state.end.reasons[0]}; train a new challenger"
            )
        _follow(config, find_rollout(config) or state)  # a repeated request must not move a newer rollout's traffic
        if state.status in ("running", "held"):
            waiting = stages.why_wait(config.rollout, state, request.as_of) or state.current.name
            get_run_logger().info("rollout: version %s is %s already, %s", state.plan.version, state.status, waiting)
        return state
    if champion in (None, challenger.version) or not config.rollout.steps:
        return None
    _check_startable(config, challenger, champion, validation)
    end_rollout(config, request, "superseded", (f"version {challenger.version} was validated by a newer decision",))
    plan = _plan(config, request, challenger, validation)
    ledger.append(config.name, Fact(STARTED, plan, request.as_of, plan.decision_id, request.actor))
    state = RolloutState(plan)
    _follow(config, state)
    get_run_logger().info("rollout: %s", "; ".join(plan.reasons))
    _publish(config, state, "rollout.started", plan.reasons, request.as_of)
    return state


def _check_startable(
    config: ModelConfig, challenger: ModelVersion, champion: str | None, validation: ValidationReport
) -> None:
    refusal = why_not_promote(config.validation, config.promotion, challenger, champion, validation)
    if refusal is None and evaluation.alias_transaction.was_rolled_back(config.name, challenger.version):
        refusal = "it is quarantined, expected a version that was never rolled back"
    refusal = refusal or evaluation.challenger.smoke_test(challenger, config.training.imported)
    if refusal:
        raise PromotionRefused(f"{config.name}: version {challenger.version} is not promoted: {refusal}")


def _plan(config: ModelConfig, request: RunRequest, challenger: ModelVersion, validation: ValidationReport) -> Rollout:
    """Return the plan with its forecast.

    The salt follows from version and start: every machine assigns alike, and a second trial of a version draws new units.
    """
    steps = config.rollout.steps
    forecast = evaluation.rollout_look.forecast_rollout(config, Past(ledger.entries(config.name)), validation)
    reasons = [f"version {challenger.version} starts {steps[0].name} beside champion {validation.champion}"]
    if forecast:
        reasons.append(f"a verdict needs about {forecast.units:,} units and {forecast.days:,.3g} days")
        reasons += filter(None, [horizon_warning(forecast, config.rollout.max_days)])
    decision_id = challenger.decision_id
    return Rollout(
        decision_id=decision_id,
        version=challenger.version,
        champion=validation.champion or "",
        steps=steps,
        unit=config.rollout.unit,
        salt=digest(config.name, challenger.version, request.as_of.isoformat(), "salt"),
        started_at=request.as_of,
        forecast=forecast,
        reasons=tuple(reasons),
    )


# one retry: the lake or the registry may be briefly unavailable; every write is idempotent
@stage(retries=1, timeout_seconds=1800)
def carry_on(config: ModelConfig, past: Past, window: Window, as_of: datetime, mode: RunMode) -> RolloutState | None:
    """Look at a running rollout with the window's evidence and move it on; return its state, None without one.

    A breach returns all traffic in this run; a retrain that holds the lease does not delay it.
    """
    state = rollout_state(past.entries)
    if state is None or mode in (RunMode.DRY_RUN, RunMode.BACKFILL):
        return state
    if not state.is_active:
        _complete_end(config, state, window, as_of)
        return state
    if window.end <= state.plan.started_at - config.settling:  # judged again after the rollout began
        _follow_under_lease(config, state)
        return state
    move = stages.unfinished_return(config.rollout, state)
    if move is None and state.status == "passed" and _serves(config, state):  # `promote` was killed before its end
        _remind(config, state)
        return state
    overtaken = None if move else _why_overtaken(config, state)
    if overtaken:
        move = state.ended("superseded", (overtaken,), as_of)
    if move is None:
        state, move = _look(config, state, past, window, as_of)
    if move is None:
        _follow_under_lease(config, state)
        _remind(config, state)
        _publish_page(config, state)
        return state
    return _carry_out(config, state, move)


def _complete_end(config: ModelConfig, state: RolloutState, window: Window, as_of: datetime) -> None:
    """Do what the run that ended the rollout may not have done, because it was killed."""
    _follow_under_lease(config, state)
    if state.end is not None and state.end.window == window.name:
        _publish_page(config, state)
    if state.is_news(as_of, config.window_days):
        _announce_end(config, state)


def _look(
    config: ModelConfig, state: RolloutState, past: Past, window: Window, as_of: datetime
) -> tuple[RolloutState, RolloutMove | None]:
    """Record what the window shows, once; return the state with it, and the move that follows, if any."""
    look = next((look for look in state.looks if look.window == window), None)
    look = look or evaluation.rollout_look.look_at(config, state, past, window, as_of)
    look_id = digest(state.plan.decision_id, "look", window.name)
    entry = ledger.append(config.name, Fact(LOOKED, look, as_of, look_id))
    look = from_json(RolloutLook, entry.body)
    if look not in state.looks:
        state = replace(state, looks=(*state.looks, look))
    found = stages.decide_step(config.rollout, state, look)
    get_run_logger().info(
        "rollout: version %s, %s", state.plan.version, stages.describe_look(config.rollout, state, look, found)
    )
    if found is not None and config.needs_approval:
        found = stages.awaiting_approval(state, found)
    return state, found


def _serves(config: ModelConfig, state: RolloutState) -> bool:
    return registry.aliases(config.name).get(registry.CHAMPION) == state.plan.version


def _follow_under_lease(config: ModelConfig, state: RolloutState) -> None:
    """Bring the traffic in line with the ledger, where a run was killed between the two, or a load balancer restarted.

    The ledger is read again under the lease: another run may have moved the rollout on, or ended it.
    """
    if config.rollout.control is None and traffic.read_split(config.name) == state.split(config.name):
        return
    try:
        with storage.lease.hold(config.name, "monitor", patience_s=PATIENCE_S):
            _follow(config, find_rollout(config) or state)
    except LeaseHeld as held:
        get_run_logger().warning("rollout: the traffic follows at the next run: %s", held)


def _carry_out(config: ModelConfig, state: RolloutState, move: RolloutMove) -> RolloutState:
    """Make a move under the lease; a return fences out a retrain, any other move waits for the next run instead."""
    returns = move.end == "returned"
    try:
        with storage.lease.hold(config.name, "monitor", ("retrain",) if returns else (), patience_s=PATIENCE_S):
            now = find_rollout(config, move.rollout)
            if now is not None and now.has_moved_on(state, move):
                _follow(config, find_rollout(config) or now)
                return now
            return make_move(config, move)
    except LeaseHeld as held:
        if returns:
            raise
        get_run_logger().warning("rollout: not moved on, the next run does: %s", held)
        return state


def make_move(config: ModelConfig, move: RolloutMove) -> RolloutState:
    """Record a move and let the traffic follow; the caller holds the lease. A move that was made already changes nothing.

    Raises RolloutRefused if the rollout has ended or another one runs.
    """
    state = find_rollout(config, move.rollout)
    if state is None or (not state.is_active and state.end != move):
        raise RolloutRefused(f"{config.name}: the rollout of decision {move.rollout} has ended, nothing is changed")
    if move.end == "returned":
        move = _return_traffic(config, state, move)
    if move.status == "ended":
        move = state.with_uplift(move, config.budget.value_usd_per_metric_unit_per_day)
    kind = ENDED if move.status == "ended" else MOVED
    entry = ledger.append(config.name, Fact(kind, move, move.at, move.id, move.by))
    made = from_json(RolloutMove, entry.body)
    state = state if made in state.moves else state.moved(made)
    _follow(config, state)
    get_run_logger().info(
        "rollout: version %s %s: %s", state.plan.version, stages.describe_move(state, made), made.reasons[0]
    )
    if state.end is not None:
        _publish_page(config, state)
        _announce_end(config, state)
        return state
    events = {"passed": "rollout.ready", "awaiting_approval": "rollout.ready", "held": "rollout.held"}
    _publish(config, state, events.get(made.status, "rollout.advanced"), made.reasons, made.at)
    return state


def _return_traffic(config: ModelConfig, state: RolloutState, move: RolloutMove) -> RolloutMove:
    """Send all traffic to the champion, ask who answers, and quarantine the challenger."""
    plan = state.plan
    try:
        _follow(config, replace(state, status="ended"))
    finally:  # a quarantined version answers nothing, even where the split cannot be written
        registry.tag(
            config.name, plan.version, status="quarantined", quarantined_by=move.by, quarantine_reason=move.reasons[0]
        )
    champion = registry.version(config.name, registry.CHAMPION)
    fault = evaluation.challenger.smoke_test(champion, config.training.imported)
    answers = f"champion {champion.version} answers everything" if fault is None else f"action required: {fault}"
    return replace(move, reasons=(*move.reasons, answers))


def end_rollout(
    config: ModelConfig, request: RunRequest, end: RolloutEnd, reasons: tuple[str, ...], decision_id: str | None = None
) -> None:
    """End the rollout of this decision's challenger, or the latest one, if it is active; the caller holds the lease."""
    state = find_rollout(config, decision_id)
    if state is not None and state.is_active:
        make_move(config, state.ended(end, reasons, request.as_of, request.actor))


def approve_step(config: ModelConfig, state: RolloutState, request: RunRequest, by: str) -> RolloutState:
    """Move a rollout that waited for approval to its first served step; the caller holds the lease."""
    return make_move(config, stages.approved(state, request.as_of, by, request.actor))


def direct(config: ModelConfig, request: RunRequest, action: RolloutAction) -> RolloutState:
    """Hold, resume, advance or abort a rollout for a person; the caller holds the lease.

    Raises RolloutRefused if nothing is rolled out, or if evidence speaks against it: a person may shorten a step, but
    neither lift a breached guardrail nor promote without a verdict.
    """
    state = find_rollout(config)
    refusal = stages.why_not_direct(config.rollout, state, action)
    if refusal or state is None:
        raise RolloutRefused(f"{config.name}: {action} was refused: {refusal}")
    move = stages.directed(state, action, request.as_of, request.actor, request.reason)
    if move.status == "running" and config.needs_approval:
        move = stages.awaiting_approval(state, move)
    if move.end == "aborted":
        registry.tag(config.name, state.plan.version, status="rejected")
    return make_move(config, move)


def _follow(config: ModelConfig, state: RolloutState) -> None:
    """Let the traffic follow the ledger. A passed rollout keeps its last step until `promote` moves the aliases."""
    split = state.split(config.name)
    if state.status != "ended" or traffic.read_split(config.name).challenger is not None:
        traffic.write_split(split)
    # also where the split is stored already: a first attempt may have failed here
    if config.rollout.control is not None:
        traffic.apply.apply_split(config.rollout.control, split)


def _publish(config: ModelConfig, state: RolloutState, event: str, reasons: tuple[str, ...], at: datetime) -> None:
    _publish_page(config, state)
    _announce(config, state, event, reasons, at)


def _announce(config: ModelConfig, state: RolloutState, event: str, reasons: tuple[str, ...], at: datetime) -> None:
    handover = Handover(config.name, state.plan.decision_id, reasons, at, state.plan.version)
    request = f"{state.plan.decision_id}-{state.status}-{state.step}"  # ready for approval, and later for promotion
    orchestration.events.announce(event, config.name, {**handover.payload(), "request": request})


def _publish_page(config: ModelConfig, state: RolloutState) -> None:
    """Publish the rollout's page. A replay publishes all of them at its end: nobody opens one while it runs."""
    if orchestration.runs.run_mode() is not RunMode.REPLAY:
        reports.rollout.publish_rollout_page(config, state)


def publish_rollouts(config: ModelConfig) -> None:
    """Write the page of every rollout in the ledger, and publish the latest one in the dashboard."""
    entries = ledger.entries(config.name)
    started = [entry.decision_id or "" for entry in entries if entry.kind == STARTED]
    states = [state for decision_id in started if (state := rollout_of(entries, decision_id))]
    for state in states[:-1]:
        reports.rollout.write_page(config, state)
    for state in states[-1:]:
        reports.rollout.publish_rollout_page(config, state)


def _announce_end(config: ModelConfig, state: RolloutState) -> None:
    """Notify people of the end, then record that they were: a run that is killed in between notifies them twice."""
    if state.end is not None:
        _announce(config, state, "rollout.ended", state.end.reasons, state.end.at)
        fact = Fact(ANNOUNCED, state.end.reasons[0], state.end.at, state.plan.decision_id)
        ledger.append(config.name, fact)


def _remind(config: ModelConfig, state: RolloutState) -> None:
    """Announce again that a rollout is ready for `promote`; the first announcement may have been lost."""
    if state.status in ("passed", "awaiting_approval"):
        last = state.moves[-1]
        _announce(config, state, "rollout.ready", last.reasons, last.at)


def _why_overtaken(config: ModelConfig, state: RolloutState) -> str | None:
    """Return why the rollout cannot go on: another champion serves, or the challenger is quarantined or gone."""
    plan, champion = state.plan, registry.aliases(config.name).get(registry.CHAMPION)
    if champion != plan.champion and champion != plan.version:
        return f"champion {champion or 'none'} serves, the rollout began beside {plan.champion}"
    try:
        status = dict(registry.version(config.name, plan.version).tags).get("status")
    except VersionGone as error:  # any other fault of the registry passes, and says nothing about the version
        return f"version {plan.version} is gone: {error}"
    return f"version {plan.version} is {status}" if status in ("quarantined", "rejected") else None


def show_rollout(config: ModelConfig, action: RolloutAction) -> RolloutState | None:
    """Log the rollout and whether this action would be refused; changes nothing."""
    state = find_rollout(config)
    refusal = stages.why_not_direct(config.rollout, state, action)
    get_run_logger().info("rollout: %s would be %s", action, f"refused: {refusal}" if refusal else "carried out")
    return state
