"""Describe a rollout: the first sentence, the plan, the looks with their boundaries, the steps, guardrails and the uplift.

A gain is the challenger's improvement of the primary metric over the champion, in units of the metric; positive is
better, whatever the metric's direction. The intervals are sequential: they keep their level over all looks together
(Jennison & Turnbull 2000, "Group Sequential Methods", ch. 9).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from math import isfinite
from statistics import NormalDist

from tasks.policy.economics.costs import Budget
from tasks.policy.records.replay import ReplayEvent, RolloutProgress
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.replay_story import METRIC_NAMES, counted, share_text
from tasks.policy.rollout.guardrails import ArmStatistics, GuardrailEvidence, Guardrails
from tasks.policy.rollout.stages import RolloutEnd, RolloutLook, RolloutMove, RolloutPolicy, RolloutState, RolloutStep
from tasks.policy.rollout.verdict import Conclusion

DAY = timedelta(days=1)
CONCLUSIONS: dict[Conclusion, str] = {
    "undecided": "no verdict yet",
    "non_inferior": "no worse than the champion",
    "superior": "better than the champion",
    "worse": "worse than the champion",
}
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Boundary:
    """The gains that end a comparison at one time."""

    at: datetime
    passes_above: float | None
    """Gain from which the challenger passes: its interval is then above minus the margin. None without a margin."""
    harm_below: float
    """Gain below which traffic returns to the champion: the interval is then below 0."""


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
    information: float
    rows: int
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
    value: str
    limit: str
    breached: bool | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        return {None: NOT_MEASURED, True: "breached", False: "within limit"}[self.breached]


def step_name(step: RolloutStep) -> str:
    """`shadow`, `canary 10 %`, `A/B test 5 %`."""
    if step.mode == "shadow":
        return step.mode
    return f"{'A/B test' if step.mode == 'ab' else step.mode} {share_text(step.share)}"


def metric_words(metric: str) -> str:
    """`log loss` for `log_loss`."""
    return METRIC_NAMES[metric].short if metric in METRIC_NAMES else metric.replace("_", " ")


def accepted_margin(state: RolloutState, policy: RolloutPolicy) -> float | None:
    """The margin that was planned with, else the policy's; None where neither is known."""
    return state.plan.forecast.margin if state.plan.forecast else policy.verdict.margin


def headline(state: RolloutState) -> str:
    """The rollout in one or two sentences: where the challenger is and what is known, or how it ended."""
    plan, reason = state.plan, _latest_reason(state)
    version = f"Version {plan.version}"
    if state.status == "ended":
        return _ending(state)
    if state.status == "held":
        return f"{version} is held in step {step_name(state.current)} until a person continues or ends it: {reason}"
    if state.status == "awaiting_approval":
        return f"{version} passed its rollout and waits for approval; champion {plan.champion} serves all traffic. {reason}"
    if state.status == "passed":
        return f"{version} passed its rollout and will replace champion {plan.champion}. {reason}"
    parts = [_verdict_words(state), _looks_words(state), *_days_words(state)]
    return f"{version} {_place(state)} beside champion {plan.champion}: {', '.join(parts)}."


def _place(state: RolloutState) -> str:
    step = state.current
    if step.mode == "shadow":
        return "is in shadow"
    steps = f"step {state.step + 1} of {len(state.plan.steps)}"
    return f"serves {share_text(step.share)} of the traffic ({'A/B test' if step.mode == 'ab' else 'canary'}, {steps})"


def _verdict_words(state: RolloutState) -> str:
    verdicts = [look.verdict for look in state.looks if look.verdict]
    return CONCLUSIONS[verdicts[-1].conclusion if verdicts else "undecided"]


def _looks_words(state: RolloutState) -> str:
    verdicts = [look.verdict for look in state.looks if look.verdict]
    if verdicts:
        return f"{verdicts[-1].look} of {verdicts[-1].planned_looks} looks"
    return f"0 of {state.plan.forecast.looks} looks" if state.plan.forecast else "no look yet"


def _days_words(state: RolloutState) -> tuple[str, ...]:
    days = days_left(state)
    if days is None:
        return ()
    return (f"about {counted(round(days), 'day')} to go" if days >= 0.5 else "less than a day to go",)


def days_left(state: RolloutState) -> float | None:
    """Days until the planned information is reached at the pace so far; the plan's days before the first look.

    None if nothing is known about either.
    """
    latest = next((look for look in reversed(state.looks) if look.verdict and look.evidence), None)
    if latest and latest.verdict and latest.evidence and latest.verdict.information > 0:
        elapsed = (latest.evidence.until - state.plan.started_at) / DAY
        return max(0.0, elapsed * (1 / latest.verdict.information - 1))
    if state.plan.forecast is None:
        return None
    seen = state.looks[-1].at if state.looks else state.plan.started_at
    return max(0.0, state.plan.forecast.days - (seen - state.plan.started_at) / DAY)


def _ending(state: RolloutState) -> str:
    plan, move = state.plan, state.moves[-1] if state.moves else None
    end: RolloutEnd | None = move.end if move else None
    after = f"after {_days_text((move.at - plan.started_at) / DAY)}" if move else ""
    reason = f" {_latest_reason(state)}"
    if end == "promoted":
        return f"Version {plan.version} replaced champion {plan.champion} {after}.{reason}"
    if end == "inconclusive":
        return f"The rollout of version {plan.version} ended without a verdict {after}; champion {plan.champion} serves.{reason}"
    if end == "aborted":
        by = f" by {move.by}" if move else ""
        return f"The rollout of version {plan.version} was ended{by} {after}; champion {plan.champion} serves.{reason}"
    if end == "superseded":
        return f"The rollout of version {plan.version} was superseded {after}.{reason}"
    return f"Version {plan.version} was returned {after}; champion {plan.champion} serves all traffic.{reason}"


def _latest_reason(state: RolloutState) -> str:
    return as_sentence(state.moves[-1].reasons[0]) if state.moves and state.moves[-1].reasons else ""


def _days_text(days: float) -> str:
    """`12 days`, `6 hours`."""
    return counted(round(days), "day") if days >= 1 else counted(round(days * 24), "hour")


def plan_sentences(state: RolloutState, policy: RolloutPolicy, metric: str) -> tuple[str, ...]:
    """The plan: units and days that the verdict needs, and the money at stake meanwhile."""
    plan, needed = state.plan, state.plan.forecast
    steps = f"Steps: {', then '.join(map(step_name, plan.steps))}, then promotion."
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
    needed = state.plan.forecast
    if needed is None or needed.days <= policy.max_days or not state.is_active:
        return None
    return (
        f"The verdict needs about {_days_text(needed.days)}, but the rollout ends without one after {policy.max_days:g} days "
        "(rollout.max_days). Accept a larger rollout.verdict.margin, or allow more days or a larger share."
    )


def look_points(state: RolloutState, policy: RolloutPolicy) -> tuple[LookPoint, ...]:
    """The looks that had labelled rows, oldest first; those with an infinite interval are omitted."""
    return tuple(_points(state.looks, accepted_margin(state, policy)))


def _points(looks: tuple[RolloutLook, ...], margin: float | None) -> Iterator[LookPoint]:
    for each in looks:
        found, verdict = each.evidence, each.verdict
        if found is None or verdict is None or not all(map(isfinite, (found.gain, verdict.low, verdict.high))):
            continue
        yield LookPoint(
            at=each.at,
            look=verdict.look,
            planned_looks=verdict.planned_looks,
            gain=found.gain,
            low=verdict.low,
            high=verdict.high,
            boundary=Boundary(
                each.at, None if margin is None else found.gain - verdict.low - margin, found.gain - verdict.high
            ),
            information=verdict.information,
            rows=found.rows,
            conclusion=verdict.conclusion,
            reason=verdict.reason,
        )


def expected_boundaries(state: RolloutState, policy: RolloutPolicy) -> tuple[Boundary, ...]:
    """The boundaries from now to the planned end, as far as they can be foreseen; empty where they cannot.

    O'Brien-Fleming boundaries on the scale of the gain shrink in proportion to the information. Before the first look,
    those at the planned end follow from the power: margin = (z of the level + z of the power) * standard error.
    """
    points, left, margin = look_points(state, policy), days_left(state), accepted_margin(state, policy)
    if not left or not state.is_active or policy.verdict.method != "group_sequential":
        return ()
    if points:
        last = points[-1]
        below, above, begun, at = last.gain - last.low, last.high - last.gain, last.information, last.at
    elif margin is not None and state.plan.forecast:
        level, power = (
            NormalDist().inv_cdf((1 + policy.verdict.confidence) / 2),
            NormalDist().inv_cdf(policy.verdict.power),
        )
        begun = 1 / max(1, state.plan.forecast.looks)
        below = above = margin * level / (level + power) / begun
        at, left = (
            state.plan.started_at + state.plan.forecast.days * begun * DAY,
            state.plan.forecast.days * (1 - begun),
        )
    else:
        return ()
    found = []
    for part in (0.0, 0.15, 0.3, 0.5, 0.75, 1.0):
        shrunk = begun / (begun + part * (1 - begun))
        passes = None if margin is None else below * shrunk - margin
        found.append(Boundary(at + left * part * DAY, passes, -above * shrunk))
    return tuple(found)


def step_visits(state: RolloutState) -> tuple[StepVisit, ...]:
    """The steps that the rollout was in, in order, with what ended each."""
    visits, step, start, remarks = [], 0, state.plan.started_at, []
    for move in state.moves:
        if move.step == step and move.status != "ended":
            remarks.append(f"{move.at:%Y-%m-%d} {_move_words(move)}")
            continue
        ended_by = _move_words(move) if move.end or not move.reasons else "; ".join(map(as_sentence, move.reasons))
        name, share = step_name(state.plan.steps[step]), state.plan.steps[step].share
        visits.append(StepVisit(name, share, start, move.at, ended_by, tuple(remarks)))
        step, start, remarks = move.step, move.at, []
    if state.is_active:
        current = state.plan.steps[step]
        status = state.status.replace("_", " ")
        visits.append(StepVisit(step_name(current), current.share, start, None, status, tuple(remarks)))
    return tuple(visits)


def _move_words(move: RolloutMove) -> str:
    """`passed: gain +0.01 …`, `aborted by Ada: …`."""
    status = move.end or {"running": "continued"}.get(move.status, move.status.replace("_", " "))
    by = "" if move.by == "perennial" else f" by {move.by}"
    return f"{status}{by}: {'; '.join(move.reasons)}" if move.reasons else f"{status}{by}"


def share_changes(state: RolloutState) -> tuple[tuple[datetime, float], ...]:
    """When the challenger's share of the traffic changed, and to what; after a promotion it is 1."""
    changes = [(visit.start, visit.share) for visit in step_visits(state)]
    if not state.is_active and state.moves:
        changes.append((state.moves[-1].at, 1.0 if state.moves[-1].end == "promoted" else 0.0))
    return tuple(changes)


def guardrail_rows(state: RolloutState, limits: Guardrails) -> tuple[GuardrailRow, ...]:
    """The guardrails in the last window that had some, breached ones first; empty before the first window."""
    look = next((look for look in reversed(state.looks) if look.guardrails or look.breaches), None)
    if look is None:
        return ()
    breaches = {breach.guardrail.removeprefix("max_"): breach.reason for breach in look.breaches}
    measured = tuple(_measured(look.guardrails, limits)) if look.guardrails else ()
    rows = [
        GuardrailRow(name.replace("_", " "), value, limit, name in breaches if value else None, breaches.get(name, ""))
        for name, value, limit in measured
    ]
    known = {name for name, _, _ in measured}
    rows += [
        GuardrailRow(name.replace("_", " "), "", "", True, reason)
        for name, reason in breaches.items()
        if name not in known
    ]
    return tuple(sorted(rows, key=lambda row: not row.breached))


def _measured(evidence: GuardrailEvidence, limits: Guardrails) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and limit of each guardrail that the answers alone show; an empty value is not measured."""
    champion, challenger = evidence.champion, evidence.challenger
    refused = max(0.0, _share(challenger.refused, challenger) - _share(champion.refused, champion))
    yield "error_share", _percent(refused) if challenger.rows else "", _percent(limits.max_error_share)
    ratio = (
        f"{challenger.latency_p95_s / champion.latency_p95_s:.2f}"
        if challenger.latency_p95_s is not None and champion.latency_p95_s
        else ""
    )
    yield "latency_ratio", ratio, f"{limits.max_latency_ratio:g}"
    missing = _percent(_share(challenger.missing, challenger)) if challenger.rows else ""
    yield "missing_share", missing, _percent(limits.max_missing_share)
    constant = _percent(challenger.most_common_share) if challenger.rows else ""
    yield "constant_share", constant, _percent(limits.max_constant_share)


def _share(count: int, arm: ArmStatistics) -> float:
    return count / arm.rows if arm.rows else 0.0


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def uplift(state: RolloutState, policy: RolloutPolicy, metric: str, budget: Budget) -> tuple[str, ...]:
    """What the challenger gains, in the metric and in USD, with intervals; empty while undecided or without labels."""
    points = look_points(state, policy)
    if not points or state.status in ("running", "held"):
        return ()
    last, words, level = points[-1], metric_words(metric), f"{policy.verdict.confidence * 100:g} %"
    verb = "gains" if last.gain >= 0 else "loses"
    sentences = [
        f"Version {state.plan.version} {verb} {abs(last.gain):.4g} {words} against champion {state.plan.champion} on "
        f"{last.rows:,} rows ({level} interval of the gain {last.low:+.4g} to {last.high:+.4g})."
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
    plan, move = state.plan, state.moves[-1] if state.moves else None
    latest = next((look for look in reversed(state.looks) if look.verdict), None)
    evidence, verdict = (latest.evidence, latest.verdict) if latest else (None, None)
    reasons = move.reasons if move else ()
    return RolloutProgress(
        decision_id=plan.decision_id,
        version=plan.version,
        champion=plan.champion,
        step=step_name(state.current),
        share=share_changes(state)[-1][1],
        status=(move.end if move and move.end else state.status),
        reason=reasons[0] if reasons and not state.is_active else verdict.reason if verdict else "",
        gain=_finite(evidence.gain if evidence else None),
        low=_finite(verdict.low if verdict else None),
        high=_finite(verdict.high if verdict else None),
        margin=plan.forecast.margin if plan.forecast else None,
        look=verdict.look if verdict else 0,
        planned_looks=verdict.planned_looks if verdict else plan.forecast.looks if plan.forecast else 0,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def rollout_events(before: RolloutState | None, after: RolloutState | None) -> tuple[ReplayEvent, ...]:
    """The events of a replayed window, from the state of the rollout before it and after it. A promotion has its own."""
    if after is None:
        return ()
    events = []
    same = before is not None and before.plan.decision_id == after.plan.decision_id
    if before is not None and before.is_active and not same:
        events.append(ReplayEvent("superseded", f"version {before.plan.version}: by version {after.plan.version}"))
    if not same:
        text = f"version {after.plan.version} in {step_name(after.plan.steps[0])} beside champion {after.plan.champion}"
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
        yield ReplayEvent("advanced", f"{version} to {step_name(state.plan.steps[move.step])}: {reasons}")
