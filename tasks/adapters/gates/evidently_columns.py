"""Prepare both samples for Evidently: finite float64 and text columns, one column per test.

Evidently drops nulls and infinities before it tests, ignores types it does not know, and bins numbers at equal width,
which a single extreme value distorts. The shares of null, infinite and unreadable values therefore become columns of
their own. PSI and KL of numbers are computed on ranks within the reference; for other distances, numbers are clipped to
the reference's range plus its width on either side. Rare categories are pooled. Names are escaped, because Evidently
writes them into scripts and into Plotly labels, which turn `<a>` into live links.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tasks.adapters.profiling.columns import category_name, decode, is_number
from tasks.policy.monitoring.drift import SIDES, DriftLimits, value_limit
from tasks.policy.monitoring.second_opinion import Scale
from tasks.policy.records.profile import ROUNDING, FeatureReference, Floats
from tasks.policy.statistics.distances import MIN_EXPECTED
from tasks.policy.statistics.power import Method

METHODS = {"wasserstein": "wasserstein", "ks": "ks", "psi": "psi", "kl": "kl_div"}
"""Our name of each distance, and Evidently's."""
SMALLEST_STD = 0.001  # Evidently's lower bound of the divisor of a Wasserstein distance
FEW_VALUES = 20  # up to this many distinct values, Evidently compares each value instead of bins
RARE, UNSEEN, OTHER = "(rare)", "(unseen)", "(other)"
VALUE, PRESENT = "", "value"
KINDS = ("null", "infinite", "unreadable")  # in the order of SIDES
Labels = NDArray[np.object_]


@dataclass(frozen=True)
class Side:
    """One feature in one sample, one entry per row: floats with NaN or names with None, and why a value is missing."""

    values: Floats | Labels
    missing: Labels

    @property
    def known(self) -> Floats | Labels:
        return self.values[self.missing == VALUE]


@dataclass(frozen=True)
class Samples:
    """Bounded samples of the window and of the reference, and the day of each reference row."""

    current: pa.Table
    reference: pa.Table
    days: Labels
    frozen: Mapping[str, FeatureReference]

    @property
    def features(self) -> tuple[str, ...]:
        held = set(self.current.column_names) & set(self.reference.column_names)
        return tuple(name for name in self.frozen if name in held)

    def sides(self, feature: str, all_rows: bool = False) -> tuple[Side, Side]:
        """Return the feature's window and reference side; `all_rows` adds excluded days, with every category's name."""
        frozen = self.frozen[feature]
        now, before = (_read_side(side.column(feature), frozen, all_rows) for side in (self.current, self.reference))
        if frozen.left_out and not all_rows:
            counted = ~np.isin(self.days, frozen.left_out)
            before = Side(before.values[counted], before.missing[counted])
        return now, before


@dataclass(frozen=True)
class Compared:
    """One Evidently test: its input from both samples, the limit on our scale, and the scale that converts it."""

    feature: str
    method: str
    is_numeric: bool
    current: pd.Series
    reference: pd.Series
    limit: float
    scale: Scale

    @property
    def has_values(self) -> bool:
        """Whether the test compares the feature's values, rather than its share of missing values."""
        return self.method not in SIDES

    @property
    def stattest(self) -> str:
        return METHODS[self.scale.method]

    @property
    def threshold(self) -> float:
        return self.scale.threshold(self.limit)

    def resampled(self, random: np.random.Generator) -> "Compared":
        """Bootstrap: return the test with as many rows per side, drawn with replacement."""
        current, reference = (
            side.take(random.integers(0, len(side), len(side))).reset_index(drop=True)
            for side in (self.current, self.reference)
        )
        return replace(self, current=current, reference=reference)


def _read_side(column: pa.ChunkedArray, frozen: FeatureReference, all_names: bool) -> Side:
    """Read a sampled column by the same rules as the profile of all rows."""
    plain = decode(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return _numbers(plain, frozen.sentinel) if frozen.kind == "numeric" else _names(plain, frozen, all_names)


def _numbers(column: pa.Array, sentinel: float | None) -> Side:
    missing = np.full(len(column), VALUE, object)
    nulls = ~column.is_valid().to_numpy(zero_copy_only=False)
    if not (is_number(column.type) or pa.types.is_boolean(column.type)):
        missing[:] = KINDS[2]
        missing[nulls] = KINDS[0]
        return Side(np.full(len(column), np.nan), missing)
    floats = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = np.where(nulls, np.nan, floats).astype(np.float64)
    if sentinel is not None:
        values[np.isclose(values, sentinel, rtol=ROUNDING, atol=0.0)] = np.nan
    missing[np.isinf(values)] = KINDS[1]
    missing[np.isnan(values)] = KINDS[0]
    return Side(np.where(missing == VALUE, values, np.nan), missing)


def _names(column: pa.Array, frozen: FeatureReference, all_names: bool) -> Side:
    known, other = set(frozen.categories), OTHER if frozen.more_categories else UNSEEN
    missing = np.full(len(column), VALUE, object)
    nulls = ~column.is_valid().to_numpy(zero_copy_only=False)
    missing[nulls] = KINDS[0]
    if pa.types.is_nested(column.type) or pa.types.is_null(column.type):
        missing[~nulls] = KINDS[2]
        return Side(np.full(len(column), None, object), missing)
    encoded = column.dictionary_encode()
    names = [
        None if value is None or value != value else category_name(value, frozen.kind == "boolean")
        for value in encoded.dictionary.to_pylist()
    ]
    shown = [name if name is None or all_names or name in known else other for name in names]
    listed = np.array([*shown, None], object)
    indices = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    values = listed[indices]
    missing[values == None] = KINDS[0]  # noqa: E711  element by element
    return Side(values, missing)


def compare(frozen: FeatureReference, current: Side, reference: Side, limits: DriftLimits) -> Iterator[Compared]:
    """Yield the tests of one feature: one of its values, and one per kind of missing value found on either side."""
    method, limit = value_limit(frozen, limits)
    if min(len(current.known), len(reference.known)) >= limits.min_rows:
        compared: Callable[..., Compared] = _compare_numbers if frozen.kind == "numeric" else _compare_names
        yield compared(frozen, current.known, reference.known, method, limit)
    for kind, side in zip(KINDS, SIDES, strict=True):
        now, before = current.missing == kind, reference.missing == kind
        if min(len(now), len(before)) >= limits.min_rows and (now.any() or before.any()):
            names = np.array([PRESENT, kind], object)
            marked, marked_before = (pd.Series(names[one.astype(int)], dtype=object) for one in (now, before))
            scale = Scale("psi", len(now), len(before), bins=2)
            yield Compared(frozen.feature, side, False, marked, marked_before, limits.categorical_threshold, scale)


def _compare_numbers(
    frozen: FeatureReference, current: Floats, reference: Floats, method: Method, limit: float
) -> Compared:
    bins, ratio = 1, 1.0
    if method in ("psi", "kl"):
        ordered = np.sort(reference)
        current, reference = (np.searchsorted(ordered, one, "right") / len(ordered) for one in (current, reference))
        both = np.concatenate([current, reference])
        few = len(np.unique(reference)) <= FEW_VALUES
        bins = len(np.unique(both)) if few else len(np.histogram_bin_edges(both, "sturges")) - 1
    else:
        low, high = frozen.edges[0], frozen.edges[-1]
        span = max(high - low, frozen.sigma)
        current, reference = (np.clip(one, low - span, high + span) for one in (current, reference))
        ratio = (frozen.sigma or 1.0) / max(float(np.std(reference)), SMALLEST_STD)
    scale = Scale(method, len(current), len(reference), bins, ratio if method == "wasserstein" else 1.0)
    return Compared(frozen.feature, method, True, pd.Series(current), pd.Series(reference), limit, scale)


def _compare_names(
    frozen: FeatureReference, current: Labels, reference: Labels, method: Method, limit: float
) -> Compared:
    pair = pool_rare(pd.Series(current, dtype=object), pd.Series(reference, dtype=object))
    names = sorted(set(pair[0].unique()) | set(pair[1].unique()))
    shown_names = dict(zip(names, escape(names), strict=True))
    now, before = (side.map(shown_names).astype(object) for side in pair)
    return Compared(
        frozen.feature, method, False, now, before, limit, Scale(method, len(now), len(before), bins=len(names))
    )


def pool_rare(current: pd.Series, reference: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Pool categories with an expected count below five rows on either side (Cochran's rule)."""
    counts = current.value_counts().add(reference.value_counts(), fill_value=0)
    least = min(len(current), len(reference)) / (len(current) + len(reference))
    rare = set(counts.index[counts * least < MIN_EXPECTED]) - {UNSEEN}
    if len(rare) < 2:
        return current, reference
    return current.where(~current.isin(rare), RARE), reference.where(~reference.isin(rare), RARE)


def escape(names: Sequence[str]) -> list[str]:
    """Remove the characters that begin markup; the names stay unique."""
    taken: set[str] = set()
    found = []
    for name in names:
        plain = shown = without_markup(name)
        while shown in taken:
            shown = f"{plain} ({len(taken)})"
        taken.add(shown)
        found.append(shown)
    return found


def without_markup(text: str) -> str:
    return text.replace("<", "‹").replace(">", "›").replace("&", "＆")
