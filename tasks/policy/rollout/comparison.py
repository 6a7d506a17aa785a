"""Compare champion and challenger on the same rows: the difference of the primary metric, overall and per slice.

Predictions are made on the given rows; no stored metric is used. A positive gain is better, whatever the metric's
direction.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.monitoring.slices import RESAMPLING
from tasks.policy.records.evidence import MetricDifference, PredictionHistogram
from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics import intervals, metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Codes, Floats, Metric
from tasks.policy.statistics.resampling import (
    Resampling,
    Uncertainty,
    bootstrap_means,
    cluster_uncertainty,
)

DRAWS = 2000
"""Bootstrap draws of a validation's intervals."""
HISTOGRAM_BINS = 10
"""Bins of a version's predictions at validation, of about equal counts; ten are usual for the stability of a score
(Siddiqi 2006, Credit Risk Scorecards)."""


def difference(
    metric: Metric, pairs: PairedPredictions, resampling: Resampling, slice_name: str | None = None
) -> MetricDifference:
    """The paired difference on these rows; NaN if the metric is undefined. McNemar's p-value for classes."""
    if metrics.undefined(metric.name, pairs.y_true, metrics.class_count(pairs.challenger)):
        nan = float("nan")
        return MetricDifference(metric.name, nan, nan, nan, nan, nan, len(pairs), None, slice_name)
    gain = intervals.paired_bootstrap(metric, pairs, resampling)
    return MetricDifference(
        name=metric.name,
        champion=metrics.compute(metric, pairs.y_true, pairs.champion),
        challenger=metrics.compute(metric, pairs.y_true, pairs.challenger),
        gain=gain.gain,
        low=gain.low,
        high=gain.high,
        rows=len(pairs),
        p_value=intervals.mcnemar_exact(pairs) if metric.name in metrics.CLASS_METRICS else None,
        slice_name=slice_name,
    )


def against_constant(
    metric: Metric, y_true: Floats, y_pred: Floats, resampling: Resampling, prior: Floats | None = None
) -> MetricDifference | None:
    """A model compared with the best constant prediction, as champion, on the same rows; None without rows.

    For metrics of probabilities the constant is the `prior`, the class shares in training, if known. A constant with
    the shares of later days would beat sound models whenever a season changes them.
    """
    if not len(y_true):
        return None
    classes = metrics.class_count(y_pred)
    constant = metrics.constant_prediction(metric, y_true, classes)
    if prior is not None and metric.name in ("log_loss", "brier"):
        shares = np.append(prior, np.zeros(max(0, classes - len(prior))))  # classes unseen in training
        constant = np.full(len(y_true), shares[1]) if y_pred.ndim == 1 else np.tile(shares, (len(y_true), 1))
    found = difference(metric, PairedPredictions(y_true, champion=constant, challenger=y_pred), resampling)
    finite = all(np.isfinite([found.champion, found.challenger, found.gain, found.low, found.high]))
    return found if finite else None


def slice_differences(
    metric: Metric, pairs: PairedPredictions, slices: Mapping[str, NDArray[np.str_]], resampling: Resampling
) -> tuple[MetricDifference, ...]:
    """One difference per value of each slice column, named `origin=JFK`, in order of columns and values."""
    return tuple(
        difference(metric, pairs.where(values == value), resampling, f"{column}={value}")
        for column, values in slices.items()
        for value in np.unique(values)
    )


def own_value(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike, resampling: Resampling) -> MetricValue:
    """A model's own value with its interval, for the first model, which has no champion to compare with."""
    interval = intervals.metric_interval(metric, y_true, y_pred, resampling)
    return MetricValue(
        name=metric.name,
        value=metrics.compute(metric, y_true, y_pred),
        low=interval.low,
        high=interval.high,
        rows=len(np.asarray(y_true)),
        higher_is_better=metric.higher_is_better,
        confidence=resampling.confidence,
    )


def prediction_histogram(version: str, y_pred: Floats) -> PredictionHistogram | None:
    """Count finite predictions, (n,) or (n, classes), in ten bins of about equal counts; None without rows.

    Equal predictions share a bin, so there are fewer bins where many are equal. Edges lie midway between neighbouring
    predictions, where rounding in another batch or process moves no prediction across.
    """
    if not len(y_pred):
        return None
    edges = _edges(confidences(y_pred))
    return PredictionHistogram(version, tuple(edges.tolist()), shares_in(edges, y_pred), len(y_pred))


def shares_in(edges: ArrayLike, y_pred: Floats) -> tuple[float, ...]:
    """Return the share of finite predictions, (n,) or (n, classes), in each bin; empty without rows."""
    if not len(y_pred):
        return ()
    inner = np.asarray(edges, float)
    counts = np.bincount(np.searchsorted(inner, confidences(y_pred)), minlength=len(inner) + 1)
    return tuple((counts / len(y_pred)).tolist())


def confidences(y_pred: Floats) -> Floats:
    """The number (n,) that stands for each prediction: the largest of several probabilities, else the prediction."""
    largest: Floats = y_pred if y_pred.ndim == 1 else y_pred.max(axis=1)
    return largest


def _edges(values: Floats) -> Floats:
    distinct, counts = np.unique(values, return_counts=True)
    ends = np.searchsorted(np.cumsum(counts), np.arange(1, HISTOGRAM_BINS) / HISTOGRAM_BINS * len(values))
    ends = np.unique(ends[ends < len(distinct) - 1])
    edges: Floats = distinct[ends] + (distinct[ends + 1] - distinct[ends]) / 2
    return edges


def calibration_residuals(y_true: Floats, y_pred: Floats) -> Floats:
    """Each row's outcome less its predicted probability, in the column of its bin: (n, bins).

    The absolute means of the columns sum to the expected calibration error (Guo et al. 2017, "On calibration of modern
    neural networks"), over ten bins of about equal counts. With more than two classes it is that of the most probable.

    >>> residuals = calibration_residuals(np.array([1.0, 0.0]), np.array([0.9, 0.2]))
    >>> round(float(np.abs(residuals.mean(axis=0)).sum()), 2)
    0.15
    """
    outcomes = y_true if y_pred.ndim == 1 else (metrics.predicted_codes(y_pred) == y_true).astype(float)
    values = confidences(y_pred)
    edges = _edges(values)
    residuals = np.zeros((len(values), len(edges) + 1))
    residuals[np.arange(len(values)), np.searchsorted(edges, values)] = outcomes - values
    return residuals


def calibration_errors(y_true: Floats, y_pred: Floats, clusters: NDArray[np.generic]) -> Floats:
    """The expected calibration error of these rows, then those of resamples of their clusters: (1 + draws,).

    Equal clusters are drawn equally, so the errors of two models on the same rows stay paired.
    """
    columns = np.column_stack([calibration_residuals(y_true, y_pred), np.ones(len(y_true))])
    names, codes = np.unique(clusters, return_inverse=True)
    sums = np.column_stack([np.bincount(codes, column, len(names)) for column in columns.T])
    means = np.vstack([sums.mean(axis=0), bootstrap_means(sums, RESAMPLING)])
    errors: Floats = np.abs(means[:, :-1]).sum(axis=1) / means[:, -1]
    return errors


def prediction_fault(y_pred: Floats, rows: int, task: str) -> str | None:
    """Describe invalid predictions: not one per row, not finite, or not probabilities; None if they are valid."""
    if len(y_pred) != rows:
        return f"{len(y_pred)} predictions for {rows} rows"
    if not rows:
        return None  # the verdict itself reports too few rows
    broken = int(missing_rows(y_pred).sum())
    if broken:
        return f"{broken} of {rows} predictions are not finite numbers"
    if task != "regression" and len(y_pred) and (y_pred.min() < 0 or y_pred.max() > 1):
        return f"predictions range from {y_pred.min():.3g} to {y_pred.max():.3g}, expected probabilities"
    return None


def invalid_rows(y_pred: Floats, task: str) -> NDArray[np.bool_]:
    """Mask (n,) of the predictions that are no answer: not finite, or not probabilities."""
    broken = missing_rows(y_pred)
    if task == "regression" or not len(y_pred):
        return broken
    outside = np.asarray(((y_pred < 0) | (y_pred > 1)).reshape(len(y_pred), -1).any(axis=1), bool)
    return np.asarray(broken | outside, bool)


NOT_A_PROBABILITY = "the prediction is not a probability"
MISSING_PREDICTION = "the prediction is not a finite number"
"""Error of a logged row that a version answered without a usable prediction; every other error is a row that it refused."""


def missing_rows(y_pred: Floats) -> NDArray[np.bool_]:
    """Mask (n,) of the predictions that are not finite."""
    if not len(y_pred):
        return np.zeros(0, bool)
    return np.asarray((~np.isfinite(y_pred)).reshape(len(y_pred), -1).any(axis=1), bool)


@dataclass(frozen=True, slots=True)
class ServedArm:
    """Labels (n,) and predictions of the rows that one version answered, in the shapes of `metrics`."""

    y_true: Floats
    y_pred: Floats
    clusters: NDArray[np.generic]
    """The unit or day of each row (n,)."""
    strata: NDArray[np.generic]
    """The window of each row (n,)."""

    def where(self, rows: NDArray[np.bool_]) -> "ServedArm":
        """The chosen rows of the arm; `rows` (n,) is a mask."""
        return ServedArm(self.y_true[rows], self.y_pred[rows], self.clusters[rows], self.strata[rows])


def equal_rows(champion: ServedArm, challenger: ServedArm) -> tuple[ServedArm, ServedArm]:
    """Draw equally many rows of both arms from each window, as many as the smaller arm has there."""
    random, arms = np.random.default_rng(0), (champion, challenger)
    drawn = [np.zeros(len(arm.y_true), bool) for arm in arms]
    for stratum in np.intersect1d(champion.strata, challenger.strata):
        own = [np.flatnonzero(arm.strata == stratum) for arm in arms]
        for mask, rows in zip(drawn, own, strict=True):
            mask[random.choice(rows, min(map(len, own)), replace=False)] = True
    return champion.where(drawn[0]), challenger.where(drawn[1])


@dataclass(frozen=True, slots=True)
class MatchedArms:
    """The rows of both versions in windows that have both; arrays hold the champion's rows first, then the challenger's."""

    champion: ServedArm
    challenger: ServedArm
    side: Codes
    """0 for a row of the champion (n,), 1 for one of the challenger."""
    strata: Codes
    """The window of each row (n,), from 0."""
    clusters: Codes
    """The cluster of each row (n,), from 0; a unit that changed versions is one cluster."""

    @classmethod
    def of(cls, champion: ServedArm, challenger: ServedArm) -> "MatchedArms":
        """Leave out windows in which a version has a single cluster, unless all of the window is that one cluster."""
        found = cls._coded(champion, challenger)
        each = found.clusters_per_cell()
        whole = found._distinct_clusters(found.strata) == 1
        usable = ((each >= 2).all(axis=1) | ((each == 1).all(axis=1) & whole))[found.strata]
        size = len(champion.y_true)
        return cls._coded(champion.where(usable[:size]), challenger.where(usable[size:]))

    @classmethod
    def _coded(cls, champion: ServedArm, challenger: ServedArm) -> "MatchedArms":
        side = np.repeat([0, 1], [len(champion.y_true), len(challenger.y_true)])
        _, strata = np.unique(np.concatenate([champion.strata, challenger.strata]), return_inverse=True)
        _, clusters = np.unique(np.concatenate([champion.clusters, challenger.clusters]), return_inverse=True)
        return cls(champion, challenger, side, strata, clusters)

    def __len__(self) -> int:
        return len(self.side)

    def values(self, metric: Metric, rows: NDArray[np.bool_] | None = None) -> tuple[float, float]:
        """The metric of champion and challenger over the same mix of windows, from all or the chosen rows (n,)."""
        weights, cut = self.weights(np.ones(len(self), bool) if rows is None else rows), len(self.champion.y_true)
        arms = ((self.champion, weights[:cut]), (self.challenger, weights[cut:]))
        champion, challenger = (metrics.compute_weighted(metric, arm.y_true, arm.y_pred, own) for arm, own in arms)
        return champion, challenger

    def row_losses(self, metric: Metric) -> Floats | None:
        """Each row's contribution (n,) to a metric that is a mean of rows, else None."""
        losses = [metrics.row_losses(metric, arm.y_true, arm.y_pred) for arm in (self.champion, self.challenger)]
        return None if losses[0] is None or losses[1] is None else np.concatenate([losses[0], losses[1]])

    def weights(self, rows: NDArray[np.bool_]) -> Floats:
        """Weights (n,) of the rows of each arm, with sum 1: both arms get the same mix of windows."""
        counts = self._per_cell(rows.astype(float))
        shares = self._shares(counts)
        each = shares[:, None] / np.maximum(counts, 1.0)
        found: Floats = each[self.strata, self.side] * rows
        return found

    def uncertainty(self, losses: Floats) -> Uncertainty:
        """Uncertainty of the difference of the weighted means of `losses` (n,), with Welch's degrees of freedom.

        The influence of a row has two parts: its distance from the mean of its arm and window, and the distance of the
        window's difference from the whole. The second is all there is where a window is one cluster.
        """
        counts, each = self._per_cell(np.ones(len(self))), self.clusters_per_cell()
        shares, means = self._shares(counts), self._per_cell(losses) / counts
        differences = means[:, 1] - means[:, 0]
        corrected = np.sqrt(each / np.maximum(each - 1, 1)) * shares[:, None] / counts
        own = np.where(self.side == 1, 1.0, -1.0) * corrected[self.strata, self.side]
        own *= losses - means[self.strata, self.side]
        spread = shares * (differences - shares @ differences) / counts.sum(axis=1)
        found = cluster_uncertainty(own + spread[self.strata], self.clusters)
        return found._replace(degrees_of_freedom=self._degrees_of_freedom(own, (each - 1).sum(axis=0)))

    def _degrees_of_freedom(self, influences: Floats, degrees: Codes) -> float:
        """Welch's degrees of freedom, from those of both arms."""
        if not degrees.all():
            return float(self.clusters.max())
        arms = [cluster_uncertainty(influences[self.side == s], self.clusters[self.side == s]) for s in (0, 1)]
        variances = np.array([arm.standard_error**2 for arm in arms])
        if self.shared or not variances.any():
            return float(degrees.min())
        return float(variances.sum() ** 2 / (variances**2 / degrees).sum())

    @property
    def shared(self) -> bool:
        """Whether most clusters have rows in both arms, as days do."""
        sides = np.unique(self.clusters * 2 + self.side) // 2
        return 2 * int((np.bincount(sides) == 2).sum()) > self.units

    @property
    def repeated(self) -> bool:
        """Whether clusters have several rows."""
        return len(np.unique(self.clusters)) < len(self)

    @property
    def units(self) -> int:
        """Clusters in the smaller arm."""
        return min(len(np.unique(self.clusters[self.side == side])) for side in (0, 1))

    @property
    def effective_units(self) -> float | None:
        """Clusters in each of two equal arms with the same information; None where clusters have rows in both."""
        if self.shared:
            return None
        counts = self._per_cell(np.ones(len(self)))
        rows = 2 * (counts.prod(axis=1) / counts.sum(axis=1)).sum()
        return float(rows * len(np.unique(self.clusters)) / len(self))

    def clusters_per_cell(self) -> Codes:
        """Number of clusters by window and arm."""
        return self._distinct_clusters(self.strata * 2 + self.side, minlength=2 * self._windows).reshape(-1, 2)

    def _distinct_clusters(self, codes: Codes, minlength: int = 0) -> Codes:
        """Number of clusters among the rows of each code."""
        size = int(self.clusters.max(initial=0)) + 1
        return np.bincount(np.unique(codes * size + self.clusters) // size, minlength=minlength)

    @property
    def _windows(self) -> int:
        return int(self.strata.max(initial=-1)) + 1

    def _per_cell(self, values: Floats) -> Floats:
        """Sums of `values` (n,) by window and arm."""
        sums = np.bincount(self.strata * 2 + self.side, values, minlength=2 * self._windows)
        return np.asarray(sums, float).reshape(-1, 2)

    @staticmethod
    def _shares(counts: Floats) -> Floats:
        """Weight of each window from its rows by arm, n₁n₂/(n₁ + n₂), with sum 1."""
        weights = counts.prod(axis=1) / np.maximum(counts.sum(axis=1), 1.0)
        shares: Floats = weights / weights.sum() if weights.any() else weights
        return shares
