"""The record of a rollout in a replay: its progress after each window, and its events."""

from collections.abc import Iterator
from itertools import pairwise

from tasks.policy.evidence.replay import ReplayEvent, RolloutProgress
from tasks.policy.reporting.rollout_looks import look_points
from tasks.policy.reporting.rollout_rows import share_changes
from tasks.policy.rollout.state import RolloutMove, RolloutState


def progress(state: RolloutState | None) -> RolloutProgress | None:
    """Summarise a rollout for the record of a replayed window; None without one."""
    if state is None:
        return None
    plan, move, judged, points = state.plan, state.end, state.verdict, look_points(state)
    last = points[-1] if points else None
    planned = plan.forecast.looks if plan.forecast else 0
    return RolloutProgress(
        decision_id=plan.decision_id,
        version=plan.version,
        champion=plan.champion,
        step=state.current.name,
        share=share_changes(state)[-1][1],
        status=(move.end if move and move.end else state.status),
        reason=move.reasons[0] if move and move.reasons else judged.reason if judged else "",
        gain=last.gain if last else None,
        low=last.low if last else None,
        high=last.high if last else None,
        margin=plan.forecast.margin if plan.forecast else None,
        look=judged.look if judged else 0,
        planned_looks=max(judged.look, judged.planned_looks) if judged else planned,
    )


def rollout_events(before: RolloutState | None, after: RolloutState | None) -> tuple[ReplayEvent, ...]:
    """The events of a replayed window, from the state of the rollout before it and after it. A promotion has its own."""
    if after is None:
        return ()
    events = []
    same = before is not None and before.plan.decision_id == after.plan.decision_id
    if before is not None and before.is_active and not same:
        events.append(ReplayEvent("superseded", f"version {before.plan.version}: by version {after.plan.version}"))
    if not same:
        text = f"version {after.plan.version} in {after.plan.steps[0].name} beside champion {after.plan.champion}"
        events.append(ReplayEvent("shadowed", text))
    seen = len(before.moves) if same and before is not None else 0
    steps = [0, *(move.step for move in after.moves)]
    for number, (earlier, step) in enumerate(pairwise(steps)):
        if number >= seen:
            events += _event(after, after.moves[number], advanced=step > earlier)
    return tuple(events)


def _event(state: RolloutState, move: RolloutMove, advanced: bool) -> Iterator[ReplayEvent]:
    version, reasons = f"version {state.plan.version}", "; ".join(move.reasons)
    if move.end in ("returned", "inconclusive", "superseded"):
        yield ReplayEvent(move.end, f"{version}: {reasons}")
    elif advanced and move.end is None:
        yield ReplayEvent("advanced", f"{version} to {state.plan.steps[move.step].name}: {reasons}")
