"""A rollout as the ledger tells it: its plan, looks and moves, and the state that follows from them.

A killed run resumes where the state says, and no step is taken twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.guardrails import Breach, GuardrailEvidence
from tasks.policy.comparison.plan import RolloutForecast
from tasks.policy.comparison.verdict import RolloutVerdict
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.base import Window, digest, from_json
from tasks.policy.rollout.traffic import TrafficMode, TrafficSplit

STARTED, LOOKED, MOVED, ENDED = "rollout.started", "rollout.looked", "rollout.moved", "rollout.ended"
ANNOUNCED = "rollout.announced"
"""People were notified of the end; without this fact, the next run notifies them."""
NEWS = timedelta(days=7)
"""How long after the end of a rollout people are still notified of it, where the run that ended it was killed."""
RolloutEnd = Literal["promoted", "returned", "inconclusive", "aborted", "superseded"]
RolloutStatus = Literal["running", "held", "awaiting_approval", "passed", "ended"]


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One step: what the challenger does, and its share of the units."""

    mode: TrafficMode
    share: float

    @property
    def name(self) -> str:
        """`shadow`, `canary 10 %`, `A/B 5 %`."""
        if self.mode == "shadow":
            return self.mode
        return f"{'A/B' if self.mode == 'ab' else self.mode} {self.share * 100:.3g} %"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The plan of a rollout, recorded when it starts."""

    decision_id: str
    version: str
    champion: str
    steps: tuple[RolloutStep, ...]
    unit: str | None
    salt: str
    started_at: datetime
    forecast: RolloutForecast | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RolloutLook:
    """The evidence of one monitor run: guardrails of the window, and the verdict on all labelled rows so far."""

    rollout: str
    """Decision of the rollout."""
    step: int
    window: Window
    at: datetime
    guardrails: GuardrailEvidence | None = None
    breaches: tuple[Breach, ...] = ()
    evidence: Evidence | None = None
    verdict: RolloutVerdict | None = None
    unevaluated: tuple[str, ...] = ()
    """Why something was not judged, in sentences."""
    mismatch: str | None = None
    """Why the units of this step are no fair sample, so that the versions cannot be compared."""
    units: int | None = None
    """Distinct units that the challenger has answered in this step so far; None for a shadow."""


@dataclass(frozen=True, slots=True)
class RolloutMove:
    """A change of a rollout's step or status. `by` is who made it, `perennial` for a monitor run."""

    rollout: str
    """Decision of the rollout."""
    version: str
    status: RolloutStatus
    step: int
    at: datetime
    reasons: tuple[str, ...]
    by: str = "perennial"
    end: RolloutEnd | None = None
    window: str | None = None
    """The window whose look moved it; None where a person did. A look moves a rollout at most once."""
    uplift: Evidence | None = None
    """The gain measured by the end, where labels had matured."""
    uplift_usd_per_day: tuple[float, float, float] | None = None
    """The same gain in USD a day: estimate, low and high."""

    @property
    def id(self) -> str:
        """Id of the ledger entry: of all ends of a rollout only the first counts, and of each step's moves as well."""
        if self.status == "ended":
            return self.rollout
        return digest(self.rollout, self.status, str(self.step), self.window or self.at.isoformat())


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout as of now, folded from the ledger: plan, status, step and the looks so far, oldest first."""

    plan: Rollout
    status: RolloutStatus = "running"
    step: int = 0
    since: datetime | None = None
    looks: tuple[RolloutLook, ...] = ()
    moves: tuple[RolloutMove, ...] = ()
    is_announced: bool = False
    """Whether people were notified of the end."""

    @property
    def current(self) -> RolloutStep:
        return self.plan.steps[self.step]

    @property
    def step_since(self) -> datetime:
        return self.since or self.plan.started_at

    @property
    def is_active(self) -> bool:
        return self.status != "ended"

    def split(self, model: str) -> TrafficSplit:
        """The traffic split that this state asks for; a challenger that waits for approval is still only a shadow."""
        plan, step = self.plan, self.current
        if not self.is_active:
            return TrafficSplit(model, None)
        return TrafficSplit(
            model, plan.champion, plan.version, step.mode, step.share, plan.unit, plan.salt, step.name,
            self.step_since, plan.decision_id,
        )  # fmt: skip

    @property
    def end(self) -> RolloutMove | None:
        """How the rollout ended; None while it is active."""
        return self.moves[-1] if self.moves and self.moves[-1].status == "ended" else None

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The evidence of all looks so far that is comparable: with pairs, or with served answers once there are any."""
        found = [look.evidence for look in self.looks if look.evidence is not None]
        return tuple(each for each in found if each.paired == found[-1].paired)

    @property
    def verdict(self) -> RolloutVerdict | None:
        """The latest verdict; None before the first."""
        return next((look.verdict for look in reversed(self.looks) if look.verdict is not None), None)

    @property
    def is_proven(self) -> bool:
        """Whether the latest verdict allows a promotion; on a mismatched sample none does."""
        if self.looks and self.looks[-1].mismatch:
            return False
        return self.verdict is not None and self.verdict.conclusion in ("non_inferior", "superior")

    @property
    def answered(self) -> int:
        """Units that the challenger has answered in this step: each once where it serves, each row as a shadow."""
        own = [look for look in self.looks if look.step == self.step and look.at > self.step_since]
        if own and own[-1].units is not None:
            return own[-1].units
        return sum(look.guardrails.challenger.rows for look in own if look.guardrails is not None)

    def has_moved_on(self, before: "RolloutState", move: RolloutMove) -> bool:
        """Whether another run or a person ended the rollout, or moved it on, since a run judged it and found this move.

        A return, or an end by a newer decision, is carried out all the same, and a move that an interrupted run made is
        completed.
        """
        if not self.is_active:
            return True
        if move.end in ("returned", "superseded") or move.id in {each.id for each in self.moves}:
            return False
        return self.moves != before.moves

    def is_news(self, as_of: datetime, window_days: float) -> bool:
        """Whether the run that ended the rollout was killed before it notified people; older ends are no news."""
        if self.end is None or self.is_announced:
            return False
        return as_of - self.end.at <= max(NEWS, timedelta(days=2 * window_days))

    def ended(self, end: RolloutEnd, reasons: tuple[str, ...], at: datetime, by: str = "perennial") -> RolloutMove:
        """The move that ends the rollout."""
        return RolloutMove(self.plan.decision_id, self.plan.version, "ended", self.step, at, reasons, by, end)

    def with_uplift(self, move: RolloutMove, usd_per_metric_unit_per_day: float | None) -> RolloutMove:
        """The move with the gain measured by the rollout, in units of the metric and, where it has a value, in USD a day."""
        look = next((look for look in reversed(self.looks) if look.verdict is not None), None)
        if look is None or look.evidence is None or look.verdict is None:
            return move
        gain, value = look.evidence, usd_per_metric_unit_per_day
        usd = None if value is None else (gain.gain * value, look.verdict.low * value, look.verdict.high * value)
        return replace(move, uplift=gain, uplift_usd_per_day=usd)

    def moved(self, move: RolloutMove) -> "RolloutState":
        """The state after this move."""
        since = move.at if move.step != self.step else self.since
        return replace(self, status=move.status, step=move.step, since=since, moves=(*self.moves, move))


def rollout_state(entries: Sequence[LedgerEntry]) -> RolloutState | None:
    """Fold the model's latest rollout from its ledger; None if there was none."""
    started = next((entry for entry in reversed(entries) if entry.kind == STARTED), None)
    if started is None:
        return None
    state = RolloutState(from_json(Rollout, started.body))
    for entry in entries:
        if entry.sequence <= started.sequence:
            continue
        if entry.kind == LOOKED:
            look = from_json(RolloutLook, entry.body)
            if look.rollout == state.plan.decision_id and state.is_active:
                state = replace(state, looks=(*state.looks, look))
        elif entry.kind == ANNOUNCED and entry.decision_id == state.plan.decision_id:
            state = replace(state, is_announced=True)
        elif entry.kind in (MOVED, ENDED):
            move = from_json(RolloutMove, entry.body)
            if move.rollout == state.plan.decision_id and state.is_active:
                state = state.moved(move)
    return state


def rollout_of(entries: Sequence[LedgerEntry], decision_id: str) -> RolloutState | None:
    """The rollout of this decision's challenger; None if it was never started."""
    later = [entry.sequence for entry in entries if entry.kind == STARTED and entry.decision_id == decision_id]
    following = [entry.sequence for entry in entries if entry.kind == STARTED and later and entry.sequence > later[-1]]
    if not later:
        return None
    return rollout_state([entry for entry in entries if not following or entry.sequence < following[0]])
