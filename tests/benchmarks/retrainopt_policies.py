"""Policies of the package retrainopt as baselines of the back-test; only a benchmark dependency.

Base and Learned compute the optimal plan on the history and apply what they learned from it (Yang and Mathioudakis, ECML
PKDD 2026). The package's model of step j is our candidate j - 1: both first serve window j. A retrain decided on window j
trains our candidate j, whose first loss, on window j + 1, is its reference.
"""

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from tasks.policy.backtest.simulation import PolicyFactory, SimulatedService
from tasks.policy.statistics.metrics import Floats


class PlannedPolicy:
    """Apply a retrainopt online policy that was fitted on the history block, with costs from α."""

    def __init__(self, kind: str, alpha: float) -> None:
        self.kind, self.alpha = kind, alpha
        self.policy: Any = None
        self.champion, self.reference, self.staleness = -1, math.nan, 0.0

    def act(self, service: SimulatedService) -> None:
        from retrainopt import DecisionAction, OnlineState

        if self.policy is None:
            history = service.loss[: service.history, : service.history]
            self.policy = _fitted(self.kind, self.alpha, history.tobytes(), service.history)
        loss = float(service.loss[service.champion, service.now])
        if self.policy is False or not math.isfinite(loss):
            return
        if service.champion != self.champion:
            self.champion, self.reference, self.staleness = service.champion, loss, 0.0
        self.staleness += loss - self.reference
        age = service.now - (service.champion + 1)
        state = OnlineState(service.now, loss - self.reference, self.staleness, age)
        if self.policy.decide(state, train_size=1).action == DecisionAction.RETRAIN:
            service.retrain()


@cache
def _fitted(kind: str, alpha: float, block: bytes, history: int) -> Any:
    """Return the policy that retrainopt fits on a history block; False if the block is too short."""
    from retrainopt import BaseOnlinePolicy, LearnedOnlinePolicy, PlannerConfig, collect_online_training_data

    loss: Floats = np.frombuffer(block).reshape(history, history)
    complete = [t for t in range(history - 1) if np.isfinite(loss[t, t + 1 :]).all()]
    if len(complete) < 3 or complete != list(range(complete[0], history - 1)):
        return False
    first = complete[0] + 1
    lookup = _timeline(loss, first)
    config = PlannerConfig(n_choices=(1.0,), time_cost_weight=0.0, loss_cost_weight=1.0)
    learned = collect_online_training_data(
        *lookup,
        config,
        history_steps=history - first,
        initial_model=first - 1,
        initial_reference_loss=float(loss[first - 1, first]),
        training_cost_fn=lambda **_: alpha,
    )
    if kind == "base":
        return BaseOnlinePolicy.from_plan(learned.plan)
    return LearnedOnlinePolicy().fit(learned.states, learned.decisions)


def _timeline(loss: Floats, first: int) -> tuple[Any, Any]:
    """Return a timeline and a model adapter of retrainopt that look up losses instead of training."""
    from retrainopt import ModelAdapter
    from retrainopt.adapters import ArrayTimelineAdapter

    class Lookup(ModelAdapter):
        def fit(self, train_data: Any, *, step: int, n_samples: int, random_seed: int) -> int:
            return first + step - 1

        def evaluate(self, model: int, eval_data: Any, *, step: int) -> float:
            return float(loss[model, first + step])

    steps = [[step] for step in range(len(loss) - first)]
    return ArrayTimelineAdapter(steps, steps), Lookup()


def retrainopt_policies() -> dict[str, PolicyFactory]:
    """Return the policies; empty if the package is not installed (`pip install retrainopt`)."""
    if find_spec("retrainopt") is None:
        return {}
    return {
        "retrainopt_base": lambda alpha, share: PlannedPolicy("base", alpha),
        "retrainopt_learned": lambda alpha, share: PlannedPolicy("learned", alpha),
    }
