"""Tests and intervals behind decisions, each with its source; from scipy and statsmodels where available.

Seeds are passed in, so the same evidence always gives the same decision. NaN means that the rows do not define a
result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike, NDArray

from tasks.policy.statistics.metrics import (
    Floats,
    Metric,
    compute,
    confusion,
    from_confusion,
    mid_ranks,
    predicted_codes,
    row_losses,
)
from tasks.policy.statistics.resampling import (
    DEFAULT,
    Interval,
    Resampling,
    bootstrap_means,
    percentile_interval,
    resampled_confusions,
)

MOST_RECOMPUTED = 200
"""Largest number of resamples of a metric that is recomputed on each of them, such as the AUC of several classes."""


class Gain(NamedTuple):
    """Gain of the challenger over the champion, positive if better, with its interval."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedPredictions:
    """Labels (n,) and the predictions of both models on the same rows, in the shapes of `metrics`."""

    y_true: Floats
    champion: Floats
    challenger: Floats

    def __len__(self) -> int:
        return len(self.y_true)

    def where(self, rows: NDArray[np.bool_]) -> "PairedPredictions":
        """The pairs of the chosen rows; `rows` (n,) is a mask."""
        return PairedPredictions(self.y_true[rows], self.champion[rows], self.challenger[rows])


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion: Wilson (1927), JASA 22:209; accurate near 0 and 1 (Brown et al. 2001)."""
    if trials == 0:
        return Interval(float("nan"), float("nan"))
    # statsmodels takes a second to load, and few runs need it
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    return Interval(float(low), float(high))


def metric_intervals(
    metrics: Sequence[Metric], y_true: ArrayLike, y_pred: ArrayLike, resampling: Resampling = DEFAULT
) -> dict[str, Interval]:
    """Intervals by name of several metrics on the same rows; metrics that are means of rows share their resamples."""
    labels, predictions = np.asanyarray(y_true, float), np.asarray(y_pred, float)
    if not len(labels):
        return {metric.name: Interval(float("nan"), float("nan")) for metric in metrics}
    names = {metric.name: metric for metric in metrics}
    rows = {name: row_losses(metric, labels, predictions) for name, metric in names.items() if name != "accuracy"}
    if "rmse" in names:
        rows["rmse"] = (labels - predictions) ** 2
    columns = {name: column for name, column in rows.items() if column is not None}
    losses = np.column_stack(list(columns.values())) if columns else None
    means = np.empty((resampling.draws, 0)) if losses is None else bootstrap_means(losses, resampling)
    found = {name: means[:, place] for place, name in enumerate(columns)}
    if "rmse" in found:
        found["rmse"] = np.sqrt(found["rmse"])
    intervals = {name: percentile_interval(values, resampling.confidence) for name, values in found.items()}
    others = names.keys() - columns.keys()
    return intervals | {name: _own_interval(names[name], labels, predictions, resampling) for name in others}


def metric_interval(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike, resampling: Resampling = DEFAULT) -> Interval:
    """Interval of any metric: Wilson for accuracy, DeLong for the AUC of two classes, bootstrap for the others."""
    return metric_intervals([metric], y_true, y_pred, resampling)[metric.name]


def _own_interval(metric: Metric, y_true: Floats, y_pred: Floats, resampling: Resampling) -> Interval:
    """Interval of accuracy and of metrics that are not means of rows."""
    confidence = resampling.confidence
    if metric.name == "accuracy":
        return wilson_interval(int((predicted_codes(y_pred) == y_true).sum()), len(y_true), confidence)
    if metric.name in ("balanced_accuracy", "f1"):
        tables = resampled_confusions(confusion(y_true, y_pred), resampling)
        return percentile_interval(from_confusion(metric.name, tables), confidence)
    if y_pred.ndim == 1 and metric.rule is None:
        return _auc_interval(y_true, y_pred, confidence)
    picks = _drawn_rows(len(y_true), resampling)
    return percentile_interval([compute(metric, y_true[pick], y_pred[pick]) for pick in picks], confidence)


def _drawn_rows(rows: int, resampling: Resampling) -> list[NDArray[np.int64]]:
    """Positions of the rows of each resample, at most `MOST_RECOMPUTED`."""
    random = np.random.default_rng(resampling.seed)
    return [random.integers(0, rows, rows) for _ in range(min(resampling.draws, MOST_RECOMPUTED))]


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


def _auc_interval(y_true: Floats, scores: Floats, confidence: float) -> Interval:
    area, covariance = delong(y_true, scores)
    if np.isnan(covariance[0, 0]):  # max(0.0, nan) is 0.0: clipping would turn an unknown interval into (0, 1)
        return Interval(float("nan"), float("nan"))
    half = scipy.stats.norm.ppf((1 + confidence) / 2) * np.sqrt(covariance[0, 0])
    return Interval(float(max(0.0, area[0] - half)), float(min(1.0, area[0] + half)))


def paired_bootstrap(metric: Metric, pairs: PairedPredictions, resampling: Resampling) -> Gain:
    """Gain of the challenger over the champion on the same rows, positive if better, with its percentile interval.

    Each draw resamples rows once for both (Efron & Tibshirani 1993, ch. 16), so what is hard for both cancels.
    The AUC of two classes uses DeLong's covariance instead, without draws.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    champion, challenger = (compute(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    gain = sign * (challenger - champion)
    if np.isnan(gain):
        return Gain(gain, gain, gain)
    if metric.name == "roc_auc" and pairs.champion.ndim == 1:
        _, covariance = delong(pairs.y_true, np.stack([pairs.champion, pairs.challenger]))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if np.isnan(variance):  # one row of a class gives no variance of its scores
            return Gain(gain, float("nan"), float("nan"))
        half = float(scipy.stats.norm.ppf((1 + resampling.confidence) / 2) * np.sqrt(max(0.0, variance)))
        return Gain(gain, gain - half, gain + half)
    low, high = percentile_interval(sign * _differences(metric, pairs, resampling), resampling.confidence)
    return Gain(gain, low, high)


def _differences(metric: Metric, pairs: PairedPredictions, resampling: Resampling) -> Floats:
    """Challenger minus champion in the metric's own direction, for each resample."""
    y_true, old, new = pairs.y_true, pairs.champion, pairs.challenger
    old_rows, new_rows = (row_losses(metric, y_true, y_pred) for y_pred in (old, new))
    if old_rows is not None and new_rows is not None:
        return bootstrap_means(new_rows - old_rows, resampling)
    if metric.name == "rmse":
        means = np.sqrt(bootstrap_means(np.stack([(y_true - old) ** 2, (y_true - new) ** 2], axis=1), resampling))
        return means[:, 1] - means[:, 0]
    if metric.name in ("balanced_accuracy", "f1"):
        tables = resampled_confusions(_joint_confusion(pairs), resampling)
        return from_confusion(metric.name, tables.sum(axis=2)) - from_confusion(metric.name, tables.sum(axis=3))
    picks = _drawn_rows(len(pairs), resampling)
    return np.array([compute(metric, y_true[p], new[p]) - compute(metric, y_true[p], old[p]) for p in picks])


def _joint_confusion(pairs: PairedPredictions) -> NDArray[np.int64]:
    """Counts (k, k, k) by label, champion's predicted class and challenger's predicted class."""
    both = (pairs.champion, pairs.challenger)
    classes = max(len(confusion(pairs.y_true, y_pred)) for y_pred in both)
    old, new = map(predicted_codes, both)
    cell = (pairs.y_true.astype(np.int64) * classes + old) * classes + new
    return np.bincount(cell, minlength=classes**3).reshape(classes, classes, classes)


def mcnemar_exact(pairs: PairedPredictions) -> float:
    """Two-sided p-value of equal accuracy, from rows that exactly one of the two gets right: McNemar (1947), exact."""
    old, new = (predicted_codes(y_pred) == pairs.y_true for y_pred in (pairs.champion, pairs.challenger))
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
