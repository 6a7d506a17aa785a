"""What never retraining, a timer and `perennial` would have cost and gained, in the metric and in money.

The three policies of `perennial new` on one recorded history. Gains are over never, with 95 % intervals from the served
windows in moving blocks, as neighbouring windows are correlated. Without the value of a unit of the metric, the value
from which a policy pays is given instead.
"""

from dataclasses import dataclass

import numpy as np

from tasks.policy.backtest.baselines import Timer
from tasks.policy.backtest.perennial_policy import PerennialPolicy
from tasks.policy.backtest.simulation import PerformanceMatrix, Policy, Run, simulate
from tasks.policy.backtest.study import COMPUTE_SHARE, served_losses
from tasks.policy.economics.costs import Budget
from tasks.policy.statistics.metrics import BOUNDED, Metric
from tasks.policy.statistics.resampling import moving_block_interval
from tasks.policy.triggers.probe import DEFAULT_ALPHA

CADENCES = (("month", 365.2425 / 12), ("week", 7.0), ("day", 1.0))
FEWEST_TICKS = 3
"""A timer that would retrain less often than this in the served windows is no comparison."""
PROBE_SHARE = 0.1
"""Cost of a small model in that of a full one, as in the back-test."""


@dataclass(frozen=True)
class HistoryTerms:
    """What the losses of a matrix mean: the metric, the scale of its losses, the days of a window and the prices."""

    metric: Metric
    scale: float
    window_days: float
    budget: Budget


@dataclass(frozen=True)
class PolicyResult:
    """One policy over the served windows. `gain` is how much better the metric is than with never retraining."""

    policy: str
    retrains: int
    switches_back: int
    """Deployments of a model that existed already, such as one from the history."""
    serves_as_never: bool
    """Whether every window was served by the same model as with never retraining."""
    metric: float
    gain: float
    low: float
    high: float
    cost_usd: float
    value_usd: float | None
    pays_from_usd: float | None
    """Value of a unit of the metric a day from which the policy pays; None if it gains nothing or costs nothing."""


@dataclass(frozen=True)
class PolicyComparison:
    """Results of never, a timer and `perennial`, in this order, over `windows` served windows of `days` in all."""

    results: tuple[PolicyResult, ...]
    windows: int
    days: float
    headline: str


def choose_timer(window_days: float, served: int) -> tuple[int, str]:
    """Return a usual cadence in windows, and its name: the longest that ticks at least `FEWEST_TICKS` times.

    >>> choose_timer(7.0, 30), choose_timer(1.0, 20)
    ((4, 'every 28 days'), (7, 'every 7 days'))
    """
    for _, days in CADENCES:
        period = round(days / window_days)
        if period >= 1 and served >= FEWEST_TICKS * period:
            return period, f"every {period * window_days:,.4g} days"
    return max(1, served // FEWEST_TICKS), f"every {max(1, served // FEWEST_TICKS) * window_days:,.4g} days"


def compare_policies(matrix: PerformanceMatrix, terms: HistoryTerms) -> PolicyComparison:
    """Simulate the three policies with the same information and prices."""
    period, cadence = choose_timer(terms.window_days, matrix.served)
    policies: dict[str, Policy] = {
        "never": Timer(None),
        f"a timer, {cadence}": Timer(period),
        "perennial": PerennialPolicy(_alpha(matrix, terms), COMPUTE_SHARE),
    }
    runs = {name: simulate(matrix, policy) for name, policy in policies.items()}
    results = tuple(_result(matrix, terms, name, run, runs["never"]) for name, run in runs.items())
    return PolicyComparison(results, matrix.served, matrix.served * terms.window_days, _headline(results, terms))


def _alpha(matrix: PerformanceMatrix, terms: HistoryTerms) -> float:
    """The cost of a retrain in losses of one window, from money if a unit of the metric has a value."""
    value = terms.budget.value_usd_per_metric_unit_per_day
    if not value:
        return DEFAULT_ALPHA
    known = matrix.secs[np.isfinite(matrix.secs) & (matrix.secs > 0)] if matrix.secs is not None else np.empty(0)
    seconds = float(np.mean(known)) if known.size else 0.0
    return max(1e-6, _usd(terms.budget, 1, seconds) / (value * terms.window_days * terms.scale))


def _usd(budget: Budget, retrains: int, seconds: float) -> float:
    oversight = budget.oversight_usd_per_day * budget.oversight_days_per_retrain
    hourly = budget.compute_usd_per_hour + budget.cpu_usd_per_hour
    return retrains * (budget.fixed_usd_per_retrain + oversight) + seconds / 3600 * hourly


def _result(matrix: PerformanceMatrix, terms: HistoryTerms, name: str, run: Run, never: Run) -> PolicyResult:
    differences = (served_losses(matrix, never) - served_losses(matrix, run)) * terms.scale
    differences = differences[np.isfinite(differences)]
    gain = float(differences.mean()) if differences.size else 0.0
    low, high = moving_block_interval(differences) if differences.size > 1 and np.ptp(differences) else (gain, gain)
    loss = run.mean_loss * terms.scale
    metric = loss if not terms.metric.higher_is_better else 1 - loss if terms.metric.name in BOUNDED else -loss
    seconds = float(np.nansum(matrix.secs[list(run.trainings)])) if matrix.secs is not None else 0.0
    if matrix.secs is not None and run.probes:
        seconds += PROBE_SHARE * float(np.nansum(matrix.secs[list(run.probes)]))
    cost, days = _usd(terms.budget, len(run.trainings), seconds), matrix.served * terms.window_days
    value = terms.budget.value_usd_per_metric_unit_per_day
    worth = None if value is None else value * gain * days
    pays_from = cost / (gain * days) if gain > 0 and cost > 0 else None
    back, same = run.deployments - len({*run.serving} & {*run.trainings}), run.serving == never.serving
    return PolicyResult(name, len(run.trainings), back, same, metric, gain, low, high, cost, worth, pays_from)


def _headline(results: tuple[PolicyResult, ...], terms: HistoryTerms) -> str:
    """Say in one sentence what retraining would have been worth, and whether `perennial` needed fewer retrains."""
    never, timer, ours = results
    name = terms.metric.name
    if ours.serves_as_never and ours.retrains == 0 and max(timer.low, 0) == 0:
        return (
            f"Nothing was gained by retraining in this history: {name} stays at {never.metric:.4g}, and "
            "perennial would not have retrained."
        )
    switched = f", switched back to an earlier model {times(ours.switches_back)}" if ours.switches_back else ""
    return (
        f"perennial would have retrained {times(ours.retrains)}{switched} and reached {name} {ours.metric:.4g}, "
        f"{_against_never(ours)} ({never.metric:.4g}); {timer.policy} would have retrained {times(timer.retrains)} and "
        f"reached {timer.metric:.4g}."
    )


def _against_never(ours: PolicyResult) -> str:
    if ours.low > 0:
        return "ahead of never"
    if ours.high < 0:
        return "behind never"
    return "behind never, though not clearly" if ours.gain < 0 else "not clearly ahead of never"


def times(count: int) -> str:
    """Return "once" or "N times"."""
    return "once" if count == 1 else f"{count} times"
