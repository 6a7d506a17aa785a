"""A small boosted classifier, cross-fitted, that tries to tell rows of a window from rows of the reference.

Both as codes of the reference's bins, on bounded numbers of rows and columns, so the cost does not grow with the data.
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
NAMED = 3
"""Features named of those that the classifier went by."""
TRIMMED = 0.01
"""Share of the weight whose rows, the heaviest, count as the next lighter: a lone row of a rare hour would else have all
others rejected, and a hundredth of the rows moves no AUC by more than 0.01."""
BLOCKS = 8
"""Windows of history that say how well stable ones are told apart."""


def tell_apart(
    reference: CodedRows,
    window: CodedRows,
    columns: Sequence[str],
    threshold: float,
    min_rows: int,
    weights: Floats | None = None,
    seed: int = 0,
) -> JointDrift:
    """Joint drift of the first `COLUMNS` of the columns that both sides hold; `weights` are those of reference rows."""
    names = [name for name in columns if name in reference.codes and name in window.codes][:COLUMNS]
    random = np.random.default_rng(seed)
    before, now = (_draw(len(reference), random, weights), _draw(len(window), random, None)) if names else ([], [])
    size = min(len(before), len(now))
    if size < max(2, min_rows):
        return JointDrift("insufficient", threshold, size)
    table = np.vstack([_matrix(reference.take(before[:size]), names), _matrix(window.take(now[:size]), names)])
    is_current = np.repeat([0.0, 1.0], size)
    half = np.arange(len(table)) % 2 == 0
    scores, gains = _cross_fit(table, is_current, half, names, seed)
    found = judge_joint(is_current, scores, threshold, min_rows, scored_by=half)
    used = tuple(sorted(gains, key=lambda name: -gains[name])[:NAMED]) if found.verdict == "drifted" else ()
    return JointDrift(found.verdict, threshold, found.rows, found.auc, found.low, found.high, used)


def with_stable_auc(
    config: ModelConfig, reference: ReferenceProfile, rows: CodedRows, importances: Mapping[str, float]
) -> ReferenceProfile:
    """The profile with the AUC at which windows of its own days are told from the rest: rows of a day go together.

    The largest of `BLOCKS` windows spread over history, which a stable window exceeds once in nine times. As it was where
    calibration is off or history is too short.
    """
    days, known = rows.hours // 24, rows.hours >= 0
    length = max(1, round(config.window_days))
    first, last = (int(days[known].min()), int(days[known].max()) + 1) if known.any() else (0, 0)
    if not (config.drift.joint and config.drift.calibrated) or last - first < BLOCKS * length:
        return reference
    columns, found = sorted(rows.codes, key=lambda name: -importances.get(name, 0.0)), []
    for start in np.linspace(first, last - length, BLOCKS).round().astype(int):
        inside = known & (days >= start) & (days < start + length)
        parts = rows.take(np.flatnonzero(known & ~inside)), rows.take(np.flatnonzero(inside))
        found.append(tell_apart(*parts, columns, config.drift.joint_threshold, config.drift.min_rows).auc)
    measured = [auc for auc in found if auc is not None]
    return replace(reference, stable_auc=max(measured, default=None))


def _draw(rows: int, random: np.random.Generator, weights: Floats | None) -> NDArray[np.int64]:
    """At most `ROWS` distinct rows, in random order, each as likely as its weight says; few where a few weigh most.

    By rejection (von Neumann 1951): drawing a fixed number without replacement takes all rows where there are no more.
    """
    order: NDArray[np.int64] = random.permutation(rows)
    if weights is None or not rows:
        return order[:ROWS]
    ascending = np.sort(weights)
    summed = np.cumsum(ascending)
    most = ascending[np.searchsorted(summed, (1 - TRIMMED) * summed[-1])]
    kept = order[random.random(rows) * most < weights[order]]
    return kept[:ROWS]


def _matrix(rows: CodedRows, names: Sequence[str]) -> NDArray[np.float32]:
    return np.column_stack([rows.codes[name] for name in names]).astype(np.float32)


def _cross_fit(
    table: NDArray[np.float32], is_current: Floats, half: NDArray[np.bool_], names: Sequence[str], seed: int
) -> tuple[Floats, dict[str, float]]:
    """Scores of each half by the classifier of the other, halves holding both sides alike; gains by feature."""
    scores, gains = np.zeros(len(table)), dict.fromkeys(names, 0.0)
    settings = {
        "objective": "binary:logistic",
        "max_depth": DEPTH,
        "eta": 0.3,
        "nthread": 1,
        "max_bin": 64,
        "seed": seed,
    }
    places = [f"f{place}" for place in range(len(names))]
    for fitted in (half, ~half):
        booster = train(settings, DMatrix(table[fitted], is_current[fitted], feature_names=places, nthread=1), ROUNDS)
        scores[~fitted] = booster.predict(DMatrix(table[~fitted], feature_names=places, nthread=1))
        for place, gain in booster.get_score(importance_type="total_gain").items():
            gains[names[int(place[1:])]] += float(gain) if not isinstance(gain, list) else sum(gain)
    return scores, gains
