"""Compare policies on a recorded history: cost, regret, skill and lift of each, over a range of costs.

regret = C_α - the hindsight optimum's C_α. skill = 1 - regret / regret of the better of never and every window (0 is
trivial, 1 is hindsight). lift = (evenly spaced schedule of as many retrains - policy) / (evenly spaced - optimum of as
many), in mean loss. Protocol: README of the practice streams.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.policy.backtest.baselines import Timer
from tasks.policy.backtest.oracle import as_run, best_mean_loss, best_run, evenly_spaced
from tasks.policy.backtest.simulation import PerformanceMatrix, Policy, PolicyFactory, Run, cost, mean_loss, simulate
from tasks.policy.records.errors import MatrixError
from tasks.policy.statistics.metrics import Floats
from tasks.policy.statistics.resampling import moving_block_interval

ALPHAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
COMPUTE_SHARE = 0.2


@dataclass(frozen=True)
class Score:
    """One policy at one cost; `skill` and `lift` are None where no gain was possible or nothing was retrained."""

    run: Run
    cost: float
    regret: float
    skill: float | None
    lift: float | None


@dataclass(frozen=True)
class Backtest:
    """Scores by policy and α, and the hindsight optimum for each α."""

    alphas: tuple[float, ...]
    compute_share: float
    served: int
    policies: dict[str, dict[float, Score]]
    optimum: dict[float, Score]

    def mean_regret(self, policy: str) -> float:
        return float(np.mean([score.regret for score in self.policies[policy].values()]))

    def ranking(self) -> list[str]:
        """Policies by mean regret over α, best first."""
        return sorted(self.policies, key=self.mean_regret)


@dataclass(frozen=True)
class Recommendation:
    """The policy to use, in one sentence, and the YAML of its `retraining:` section; empty if no trigger implements it."""

    sentence: str
    yaml: str = ""


def run_backtest(
    matrix: PerformanceMatrix,
    policies: Mapping[str, PolicyFactory],
    alphas: Sequence[float] = ALPHAS,
    share: float = COMPUTE_SHARE,
) -> Backtest:
    """Simulate every policy at every α. Raises MatrixError for costs out of range or an unknown window."""
    if not alphas or any(not math.isfinite(a) or a <= 0 for a in alphas):
        raise MatrixError(f"alphas are {list(alphas)}, expected costs above 0 such as 0.05")
    if not 0 <= share <= 1:
        raise MatrixError(f"compute share is {share}, expected 0 to 1, the share of a retrain's cost that is compute")
    scorer = _Scorer(matrix, share)
    optimum = {alpha: scorer.optimum(alpha) for alpha in alphas}
    scores = {
        name: {alpha: scorer.score(simulate(matrix, make(alpha, share)), alpha) for alpha in alphas}
        for name, make in policies.items()
    }
    return Backtest(tuple(alphas), share, matrix.served, scores, optimum)


class _Scorer:
    """Scores runs on one matrix; shared references are computed once."""

    def __init__(self, matrix: PerformanceMatrix, share: float) -> None:
        self.matrix, self.share = matrix, share
        trivial: tuple[Policy, ...] = (Timer(None), Timer(1))
        self.trivial = [simulate(matrix, policy) for policy in trivial]
        self.best: dict[float, Run] = {}
        self.levels: dict[int, tuple[float, float]] = {}

    def _cost(self, run: Run, alpha: float) -> float:
        return cost(run, alpha, self.share, self.matrix.served)

    def optimum(self, alpha: float) -> Score:
        self.best[alpha] = best_run(self.matrix, alpha, self.share)
        return self.score(self.best[alpha], alpha)

    def score(self, run: Run, alpha: float) -> Score:
        least = self._cost(self.best[alpha], alpha)
        regret = self._cost(run, alpha) - least
        base = min(self._cost(trivial, alpha) for trivial in self.trivial) - least
        skill = 1 - regret / base if base > 1e-12 else None
        return Score(run, self._cost(run, alpha), regret, skill, self._lift(run))

    def _lift(self, run: Run) -> float | None:
        retrains = len(run.trainings)
        if not retrains:
            return None
        if retrains not in self.levels:
            even = as_run(self.matrix, evenly_spaced(self.matrix, retrains)).mean_loss
            self.levels[retrains] = even, best_mean_loss(self.matrix, retrains)
        even, best = self.levels[retrains]
        return (even - run.mean_loss) / (even - best) if even - best > 1e-12 else None


def served_losses(matrix: PerformanceMatrix, run: Run) -> Floats:
    """[T]: losses of the run's serving candidates, by window."""
    return matrix.loss[list(run.serving), np.arange(matrix.first_served, matrix.windows)]


def gain_interval(
    matrix: PerformanceMatrix, backtest: Backtest, policy: str, baseline: str, alpha: float
) -> tuple[float, float, float]:
    """(gain, low, high): cost saved per window against `baseline`, with a 95 % interval.

    Moving-block bootstrap over the served windows, since neighbours are correlated.
    The spending of each run is known and is not resampled.
    """
    ours, theirs = backtest.policies[policy][alpha], backtest.policies[baseline][alpha]
    difference = served_losses(matrix, theirs.run) - served_losses(matrix, ours.run)
    difference = difference[np.isfinite(difference)]
    spending = (theirs.cost - mean_loss(matrix, theirs.run.serving)) - (ours.cost - mean_loss(matrix, ours.run.serving))
    low, high = moving_block_interval(difference)
    return float(difference.mean() + spending), low + spending, high + spending


@dataclass(frozen=True)
class Lift:
    """Lift of one run with its 95 % interval, over a timer with as many retrains whose mean loss is `even`."""

    lift: float
    low: float
    high: float
    retrains: int
    even: float


def lifts(matrix: PerformanceMatrix, backtest: Backtest) -> dict[str, dict[float, Lift | None]]:
    """Lift by policy and α; None if nothing was retrained or no schedule with as many retrains beats the timer.

    The loss saved against the timer is resampled over the served windows in moving blocks. The denominator, the
    advantage of the best schedule in hindsight over the timer, is a property of the record and is not resampled.
    """
    known: dict[Run, Lift | None] = {}
    for scores in backtest.policies.values():
        for score in scores.values():
            if score.run not in known:
                known[score.run] = _lift(matrix, score)
    return {name: {a: known[score.run] for a, score in scores.items()} for name, scores in backtest.policies.items()}


def _lift(matrix: PerformanceMatrix, score: Score) -> Lift | None:
    if score.lift is None:
        return None
    retrains = len(score.run.trainings)
    timer = as_run(matrix, evenly_spaced(matrix, retrains))
    span = timer.mean_loss - best_mean_loss(matrix, retrains)
    saved = served_losses(matrix, timer) - served_losses(matrix, score.run)
    low, high = (bound / span for bound in moving_block_interval(saved))
    return Lift(score.lift, low, high, retrains, timer.mean_loss)


Entry = dict[str, list[int] | int | float | None]


def summary(backtest: Backtest) -> dict[str, dict[str, dict[str, Entry]] | dict[str, Entry]]:
    """The content of summary.json."""
    return {
        "policies": {
            name: {f"{alpha:g}": _entry(score) for alpha, score in scores.items()}
            for name, scores in backtest.policies.items()
        },
        "optimum": {f"{alpha:g}": _entry(score) for alpha, score in backtest.optimum.items()},
    }


def _entry(score: Score) -> Entry:
    return {
        "serving": list(score.run.serving),
        "trainings": list(score.run.trainings),
        "probes": list(score.run.probes),
        "deployments": score.run.deployments,
        "mean_loss": _number(score.run.mean_loss),
        "cost": _number(score.cost),
        "regret": _number(score.regret),
        "skill": _number(score.skill),
        "lift": _number(score.lift),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
