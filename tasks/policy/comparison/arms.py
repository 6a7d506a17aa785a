"""The labelled rows that each version served, and their comparison within windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Codes, Floats, Metric
from tasks.policy.statistics.resampling import Uncertainty, cluster_uncertainty


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
