"""Profiles of a reference and of a window: the counts from which quality checks and drift scores are computed.

A reference is frozen when its model is registered: per feature up to 255 quantile edges (every distinct value if there
are no more than that) or its categories. A window is counted into those frozen edges, so the size of its profile does
not depend on the number of rows. Profiles of batches can be merged in any order and grouping, with the counts of all
rows together. The error of KS from 255 edges is at most 1/255.

Merging of moments: Chan, Golub, LeVeque (1979), Updating formulae and a pairwise algorithm for sample variances.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from tasks.policy.records.base import Window
from tasks.policy.records.reports import FeatureKind


@dataclass(frozen=True, slots=True)
class LabelProfile:
    """Distribution of the labels a model was trained on: percentiles 5, 25, 50, 75, 95 of numbers, or class shares."""

    rows: int
    levels: tuple[float, ...] = ()
    """The percentiles, then the mean distance from the middle: percentiles of labels that are mostly 0 are unstable."""
    span: tuple[float, float] | None = None
    """Minimum and maximum of numeric labels."""
    shares: tuple[tuple[str, float], ...] = ()
    """Shares of the 50 largest classes."""
    labelled_share: float | None = None
    """Share of the rows of that period that have a label."""


MAX_EDGES = 255
RANKS_SEEN = 4 * MAX_EDGES
"""Evenly spaced ranks that show whether a column has more than MAX_EDGES distinct values."""
MAX_CATEGORIES = 1000
MISSING = "missing"
LARGEST = sys.float_info.max
ROUNDING = 1e-6
"""About a dozen float32 steps, relative to the value."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FeatureCounts:
    """One feature of a set of rows, counted into its reference's edges or categories.

    Numeric: `counts[i]` is the number of values in (edge[i-1], edge[i]], the last one of values above every edge.
    Otherwise there is one count per category and a last one for values of other categories. NaN counts as null, ±inf as
    non-finite, a value that cannot be parsed as the feature's kind (text in a number) as unreadable; none of these is
    in `counts`. `outside` is the number of values that the quality settings do not accept. `gaps` sums, per numeric
    bin, the distances of its values to the bin's upper edge (for the last bin: its lower edge); areas between
    distributions are computed from it.
    """

    feature: str
    arrow_type: str
    rows: int
    counts: tuple[int, ...]
    nulls: int = 0
    non_finite: int = 0
    unreadable: int = 0
    outside: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    gaps: tuple[float, ...] = ()

    @property
    def values(self) -> int:
        """Number of counted values: neither null, nor infinite, nor unreadable."""
        return sum(self.counts)

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.values) if self.values else 0.0

    @property
    def null_share(self) -> float:
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether all counted rows hold one value; False for a feature without values."""
        if self.minimum is not None:
            return self.minimum == self.maximum
        others = self.counts[-1] if self.counts else 0  # unlisted categories are assumed to be several, not one
        return not others and sum(1 for count in self.counts if count) == 1

    def merge(self, other: "FeatureCounts") -> "FeatureCounts":
        """Counts of both sets of rows. Raises ValueError if they were counted for different references."""
        if self.feature != other.feature or len(self.counts) != len(other.counts):
            raise ValueError(
                f"{self.feature}: {len(self.counts)} counts, {other.feature}: {len(other.counts)}: cannot be merged; "
                "expected counts of one feature for one reference"
            )
        mean, squares = _merge_moments(self, other)
        return FeatureCounts(
            feature=self.feature,
            arrow_type=self.arrow_type,
            rows=self.rows + other.rows,
            counts=tuple(map(add, self.counts, other.counts)),
            nulls=self.nulls + other.nulls,
            non_finite=self.non_finite + other.non_finite,
            unreadable=self.unreadable + other.unreadable,
            outside=self.outside + other.outside,
            mean=mean,
            squares=squares,
            minimum=min((part.minimum for part in (self, other) if part.minimum is not None), default=None),
            maximum=max((part.maximum for part in (self, other) if part.maximum is not None), default=None),
            gaps=bounded_each(tuple(map(add, self.gaps, other.gaps))),
        )


def _merge_moments(left: FeatureCounts, right: FeatureCounts) -> tuple[float, float]:
    """Mean, and sum of squared distances from the mean."""
    ours, theirs = left.values, right.values
    if not ours or not theirs:
        return (left.mean, left.squares) if ours else (right.mean, right.squares)
    share = theirs / (ours + theirs)
    with np.errstate(over="ignore"):
        shift = np.float64(right.mean) - left.mean
        squares = np.float64(left.squares) + right.squares + shift * shift * ours * share
    return float(left.mean * (1 - share) + right.mean * share), bounded(squares)


def bounded(value: float | np.floating) -> float:
    """Replace infinities by the largest float, NaN by 0: JSON has neither, and values near the limit can overflow."""
    return 0.0 if value != value else float(min(max(value, -LARGEST), LARGEST))


def bounded_each(values: tuple[float, ...]) -> tuple[float, ...]:
    return values if math.isfinite(sum(values)) else tuple(map(bounded, values))


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """One feature at training time: the frozen edges or categories, and their counts."""

    feature: str
    kind: FeatureKind
    counts: FeatureCounts
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    more_categories: bool = False
    """Whether there were more categories than listed. If so, the last count includes them and no category is unseen."""
    stable_effect: float | None = None
    """Effect size that one in a hundred windows of the reference's own days exceeds; None where not calibrated."""
    seasonal_effect: float | None = None
    """The same, compared only with the surrounding days: deviation from the season."""
    scale: float | None = None
    """Standard deviation within Tukey's outer fences, robust to a sentinel or a heavy tail. None in older profiles and
    where it is not defined."""
    sentinel: float | None = None
    """A value far from all others in many rows, such as a code for missing; counted as null, here and in windows."""
    sentinel_share: float = 0.0
    left_out: tuple[str, ...] = ()
    """Outlying days of the training rows, excluded from this feature's counts."""
    constant_windows: float = 0.0
    """Share of the training rows' windows in which all values are the same, as those of a month or a season often are."""

    @property
    def sigma(self) -> float:
        """Unit of distances for this feature."""
        return self.scale or self.counts.std

    @property
    def remarks(self) -> tuple[str, ...]:
        """Problems of the reference itself, in sentences."""
        found = []
        if self.sentinel is not None:
            found.append(
                f"{self.feature}: {self.sentinel_share:.1%} of the training rows hold {self.sentinel:.6g}, far from all "
                "other values, as a code for missing values would be; it is counted as null and excluded from scale and range"
            )
        if self.left_out:
            days = f"{self.left_out[0]} to {self.left_out[-1]}" if len(self.left_out) > 1 else self.left_out[0]
            found.append(
                f"{self.feature}: {len(self.left_out)} days of the training rows ({days}) are unlike all other "
                "days and are excluded from its reference"
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """Frozen profile of a model's training data, stored with its version. `columns` pairs names with Arrow types."""

    model: str
    window: Window
    rows: int
    content_hash: str
    features: tuple[FeatureReference, ...]
    columns: tuple[tuple[str, str], ...]
    leaking: tuple[str, ...] = ()
    """Sentences on features that leak the label."""
    stable_auc: float | None = None
    """AUC of a classifier that separates windows of the reference's own days from the rest; None if not calibrated."""
    usual_gap_days: int = 1
    """90th percentile of the days between consecutive days with rows: 7 for a weekly batch."""
    labels: LabelProfile | None = None
    """Profile of the labels of these rows; None in profiles from before labels were profiled."""


@dataclass(frozen=True, slots=True)
class WindowProfile:
    """A window of production rows, counted into a reference. `sample_uri` holds sampled rows for plots, if any."""

    window: Window
    rows: int
    features: tuple[FeatureCounts, ...]
    columns: tuple[tuple[str, str], ...]
    null_ids: int = 0
    duplicate_ids: int = 0
    duplicates_exact: bool = True
    """False if there were more rows than stored ids; `duplicate_ids` is then an estimate from a sample."""
    oldest: datetime | None = None
    newest: datetime | None = None
    reference_hash: str = ""
    sample_uri: str | None = None

    @property
    def constant(self) -> tuple[str, ...]:
        """Features that hold a single value."""
        return tuple(counts.feature for counts in self.features if counts.is_constant)


def merge_counts(parts: Iterable[FeatureCounts]) -> FeatureCounts:
    """Merge all parts; raises TypeError without any."""
    return reduce(FeatureCounts.merge, parts)


def choose_edges(values: Floats) -> tuple[float, ...]:
    """Edges for sorted finite values: all distinct ones if at most 255, else quantiles from minimum to maximum.

    Each edge is slightly above a value that occurs. A value repeated in many rows therefore falls within one bin, and
    stays there when another program rounds it differently (as float32, or 0.1 + 0.2 for 0.3). A single value also gets
    an edge below it, so that downward shifts are visible.
    """
    scale = float(np.median(np.abs(values))) if len(values) else 0.0
    ranks = np.linspace(0, len(values) - 1, RANKS_SEEN).round().astype(np.int64)[: len(values)]
    distinct, margins = _distinct(values[ranks], scale)
    if len(distinct) <= MAX_EDGES:
        distinct, margins = _distinct(values, scale)
    if len(distinct) == 1:
        return bounded(distinct[0] - 2 * margins[0]), bounded(distinct[0] + margins[0])
    if len(distinct) > MAX_EDGES:
        ranks = np.linspace(0, len(values) - 1, MAX_EDGES).round().astype(np.int64)
        distinct = np.unique(values[ranks])
        margins = rounding(distinct, scale)
    half_gaps = np.append(np.diff(distinct) / 2, np.inf)
    return tuple(bounded(edge) for edge in distinct + np.minimum(margins, half_gaps))


def _distinct(values: Floats, scale: float) -> tuple[Floats, Floats]:
    """Return the last of each run of equal sorted values, and its tolerance; values within rounding are equal."""
    tolerance = rounding(values, scale)
    is_last = np.append(np.diff(values) > tolerance[:-1], True)[: len(values)]
    return values[is_last], tolerance[is_last]


def rounding(values: Floats, scale: float = 0.0) -> Floats:
    """Tolerance for a value stored by another program: some float32 steps, and near 0 a tiny fraction of `scale`."""
    return np.maximum(np.abs(values) * ROUNDING, max(scale * ROUNDING**2, sys.float_info.min))


def choose_categories(counts: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], bool]:
    """The most frequent categories, at most 1000, ties by name; and whether there were more."""
    ordered = sorted(counts, key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ordered[:MAX_CATEGORIES]), len(ordered) > MAX_CATEGORIES


def with_missing(counts: FeatureCounts, nulls: int, non_finite: int = 0, unreadable: int = 0) -> FeatureCounts:
    """Add the rows without a countable value to the counts."""
    return replace(
        counts,
        rows=counts.rows + nulls + non_finite + unreadable,
        nulls=nulls,
        non_finite=non_finite,
        unreadable=unreadable,
    )
