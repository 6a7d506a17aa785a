"""How many predictions change when the challenger replaces the champion, and how many of them for the worse.

A challenger that is right where the champion was wrong must change predictions. What users notice as an unstable model are
the rows that were right and become wrong: the negative flips of Yan et al. (2021), "Positive-congruent training", CVPR.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions, wilson_interval


def compare_predictions(pairs: PairedPredictions, tolerance: float | None, confidence: float) -> GateMeasure:
    """The share of rows whose prediction changes for the worse; `tolerance` in units of the label for a regression, else None.

    >>> flips = PairedPredictions(np.array([1.0, 1, 0, 0]), np.array([0.9, 0.1, 0.1, 0.1]), np.array([0.1, 0.9, 0.1, 0.2]))
    >>> found = compare_predictions(flips, None, 0.95)
    >>> found.value, found.subject
    (0.25, 'predictions that change for the worse, of 50 % that change')
    """
    changed, worse = _regression(pairs, tolerance) if tolerance is not None else _classes(pairs)
    low, high = wilson_interval(int(worse.sum()), len(pairs), confidence)
    return GateMeasure(
        gate="churn",
        subject=f"predictions that change for the worse, of {100 * float(changed.mean()):.3g} % that change",
        value=float(worse.mean()),
        low=low,
        high=high,
        rows=len(pairs),
    )


def _classes(pairs: PairedPredictions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    old, new = (metrics.predicted_codes(one) for one in (pairs.champion, pairs.challenger))
    changed = old != new
    return changed, changed & (old == np.asarray(pairs.y_true))


def _regression(pairs: PairedPredictions, tolerance: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    y_true = np.asarray(pairs.y_true, float)
    changed = np.abs(pairs.challenger - pairs.champion) > tolerance
    worse = np.abs(pairs.challenger - y_true) > np.abs(pairs.champion - y_true)
    return changed, changed & worse
