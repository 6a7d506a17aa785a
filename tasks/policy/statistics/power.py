"""What a window of this size can show at all: the smallest effect it would find, and the rows it would take.

A window that shows nothing because it is small has not shown that nothing is there: where the smallest effect it could
have seen lies above the limit, the verdict is `insufficient`. "Would find" means four times of five unless said
otherwise, by the test that confirms the effect.
"""

import math
from typing import Literal

from scipy import special, stats

Method = Literal["ks", "psi", "wasserstein", "kl"]
MOST_ROWS = 10**9
"""What takes more rows than this cannot be had."""
KS_NEEDS = 1.18
"""Shift of a normal feature that KS finds, against a test of means: 1.165 to 1.193 for levels of 0.05 to 0.00002, drawn
from the limit of the test (a Brownian bridge over the shift), power 0.8 and 0.9."""


def smallest_effect(
    method: Method, rows: int, reference_rows: int, alpha: float, power: float = 0.8, bins: int = 20
) -> float:
    """Smallest effect, on the scale of `method`, that its test at level alpha finds with this power.

    Wasserstein, whose test is that of KS: a shift of δσ, for which KS needs KS_NEEDS times what a test of means does;
    as a KS distance that is 2Φ(δ/2) - 1. Both for a feature of normal shape.
    PSI and twice KL are, to third order, the non-centrality of χ² per row (Cohen 1988, ch. 7), over `bins` in use.
    """
    if min(rows, reference_rows) < 2:
        return math.inf
    each = 1 / rows + 1 / reference_rows
    if method in ("psi", "kl"):
        freedom = max(1, bins - 1)
        centre = float(special.chndtrinc(special.chdtri(freedom, alpha), freedom, 1 - power))
        return centre * each * (1.0 if method == "psi" else 0.5)
    shift = KS_NEEDS * minimum_detectable_shift(rows, reference_rows, alpha, power)
    return shift if method == "wasserstein" else 2 * float(special.ndtr(shift / 2)) - 1


def minimum_detectable_shift(rows: int, reference_rows: int, alpha: float = 0.01, power: float = 0.8) -> float:
    """Smallest shift of a mean, in reference σ, that a two-sided test finds with this power: Cohen (1988), 2.4."""
    if min(rows, reference_rows) < 2:
        return math.inf
    both = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    return both * math.sqrt(1 / rows + 1 / reference_rows)


def rows_needed(
    effect: float, method: Method, reference_rows: int, alpha: float, power: float = 0.8, bins: int = 20
) -> int | None:
    """Rows of a window that would find this effect; None where the reference itself is too small for any number."""
    if smallest_effect(method, MOST_ROWS, reference_rows, alpha, power, bins) > effect:
        return None
    low, high = 1, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        if smallest_effect(method, middle, reference_rows, alpha, power, bins) > effect:
            low = middle
        else:
            high = middle
    return high


def minimum_detectable_drop(
    rows: int, reference_rows: int, share: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest drop of a proportion from `share` that a one-sided test finds with this power: Fleiss et al. (2003)."""
    if min(rows, reference_rows) < 2:
        return math.inf
    both = float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(power))
    return both * math.sqrt(share * (1 - share) * (1 / rows + 1 / reference_rows))
