"""Judging a series while it grows: intervals that hold at every look at once, and a window that adapts to change.

A fixed 95 % interval looked at after every window is sure to miss sooner or later; what stands here is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from tasks.policy.statistics.resampling import Interval

BUCKETS_PER_ROW = 5
"""M of the paper: more is finer and costs more memory."""
BLOCK = 10
"""Values after which a new sequence begins."""


def confidence_sequence(values: ArrayLike, alpha: float, sigma: float, tuned_for: int = 20) -> list[Interval]:
    """Intervals of the mean after each value, all of which hold at once with probability 1 - alpha.

    Two-sided normal mixture: √((V + ρ) log((V + ρ) / ρα²)) / t with V the summed variance (Robbins 1970, Annals of
    Mathematical Statistics 41:1397; Howard et al. 2021, Annals of Statistics 49:1055, eq. 14). `sigma` is the standard
    deviation of one value, which must be known: estimated from the first few values, the level is lost at once.
    ρ makes the interval tightest after `tuned_for` values.
    """
    series = np.asarray(values, float)
    counts = np.arange(1, len(series) + 1)
    means, summed = np.cumsum(series) / counts, sigma**2 * counts
    rho = sigma**2 * tuned_for / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    half = np.sqrt((summed + rho) * np.log((summed + rho) / (rho * alpha**2))) / counts if sigma else 0.0 * counts
    return [Interval(float(mean - width), float(mean + width)) for mean, width in zip(means, half, strict=True)]


def block_sequences(
    values: ArrayLike, alpha: float, sigma: float, block: int = BLOCK, tuned_for: int = 5
) -> list[Interval]:
    """Intervals, after each value, of the mean of its block so far; all hold at once with probability 1 - alpha.

    One sequence over everything would drown a change in what came before it, so a new one begins every `block` values:
    the b-th has alpha/b(b + 1), which sums to alpha however long one looks on.
    """
    series, found = np.asarray(values, float), []
    for number, start in enumerate(range(0, len(series), block), start=1):
        share = alpha / (number * (number + 1))
        found += confidence_sequence(series[start : start + block], share, sigma, tuned_for)
    return found


@dataclass(slots=True)
class _Bucket:
    total: float
    spread: float
    """Sum of squared distances from the bucket's mean."""


@dataclass(slots=True)
class AdaptiveWindow:
    """ADWIN2: the longest stretch of latest values whose halves do not differ, in O(log n) memory.

    Bifet & Gavaldà (2007), "Learning from time-changing data with adaptive windowing", SDM. Values should lie within a
    range of about 1. `rows[i]` holds buckets of 2^i values, newest first.

    >>> window = AdaptiveWindow(delta=0.01)
    >>> [i for i in range(200) if window.update(0.0 if i < 100 else 1.0)][0]
    107
    """

    delta: float = 0.002
    rows: list[list[_Bucket]] = field(default_factory=lambda: [[]])

    @property
    def width(self) -> int:
        return sum(len(row) << level for level, row in enumerate(self.rows))

    @property
    def mean(self) -> float:
        return self._totals()[1] / self.width if self.width else float("nan")

    def update(self, value: float) -> bool:
        """Take in a value; True when older values were dropped because the mean has changed."""
        self.rows[0].insert(0, _Bucket(float(value), 0.0))
        self._compress()
        shrunk = False
        while self._differs():
            self._drop_oldest()
            shrunk = True
        return shrunk

    def _compress(self) -> None:
        for level in range(len(self.rows)):
            if len(self.rows[level]) <= BUCKETS_PER_ROW:
                break
            older, newer = self.rows[level].pop(), self.rows[level].pop()
            size = 1 << level
            between = size / 2 * ((older.total - newer.total) / size) ** 2
            merged = _Bucket(older.total + newer.total, older.spread + newer.spread + between)
            if level + 1 == len(self.rows):
                self.rows.append([])
            self.rows[level + 1].insert(0, merged)

    def _drop_oldest(self) -> None:
        self.rows[-1].pop()
        while len(self.rows) > 1 and not self.rows[-1]:
            self.rows.pop()

    def _totals(self) -> tuple[int, float, float]:
        """(values, their sum, sum of squared distances from their mean)."""
        count, total, spread = 0, 0.0, 0.0
        for level, row in enumerate(self.rows):
            size = 1 << level
            for bucket in row:
                gap = bucket.total / size - (total / count if count else 0.0)
                spread += bucket.spread + (gap**2 * size * count / (size + count) if count else 0.0)
                count, total = count + size, total + bucket.total
        return count, total, spread

    def _differs(self) -> bool:
        """Whether some cut parts the window into two whose means differ by more than ε_cut (the paper's eq. 3.1)."""
        count, total, spread = self._totals()
        if count < 2:
            return False
        log_term = math.log(2 * math.log(count) / self.delta) if count > 2 else math.log(2 / self.delta)
        variance, old_count, old_total = spread / count, 0, 0.0
        for level in range(len(self.rows) - 1, -1, -1):
            for bucket in reversed(self.rows[level]):
                old_count, old_total = old_count + (1 << level), old_total + bucket.total
                new_count = count - old_count
                if not new_count:
                    return False
                harmonic = 1 / (1 / old_count + 1 / new_count)
                bound = math.sqrt(2 / harmonic * variance * log_term) + 2 / (3 * harmonic) * log_term
                if abs(old_total / old_count - (total - old_total) / new_count) > bound:
                    return True
        return False


def change_points(values: Sequence[float], delta: float = 0.002) -> tuple[int, ...]:
    """Positions at which an adaptive window over the values dropped its past."""
    window = AdaptiveWindow(delta)
    return tuple(place for place, value in enumerate(values) if window.update(value))
