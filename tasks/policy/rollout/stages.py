"""The steps of a rollout as a state machine: shadow first, then served steps, until the challenger may be promoted.

The state is folded from the ledger, so a killed run resumes where it was and no step is taken twice. Only evidence moves a
rollout on; time alone never promotes. A rollout ends in one of five ways: promoted, returned (a guardrail or a verdict
against the challenger), inconclusive, aborted by a person, or superseded by a newer decision.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.policy.records.base import Settings, Window, digest, from_json
from tasks.policy.records.evidence import LedgerEntry
from tasks.policy.rollout.guardrails import Breach, GuardrailEvidence, Guardrails
from tasks.policy.rollout.traffic import HaproxyControl, SagemakerControl, TrafficMode, TrafficSplit
from tasks.policy.rollout.verdict import Evidence, RolloutForecast, RolloutVerdict, VerdictPolicy

STARTED, LOOKED, MOVED, ENDED = "rollout.started", "rollout.looked", "rollout.moved", "rollout.ended"
RolloutEnd = Literal["promoted", "returned", "inconclusive", "aborted", "superseded"]
RolloutStatus = Literal["running", "held", "awaiting_approval", "passed", "ended"]
Share = Annotated[float, Field(gt=0, lt=1)]


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
    ab_share: float = Field(0.05, gt=0, lt=1, examples=[0.1])
    """ab: the challenger's share during the test."""
    unit: str | None = Field(None, min_length=1, max_length=200, examples=["customer"])
    """Column whose values stay with one version, such as the customer. Default: the row id."""
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
        return self

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


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One step: what the challenger does, and its share of the units."""

    mode: TrafficMode
    share: float

    @property
    def name(self) -> str:
        return self.mode if self.mode == "shadow" else f"{'A/B' if self.mode == 'ab' else self.mode} {self.share:.3g}"


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


@dataclass(frozen=True, slots=True)
class RolloutMove:
    """A change of a rollout's step or status. `by` is who made it, `perennial` for a monitor run."""

    rollout: str
    status: RolloutStatus
    step: int
    at: datetime
    reasons: tuple[str, ...]
    by: str = "perennial"
    end: RolloutEnd | None = None


@dataclass(frozen=True, slots=True)
class RolloutState:
    """A rollout as of now, folded from the ledger: plan, status, step and the looks so far, oldest first."""

    plan: Rollout
    status: RolloutStatus = "running"
    step: int = 0
    since: datetime | None = None
    looks: tuple[RolloutLook, ...] = ()
    moves: tuple[RolloutMove, ...] = ()

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
            return TrafficSplit(model, plan.champion)
        return TrafficSplit(
            model, plan.champion, plan.version, step.mode, step.share, plan.unit, plan.salt, step.name,
            self.step_since, plan.decision_id,
        )  # fmt: skip
