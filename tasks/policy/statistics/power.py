"""Power of a window: the smallest effect that its rows can show, and the rows that an effect needs.

A small window without a visible effect is no evidence of stability. If the smallest detectable effect is above the
limit, the verdict is `insufficient`. Detection means a power of 0.8 unless stated otherwise, for the test that confirms
the effect.
"""

import math
from dataclasses import dataclass
from typing import Literal

from scipy import special, stats

Method = Literal["ks", "psi", "wasserstein", "kl"]
MOST_ROWS = 10**9
"""Upper limit for the number of rows needed."""
KS_NEEDS = 1.18
"""Shift of a normal feature that KS detects, relative to a test of means: 1.165 to 1.193 for levels of 0.05 to 0.00002,
simulated from the limit of the test (a Brownian bridge over the shift), power 0.8 and 0.9."""


@dataclass(frozen=True, slots=True)
class EffectTest:
    """The test that confirms an effect: the distance it is measured by, its level, its power, and the bins in use."""

    method: Method
    alpha: float
    power: float = 0.8
    bins: int = 20


def smallest_effect(test: EffectTest, rows: int, reference_rows: int) -> float:
    """Smallest effect, on the scale of the test's method, that the test detects.

    Wasserstein is confirmed by the KS test: a shift of δσ that is KS_NEEDS times the one a test of means detects; as a
    KS distance it is 2Φ(δ/2) - 1. Both assume a normal feature. PSI and twice KL are, to third order, the
    non-centrality of χ² per row (Cohen 1988, ch. 7), over the bins in use. Infinite with fewer than two rows on a side.
    """
    if min(rows, reference_rows) < 2:
        return math.inf
    each = 1 / rows + 1 / reference_rows
    if test.method in ("psi", "kl"):
        freedom = max(1, test.bins - 1)
        centre = float(special.chndtrinc(special.chdtri(freedom, test.alpha), freedom, 1 - test.power))
        return centre * each * (1.0 if test.method == "psi" else 0.5)
    shift = KS_NEEDS * minimum_detectable_shift(rows, reference_rows, test.alpha, test.power)
    return shift if test.method == "wasserstein" else 2 * float(special.ndtr(shift / 2)) - 1


def minimum_detectable_shift(rows: int, reference_rows: int, alpha: float = 0.01, power: float = 0.8) -> float:
    """Smallest shift of a mean, in reference σ, that a two-sided test detects with this power: Cohen (1988), 2.4."""
    if min(rows, reference_rows) < 2:
        return math.inf
    both = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    return both * math.sqrt(1 / rows + 1 / reference_rows)


def rows_needed(test: EffectTest, effect: float, reference_rows: int) -> int | None:
    """Rows that a window needs to detect this effect; None if the reference is too small for any number of rows."""
    if smallest_effect(test, MOST_ROWS, reference_rows) > effect:
        return None
    low, high = 1, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        if smallest_effect(test, middle, reference_rows) > effect:
            low = middle
        else:
            high = middle
    return high


def minimum_detectable_drop(
    rows: int, reference_rows: int, share: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest drop of a proportion from `share` that a one-sided test detects at this power: Fleiss et al. (2003)."""
    if min(rows, reference_rows) < 2:
        return math.inf
    both = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(power))
    return both * math.sqrt(share * (1 - share) * (1 / rows + 1 / reference_rows))
