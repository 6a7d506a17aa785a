"""Whether two versions of somebody else's service answered random parts of the same traffic.

Nobody here assigned the rows, so the log has to show it: both versions answered at the same time and in no order, and
what is known of a row before it is answered does not depend on the version. Else a gain may be that of the rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import NDArray

from tasks.policy.comparison.plan import LEAST_UNITS
from tasks.policy.statistics.metrics import Codes, Floats, Metric

LEVEL = 0.001
"""p-value below which an assignment is not random; as for a sample ratio, because every look tests."""
LEAST_SHARE = 0.25
"""Share of a window's units that must come while both versions answer: a new version takes over in a part of a window."""
MOST_GROUPS, LEAST_EXPECTED = 20, 5.0
"""Groups to which the values of a feature are reduced, and the units expected in each (Cochran 1954, Biometrics 10:417)."""
SURE = 3.0
"""Standard deviations by which another version must answer more rows than the champion to replace it."""
NAMED = 3
"""Features that a reason names."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The units (n,) of a window that came while both versions answered; `why_not` says why this is no split."""

    units: NDArray[np.bool_]
    why_not: str | None = None


def find_overlap(times: NDArray[np.int64], of_challenger: NDArray[np.bool_]) -> Overlap:
    """Find the time in which both versions answered, from the first `times` (n,) of the units of one window.

    In a random assignment the units of the rarer version form as many runs as chance gives, which is hypergeometric (Mood
    1940, Annals of Mathematical Statistics 11:367). Fewer mean that the versions took turns. Equal times have no order.

    >>> find_overlap(np.arange(100), np.arange(100) >= 50).why_not
    'one version answered after the other'
    """
    none = np.zeros(len(times), bool)
    if of_challenger.all() or not of_challenger.any():
        return Overlap(none, "one version answered")
    arms = times[of_challenger], times[~of_challenger]
    both = (times >= max(arm.min() for arm in arms)) & (times <= min(arm.max() for arm in arms))
    side, count = of_challenger[both], int(both.sum())
    rarer = min(int(side.sum()), count - int(side.sum()))
    if rarer < LEAST_UNITS or count < LEAST_SHARE * len(times):
        return Overlap(none, "one version answered after the other")
    order = np.lexsort((np.random.default_rng(0).permutation(count), times[both]))
    is_rarer = (side == (2 * side.sum() <= count))[order]
    runs = int(is_rarer[0]) + int((is_rarer[1:] & ~is_rarer[:-1]).sum())
    if scipy.stats.hypergeom(count, count - rarer + 1, rarer).cdf(runs) < LEVEL:
        return Overlap(none, "the versions took turns, or the share of one of them changed meanwhile")
    return Overlap(both)


def takes_over(champion: int, other: int) -> bool:
    """Whether a version that answered `other` rows is the champion now; an even split must not alternate by chance.

    Chance moves the difference of two equal shares of n rows by more than 3√n in one of 740 windows.

    >>> takes_over(140, 160), takes_over(100, 200), takes_over(0, 5)
    (False, True, True)
    """
    return not champion or other - champion > SURE * math.sqrt(champion + other)


def why_not_random(
    strata: NDArray[np.int64], of_challenger: NDArray[np.bool_], values: Mapping[str, NDArray[np.integer]]
) -> str | None:
    """Say which `values` (n,) of the units differ between the versions, within the windows `strata` (n,); None if none do.

    The level is that of all of them together (Bonferroni).
    """
    found = {name: _p_value(_counts(strata, of_challenger, codes)) for name, codes in values.items()}
    differing = [name for name in sorted(found, key=lambda name: found[name]) if found[name] * len(found) < LEVEL]
    if not differing:
        return None
    named = ", ".join(differing[:NAMED]) + (f" and {len(differing) - NAMED} more" if len(differing) > NAMED else "")
    return (
        f"your service does not assign rows to versions at random: those of the two versions differ in {named} "
        f"(p below {LEVEL:g}), so the versions cannot be compared"
    )


def why_not_unpaired(metric: Metric) -> str | None:
    """Why groups of different sizes do not show which version is better by this metric, else None."""
    if metric.rule is None or metric.rule.per_row:
        return None
    return (
        f"{metric.name} is one value for a table, which can depend on how many rows a version answered; expected a metric "
        "that is a mean of rows"
    )


def _counts(strata: NDArray[np.int64], of_challenger: NDArray[np.bool_], codes: NDArray[np.integer]) -> Codes:
    """Units by (window, version, group of neighbouring values)."""
    _, values, amounts = np.unique(codes, return_inverse=True, return_counts=True)
    middle = (np.cumsum(amounts) - amounts / 2) / amounts.sum()
    group = np.minimum((middle * MOST_GROUPS).astype(np.int64), MOST_GROUPS - 1)[values]
    shape = int(strata.max()) + 1, 2, MOST_GROUPS
    cells = np.ravel_multi_index((strata, of_challenger.astype(np.int64), group), shape)
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)


def _p_value(counts: Codes) -> float:
    """p-value that the groups do not depend on the version, given the window: Mantel-Haenszel for several groups.

    Mantel (1963), Journal of the American Statistical Association 58:690. Groups with few expected units are left out.
    """
    units, groups = counts.sum(axis=2).astype(float), counts.sum(axis=1).astype(float)
    total = np.maximum(units.sum(axis=1), 2.0)
    expected: Floats = units[:, :1] * groups / total[:, None]
    each = units.prod(axis=1) / (total**2 * (total - 1))
    covariance = np.diag((each * total) @ groups) - (groups * each[:, None]).T @ groups
    difference = (counts[:, 0] - expected).sum(axis=0)
    smaller = np.minimum(expected.sum(axis=0), (groups - expected).sum(axis=0))
    used = smaller >= LEAST_EXPECTED
    if used.sum() < 2:
        return 1.0
    covariance, difference = covariance[np.ix_(used, used)], difference[used]
    freedom = int(np.linalg.matrix_rank(covariance, hermitian=True))
    if not freedom:
        return 1.0
    statistic = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
    return float(scipy.special.chdtrc(freedom, statistic))
