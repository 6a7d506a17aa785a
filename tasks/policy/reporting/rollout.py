"""Describe a rollout: the first sentence, the plan, the looks with their boundaries, the steps, guardrails and the uplift.

A gain is the challenger's improvement of the primary metric over the champion, in units of the metric; positive is
better, whatever the metric's direction. The intervals are sequential: they keep their level over all looks together
(Jennison & Turnbull 2000, "Group Sequential Methods", ch. 9).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from tasks.policy.economics.costs import Budget
from tasks.policy.records.profile import LARGEST
from tasks.policy.records.replay import ReplayEvent, RolloutProgress
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.replay_story import METRIC_NAMES, counted, share_text
from tasks.policy.rollout import verdict
from tasks.policy.rollout.guardrails import MIN_TIMED, GuardrailEvidence, Guardrails, prediction_shift
from tasks.policy.rollout.stages import RolloutMove, RolloutPolicy, RolloutState
from tasks.policy.rollout.verdict import Conclusion, Evidence, RolloutForecast, RolloutVerdict
from tasks.policy.statistics.group_sequential import LEAST_STEP, boundaries

DAY = timedelta(days=1)
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
class Boundary:
    """The gains that end a comparison at one time."""

    at: datetime
    passes_above: float | None
    """Gain from which the challenger passes: its interval is then above minus the margin. None without a margin."""
    harm_below: float
    """Gain below which traffic returns to the champion: the interval is then below 0, and the challenger did not pass."""

    @classmethod
    def of(cls, at: datetime, below: float, above: float, margin: float | None) -> "Boundary":
        """The boundary for an interval that reaches this far below and above the gain."""
        if margin is None:
            return cls(at, None, -above)
        return cls(at, below - margin, min(-above, below - margin))


@dataclass(frozen=True, slots=True)
class LookPoint:
    """One look at the labelled rows: the gain with its interval, and the boundaries that it was compared with."""

    at: datetime
    look: int
    planned_looks: int
    gain: float
    low: float
    high: float
    boundary: Boundary
    standard_error: float
    information: float
    rows: int
    paired: bool
    """Whether both versions predicted the same rows; else the rows that each of them served are compared."""
    conclusion: Conclusion
    reason: str


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


def accepted_margin(state: RolloutState, policy: RolloutPolicy) -> float | None:
    """The margin that was planned with, else the policy's; None where neither is known."""
    return state.plan.forecast.margin if state.plan.forecast else policy.verdict.margin


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


def days_left(state: RolloutState) -> float | None:
    """Days until the planned information is reached: at the pace of the looks so far, before that as planned.

    None without a forecast.
    """
    planned = state.plan.forecast
    if planned is None:
        return None
    if state.verdict and state.verdict.days_left is not None:
        return state.verdict.days_left
    seen = state.looks[-1].at if state.looks else state.plan.started_at
    return max(0.0, planned.days - (seen - state.plan.started_at) / DAY)


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


def look_points(state: RolloutState, policy: RolloutPolicy) -> tuple[LookPoint, ...]:
    """The looks at which a gain was measured with an interval, oldest first."""
    margin = accepted_margin(state, policy)
    return tuple(
        _point(look.at, look.evidence, look.verdict, margin)
        for look in state.looks
        if look.evidence and look.verdict and _is_measured(look.evidence, look.verdict)
    )


def _is_measured(evidence: Evidence, judged: RolloutVerdict) -> bool:
    return evidence.rows > 0 and not evidence.undefined and max(abs(judged.low), abs(judged.high)) < LARGEST


def _point(at: datetime, found: Evidence, judged: RolloutVerdict, margin: float | None) -> LookPoint:
    return LookPoint(
        at=at,
        look=judged.look,
        planned_looks=max(judged.look, judged.planned_looks),
        gain=found.gain,
        low=judged.low,
        high=judged.high,
        boundary=Boundary.of(at, found.gain - judged.low, judged.high - found.gain, margin),
        standard_error=found.standard_error,
        information=judged.information,
        rows=found.rows,
        paired=found.paired,
        conclusion=judged.conclusion,
        reason=judged.reason,
    )


def expected_boundaries(state: RolloutState, policy: RolloutPolicy) -> tuple[Boundary, ...]:
    """The boundaries at the looks that are left until the planned end, the latest look's first.

    Empty where they are not known: without a forecast, once the rollout ended, or by another method.
    """
    planned, left, margin = state.plan.forecast, days_left(state), accepted_margin(state, policy)
    if not planned or not left or margin is None or not state.is_active or policy.verdict.method != "group_sequential":
        return ()
    paired = state.evidence[-1].paired if state.evidence else True
    points = [point for point in look_points(state, policy) if point.paired == paired and point.information > 0]
    known = [point.information for point in points] or [1 / planned.looks]
    if any(later - earlier < LEAST_STEP for earlier, later in pairwise([0.0, *known])) or known[-1] >= 1:
        return ()
    ahead = max(1, planned.looks - len(known))
    shares = [*known, *(known[-1] + (1 - known[-1]) * step / ahead for step in range(1, ahead + 1))]
    amounts = tuple(round(share, 6) for share in shares)
    efficacy, harm = (boundaries(amounts, policy.verdict.tail, shape) for shape in ("obrien_fleming", "pocock"))
    at = points[-1].at if points else state.plan.started_at + planned.days * known[-1] * DAY
    end = at + left * DAY if points else state.plan.started_at + planned.days * DAY
    error = points[-1].standard_error * math.sqrt(known[-1]) if points else _planned_error(planned)
    found = [points[-1].boundary] if points else []
    for share, passes, harms in list(zip(amounts, efficacy, harm, strict=True))[len(points) :]:
        when = at + (end - at) * ((share - known[-1]) / (1 - known[-1]))
        at_look = error / math.sqrt(share)
        found.append(Boundary.of(when, passes * at_look, harms * at_look, margin))
    return tuple(found)


def _planned_error(planned: RolloutForecast) -> float:
    """Standard error of the gain at the planned information: of pairs, or of two arms."""
    if planned.effective_units is None:
        return planned.sigma / math.sqrt(planned.units)
    return planned.sigma * math.sqrt(2 / planned.effective_units)


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
    points = look_points(state, policy)
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
    plan, move, judged = state.plan, state.end, state.verdict
    found = next((look.evidence for look in reversed(state.looks) if look.verdict), None)
    is_measured = found is not None and judged is not None and _is_measured(found, judged)
    planned = plan.forecast.looks if plan.forecast else 0
    return RolloutProgress(
        decision_id=plan.decision_id,
        version=plan.version,
        champion=plan.champion,
        step=state.current.name,
        share=share_changes(state)[-1][1],
        status=(move.end if move and move.end else state.status),
        reason=move.reasons[0] if move and move.reasons else judged.reason if judged else "",
        gain=found.gain if found and is_measured else None,
        low=judged.low if judged and is_measured else None,
        high=judged.high if judged and is_measured else None,
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
