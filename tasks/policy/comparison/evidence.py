"""Measure the gain of a challenger on labelled rows, with a standard error that respects clusters."""

import math
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tasks.policy.comparison.arms import MatchedArms, ServedArm
from tasks.policy.records.profile import bounded
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric, compute, row_losses
from tasks.policy.statistics.resampling import Uncertainty, cluster_uncertainty, jackknife_uncertainty


@dataclass(frozen=True, slots=True)
class Evidence:
    """The gain of the challenger measured on all labelled rows since the comparison began; positive is better."""

    until: datetime
    """End of the rows whose labels are known."""
    gain: float
    standard_error: float
    units: int
    """Clusters in the smaller arm, for pairs the number of clusters."""
    rows: int
    paired: bool
    champion: float
    """The champion's value of the primary metric on these rows."""
    challenger: float
    degrees_of_freedom: float | None = None
    """Degrees of freedom of the standard error; None for a normal distribution."""
    skewness: float = 0.0
    """Skewness of the gain's distribution, from that of the clusters."""
    effective_units: float | None = None
    """Units of each of two equal arms with the same information; None where it is `units`, as for pairs."""
    repeated: bool = False
    """Whether clusters have several rows; if they are units that return, their number does not measure the information."""
    undefined: str = ""
    """Why the gain or its standard error is unknown; their values are then 0."""


def why_not_paired(feedback: bool) -> str | None:
    """Why pairs are no evidence here, else None.

    If answers change what is observed, each row shows only the outcome under the served answer. The champion's own
    outcomes then judge the challenger.
    """
    if not feedback:
        return None
    return "answers can change the labels (rollout.feedback is true), so both versions must serve a part of the traffic"


def paired_evidence(
    metric: Metric, pairs: PairedPredictions, clusters: NDArray[np.generic], until: datetime
) -> Evidence:
    """The gain on rows that both models predicted; `clusters` (n,) is the unit or the day of each row.

    Means of rows have a cluster-robust standard error, other metrics that of a jackknife over groups of clusters.
    """
    if not len(pairs):
        return unknown_evidence(until, paired=True, reason="no labelled rows yet")
    sign = 1.0 if metric.higher_is_better else -1.0
    champion, challenger = (compute(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    gain, units = sign * (challenger - champion), len(np.unique(clusters))
    old, new = (row_losses(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    if old is not None and new is not None:
        found = cluster_uncertainty((sign * (new - old) - gain) / len(pairs), clusters)
    else:

        def gain_of(rows: NDArray[np.bool_]) -> float:
            part = pairs.where(rows)
            return sign * (compute(metric, part.y_true, part.challenger) - compute(metric, part.y_true, part.champion))

        found = jackknife_uncertainty(clusters, gain_of)
    evidence = Evidence(until, gain, found.standard_error, units, len(pairs), True, champion, challenger)
    return _with_uncertainty(evidence, found, repeated=units < len(pairs))


def served_evidence(metric: Metric, champion: ServedArm, challenger: ServedArm, until: datetime) -> Evidence:
    """The gain between the rows that each version answered, compared within windows.

    The share of the challenger may grow while the metric drifts, so the arms are weighted to the same mix of windows:
    n₁n₂/(n₁ + n₂) for each, which is best if rows vary alike (Mantel & Haenszel 1959). Windows in which a version has
    fewer than two clusters are left out. Degrees of freedom are those of Welch (1947), Biometrika 34:28.
    """
    arms = MatchedArms.of(champion, challenger)
    if not len(arms):
        return unknown_evidence(until, paired=False, reason="no window has labelled rows of both versions")
    values, losses = arms.values(metric), arms.row_losses(metric)
    sign = 1.0 if metric.higher_is_better else -1.0
    if losses is not None:
        found = arms.uncertainty(sign * losses)
    else:

        def gain_of(rows: NDArray[np.bool_]) -> float:
            champion_value, challenger_value = arms.values(metric, rows)
            return sign * (challenger_value - champion_value)

        found = jackknife_uncertainty(arms.clusters, gain_of)
    gain = sign * (values[1] - values[0])
    evidence = Evidence(until, gain, found.standard_error, arms.units, len(arms), False, *values)
    return replace(_with_uncertainty(evidence, found, arms.repeated), effective_units=arms.effective_units)


def unknown_evidence(until: datetime, paired: bool, reason: str) -> Evidence:
    """The evidence of a look without comparable rows."""
    return Evidence(until, 0.0, 0.0, 0, 0, paired, 0.0, 0.0, undefined=reason)


def _with_uncertainty(evidence: Evidence, found: Uncertainty, repeated: bool) -> Evidence:
    """The evidence with the shape of its error; undefined, with zeros, if JSON cannot hold its numbers."""
    evidence = replace(
        evidence, degrees_of_freedom=found.degrees_of_freedom, skewness=found.skewness, repeated=repeated
    )
    numbers = (evidence.gain, evidence.standard_error, evidence.champion, evidence.challenger)
    if all(map(math.isfinite, numbers)):
        return evidence
    champion, challenger = bounded(evidence.champion), bounded(evidence.challenger)
    reason = "the metric or its standard error is undefined on these rows"
    return replace(evidence, gain=0.0, standard_error=0.0, champion=champion, challenger=challenger, undefined=reason)
