"""Rollouts with real verdicts on made-up evidence: one per way in which a rollout stands or ends. Seeded, no clock."""

import random
from dataclasses import replace
from datetime import timedelta

from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.guardrails import (
    ArmStatistics,
    GuardrailEvidence,
    Guardrails,
    LabelledEvidence,
    LabelledGain,
    judge_guardrails,
)
from tasks.policy.comparison.plan import RolloutForecast
from tasks.policy.comparison.verdict import decide_verdict
from tasks.policy.evidence.validation import PredictionHistogram
from tasks.policy.records.base import Window, utc
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import Rollout, RolloutLook, RolloutMove, RolloutState

START = utc("2024-03-01T06:00")
DAYS = 3.0
SIGMA, MARGIN, ROWS = 0.39, 0.01, 3100
SHADOW = RolloutPolicy(feedback=False)
CANARY = RolloutPolicy(mode="canary", max_days=10)
PLANNED = RolloutForecast(units=12_340, days=15.0, looks=5, margin=MARGIN, sigma=SIGMA)
BINS = PredictionHistogram("8", (0.2, 0.4, 0.6), (0.4, 0.3, 0.2, 0.1), 5000)


def started(policy: RolloutPolicy, version: str = "8") -> RolloutState:
    """Return a rollout that has no look yet; its forecast is that of the policy."""
    served = policy.steps[-1].share > 0
    planned = RolloutForecast(34_300, 60.0, 20, MARGIN, SIGMA, 60.0, 62_000.0) if served else PLANNED
    plan = Rollout("d" * 16, version, "7", policy.steps, None, "salt", START, planned, ("validated",))
    return RolloutState(plan)


def looked(state: RolloutState, policy: RolloutPolicy, gain: float, latency_s: float = 0.012) -> RolloutState:
    """Return the state with one more look, whose evidence has this gain on all rows so far."""
    number = len(state.looks) + 1
    end = START + number * timedelta(days=DAYS)
    window, error = Window(end - timedelta(days=DAYS), end), SIGMA / (ROWS * number) ** 0.5
    evidence = Evidence(end, gain, error, ROWS * number, ROWS * number, True, 0.45, 0.45 - gain, ROWS * number - 1)
    chance = random.Random(number)
    shares = tuple(share + chance.uniform(-0.02, 0.02) for share in BINS.shares)
    champion = ArmStatistics("7", ROWS, 1, 0, 0.02, 0.010, shares, BINS, 50)
    challenger = ArmStatistics("8", ROWS, 3, 0, 0.02, latency_s, shares, BINS, 50, slow=50 * (latency_s > 0.02))
    slices = (LabelledGain("origin=JFK", "log_loss", 0.45, 0.46, -0.01, 0.01, 900, 900, accepted=0.05),)
    calibration = LabelledGain("calibration", "ece", 0.021, 0.024, -0.003, 0.004, ROWS * number, ROWS * number)
    answers = GuardrailEvidence(window, champion, challenger, LabelledEvidence(number, calibration, slices))
    look = RolloutLook(
        rollout=state.plan.decision_id,
        step=state.step,
        window=window,
        at=end + timedelta(hours=1),
        guardrails=answers,
        breaches=judge_guardrails(Guardrails(), answers),
        evidence=evidence,
        verdict=decide_verdict(policy.verdict, state.plan.forecast, state.evidence, evidence),
    )
    return replace(state, looks=(*state.looks, look))


def moved(state: RolloutState, status: str, *reasons: str, step: int | None = None, **more: object) -> RolloutState:
    """Return the state after a move at its latest look."""
    at = state.looks[-1].at
    plan, step = state.plan, state.step if step is None else step
    return state.moved(RolloutMove(plan.decision_id, plan.version, status, step, at, reasons, **more))


def running() -> RolloutState:
    return looked(looked(started(SHADOW), SHADOW, 0.002), SHADOW, 0.004)


def promoted() -> RolloutState:
    state = looked(looked(running(), SHADOW, 0.007), SHADOW, 0.006)
    reason = state.verdict.reason
    return moved(moved(state, "passed", "shadow: 12,400 units answered", reason), "ended", reason, end="promoted")


def in_canary() -> RolloutState:
    state = looked(started(CANARY), CANARY, 0.001)
    state = moved(state, "running", "shadow: 3,100 units answered, no guardrail breached", step=1)
    return looked(looked(state, CANARY, -0.002), CANARY, 0.001)


def returned() -> RolloutState:
    state = moved(looked(in_canary(), CANARY, -0.004), "held", "checking a complaint of gate B4", by="Ada")
    state = moved(state, "running", "complaint resolved", by="Ada")
    state = looked(state, CANARY, -0.016, latency_s=0.031)
    reasons = tuple(breach.reason for breach in state.looks[-1].breaches)
    return moved(state, "ended", *reasons, "champion 7 answers everything", end="returned")
