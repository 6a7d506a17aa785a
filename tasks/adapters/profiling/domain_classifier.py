"""Domain classifier: a small cross-fitted boosted model that separates rows of a window from rows of the reference.

Both sides are codes of the reference's bins. Rows and columns are bounded, so the cost does not grow with the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from xgboost import DMatrix, train

from deployments.config.model import ModelConfig
from tasks.policy.monitoring.joint_drift import judge_joint
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.profile import Floats, ReferenceProfile
from tasks.policy.records.reports import JointDrift

ROWS, COLUMNS = 1500, 60
ROUNDS, DEPTH = 12, 3
SEED = 0
"""Seed of the rows drawn and of the classifiers."""
NAMED = 3
"""Number of features reported, by total gain in the classifier."""
TRIMMED = 0.01
"""Share of total weight, of the heaviest rows, whose weights are capped. Without the cap, one row of a rare hour would
cause the rejection of all others. One percent of the rows changes no AUC by more than 0.01."""
BLOCKS = 8
"""Number of windows of history for calibration of the AUC of stable windows."""


def measure_joint_drift(
    reference: CodedRows, window: CodedRows, threshold: float, min_rows: int, weights: Floats | None = None
) -> JointDrift:
    """Measure joint drift on the window's first `COLUMNS` columns that both sides have, with up to `ROWS` rows per side.

    `threshold` is the AUC from which drift is reported, `weights` (n,) are those of the reference rows. With fewer than
    `min_rows` rows per side, the verdict is "insufficient".
    """
    names = [name for name in window.codes if name in reference.codes][:COLUMNS]
    random = np.random.default_rng(SEED)
    none = np.empty(0, np.int64)
    before, now = (_draw(len(reference), random, weights), _draw(len(window), random, None)) if names else (none, none)
    size = min(len(before), len(now))
    if size < max(2, min_rows):
        return JointDrift("insufficient", threshold, size)
    table = np.vstack([_matrix(reference.take(before[:size]), names), _matrix(window.take(now[:size]), names)])
    is_current = np.repeat([0.0, 1.0], size)
    half = np.arange(len(table)) % 2 == 0
    scores, gains = _cross_fit(table, is_current, half, names)
    found = judge_joint(is_current, scores, threshold, min_rows, scored_by=half)
    used = tuple(sorted(gains, key=lambda name: -gains[name])[:NAMED]) if found.verdict == "drifted" else ()
    return JointDrift(found.verdict, threshold, found.rows, found.auc, found.low, found.high, used)


def with_stable_auc(
    config: ModelConfig, reference: ReferenceProfile, rows: CodedRows, importances: Mapping[str, float]
) -> ReferenceProfile:
    """Return the profile with the AUC that the classifier reaches on stable windows, from runs of days of its own rows.

    The AUC is the largest of `BLOCKS` windows spread over the history; a stable window exceeds it with probability 1/9.
    The profile is unchanged if joint drift or calibration is off, or if the history is shorter than `BLOCKS` windows.
    """
    days, known = rows.hours // 24, rows.hours >= 0
    length = max(1, round(config.window_days))
    first, last = (int(days[known].min()), int(days[known].max()) + 1) if known.any() else (0, 0)
    if not (config.drift.joint and config.drift.calibrated) or last - first < BLOCKS * length:
        return reference
    columns, found = sorted(rows.codes, key=lambda name: -importances.get(name, 0.0)), []
    ordered = CodedRows(rows.hours, {name: rows.codes[name] for name in columns})
    for start in np.linspace(first, last - length, BLOCKS).round().astype(int):
        inside = known & (days >= start) & (days < start + length)
        parts = ordered.take(np.flatnonzero(known & ~inside)), ordered.take(np.flatnonzero(inside))
        found.append(measure_joint_drift(*parts, config.drift.joint_threshold, config.drift.min_rows).auc)
    measured = [auc for auc in found if auc is not None]
    return replace(reference, stable_auc=max(measured, default=None))


def _draw(rows: int, random: np.random.Generator, weights: Floats | None) -> NDArray[np.int64]:
    """Draw at most `ROWS` distinct rows in random order, with probability proportional to weight.

    Uses rejection sampling (von Neumann 1951), because a draw of a fixed size without replacement ignores the weights
    if there are no more rows. If few rows hold most of the weight, few rows are drawn.
    """
    order: NDArray[np.int64] = random.permutation(rows)
    if weights is None or not rows:
        return order[:ROWS]
    ascending = np.sort(weights)
    summed = np.cumsum(ascending)
    most = ascending[np.searchsorted(summed, (1 - TRIMMED) * summed[-1])]
    accepted = order[random.random(rows) * most < weights[order]]
    return accepted[:ROWS]


def _matrix(rows: CodedRows, names: Sequence[str]) -> NDArray[np.float32]:
    return np.column_stack([rows.codes[name] for name in names]).astype(np.float32)


def _cross_fit(
    table: NDArray[np.float32], is_current: Floats, half: NDArray[np.bool_], names: Sequence[str]
) -> tuple[Floats, dict[str, float]]:
    """Return (scores of each half by the classifier of the other half, total gain by feature).

    Each half contains rows of both sides.
    """
    scores, gains = np.zeros(len(table)), dict.fromkeys(names, 0.0)
    settings = {
        "objective": "binary:logistic",
        "max_depth": DEPTH,
        "eta": 0.3,
        "nthread": 1,
        "max_bin": 64,
        "seed": SEED,
    }
    places = [f"f{place}" for place in range(len(names))]
    for fitted in (half, ~half):
        booster = train(settings, DMatrix(table[fitted], is_current[fitted], feature_names=places, nthread=1), ROUNDS)
        scores[~fitted] = booster.predict(DMatrix(table[~fitted], feature_names=places, nthread=1))
        for place, gain in booster.get_score(importance_type="total_gain").items():
            gains[names[int(place[1:])]] += float(gain) if not isinstance(gain, list) else sum(gain)
    return scores, gains
