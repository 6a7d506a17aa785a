"""How much of its budget a search has spent, and whether another fit ends within it.

A fit cannot be interrupted, so the search spends in small steps: it starts a fit only if the time that is left covers
what fits usually take and the comparison that ends the search.
"""

from collections.abc import Sequence
from time import perf_counter, process_time

import numpy as np

from tasks.policy.economics.costs import Budget
from tasks.policy.training.search import SearchPolicy, cost_of_search, limit_s

USUAL_SHARE = 0.75
"""Quantile of earlier fits' seconds that a fit is expected to take."""
RECENT = 40
LATER_FOLD = 1.3
"""How much longer a later fold of the same trial may take: it has more rows."""


class Spending:
    """The clock and the account of one search; `spent_s` and `spent_cpu_s` are from before an interruption."""

    def __init__(self, policy: SearchPolicy, prices: Budget, spent_s: float = 0.0, spent_cpu_s: float = 0.0) -> None:
        self._policy, self._prices = policy, prices
        self._began = perf_counter() - spent_s, process_time() - spent_cpu_s
        self._fits: list[float] = []

    @property
    def wall_s(self) -> float:
        return perf_counter() - self._began[0]

    @property
    def cpu_s(self) -> float:
        return process_time() - self._began[1]

    @property
    def usd(self) -> float:
        return cost_of_search(self._prices, self.wall_s, self.cpu_s)

    @property
    def left_s(self) -> float:
        """Seconds that are left at the present rate of spending; infinite if only the number of trials is limited."""
        left = [float("inf")] if self._policy.minutes is None else [self._policy.minutes * 60 - self.wall_s]
        if self._policy.usd is not None and self.usd > 0:
            left.append((self._policy.usd - self.usd) * self.wall_s / self.usd)
        return min(left)

    @property
    def limit_s(self) -> float | None:
        return limit_s(self._policy, self._prices)

    def note(self, seconds: Sequence[float]) -> None:
        """Remember how long fits took."""
        self._fits = [*self._fits, *seconds][-RECENT:]

    def allows(self, before_s: float | None, reserve_s: float) -> bool:
        """Return whether another fit is expected to end in time; `before_s` is what the trial's previous fold took."""
        usual = float(np.quantile(self._fits, USUAL_SHARE)) if self._fits else 0.0
        expected = usual if before_s is None else before_s * LATER_FOLD
        return self.left_s - reserve_s >= expected
