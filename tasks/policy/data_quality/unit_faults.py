"""Signs of a broken feed in a feature: stuck values, a changed unit, or exchanged category names.

Real change rarely multiplies every value by the same factor, and never permutes the frequencies of categories. The
checks use only the counts of the frozen profile. A ratio alone does not prove a change of unit: a plain factor counts
only where the entire distribution is that of the reference, rescaled; otherwise it is reported as a possibility and
blocks nothing.
"""

import math
from typing import NamedTuple

import numpy as np

from tasks.policy.records.profile import FeatureCounts, FeatureReference
from tasks.policy.statistics import distances
from tasks.policy.statistics.distances import Table

UNITS = {
    "miles were given in km": (1.609344, 0.0),
    "km were given in miles": (1 / 1.609344, 0.0),
    "feet were given in metres": (0.3048, 0.0),
    "metres were given in feet": (1 / 0.3048, 0.0),
    "inches were given in cm": (2.54, 0.0),
    "cm were given in inches": (1 / 2.54, 0.0),
    "pounds were given in kg": (0.45359237, 0.0),
    "kg were given in pounds": (1 / 0.45359237, 0.0),
    "°F were given in °C": (1 / 1.8, -32 / 1.8),
    "°C were given in °F": (1.8, 32.0),
    "hPa were given in inches of mercury": (0.02953, 0.0),
    **{f"values were multiplied by {factor}": (float(factor), 0.0) for factor in (10, 24, 60, 100, 1000, 3600)},
    **{f"values were divided by {factor}": (1 / factor, 0.0) for factor in (10, 24, 60, 100, 1000, 3600)},
    "the sign was reversed": (-1.0, 0.0),
}
NEAR, FAIR = 0.35, 0.8
"""Largest distance, in σ of mean plus log of spread, between the rescaled reference and the window: for a finding on
its own, and for one that needs other features to be stable."""
BETTER = 3.0
"""The unchanged reference must be this many times further away."""
MOVED_KS = 0.25
"""KS distance from which a change of unit is considered; below it, an absent rare event is more likely."""
BEYOND, SLACK = 0.02, 1.0
"""Share of values that may lie more than SLACK σ beyond the rescaled reference's range."""
SHAPE_KS = 0.2
"""Largest KS distance between rescaled reference and window for a plain factor to prove a change of unit."""
STUCK, COMMON_SHARE = 0.05, 0.5
"""Share of the reference's spread below which a feature is stuck; share of one value in it that rules this out."""
RENAMED_PSI, SAME_SHARES_PSI = 1.0, 0.1


class Suspicion(NamedTuple):
    """Signs of a fault, in words; `sure` ones count whatever the other features show."""

    text: str
    sure: bool
    possible: bool = False
    """Only a possibility: the evidence proves nothing."""


def suspect(reference: FeatureReference, current: FeatureCounts, min_values: int = 200) -> Suspicion | None:
    """Check one feature of a window for signs of a fault; None if there is none or it has too few values."""
    if min(current.values, reference.counts.values) < min_values:
        return None
    if reference.kind == "numeric":
        return suspect_unit(reference, current) or suspect_stuck(reference.counts, current)
    return suspect_names(reference, current)


def suspect_stuck(before: FeatureCounts, now: FeatureCounts) -> Suspicion | None:
    """Check for nearly one value where no value of the reference was as frequent: a dry month is not a stuck gauge."""
    if before.std <= 0 or max(before.counts) > COMMON_SHARE * before.values:
        return None
    left = now.std / before.std
    return Suspicion(f"its spread fell to {left:.0%} of the reference's, as if stuck", True) if left <= STUCK else None


def suspect_unit(reference: FeatureReference, now: FeatureCounts) -> Suspicion | None:
    """Check if mean, spread and range match the reference in another unit and not in its own.

    Weather over a few days can have any mean and spread, and so sometimes those of another unit, but not the range as
    well.
    """
    before = reference.counts
    if before.std <= 0 or now.std <= 0 or distances.ks(Table(before.counts, now.counts)) < MOVED_KS:
        return None

    def away(factor: float, offset: float) -> float:
        spread = abs(factor) * before.std
        return abs(now.mean - factor * before.mean - offset) / spread + abs(math.log(now.std / spread))

    own = away(1.0, 0.0)
    best, words = min((away(*unit), words) for words, unit in UNITS.items())
    if best > FAIR or own < BETTER * max(best, 0.15) or _share_beyond(reference, now, *UNITS[words]) > BEYOND:
        return None
    factor, offset = UNITS[words]
    if offset or factor < 0:
        return Suspicion(f"its mean and spread look as if {words}", best <= NEAR)
    shape = _shape_distance(reference, now, factor)
    if shape > SHAPE_KS:
        return Suspicion(
            f"its mean and spread look as if {words}, but its distribution does not (KS {shape:.2g}, limit {SHAPE_KS:g})",
            sure=False,
            possible=True,
        )
    return Suspicion(f"its mean, spread and distribution look as if {words} (KS {shape:.2g})", best <= NEAR)


def _shape_distance(reference: FeatureReference, now: FeatureCounts, factor: float) -> float:
    """KS distance between the window and the reference multiplied by `factor`, at the window's bins.

    The reference's values are assumed to be uniform within a bin.
    """
    before, edges = reference.counts, np.asarray(reference.edges)
    known = np.cumsum(before.counts)[: len(edges)] / before.values
    start = before.minimum if before.minimum is not None else edges[0]
    rescaled = np.interp(
        edges / factor, np.append(min(start, edges[0]), edges), np.append(0.0, known), left=0.0, right=1.0
    )
    seen = np.cumsum(now.counts)[: len(edges)] / now.values
    return float(np.abs(rescaled - seen).max())


def _share_beyond(reference: FeatureReference, now: FeatureCounts, factor: float, offset: float) -> float:
    """Share of values outside the rescaled reference's range, in bins that are entirely outside."""
    before = reference.counts
    if before.minimum is None or before.maximum is None:
        return 0.0
    low, high = sorted((factor * before.minimum + offset, factor * before.maximum + offset))
    slack, counts = SLACK * abs(factor) * before.std, np.asarray(now.counts)
    starts, ends = (-np.inf, *reference.edges), (*reference.edges, np.inf)
    beyond = (np.asarray(starts) >= high + slack) | (np.asarray(ends) <= low - slack)
    return float(counts[beyond].sum() / counts.sum())


def suspect_names(reference: FeatureReference, current: FeatureCounts) -> Suspicion | None:
    """Check if the shares of the categories are those of the reference in another order."""
    before, now = (np.asarray(counts[:-1]) for counts in (reference.counts.counts, current.counts))
    if reference.more_categories or len(before) < 3:
        return None
    moved = distances.psi(Table(tuple(before.tolist()), tuple(now.tolist())))
    ordered = distances.psi(Table(tuple(np.sort(before).tolist()), tuple(np.sort(now).tolist())))
    if moved < RENAMED_PSI or ordered > SAME_SHARES_PSI:
        return None
    return Suspicion("its categories have the same shares as before, but under each other's names", True)
