"""Match the reference to the window's phase of the day, week or year, so that seasons do not count as drift.

Training rows of the same phase get more weight (post-stratification: Holt & Smith 1979, JRSS A 142:33), on a bounded
number of rows coded into the frozen bins. σ, edges and categories remain those of the complete reference. Matching the
time of year needs rows of an earlier year, because the latest weeks would hide a slow drift. Its limit is then the
drift of past windows from the surrounding weeks, not from the entire year.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.policy.monitoring.drift import DriftLimits
from tasks.policy.records.binned_rows import CodedRows, Codes, counts_of
from tasks.policy.records.profile import FeatureReference, Floats, ReferenceProfile, WindowProfile, bounded
from tasks.policy.reference.calibration import calendar_weights, effective_rows, in_season
from tasks.policy.statistics.power import EffectTest, rows_needed

Phase = Literal["day", "week", "season"]
SEASON_DAYS = 15.0
COVERED = 0.9
"""Share of the window's hours that the reference must cover before the mix of hours is matched."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The reference at the window's phase, the weight of each coded row, and a description of the match."""

    reference: ReferenceProfile
    weights: Floats
    description: str


class CalendarSettings(DriftLimits, Protocol):
    """The phases to match, and the test that needs enough matched rows (`deployments.config.blocks.monitoring.Drift`)."""

    @property
    def calendar(self) -> tuple[Phase, ...]: ...


def match_calendar(
    reference: ReferenceProfile,
    rows: CodedRows,
    profile: WindowProfile,
    window_hours: NDArray[np.int64],
    settings: CalendarSettings,
) -> Matched | None:
    """The reference at the window's phase; None if the history has too few effective rows of it.

    `rows` are the coded rows of the reference, `window_hours` (m,) the hours of rows of the window. The matched rows
    must suffice to detect an effect of `settings.threshold`. Their minimum is computed from the window's rows, because
    the test is symmetric.
    """
    weights, matches, phases = np.ones(len(rows)), [], settings.calendar
    min_rows = _min_rows(reference, profile, settings)
    season = in_season(rows.hours, profile.window, SEASON_DAYS) if "season" in phases else np.zeros(len(rows), bool)
    if season.sum() >= min_rows:
        weights = season.astype(float)
        matches.append(f"the time of year, within {SEASON_DAYS:g} days in earlier years")
    mix = _mix(rows.hours, weights > 0, window_hours[window_hours >= 0], phases)
    if mix is not None and effective_rows(weights * mix) >= min_rows:
        weights = weights * mix
        matches.append(f"the hours of the {'week' if 'week' in phases else 'day'}")
    if not matches:
        return None
    size = effective_rows(weights)
    scale = size / weights.sum()
    features = tuple(
        _reweighted(frozen, rows.codes.get(frozen.feature), weights * scale, seasonal=season.sum() >= min_rows)
        for frozen in reference.features
    )
    description = f"compared with the equivalent of {size:,.0f} training rows that match the window in "
    description += " and in ".join(matches)
    return Matched(replace(reference, rows=round(size), features=features), weights, description)


def _min_rows(reference: ReferenceProfile, profile: WindowProfile, settings: CalendarSettings) -> int:
    alone = settings.alpha / max(1, len(reference.features))  # level for a single drifted feature after correction
    test = EffectTest(settings.method, alone, settings.power)
    return max(settings.min_rows, rows_needed(test, settings.threshold, profile.rows) or 0)


def _mix(
    hours: NDArray[np.int64], used: NDArray[np.bool_], window_hours: NDArray[np.int64], phases: Collection[Phase]
) -> Floats | None:
    """Weights that give the used rows the window's mix of hours; None if not requested or not covered."""
    if not {"day", "week"} & set(phases) or not len(window_hours) or not used.any():
        return None
    phase: Literal["day", "week"] = "week" if "week" in phases else "day"
    period = 168 if phase == "week" else 24
    if np.isin(window_hours % period, np.unique(hours[used] % period)).mean() < COVERED:
        return None
    weights = np.zeros(len(hours))
    weights[used] = calendar_weights(hours[used], window_hours, phase)
    return weights


def _reweighted(frozen: FeatureReference, codes: Codes | None, weights: Floats, seasonal: bool) -> FeatureReference:
    """One feature in the weighted rows; unchanged if it has no coded rows (a personal feature)."""
    before = frozen.counts
    if codes is None:
        return frozen
    found = np.rint(counts_of(frozen, codes, weights)).astype(int)
    counts, nulls, infinite = found[:-2], int(found[-2]), int(found[-1])
    gaps = np.asarray(before.gaps) / np.maximum(before.counts, 1) * counts if before.gaps else np.empty(0)
    values = int(counts.sum())
    changed = replace(
        before,
        rows=values + nulls + infinite,
        counts=tuple(counts.tolist()),
        nulls=nulls,
        non_finite=infinite,
        unreadable=0,
        gaps=tuple(gaps.tolist()),
        mean=_mean(frozen, counts) if before.gaps and values else before.mean,
        squares=bounded(before.std**2 * values),
    )
    effect = frozen.seasonal_effect if seasonal else frozen.stable_effect
    return replace(frozen, counts=changed, stable_effect=effect)


def _mean(frozen: FeatureReference, counts: NDArray[np.int64]) -> float:
    """Mean of values distributed within their bins as in the reference; `gaps` gives distances to a bin's end."""
    before = np.asarray(frozen.counts.counts)
    apart = np.asarray(frozen.counts.gaps) / np.maximum(before, 1)
    ends = np.append(frozen.edges, frozen.edges[-1])
    centres = ends + np.append(-apart[:-1], apart[-1])
    return bounded(float(centres @ counts) / counts.sum())
