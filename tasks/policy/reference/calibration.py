"""Calibrate drift limits to the variation of stable data, and select history to compare a window with.

Fixed limits raise an alarm in every season. Here limits come from the model's own stable history. It is resampled by
entire days, because the rows of a day are correlated, and compared with history of the same phase of the week and year.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.records.base import Window
from tasks.policy.statistics import distances
from tasks.policy.statistics.distances import Table
from tasks.policy.statistics.metrics import Floats

YEAR_DAYS = 365.2425
WEEK_HOURS = 168


def stable_distances(
    counts: ArrayLike,
    window_days: int,
    method: Literal["ks", "psi", "wasserstein", "kl"],
    widths: ArrayLike | None = None,
    around_days: int | None = None,
) -> Floats:
    """Distances of every run of `window_days` days from all other days, from counts (days, bins).

    With `around_days`, distances from the days at most that far before or after it: deviations from the season.
    `widths` are those of the inner bins in reference σ, for wasserstein: the area between the distribution functions.
    Raises ValueError if there are no more days than one window has.
    """
    table = np.asarray(counts, float)
    if len(table) <= window_days:
        raise ValueError(f"the reference has {len(table)} days, expected more than the {window_days} of one window")
    running = np.vstack([np.zeros(table.shape[1]), np.cumsum(table, axis=0)])
    inside = running[window_days:] - running[:-window_days]
    starts, reach = np.arange(len(inside)), len(table) if around_days is None else around_days
    first, last = np.maximum(0, starts - reach), np.minimum(len(table), starts + window_days + reach)
    outside = running[last] - running[first] - inside
    filled = (inside.sum(axis=1) > 0) & (outside.sum(axis=1) > 0)
    inside, outside = inside[filled], outside[filled]
    if method in ("psi", "kl"):
        rows = [
            Table(before.astype(int).tolist(), now.astype(int).tolist())
            for before, now in zip(outside, inside, strict=True)
        ]
        coarse = [one.coarse() if widths is not None else one for one in rows]
        return np.array([distances.psi(one) if method == "psi" else distances.kl(one) for one in coarse])
    gaps = np.abs(
        np.cumsum(inside, axis=1) / inside.sum(axis=1, keepdims=True)
        - np.cumsum(outside, axis=1) / outside.sum(axis=1, keepdims=True)
    )
    if method == "ks" or widths is None:
        largest: Floats = gaps.max(axis=1)
        return largest
    area: Floats = gaps[:, : np.size(widths)] @ np.asarray(widths, float)
    return area


def calibrated_threshold(null_effects: ArrayLike, false_alarm_rate: float = 0.01, at_least: float = 0.0) -> float:
    """The effect size that stable windows exceed at this rate; at least `at_least`, the smallest of interest.

    It is the (k+1)/(n+1) quantile, so the rate holds in finite samples (Davison & Hinkley 1997, 4.2.5). If there are
    fewer effects than the rate needs, it is the largest of them.
    """
    ordered = np.sort(np.asarray(null_effects, float))
    place = math.ceil((1 - false_alarm_rate) * (len(ordered) + 1)) - 1
    return max(at_least, float(ordered[min(place, len(ordered) - 1)]))


def in_season(hours: ArrayLike, window: Window, season_days: float = 15.0) -> NDArray[np.bool_]:
    """Mask of rows (n,), given by hours since 1970, from the window's time of year in an earlier year.

    They are at most `season_days` from the window; negative hours are rows without a time.
    """
    known = np.asarray(hours, float)
    middle = window.start + (window.end - window.start) / 2
    ago = middle.timestamp() / 86400 - known / 24
    years = np.maximum(1, np.rint(ago / YEAR_DAYS))
    found: NDArray[np.bool_] = (np.abs(ago - years * YEAR_DAYS) <= season_days + window.days / 2) & (known >= 0)
    return found


def calendar_weights(
    reference_hours: ArrayLike, current_hours: ArrayLike, phase: Literal["day", "week"] = "week"
) -> Floats:
    """Weights (n_ref,), mean 1, that give the reference the current window's mix of hours of the day or week.

    Post-stratification (Holt & Smith 1979, JRSS A 142:33). Hours may be counted from any origin. Phases that the
    reference lacks cannot be matched; phases that the current window lacks have weight 0.
    """
    period = 24 if phase == "day" else WEEK_HOURS
    before = (np.asarray(reference_hours, float) % period).astype(int)
    now = (np.asarray(current_hours, float) % period).astype(int)
    had, has = np.bincount(before, minlength=period), np.bincount(now, minlength=period)
    matched = np.where(had > 0, has, 0)
    factor = np.divide(matched * had.sum(), had * max(1, matched.sum()), out=np.zeros(period), where=had > 0)
    weights: Floats = factor[before]
    return weights


def effective_rows(weights: ArrayLike) -> float:
    """Effective sample size of weighted rows: (Σw)² / Σw² (Kish 1965)."""
    values = np.asarray(weights, float)
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / squares if squares else 0.0
