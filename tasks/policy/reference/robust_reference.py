"""Exclude codes for missing values, heavy tails and broken days from the scale and range of the training rows.

Tukey (1977), Exploratory Data Analysis: values beyond three interquartile ranges from the quartiles are far out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tasks.policy.records.profile import Floats

FENCE = 3.0
SENTINEL_ROWS, SENTINEL_SHARE, SENTINEL_GAP = 3, 0.0005, 3.0
"""Minimum rows and share of rows with the value, and its minimum distance from the others in their ranges."""
DAY_ROWS, BROKEN_DAYS, BROKEN_SHARE = 10, 3, 0.25
"""Minimum rows of a day to be judged; minimum number, and largest share of all days, of broken days."""
BROKEN_SIGMA, BROKEN_MADS = 2.0, 8.0
"""Smallest excess distance of a broken day's quartiles from those of all days, in σ and in MADs of all days."""
NORMAL_MAD, NORMAL_IQR = 1.4826, 1.349


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A value that encodes something else, such as missing, and its share of the rows."""

    value: float
    share: float


def find_sentinel(values: Floats) -> Sentinel | None:
    """Find the code for missing among sorted finite values: their minimum or maximum, if it is far from the others."""
    if len(values) < 2 * SENTINEL_ROWS or values[0] == values[-1]:
        return None
    highest = values[: np.searchsorted(values, values[-1])]
    lowest = values[np.searchsorted(values, values[0], side="right") :]
    for value, others in ((values[-1], highest), (values[0], lowest)):
        count = len(values) - len(others)
        if count < max(SENTINEL_ROWS, SENTINEL_SHARE * len(values)) or count > len(values) / 2:
            continue
        near, far = others[0], others[-1]
        gap = min(abs(value - near), abs(value - far))
        if gap > SENTINEL_GAP * (far - near) and far > near:
            return Sentinel(float(value), count / len(values))
    return None


def robust_scale(values: Floats) -> float | None:
    """Standard deviation of sorted values within Tukey's outer fences; None if the quartiles are equal."""
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    width = high - low
    if width <= 0:
        return None
    first = np.searchsorted(values, low - FENCE * width)
    end = np.searchsorted(values, high + FENCE * width, side="right")
    return float(values[first:end].std()) or None


def broken_days(values: Floats, days: ArrayLike) -> Sequence[str]:
    """Days on which the values (n,), NaN if unknown, differ from those of all other days; sorted, may be empty.

    The quartiles of each day are compared with those of all days, relative to the spread of values and of days. Days
    that all differ, as in a season, are not broken, nor is a period too long to be an exception.
    """
    known = np.isfinite(values)
    names, which = np.unique(np.asarray(days)[known], return_inverse=True)
    rows = values[known]
    usual = np.quantile(rows, [0.25, 0.5, 0.75]) if len(rows) else np.zeros(3)
    sigma = (usual[2] - usual[0]) / NORMAL_IQR
    if sigma <= 0 or len(names) < 4 * BROKEN_DAYS:
        return ()
    order = np.argsort(which, kind="stable")
    parts = np.split(rows[order], np.cumsum(np.bincount(which))[:-1])
    away = np.array(
        [
            np.abs(np.quantile(part, [0.25, 0.5, 0.75]) - usual).mean() / sigma if len(part) >= DAY_ROWS else np.nan
            for part in parts
        ]
    )
    typical = np.nanmedian(away) if np.isfinite(away).any() else np.nan
    spread = NORMAL_MAD * np.nanmedian(np.abs(away - typical)) if np.isfinite(typical) else np.nan
    with np.errstate(invalid="ignore"):
        broken = away > typical + max(BROKEN_SIGMA, BROKEN_MADS * spread)
    if not BROKEN_DAYS <= broken.sum() <= BROKEN_SHARE * len(names):
        return ()
    return tuple(str(name) for name in names[broken])
