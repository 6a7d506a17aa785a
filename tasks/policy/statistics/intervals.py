"""Tests and intervals behind decisions, each with its source; from scipy and statsmodels where available.

Seeds are passed in, so the same evidence always gives the same decision. NaN means that the rows do not define a
result.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike, NDArray

from tasks.policy.statistics.metrics import (
    HIGHER_IS_BETTER,
    Floats,
    compute,
    confusion,
    from_confusion,
    mid_ranks,
    predicted_codes,
    row_losses,
)
from tasks.policy.statistics.resampling import (
    Interval,
    bootstrap_means,
    percentile_interval,
    resampled_confusions,
)


class Gain(NamedTuple):
    """Gain of the challenger over the champion, positive if better, with its interval."""

    gain: float
    low: float
    high: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion: Wilson (1927), JASA 22:209; accurate near 0 and 1 (Brown et al. 2001)."""
    if trials == 0:
        return Interval(float("nan"), float("nan"))
    # statsmodels takes a second to load, and few runs need it
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    return Interval(float(low), float(high))


def metric_intervals(
    names: Sequence[str],
    y_true: ArrayLike,
    y_pred: ArrayLike,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    quantile: float = 0.5,
) -> dict[str, Interval]:
    """Intervals of several metrics on the same rows; metrics that are means of rows share their resamples."""
    truth, predicted = np.asarray(y_true, float), np.asarray(y_pred, float)
    if not len(truth):
        return {name: Interval(float("nan"), float("nan")) for name in names}
    rows = {name: row_losses(name, truth, predicted, quantile) for name in names if name != "accuracy"}
    if "rmse" in names:
        rows["rmse"] = (truth - predicted) ** 2
    columns = {name: column for name, column in rows.items() if column is not None}
    means = bootstrap_means(np.column_stack(list(columns.values())), draws, seed) if columns else np.empty((draws, 0))
    found = {name: means[:, place] for place, name in enumerate(columns)}
    if "rmse" in found:
        found["rmse"] = np.sqrt(found["rmse"])
    intervals = {name: percentile_interval(values, confidence) for name, values in found.items()}
    others = {name: _own_interval(name, truth, predicted, confidence, draws, seed) for name in {*names} - {*columns}}
    return intervals | others


def metric_interval(
    name: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
    quantile: float = 0.5,
) -> Interval:
    """Interval of any metric: Wilson for accuracy, DeLong for the AUC of two classes, bootstrap for the others."""
    return metric_intervals([name], y_true, y_pred, confidence, draws, seed, quantile)[name]


def _own_interval(name: str, truth: Floats, predicted: Floats, confidence: float, draws: int, seed: int) -> Interval:
    """Interval of accuracy and of metrics that are not means of rows."""
    if name == "accuracy":
        return wilson_interval(int((predicted_codes(predicted) == truth).sum()), len(truth), confidence)
    if name in ("balanced_accuracy", "f1"):
        tables = resampled_confusions(confusion(truth, predicted), draws, seed)
        return percentile_interval(from_confusion(name, tables), confidence)
    if predicted.ndim == 1:
        return _auc_interval(truth, predicted, confidence)
    random = np.random.default_rng(seed)
    picks = [random.integers(0, len(truth), len(truth)) for _ in range(min(draws, 200))]
    return percentile_interval([compute(name, truth[pick], predicted[pick]) for pick in picks], confidence)


def delong(y_true: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """AUCs (m,) of m scores (m, n) on the same two-class rows, and their covariance (m, m), in O(n log n).

    DeLong et al. (1988), Biometrics 44:837, by the mid-rank form of Sun & Xu (2014), IEEE SPL 21:1389. NaN if a class
    has fewer than two rows.
    """
    positive = np.asarray(y_true) == 1
    table = np.atleast_2d(np.asarray(scores, float))
    m, n = int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return np.full(len(table), np.nan), np.full((len(table), len(table)), np.nan)
    placements = [(row, mid_ranks(row), mid_ranks(row[positive]), mid_ranks(row[~positive])) for row in table]
    among_negatives = np.stack([(ranks[positive] - own) / n for _, ranks, own, _ in placements])
    among_positives = np.stack([1 - (ranks[~positive] - own) / m for _, ranks, _, own in placements])
    covariance = np.atleast_2d(np.cov(among_negatives)) / m + np.atleast_2d(np.cov(among_positives)) / n
    return among_negatives.mean(axis=1), covariance


def _auc_interval(truth: Floats, score: Floats, confidence: float) -> Interval:
    area, covariance = delong(truth, score)
    if np.isnan(covariance[0, 0]):  # max(0.0, nan) is 0.0: clipping would turn an unknown interval into (0, 1)
        return Interval(float("nan"), float("nan"))
    half = scipy.stats.norm.ppf((1 + confidence) / 2) * np.sqrt(covariance[0, 0])
    return Interval(float(max(0.0, area[0] - half)), float(min(1.0, area[0] + half)))


def paired_bootstrap(
    champion_pred: ArrayLike,
    challenger_pred: ArrayLike,
    y_true: ArrayLike,
    metric: str,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    quantile: float = 0.5,
) -> Gain:
    """Gain of the challenger over the champion on the same rows, positive if better, with its percentile interval.

    Each draw resamples rows once for both (Efron & Tibshirani 1993, ch. 16), so what is hard for both cancels.
    The AUC of two classes uses DeLong's covariance instead, without draws.
    """
    truth, old, new = (np.asarray(values, float) for values in (y_true, champion_pred, challenger_pred))
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    gain = sign * (compute(metric, truth, new, quantile) - compute(metric, truth, old, quantile))
    if np.isnan(gain):
        return Gain(gain, gain, gain)
    if metric == "roc_auc" and old.ndim == 1:
        _, covariance = delong(truth, np.stack([old, new]))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if np.isnan(variance):  # one row of a class gives no variance of its scores
            return Gain(gain, float("nan"), float("nan"))
        half = float(scipy.stats.norm.ppf((1 + confidence) / 2) * np.sqrt(max(0.0, variance)))
        return Gain(gain, gain - half, gain + half)
    low, high = percentile_interval(sign * _differences(metric, truth, old, new, draws, seed, quantile), confidence)
    return Gain(gain, low, high)


def _differences(
    metric: str, truth: Floats, old: Floats, new: Floats, draws: int, seed: int, quantile: float
) -> Floats:
    """Challenger minus champion in the metric's own direction, for each resample."""
    old_rows, new_rows = (row_losses(metric, truth, predicted, quantile) for predicted in (old, new))
    if old_rows is not None and new_rows is not None:
        return bootstrap_means(new_rows - old_rows, draws, seed)
    if metric == "rmse":
        means = np.sqrt(bootstrap_means(np.stack([(truth - old) ** 2, (truth - new) ** 2], axis=1), draws, seed))
        return means[:, 1] - means[:, 0]
    if metric in ("balanced_accuracy", "f1"):
        tables = resampled_confusions(_joint_confusion(truth, old, new), draws, seed)
        return from_confusion(metric, tables.sum(axis=2)) - from_confusion(metric, tables.sum(axis=3))
    random = np.random.default_rng(seed)
    picks = [random.integers(0, len(truth), len(truth)) for _ in range(min(draws, 200))]
    return np.array([compute(metric, truth[p], new[p]) - compute(metric, truth[p], old[p]) for p in picks])


def _joint_confusion(truth: Floats, old: Floats, new: Floats) -> NDArray[np.int64]:
    """Counts (k, k, k) by label, champion's predicted class and challenger's predicted class."""
    classes = max(len(confusion(truth, old)), len(confusion(truth, new)))
    cell = (truth.astype(np.int64) * classes + predicted_codes(old)) * classes + predicted_codes(new)
    return np.bincount(cell, minlength=classes**3).reshape(classes, classes, classes)


def mcnemar_exact(y_true: ArrayLike, champion_pred: ArrayLike, challenger_pred: ArrayLike) -> float:
    """Two-sided p-value of equal accuracy, from rows that exactly one of the two gets right: McNemar (1947), exact."""
    truth = np.asarray(y_true)
    old, new = (predicted_codes(predicted) == truth for predicted in (champion_pred, challenger_pred))
    table = [[int((old & new).sum()), int((old & ~new).sum())], [int((~old & new).sum()), int((~old & ~new).sum())]]
    # statsmodels takes a second to load, and few runs need it
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar(table, exact=True).pvalue)


def two_proportion_test(successes: int, trials: int, reference_successes: int, reference_trials: int) -> float:
    """One-sided p-value that the share of successes is not below the reference's: pooled z (Fleiss et al. 2003, 3)."""
    if min(trials, reference_trials) == 0:
        return float("nan")
    counts, sizes = np.array([successes, reference_successes]), np.array([trials, reference_trials])
    if counts.sum() in (0, sizes.sum()):
        return 1.0
    # statsmodels takes a second to load, and few runs need it
    from statsmodels.stats.proportion import proportions_ztest

    return float(proportions_ztest(counts, sizes, alternative="smaller")[1])
