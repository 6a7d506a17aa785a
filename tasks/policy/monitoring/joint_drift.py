"""Decide whether features drifted jointly, by how well a classifier separates rows of the window from the reference.

Relationships between features can change while each feature keeps its distribution, which the distance of a single
feature cannot show. A classifier that beats chance on unseen rows shows it (Rabanser et al. 2019, "Failing loudly").
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from tasks.policy.records.reports import JointDrift, JointVerdict
from tasks.policy.statistics.intervals import delong

CONFIDENCE = 0.99
"""Level of the area's interval."""
MISTAKEN = 0.45
"""Upper limit of the interval for an error: up to one in 200 stable windows falls below 0.5 by chance and would be
reported as wrong. With the same rows on both sides, 6 features give areas of 0.22 (210 rows) to 0.35 (1500 rows)."""


def judge_joint(
    is_current: ArrayLike,
    scores: ArrayLike,
    threshold: float = 0.55,
    min_rows: int = 200,
    scored_by: ArrayLike | None = None,
) -> JointDrift:
    """Decide on joint drift from scores (n,) of unseen rows by domain classifiers; `scored_by` (n,) says which one.

    The area is the mean of the classifiers' own areas, because their scores have no common scale (LeDell et al. 2015,
    EJS 9:1583). The standard error is the mean of their standard errors. Cross-fitted areas are correlated, since
    random properties of one half are learned in one fit and scored in the other. No unbiased estimate of that
    covariance exists (Bengio & Grandvalet 2004, JMLR 5:1089), and the mean is an upper bound for any. DeLong's error
    from all rows is too small: 0.028, where areas from 210 rows each, without drift, spread by 0.035 to 0.039; the
    bound is 0.040 (1500 rows: 0.0105, 0.013 and 0.0149).

    The verdict is drifted if the whole interval is above 0.5 and the area reaches `threshold`. An interval entirely
    below `MISTAKEN` cannot come from drift: the same row is in both windows, learned as one side and scored as the
    other.
    """
    labels, table = np.asarray(is_current, float), np.asarray(scores, float)
    owner = np.zeros(len(labels)) if scored_by is None else np.asarray(scored_by)
    rows = int(min(labels.sum(), (1 - labels).sum()))
    if rows < min_rows:
        return JointDrift("insufficient", threshold, rows)
    parts = [delong(labels[owner == one], table[owner == one]) for one in np.unique(owner)]
    area = float(np.mean([areas[0] for areas, _ in parts]))
    error = float(np.mean([math.sqrt(covariance[0, 0]) for _, covariance in parts]))
    if math.isnan(area):  # a classifier scored one row of a side
        return JointDrift("insufficient", threshold, rows)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    low, high = max(0.0, area - half), min(1.0, area + half)
    verdict: JointVerdict = "drifted" if low > 0.5 and area >= threshold else "stable"
    return JointDrift("error" if high < MISTAKEN else verdict, threshold, rows, area, low, high)


def describe_joint(found: JointDrift, any_drifted: bool) -> str:
    """Describe the classifier's result; `any_drifted` says whether single features drifted as well."""
    if found.auc is None:
        return f"joint drift: insufficient, {found.rows} rows"
    text = (
        f"joint drift: {found.verdict}, a classifier separates the window from the training data with an AUC of "
        f"{found.auc:.3f} (limit {found.threshold:.3g}, {CONFIDENCE:.0%} interval {found.low:.3f} to {found.high:.3f}, "
        f"{found.rows:,} sampled rows each)"
    )
    if found.verdict == "error":
        return f"{text}: well below chance, as happens when the same rows are on both sides"
    if found.verdict == "drifted":
        text += f", by {', '.join(found.features)}" if found.features else ""
        text += "" if any_drifted else "; no single feature moved past its limit"
    return text
