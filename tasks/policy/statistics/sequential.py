"""Anytime-valid intervals of the mean of a growing series: they keep their level however often you look.

A fixed 95 % interval that is checked after every window misses the mean eventually.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.statistics.resampling import Interval

BLOCK = 10
"""Number of values after which a new sequence starts."""


def confidence_sequence(values: ArrayLike, alpha: float, sigma: float, tuned_for: int = 20) -> list[Interval]:
    """Intervals of the mean after each value, all of which hold simultaneously with probability 1 - alpha.

    Two-sided normal mixture: √((V + ρ) log((V + ρ) / ρα²)) / t with V the summed variance (Robbins 1970, Annals of
    Mathematical Statistics 41:1397; Howard et al. 2021, Annals of Statistics 49:1055, eq. 14). `sigma` is the standard
    deviation of one value and must be known; an estimate from the first few values breaks the level.
    ρ makes the interval tightest after `tuned_for` values.
    """
    series = np.asarray(values, float)
    counts = np.arange(1, len(series) + 1)
    means, errors = np.cumsum(series) / counts, sigma / np.sqrt(counts)
    halves = errors * sequence_width(counts / tuned_for, alpha)
    return [Interval(float(mean - half), float(mean + half)) for mean, half in zip(means, halves, strict=True)]


def sequence_width(information: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Half the width of a confidence sequence in standard errors of the mean, at each amount of information.

    `information` is relative to the amount at which the sequence is tightest, for a mean of n values n / `tuned_for`.
    With an estimated standard error the intervals hold asymptotically (Waudby-Smith et al. 2024, Annals of Statistics
    52:2613, theorem 2.2).

    >>> sequence_width([0.1, 1, 10], 0.05).round(2).tolist()
    [3.86, 3.04, 3.24]
    """
    amount = np.asarray(information, float)
    rho = 1 / (2 * math.log(1 / alpha) + math.log(1 + 2 * math.log(1 / alpha)))
    width: NDArray[np.float64] = np.sqrt((1 + rho / amount) * np.log((amount + rho) / (rho * alpha**2)))
    return width


def block_sequences(
    values: ArrayLike, alpha: float, sigma: float, block: int = BLOCK, tuned_for: int = 5
) -> list[Interval]:
    """Intervals, after each value, of the mean of its block so far; all hold simultaneously with probability 1 - alpha.

    In a single sequence earlier values would mask a change, so a new one starts every `block` values. The b-th block
    has level alpha/b(b + 1), which sums to alpha over any number of blocks.
    """
    series, found = np.asarray(values, float), []
    for number, start in enumerate(range(0, len(series), block), start=1):
        share = alpha / (number * (number + 1))
        found += confidence_sequence(series[start : start + block], share, sigma, tuned_for)
    return found
