"""Distances between two sets of counts, and their p-values.

KS: Kolmogorov (1933), asymptotic p-value, conservative with ties. PSI: Siddiqi (2006), Credit Risk Scorecards.
Wasserstein-1: the area between two distribution functions. χ²: Pearson (1900), categories with few expected rows pooled
(Cochran, 1954). Without drift the expected PSI is not 0 but about (bins − 1)(1/n + 1/m), and the expected KL half of
that (Yurdakul, 2018); this noise floor is subtracted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from tasks.policy.records.profile import FeatureCounts, FeatureReference, Floats, bounded

PSI_BINS = 20
MIN_EXPECTED = 5.0  # Cochran's rule for the χ² test


@dataclass(frozen=True)
class Table:
    """Two rows of counts over the same bins: reference first, then current."""

    reference: Sequence[int]
    current: Sequence[int]

    @property
    def rows(self) -> tuple[int, int]:
        return sum(self.reference), sum(self.current)

    def arrays(self) -> tuple[Floats, Floats]:
        return np.asarray(self.reference, dtype=np.float64), np.asarray(self.current, dtype=np.float64)

    def coarse(self, bins: int = PSI_BINS) -> "Table":
        """Merge neighbouring bins until each holds about the same share of the reference.

        Values above every reference value join the last bin.
        """
        before, now = self.arrays()
        if not before.sum():
            return self
        middle = (np.cumsum(before) - before / 2) / before.sum()
        group = np.minimum((middle * bins).astype(np.int64), bins - 1)
        _, place = np.unique(group, return_inverse=True)
        return Table(
            np.bincount(place, before).astype(np.int64).tolist(), np.bincount(place, now).astype(np.int64).tolist()
        )


def ks(table: Table) -> float:
    """Largest difference between the two distribution functions at the ends of the bins; 0 if a side is empty."""
    before, now = table.arrays()
    if not before.sum() or not now.sum():
        return 0.0
    return float(np.abs(np.cumsum(before) / before.sum() - np.cumsum(now) / now.sum()).max())


def ks_p_value(table: Table) -> float:
    """Asymptotic p-value of `ks`; 1 if a side is empty."""
    n, m = table.rows
    return float(special.kolmogorov(ks(table) * np.sqrt(n * m / (n + m)))) if n and m else 1.0


def psi(table: Table) -> float:
    """Population stability index minus its noise floor; half a row is added to each bin to avoid empty ones."""
    (p, q), floor = _shares(table)
    return max(0.0, float(((q - p) * np.log(q / p)).sum()) - floor) if len(p) else 0.0


def kl(table: Table) -> float:
    """Kullback-Leibler divergence of current from reference minus its noise floor, in nats."""
    (p, q), floor = _shares(table)
    return max(0.0, float((q * np.log(q / p)).sum()) - floor / 2) if len(p) else 0.0


def noise_floor(bins: int, n: int, m: int) -> float:
    """Expected PSI between two samples of n and m rows from one distribution."""
    return (bins - 1) * (1 / n + 1 / m) if bins > 1 else 0.0


def _shares(table: Table) -> tuple[tuple[Floats, Floats], float]:
    """Smoothed shares of the bins used by either side, and the noise floor; empty if a side has no rows."""
    before, now = table.arrays()
    used = (before + now) > 0
    before, now = before[used], now[used]
    if not before.sum() or not now.sum():
        return (np.empty(0), np.empty(0)), 0.0
    floor = noise_floor(len(before), int(before.sum()), int(now.sum()))
    p, q = before + 0.5, now + 0.5
    return (p / p.sum(), q / q.sum()), floor


def chi2(table: Table) -> tuple[float, float]:
    """χ² of the two rows of counts and its p-value; (0, 1) if there is nothing to compare.

    Bins with fewer than 5 expected rows are pooled, so one row of an unseen category is not significant.
    """
    before, now = _pooled(table)
    if len(before) < 2:
        return 0.0, 1.0
    n, m = before.sum(), now.sum()
    share = (before + now) / (n + m)
    statistic = float(((before - n * share) ** 2 / (n * share)).sum() + ((now - m * share) ** 2 / (m * share)).sum())
    return statistic, float(special.chdtrc(len(before) - 1, statistic))


def compared_bins(table: Table) -> int:
    """Number of bins that the χ² test compares."""
    return len(_pooled(table)[0])


def _pooled(table: Table) -> tuple[Floats, Floats]:
    before, now = table.arrays()
    n, m = before.sum(), now.sum()
    if not n or not m:
        return np.empty(0), np.empty(0)
    expected = (before + now) * min(n, m) / (n + m)
    order = np.argsort(expected, kind="stable")
    before, now, expected = before[order], now[order], expected[order]
    rare = int((expected < MIN_EXPECTED).sum())
    while 0 < rare < len(expected) and expected[:rare].sum() < MIN_EXPECTED:
        rare += 1
    if rare:
        before = np.append(before[rare:], before[:rare].sum())
        now = np.append(now[rare:], now[:rare].sum())
    return before, now


def wasserstein(reference: FeatureReference, current: FeatureCounts) -> float | None:
    """Wasserstein-1 in reference σ (`FeatureReference.sigma`); None for a constant reference, 0 for an empty window.

    The signed area between the distribution functions is exact in each bin. The sum of absolute areas is therefore too
    small only where the two functions cross within a bin.
    """
    before = reference.counts
    if before.std <= 0:
        return None
    if not current.values:
        return 0.0
    widths = np.diff(reference.edges, prepend=reference.edges[0], append=reference.edges[-1])
    begun = np.append(
        0.0, np.cumsum(before.counts)[:-1] / before.values - np.cumsum(current.counts)[:-1] / current.values
    )
    within = np.asarray(before.gaps) / before.values - np.asarray(current.gaps) / current.values
    with np.errstate(over="ignore"):
        return bounded(np.abs(widths * begun + within).sum() / reference.sigma)
