"""The types and values that a column accepts: from the settings, or learned from the reference where they give none.

The protocols declare the settings that are read from `deployments.config.blocks.monitoring.Quality`, which this package does
not import.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from tasks.policy.records.profile import ROUNDING, FeatureReference

MOST_DECIMALS = 3
"""Values with more decimals than this count as continuous."""


class Bounds(Protocol):
    @property
    def min(self) -> float | None: ...
    @property
    def max(self) -> float | None: ...


class ColumnRule(Protocol):
    """Settings of one column (`deployments.config.blocks.monitoring.ColumnQuality`)."""

    @property
    def max_null_share(self) -> float | None: ...
    @property
    def range(self) -> Bounds | None: ...
    @property
    def categories(self) -> Sequence[str] | None: ...
    @property
    def on_failure(self) -> Literal["warn", "fail"]: ...


class QualityLimits(Protocol):
    """Settings of the quality gate (`deployments.config.blocks.monitoring.Quality`)."""

    @property
    def max_null_share_increase(self) -> float: ...
    @property
    def range_slack(self) -> float: ...
    @property
    def max_out_of_range_share(self) -> float: ...
    @property
    def max_unseen_category_share(self) -> float: ...
    @property
    def min_rows(self) -> int: ...
    @property
    def row_count_ratio(self) -> tuple[float, float]: ...
    @property
    def max_age_hours(self) -> float | None: ...
    @property
    def columns(self) -> Mapping[str, ColumnRule]: ...


def accepted_range(
    reference: FeatureReference, slack: float, own: tuple[float | None, float | None] = (None, None)
) -> tuple[float, float]:
    """Lowest and highest accepted value: from the settings, else the reference's range extended by `slack` widths."""
    counts = reference.counts
    least, most = counts.minimum, counts.maximum
    if least is None or most is None or least == most:
        low, high = -math.inf, math.inf  # a single value gives no width
    else:
        width = most - least
        low, high = least - slack * width, most + slack * width
    low, high = low if own[0] is None else own[0], high if own[1] is None else own[1]
    return low - ROUNDING * abs(low), high + ROUNDING * abs(high)  # another program may round the bound itself


def accepted_categories(reference: FeatureReference, own: Sequence[str] | None = None) -> frozenset[str] | None:
    """The accepted categories; None if any is accepted, because the reference has none or more than are listed."""
    if own is not None:
        return frozenset(own)
    return None if reference.more_categories or not reference.categories else frozenset(reference.categories)


def decimals_of(reference: FeatureReference) -> int:
    """Decimals in which bounds of a numeric feature are shown: those of its values, else those that show 1 % of σ."""
    counts = reference.counts
    if counts.arrow_type.startswith(("int", "uint")):
        return 0
    known = [value for value in (*reference.edges, counts.minimum, counts.maximum) if value is not None]
    for decimals in range(MOST_DECIMALS + 1):
        if all(math.isclose(value, round(value, decimals), rel_tol=ROUNDING) for value in known):
            return decimals
    return max(0, math.ceil(2 - math.log10(reference.sigma))) if reference.sigma > 0 else MOST_DECIMALS


def type_family(name: str) -> str:
    """Family of an Arrow type: number, boolean, text, time or its own name. Types of a family can hold the same values."""
    if name.startswith(("int", "uint", "double", "float", "halffloat", "decimal")):
        return "number"
    if name.startswith(("string", "large_string")):
        return "text"
    if name.startswith(("timestamp", "date")):
        return "time"
    return "boolean" if name == "bool" else name
