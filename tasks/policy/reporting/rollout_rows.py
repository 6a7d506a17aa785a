"""The tables of a rollout: its steps and shares, and what each guardrail measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.comparison.guardrails import (
    LATENCY_NOISE_S,
    MIN_TIMED,
    GuardrailEvidence,
    Guardrails,
    prediction_shift,
)
from tasks.policy.reporting.decision import as_sentence
from tasks.policy.reporting.rollout import GUARDRAILS, NOT_MEASURED, days_text
from tasks.policy.reporting.rollout_looks import DAY
from tasks.policy.rollout.state import RolloutMove, RolloutState


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
        return "" if self.end is None else days_text((self.end - self.start) / DAY)


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
    yield "latency", own, usual, f"{limits.max_latency_ratio:g} times, and {1000 * LATENCY_NOISE_S:g} ms more"
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
