"""Describe a rollout: the first sentence, the plan, the steps, the guardrails and the uplift; and its record in a replay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from tasks.policy.economics.costs import Budget
from tasks.policy.records.replay import ReplayEvent, RolloutProgress
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.replay_story import METRIC_NAMES, counted, share_text
from tasks.policy.reporting.rollout_looks import DAY, days_left, look_points
from tasks.policy.rollout import verdict
from tasks.policy.rollout.guardrails import MIN_TIMED, GuardrailEvidence, Guardrails, prediction_shift
from tasks.policy.rollout.stages import RolloutMove, RolloutPolicy, RolloutState
from tasks.policy.rollout.verdict import Conclusion

CONCLUSIONS: dict[Conclusion, str] = {
    "undecided": "no verdict yet",
    "non_inferior": "no worse than the champion",
    "superior": "better than the champion",
    "worse": "worse than the champion",
}
GUARDRAILS = {
    "errors": "rows failed or refused",
    "latency": "latency, 95th percentile",
    "missing": "missing predictions",
    "constant": "same prediction",
    "confidence": "shift of the predictions (PSI)",
    "calibration": "calibration error",
    "slices": "metric in the worst slice",
}
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class StepVisit:
    """A step that the rollout was in. `end` is None for the current one, `ended_by` says what ended it."""

    name: str
    share: float
    start: datetime
    end: datetime | None
    ended_by: str
    remarks: tuple[str, ...] = ()
    """Changes of the status during the step, such as a hold."""

    @property
    def duration(self) -> str:
        """`12 days`, `6 hours`; empty for the current step."""
        return "" if self.end is None else _days_text((self.end - self.start) / DAY)


@dataclass(frozen=True, slots=True)
class GuardrailRow:
    """A guardrail in the last window; `breached` is None where it was not measured."""

    name: str
    challenger: str
    champion: str
    limit: str
    breached: bool | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        return {None: NOT_MEASURED, True: "breached", False: "within limit"}[self.breached]


def metric_words(metric: str) -> str:
    """`log loss` for `log_loss`."""
    return METRIC_NAMES[metric].short if metric in METRIC_NAMES else metric.replace("_", " ")


def headline(state: RolloutState) -> str:
    """The rollout in one or two sentences: where the challenger is and what is known, or how it ended."""
    plan = state.plan
    version, reasons = f"Version {plan.version}", state.moves[-1].reasons if state.moves else ()
    if state.status == "ended":
        return _ending(state)
    if state.status == "held":
        return f"{version} is held in step {state.current.name} until a person resumes or aborts it. {_first(reasons)}"
    if state.status == "awaiting_approval":
        return (
            f"{version} passed step {state.current.name} and waits for approval before it serves; champion "
            f"{plan.champion} serves all traffic. {_first(reasons[::-1])}"
        )
    if state.status == "passed":
        return f"{version} passed its rollout and will replace champion {plan.champion}. {_first(reasons[::-1])}"
    parts = [_verdict_words(state), looks_words(state), *_days_words(state)]
    return f"{version} {_place(state)} beside champion {plan.champion}: {', '.join(parts)}."


def _place(state: RolloutState) -> str:
    step = state.current
    if step.mode == "shadow":
        return "is in shadow"
    steps = f"step {state.step + 1} of {len(state.plan.steps)}"
    return f"serves {share_text(step.share)} of the traffic ({'A/B test' if step.mode == 'ab' else 'canary'}, {steps})"


def _verdict_words(state: RolloutState) -> str:
    return CONCLUSIONS[state.verdict.conclusion if state.verdict else "undecided"]


def looks_words(state: RolloutState) -> str:
    """`2 of 4 looks`, or `no look yet` where the number of looks is not planned."""
    if state.verdict:
        return f"{state.verdict.look} of {max(state.verdict.look, state.verdict.planned_looks)} looks"
    return f"0 of {state.plan.forecast.looks} looks" if state.plan.forecast else "no look yet"


def _days_words(state: RolloutState) -> tuple[str, ...]:
    days = days_left(state)
    if days is None:
        return ()
    if state.verdict and state.verdict.information >= 1:
        return ("at the planned end",)
    return (f"about {counted(round(days), 'day')} to go" if days >= 0.5 else "less than a day to go",)


def _ending(state: RolloutState) -> str:
    plan, move = state.plan, state.end
    if move is None:
        return f"The rollout of version {plan.version} has ended."
    after, reason = f"after {_days_text((move.at - plan.started_at) / DAY)}", _first(move.reasons)
    rollout, serves = f"The rollout of version {plan.version}", f"champion {plan.champion} serves all traffic. {reason}"
    if move.end == "promoted":
        proof = as_sentence(state.verdict.reason) if state.verdict and state.is_proven else reason
        return f"Version {plan.version} replaced champion {plan.champion} {after}. {proof}"
    if move.end == "inconclusive":
        return f"{rollout} ended without a verdict {after}; {serves}"
    if move.end == "aborted":
        return f"{rollout} was aborted by {move.by} {after}; {serves}"
    if move.end == "superseded":
        return f"{rollout} was superseded {after}. {reason}"
    return f"Version {plan.version} was returned {after}; {serves}"


def _first(reasons: Sequence[str]) -> str:
    return as_sentence(reasons[0]) if reasons else ""


def _days_text(days: float) -> str:
    """`12 days`, `6 hours`, `less than an hour`."""
    if days * 24 < 0.5:
        return "less than an hour"
    return counted(round(days), "day") if days >= 1 else counted(round(days * 24), "hour")


def plan_sentences(state: RolloutState, policy: RolloutPolicy, metric: str) -> tuple[str, ...]:
    """The plan: units and days that the verdict needs, and the money at stake meanwhile."""
    plan, needed = state.plan, state.plan.forecast
    steps = f"Steps: {', then '.join(step.name for step in plan.steps)}, then promotion."
    if needed is None:
        return (steps, "The rows and days that a verdict needs are not known, because there is no forecast.")
    units = counted(needed.units, "row") if plan.unit is None else f"{counted(needed.units, 'unit')} ({plan.unit})"
    sentences = [
        steps,
        f"A challenger as good as the champion needs {units} and about {_days_text(needed.days)}, with "
        f"{counted(needed.looks, 'look')}, to show with {policy.verdict.power * 100:g} % power that it loses less than "
        f"{needed.margin:.4g} {metric_words(metric)}.",
    ]
    if all(step.share == 0 for step in plan.steps):
        sentences.append("No traffic is at stake: the challenger only predicts in shadow.")
    elif needed.exposed_usd is not None:
        sentences.append(
            f"A challenger that is worse by this margin would cost {needed.exposed_usd:,.2f} USD on the traffic that it "
            "serves until then."
        )
    else:
        sentences.append(
            "The money at stake is not known; set budget.value_usd_per_metric_unit_per_day to express it in USD."
        )
    return tuple(sentences)


def horizon_warning(state: RolloutState, policy: RolloutPolicy) -> str | None:
    """Warn while the verdict needs more days than the rollout may take; None otherwise."""
    if state.plan.forecast is None or not state.is_active:
        return None
    warning = verdict.horizon_warning(state.plan.forecast, policy.max_days)
    return as_sentence(warning) if warning else None


def step_visits(state: RolloutState) -> tuple[StepVisit, ...]:
    """The steps that the rollout was in, in order, with what ended each."""
    visits, step, start, remarks = [], 0, state.plan.started_at, []
    for move in state.moves:
        if move.step == step and move.status != "ended":
            remarks.append(f"{move.at:%Y-%m-%d} {_move_words(move)}")
            continue
        ended_by = _move_words(move) if move.end or not move.reasons else " ".join(map(as_sentence, move.reasons))
        name, share = state.plan.steps[step].name, state.plan.steps[step].share
        visits.append(StepVisit(name, share, start, move.at, ended_by, tuple(remarks)))
        step, start, remarks = move.step, move.at, []
    if state.is_active:
        current = state.plan.steps[step]
        status = state.status.replace("_", " ")
        visits.append(StepVisit(current.name, current.share, start, None, status, tuple(remarks)))
    return tuple(visits)


def _move_words(move: RolloutMove) -> str:
    """`passed: gain +0.01 …`, `aborted by Ada: …`."""
    status = move.end or {"running": "resumed"}.get(move.status, move.status.replace("_", " "))
    by = "" if move.by in ("perennial", "unnamed") else f" by {move.by}"
    return f"{status}{by}: {'; '.join(move.reasons)}" if move.reasons else f"{status}{by}"


def share_changes(state: RolloutState) -> tuple[tuple[datetime, float], ...]:
    """When the challenger's share of the traffic changed, and to what; after a promotion it is 1."""
    changes = [(visit.start, visit.share) for visit in step_visits(state)]
    if state.end:
        changes.append((state.end.at, 1.0 if state.end.end == "promoted" else 0.0))
    return tuple(changes)


def guardrail_rows(state: RolloutState, limits: Guardrails) -> tuple[GuardrailRow, ...]:
    """The guardrails in the last window that had answers, breached ones first; empty before the first window."""
    look = next((look for look in reversed(state.looks) if look.guardrails), None)
    if look is None or look.guardrails is None:
        return ()
    reasons: dict[str, list[str]] = {}
    for breach in look.breaches:
        reasons.setdefault(breach.guardrail, []).append(breach.reason)
    rows = [
        GuardrailRow(
            GUARDRAILS[name], own, usual, limit, name in reasons if own else None, "; ".join(reasons.get(name, ()))
        )
        for name, own, usual, limit in _guardrail_values(look.guardrails, limits)
    ]
    return tuple(sorted(rows, key=lambda row: not row.breached))


def _guardrail_values(evidence: GuardrailEvidence, limits: Guardrails) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, both versions' values and the limit of each guardrail; empty values are not measured."""
    champion, challenger, labelled = evidence.champion, evidence.challenger, evidence.labelled
    own, usual = (_percent(arm.refused, arm.rows) for arm in (challenger, champion))
    yield "errors", own, usual, f"{_limit(limits.max_error_share)} more"
    is_timed = min(challenger.timed, champion.timed) >= MIN_TIMED
    own, usual = (_milliseconds(arm.latency_p95_s if is_timed else None) for arm in (challenger, champion))
    yield "latency", own, usual, f"{limits.max_latency_ratio:g} times"
    own, usual = (_percent(arm.missing, arm.rows - arm.refused) for arm in (challenger, champion))
    yield "missing", own, usual, _limit(limits.max_missing_share)
    own, usual = (_limit(arm.most_common_share) if arm.rows else "" for arm in (challenger, champion))
    yield "constant", own, usual, _limit(limits.max_constant_share)
    shifts = prediction_shift(challenger), prediction_shift(champion)
    own, usual = (f"{shift[0]:.2g}" if shift and all(shifts) else "" for shift in shifts)
    yield "confidence", own, usual, f"{limits.max_confidence_psi:g} more"
    found = labelled.calibration if labelled else None
    own, usual = (f"{found.challenger:.3g}", f"{found.champion:.3g}") if found else ("", "")
    yield "calibration", own, usual, f"{limits.max_calibration_loss:g} more"
    worst = min(labelled.slices, key=lambda each: each.gain + each.accepted, default=None) if labelled else None
    if limits.slices and worst:
        yield (
            "slices",
            f"{worst.challenger:.4g} in {worst.name}",
            f"{worst.champion:.4g}",
            f"loss of {worst.accepted:.3g}",
        )
    elif limits.slices:
        yield "slices", "", "", ""


def _milliseconds(latency_s: float | None) -> str:
    return "" if latency_s is None else f"{latency_s * 1000:.3g} ms"


def _percent(count: int, rows: int) -> str:
    """A share of rows; empty without rows."""
    return _limit(count / rows) if rows > 0 else ""


def _limit(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.3g} %"


def uplift(state: RolloutState, policy: RolloutPolicy, metric: str, budget: Budget) -> tuple[str, ...]:
    """What the challenger gains, in the metric and in USD, with intervals; empty while undecided or without labels."""
    points = look_points(state)
    if not points or state.status in ("running", "held"):
        return ()
    last, words, level = points[-1], metric_words(metric), f"{policy.verdict.confidence * 100:g} %"
    verb = "gains" if last.gain >= 0 else "loses"
    sentences = [
        f"Version {state.plan.version} {verb} {abs(last.gain):.3g} {words} against champion {state.plan.champion} on "
        f"{last.rows:,} rows ({level} interval of the gain {last.low:+.3g} to {last.high:+.3g})."
    ]
    value = budget.value_usd_per_metric_unit_per_day
    if value is None:
        return (*sentences, "To express this in USD, set budget.value_usd_per_metric_unit_per_day.")
    days = budget.horizon_days
    sentences.append(
        f"Value: {_usd(last.gain * value)} a day ({_usd(last.low * value)} to {_usd(last.high * value)}), "
        f"{_usd(last.gain * value * days)} over the {days:g} days that an improvement is expected to last "
        f"({_usd(last.low * value * days)} to {_usd(last.high * value * days)})."
    )
    if last.look < last.planned_looks:
        sentences.append(
            "An estimate at an early end is too extreme on average; the interval allows for the early end."
        )
    return tuple(sentences)


def _usd(amount: float) -> str:
    return f"{'-' if amount < 0 else ''}{abs(amount):,.2f} USD"


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
