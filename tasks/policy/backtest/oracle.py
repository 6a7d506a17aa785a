"""The optimum in hindsight: the reference for regret and lift.

It is exact under the cost model, by a dynamic programme over (window, serving candidate). In each window the optimum
keeps its candidate, or deploys any that could exist by then: one from history for (1-s)·α, one trained in service for
(1-s)·α plus its training s·α. Returning to a candidate that is already paid for would make the cost depend on the path.
The trainings are therefore 0/1 variables of an integer programme over the same graph (HiGHS), compared with the dynamic
programme's solution. Every action of a policy is also available to the optimum, so no policy's regret can be negative.
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tasks.policy.backtest.simulation import PerformanceMatrix, Run, cost, mean_loss
from tasks.policy.statistics.metrics import Floats


def _served_losses(matrix: PerformanceMatrix) -> Floats:
    """[W, T]: loss of each candidate on each served window; infinite where it could not serve.

    A window without any loss costs every candidate 0, so it does not affect the optimum.
    """
    losses = matrix.loss[:, matrix.first_served :].copy()
    exists = np.arange(matrix.windows)[:, None] < np.arange(matrix.history, matrix.history + matrix.served)[None, :]
    unlabelled = ~np.isfinite(losses).any(axis=0)
    losses[np.broadcast_to(unlabelled, losses.shape) & exists] = 0.0
    return np.where(np.isfinite(losses) & exists, losses, np.inf)


def _labelled(matrix: PerformanceMatrix) -> int:
    """Number of served windows with at least one loss; at least 1, otherwise the matrix is rejected."""
    return int(np.isfinite(matrix.loss[:, matrix.first_served :]).any(axis=0).sum())


def _price(matrix: PerformanceMatrix, alpha: float) -> float:
    """Price of a retrain in the sum of losses: C_α uses the mean loss of labelled windows, but spreads α over all T."""
    return alpha * _labelled(matrix) / matrix.served


def _path(losses: Floats, history: int, history_price: float, service_price: float) -> tuple[int, ...]:
    """Cheapest sequence of candidates if every deployment has the given price."""
    candidates, served = losses.shape
    price = np.where(np.arange(candidates) < history, history_price, service_price)
    total = np.full(candidates, np.inf)
    total[history - 1] = losses[history - 1, 0]
    before = np.zeros((served, candidates), dtype=int)
    for step in range(1, served):
        cheapest = int(np.argmin(total))
        switch = total[cheapest] + price
        stay = total <= switch
        before[step] = np.where(stay, np.arange(candidates), cheapest)
        total = np.where(stay, total, switch) + losses[:, step]
    serving = [int(np.argmin(total))]
    for step in range(served - 1, 0, -1):
        serving.append(int(before[step, serving[-1]]))
    return tuple(reversed(serving))


def as_run(matrix: PerformanceMatrix, serving: tuple[int, ...]) -> Run:
    """The run with this serving sequence that trained only the candidates it used."""
    trained = tuple(sorted({candidate for candidate in serving if candidate >= matrix.history}))
    deployments = sum(a != b for a, b in zip((matrix.history - 1, *serving), serving, strict=False))
    return Run(serving, trained, (), deployments, mean_loss(matrix, serving))


def best_run(matrix: PerformanceMatrix, alpha: float, share: float) -> Run:
    """The run with the smallest C_α among all that a policy could have made."""
    losses, price = _served_losses(matrix), _price(matrix, alpha)
    untrained = as_run(matrix, _path(losses, matrix.history, (1 - share) * price, (1 - share) * price))
    if len(untrained.trainings) == 0 or share == 0:  # optimal with free training and uses none, so it is the optimum
        return untrained
    run = as_run(matrix, _path(losses, matrix.history, (1 - share) * price, price))
    exact = as_run(matrix, _exact(losses, matrix.history, price, share))
    return min((run, exact), key=lambda r: cost(r, alpha, share, matrix.served))


def _exact(losses: Floats, history: int, price: float, share: float) -> tuple[int, ...]:
    """Integer programme over x (serves), d (deployed for this window) and y (trained); see the module docstring."""
    who, when = np.nonzero(np.isfinite(losses))
    size, candidates = len(who), len(losses)
    index = np.full(losses.shape, -1)
    index[who, when] = np.arange(size)
    goal = np.concatenate([losses[who, when], np.full(size, (1 - share) * price), np.full(candidates, share * price)])
    goal[2 * size : 2 * size + history] = 0.0
    upper = np.ones_like(goal)
    first = when == 0
    upper[:size][first & (who != history - 1)] = 0.0
    served = np.arange(losses.shape[1])
    one = coo_array((np.ones(size), (when, np.arange(size))), shape=(len(served), len(goal)))
    later = np.flatnonzero(~first)
    earlier = index[who[later], when[later] - 1]
    rows = np.arange(len(later))
    has = earlier >= 0
    entries = [(rows, later, 1.0), (rows, size + later, -1.0), (rows[has], earlier[has], -1.0)]
    switch = _matrix(entries, (len(later), len(goal)))
    own = np.flatnonzero(who >= history)
    rows = np.arange(len(own))
    paid = _matrix([(rows, own, 1.0), (rows, 2 * size + who[own], -1.0)], (len(own), len(goal)))
    rules = [LinearConstraint(one, 1, 1), LinearConstraint(switch, -np.inf, 0), LinearConstraint(paid, -np.inf, 0)]
    integer = np.zeros_like(goal)
    integer[:size] = 1
    solved = milp(goal, constraints=rules, bounds=Bounds(0, upper), integrality=integer, options={"mip_rel_gap": 0.0})
    if solved.x is None:
        raise ArithmeticError(f"the hindsight optimum was not found: {solved.message}")
    chosen = solved.x[:size] > 0.5
    serving = np.zeros(len(served), dtype=int)
    serving[when[chosen]] = who[chosen]
    return tuple(int(candidate) for candidate in serving)


def _matrix(entries: list[tuple[np.ndarray, np.ndarray, float]], shape: tuple[int, int]) -> coo_array:
    rows = np.concatenate([r for r, _, _ in entries])
    columns = np.concatenate([c for _, c, _ in entries])
    values = np.concatenate([np.full(len(r), value) for r, _, value in entries])
    return coo_array((values, (rows, columns)), shape=shape)


def best_mean_loss(matrix: PerformanceMatrix, retrains: int) -> float:
    """Smallest mean loss with exactly `retrains` retrains (train and deploy at once), by dynamic programme."""
    losses = _served_losses(matrix)
    candidates, served = losses.shape
    total = np.full((retrains + 1, candidates), np.inf)
    total[0, matrix.history - 1] = losses[matrix.history - 1, 0]
    for step in range(1, served):
        fresh = matrix.history + step - 1
        moved = total.copy()
        moved[1:, fresh] = np.minimum(moved[1:, fresh], total[:-1].min(axis=1))
        total = moved + losses[:, step]
    return float(total[retrains].min() / _labelled(matrix))


def best_schedule(matrix: PerformanceMatrix, alpha: float) -> Run:
    """The run with the smallest C_α that only retrains (trains and deploys at once) and never goes back."""
    losses, price = _served_losses(matrix), _price(matrix, alpha)
    total = np.full(len(losses), np.inf)
    total[matrix.history - 1] = losses[matrix.history - 1, 0]
    before = []
    for step in range(1, losses.shape[1]):
        fresh, cheapest = matrix.history + step - 1, int(np.argmin(total))
        origin = np.arange(len(losses))
        origin[fresh] = cheapest
        total[fresh] = total[cheapest] + price
        before.append(origin)
        total = total + losses[:, step]
    serving = [int(np.argmin(total))]
    for origin in reversed(before):
        serving.append(int(origin[serving[-1]]))
    return as_run(matrix, tuple(reversed(serving)))


def evenly_spaced(matrix: PerformanceMatrix, retrains: int) -> tuple[int, ...]:
    """Serving sequence of a timer with `retrains` retrains, evenly spaced over the served windows."""
    after = [round((i + 1) * matrix.served / (retrains + 1)) for i in range(retrains)]
    serving, champion = [], matrix.history - 1
    for step in range(matrix.served):
        if step in after:
            champion = matrix.history + step - 1
        serving.append(champion)
    return tuple(serving)
