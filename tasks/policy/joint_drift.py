"""Whether features moved together: how well a classifier tells rows of the window from rows of the reference.

Each feature may stand still by itself while their relations change; no distance of a single feature sees that. A
classifier that does better than chance on rows it has not seen does (Rabanser et al. 2019, "Failing loudly").
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tasks.policy.statistics import delong

JointVerdict = Literal["drifted", "stable", "insufficient", "error"]


@dataclass(frozen=True, slots=True)
class JointDrift:
    """Area under the curve with its interval, 0.5 when the classifier cannot tell; None with too few rows."""

    verdict: JointVerdict
    threshold: float
    rows: int
    """Of the smaller side; a bounded sample."""
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    features: tuple[str, ...] = ()
    """What the classifier went by, most used first."""


def judge_joint(
    is_current: ArrayLike, scores: ArrayLike, threshold: float = 0.55, min_rows: int = 200, confidence: float = 0.99
) -> JointDrift:
    """Joint drift from a domain classifier's cross-fitted scores.

    Drifted when the whole interval lies above 0.5 and the AUC reaches `threshold`. An interval wholly below 0.5 cannot
    come from drift: rows stand in both windows or were scored by a model that had seen them, so it is an error.
    """
    labels = np.asarray(is_current, float)
    rows = int(min(labels.sum(), (1 - labels).sum()))
    if rows < min_rows:
        return JointDrift("insufficient", threshold, rows)
    areas, covariance = delong(labels, scores)
    area, half = float(areas[0]), float(stats.norm.ppf((1 + confidence) / 2)) * math.sqrt(float(covariance[0, 0]))
    low, high = max(0.0, area - half), min(1.0, area + half)
    verdict: JointVerdict = "drifted" if low > 0.5 and area >= threshold else "stable"
    return JointDrift("error" if high < 0.5 else verdict, threshold, rows, area, low, high)


def describe_joint(found: JointDrift, any_drifted: bool) -> str:
    """What the classifier saw, in words; `any_drifted` says whether single features moved as well."""
    if found.auc is None:
        return f"features together: insufficient, {found.rows} rows"
    told = (
        f"features together: {found.verdict}, a classifier tells the window from the reference with an AUC of "
        f"{found.auc:.3f} (99% interval {found.low:.3f} to {found.high:.3f}, limit {found.threshold:.3g}, "
        f"{found.rows:,} sampled rows each)"
    )
    if found.verdict == "error":
        return f"{told}: below chance, so rows stand on both sides"
    if found.verdict == "drifted":
        told += f", by {', '.join(found.features)}" if found.features else ""
        told += "" if any_drifted else "; no feature moved past its limit by itself"
    return told
