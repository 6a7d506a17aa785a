"""The steps of a rollout: shadow first, then served steps, until the challenger may be promoted.

Only evidence moves a rollout on; time alone never promotes. A rollout ends in one of five ways: promoted, returned (a
guardrail or a verdict against the challenger), inconclusive, aborted by a person, or superseded by a newer decision.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.policy.comparison.guardrails import Guardrails
from tasks.policy.comparison.plan import VerdictPolicy
from tasks.policy.records.base import Settings
from tasks.policy.rollout.state import RolloutEnd, RolloutLook, RolloutMove, RolloutState, RolloutStatus, RolloutStep
from tasks.policy.rollout.traffic import HaproxyControl, SagemakerControl, TrafficMode

RolloutAction = Literal["hold", "resume", "advance", "abort"]


def _check_share(value: object) -> object:
    """Explain a share of everything."""
    if isinstance(value, int | float) and value >= 1:
        raise ValueError(
            "expected a number between 0 and 1: 0.1 is 10 %, and the promotion after the last step is 100 %"
        )
    return value


Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_check_share)]


class RolloutPolicy(Settings):
    """How a validated challenger gets its traffic: the block `rollout` of the model's file."""

    feedback: bool = Field(True, examples=[False])
    """Whether an answer can change what is observed later, as with offers or credit limits. `false`: the same rows prove
    both models, so shadow alone decides. `true`: pairs are not valid evidence and the challenger must serve a part."""
    mode: Literal["none", "shadow", "canary", "ab"] | None = Field(None, examples=["canary"])
    """Steps: `none` promotes at once; `shadow` scores both and serves the champion; `canary` then raises the challenger's
    share; `ab` then holds a fixed share for a test. Default: `shadow` without feedback, else `canary`."""
    shares: tuple[Share, ...] = Field((0.1, 0.5), min_length=1, examples=[[0.05, 0.25, 0.5]])
    """canary: the challenger's share at each step; after the last one it is promoted."""
    ab_share: Share = Field(0.05, examples=[0.1])
    """ab: the challenger's share during the test."""
    unit: str | None = Field(None, min_length=1, max_length=200, examples=["customer"])
    """Column whose values stay with one version, such as the customer. It is stored with the rows. Default: the row id."""
    min_units: int = Field(200, ge=1, examples=[1000])
    """Units that the challenger must have answered in a step before it ends."""
    bake_hours: float = Field(24.0, ge=0, le=24 * 366, examples=[48.0])
    """Shortest time that a step lasts."""
    max_days: float = Field(60.0, gt=0, le=3660, examples=[30.0])
    """Days after which a rollout without a verdict is inconclusive."""
    on_inconclusive: Literal["keep_champion", "hold"] = Field("keep_champion", examples=["hold"])
    """What follows an inconclusive rollout: the champion keeps all traffic, or the step is held for a person."""
    verdict: VerdictPolicy = VerdictPolicy()
    guardrails: Guardrails = Guardrails()
    control: Annotated[HaproxyControl | SagemakerControl, Field(discriminator="kind")] | None = None
    """What serves the model outside Perennial, and follows the rollout. Default: nothing; the gateway and `score` read the
    split themselves."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.control, SagemakerControl) and self.unit is not None:
            raise ValueError(
                f"unit is {self.unit!r}, but control.kind sagemaker chooses a version for each request at random; expected "
                "no unit, or a control that keeps units, such as haproxy"
            )
        if list(self.shares) != sorted(set(self.shares)):
            raise ValueError(f"shares is {list(self.shares)}, expected shares that grow, such as [0.1, 0.5]")
        if self.mode == "shadow" and self.feedback:
            raise ValueError(
                "mode is shadow and feedback is true: a shadow's rows prove nothing where answers change what is observed; "
                "expected feedback: false, or mode: canary or ab"
            )
        if self.steps and self.max_days < self.baking_days:
            raise ValueError(
                f"max_days is {self.max_days:g}, but its steps ({', '.join(step.name for step in self.steps)}) last bake_hours "
                f"({self.bake_hours:g}) each, so every rollout would end inconclusive; expected max_days of at least "
                f"{self.baking_days:.3g}, or fewer bake_hours"
            )
        return self

    @property
    def baking_days(self) -> float:
        """Days that the steps last at least, together."""
        return len(self.steps) * self.bake_hours / 24

    @property
    def chosen_mode(self) -> TrafficMode:
        return self.mode or ("canary" if self.feedback else "shadow")

    @property
    def steps(self) -> tuple["RolloutStep", ...]:
        """The steps in order; empty where a challenger is promoted at once."""
        shadow = RolloutStep("shadow", 0.0)
        if self.chosen_mode == "none":
            return ()
        if self.chosen_mode == "canary":
            return (shadow, *(RolloutStep("canary", share) for share in self.shares))
        return (shadow, RolloutStep("ab", self.ab_share)) if self.chosen_mode == "ab" else (shadow,)


def decide_step(policy: RolloutPolicy, state: RolloutState, look: RolloutLook) -> RolloutMove | None:
    """Decide what follows from a look: the next step, the end, or None to wait. Pure.

    A guardrail or a verdict against the challenger ends the rollout, also while it is held. A step ends once the
    challenger has answered `min_units`, `bake_hours` have passed and, where evidence of labels is required, the verdict
    is non-inferior. Without it by `max_days` or the planned end, the rollout is inconclusive; on a mismatched sample it is
    inconclusive at once, also after it has passed.
    """
    if any(move.window == look.window.name for move in state.moves):
        return None
    state = state if look in state.looks else replace(state, looks=(*state.looks, look))
    against = tuple(breach.reason for breach in look.breaches)
    if look.verdict is not None and look.verdict.conclusion == "worse":
        against += (look.verdict.reason,)
    if against:
        return _ended(state, look, "returned", against)
    if look.mismatch and state.status in ("running", "passed"):
        return _inconclusive(policy, state, look, look.mismatch)
    if state.status != "running":
        return None
    waiting = why_wait(policy, state, look.at)
    if waiting is None:
        return _next(state, look)
    if not _is_over(policy, state, look):
        return None
    return _inconclusive(policy, state, look, waiting)


def why_wait(policy: RolloutPolicy, state: RolloutState, at: datetime) -> str | None:
    """Why the step is not over yet, in a sentence; None if it is."""
    step, days = state.current.name, (at - state.plan.started_at) / timedelta(days=1)
    if state.answered < policy.min_units:
        return f"{step}: {state.answered} of {policy.min_units} units answered after {days:.3g} days"
    baked = (at - state.step_since) / timedelta(hours=1)
    if baked < policy.bake_hours:
        return f"{step}: {baked:.3g} of {policy.bake_hours:g} hours have passed"
    if needs_verdict(policy, state) and not state.is_proven:
        reason = state.verdict.reason if state.verdict else "no labels have matured"
        return f"{step}: no verdict after {days:.3g} days: {reason}"
    return None


def needs_verdict(policy: RolloutPolicy, state: RolloutState) -> bool:
    """Whether this step ends with a verdict: the last one does, and a shadow whose pairs are valid evidence."""
    return state.step == len(state.plan.steps) - 1 or (state.current.mode == "shadow" and not policy.feedback)


def _is_over(policy: RolloutPolicy, state: RolloutState, look: RolloutLook) -> bool:
    ends = policy.verdict.method != "confidence_sequence"  # which may go on for as long as it takes
    tested = ends and look.verdict is not None and look.verdict.information >= 1 and not state.is_proven
    return (tested and needs_verdict(policy, state)) or look.at - state.plan.started_at >= timedelta(
        days=policy.max_days
    )


def _next(state: RolloutState, look: RolloutLook) -> RolloutMove:
    """The move to the next step, or to `passed` after the last one, with what ended this one."""
    units = f"{state.current.name}: {state.answered} units answered, no guardrail breached"
    reasons = (units, *([state.verdict.reason] if state.verdict else []))
    last = state.step == len(state.plan.steps) - 1
    status: RolloutStatus = "passed" if last else "running"
    step = state.step if last else state.step + 1
    return RolloutMove(
        state.plan.decision_id, state.plan.version, status, step, look.at, reasons, window=look.window.name
    )


def _inconclusive(policy: RolloutPolicy, state: RolloutState, look: RolloutLook, reason: str) -> RolloutMove:
    """The end without a verdict, or a hold until a person decides."""
    move = _ended(state, look, "inconclusive", (reason,))
    return replace(move, status="held", end=None) if policy.on_inconclusive == "hold" else move


def _ended(state: RolloutState, look: RolloutLook, end: RolloutEnd, reasons: tuple[str, ...]) -> RolloutMove:
    plan = state.plan
    return RolloutMove(
        plan.decision_id, plan.version, "ended", state.step, look.at, reasons, end=end, window=look.window.name
    )


def awaiting_approval(state: RolloutState, move: RolloutMove) -> RolloutMove:
    """The same move, held back at a step that serves nothing until a person has approved it."""
    serves = move.status == "running" and state.plan.steps[move.step].share > 0
    if not serves or state.current.share > 0:
        return move
    return replace(move, status="awaiting_approval", step=state.step)


def why_not_direct(policy: RolloutPolicy, state: RolloutState | None, action: RolloutAction) -> str | None:
    """Why a person may not take this action on the rollout now; None if they may."""
    if state is None or not state.is_active:
        return "no rollout is running; start one with: perennial run promote"
    wanted: dict[RolloutAction, tuple[RolloutStatus, ...]] = {
        "hold": ("running",),
        "resume": ("held",),
        "advance": ("running", "held"),
        "abort": ("running", "held", "awaiting_approval", "passed"),
    }
    if state.status not in wanted[action]:
        status, expected = state.status.replace("_", " "), " or ".join(wanted[action])
        return f"the rollout of version {state.plan.version} is {status}, expected {expected}"
    last = state.looks[-1] if state.looks else None
    if action == "advance" and last is not None and last.breaches:
        return f"a guardrail is breached ({last.breaches[0].reason}); a person cannot lift it"
    if action == "advance" and last is not None and last.mismatch:
        return f"the versions cannot be compared ({last.mismatch}); a person cannot lift it"
    if action == "advance" and needs_verdict(policy, state) and not state.is_proven:
        reason = state.verdict.reason if state.verdict else "no labels have matured"
        return f"{state.current.name} ends with a verdict: {reason}"
    return None


def directed(state: RolloutState, action: RolloutAction, at: datetime, by: str, reason: str) -> RolloutMove:
    """The move that carries out a person's action."""
    plan, reasons = state.plan, (reason,)
    if action == "abort":
        return RolloutMove(plan.decision_id, plan.version, "ended", state.step, at, reasons, by, "aborted")
    if action == "advance":
        last = state.step == len(state.plan.steps) - 1
        status: RolloutStatus = "passed" if last else "running"
        return RolloutMove(
            plan.decision_id, plan.version, status, state.step if last else state.step + 1, at, reasons, by
        )
    return RolloutMove(
        plan.decision_id, plan.version, "held" if action == "hold" else "running", state.step, at, reasons, by
    )


def approved(state: RolloutState, at: datetime, approver: str, actor: str) -> RolloutMove:
    """The move to the first served step, once a person has approved it."""
    plan = state.plan
    return RolloutMove(
        plan.decision_id, plan.version, "running", state.step + 1, at, (f"approved by {approver}",), actor
    )


def unfinished_return(policy: RolloutPolicy, state: RolloutState) -> RolloutMove | None:
    """The return that follows from the latest look, where the run that recorded the look was killed."""
    move = decide_step(policy, state, state.looks[-1]) if state.looks else None
    return move if move is not None and move.end == "returned" else None


def describe_look(policy: RolloutPolicy, state: RolloutState, look: RolloutLook, move: RolloutMove | None) -> str:
    """Describe a look, and the move that followed, in one sentence."""
    if move is not None:
        return move.reasons[0]
    return why_wait(policy, state, look.at) or f"{state.current.name}: {state.status}"


def describe_move(state: RolloutState, move: RolloutMove) -> str:
    """Describe what a move does to the rollout, in a few words."""
    if move.status == "ended":
        return f"ended ({move.end})"
    words = {"passed": "passed", "held": "is held", "awaiting_approval": "waits for approval"}
    return words.get(move.status, f"goes to {state.plan.steps[move.step].name}")
