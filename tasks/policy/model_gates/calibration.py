"""Compare how far predicted probabilities can be taken at their word: expected calibration error and reliability curve.

The error is that of Guo et al. (2017), "On calibration of modern neural networks", over ten bins of about equal counts: of
P(positive) for two classes, of the most probable class for more. It is biased upwards on few rows, for both models alike,
so that only their difference is judged.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.policy.comparison.predictions import calibration_errors, confidences, prediction_histogram
from tasks.policy.evidence.validation import GateMeasure, ReliabilityBin, ReliabilityCurve
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions, wilson_interval
from tasks.policy.statistics.metrics import Floats
from tasks.policy.statistics.resampling import percentile_interval

NOT_A_PROBABILITY = "a regression predicts no probability that could be calibrated"


def compare_calibration(pairs: PairedPredictions, blocks: NDArray[np.int64], confidence: float) -> GateMeasure:
    """The increase of the expected calibration error over the champion's, with its paired bootstrap interval.

    `blocks` (n,) are the blocks of time that are resampled together.
    """
    y_true = np.asarray(pairs.y_true, float)
    new = calibration_errors(y_true, pairs.challenger, blocks)
    old = calibration_errors(y_true, pairs.champion, blocks)
    low, high = percentile_interval(new[1:] - old[1:], confidence)
    return GateMeasure(
        gate="calibration",
        subject="expected calibration error",
        champion=float(old[0]),
        challenger=float(new[0]),
        value=float(new[0] - old[0]),
        low=low,
        high=high,
        rows=len(pairs),
    )


def own_calibration(y_true: Floats, y_pred: Floats) -> GateMeasure:
    """The expected calibration error of a first model, which has no champion to compare with."""
    error = float(calibration_errors(np.asarray(y_true, float), y_pred, np.arange(len(y_pred)))[0])
    return GateMeasure(
        gate="calibration",
        subject="expected calibration error",
        challenger=error,
        rows=len(y_pred),
        skipped=f"expected calibration error {error:.3g}; there is no champion to compare with",
    )


def reliability_curve(version: str, y_true: Floats, y_pred: Floats) -> ReliabilityCurve:
    """How often the predictions of each bin came true.

    >>> curve = reliability_curve("1", np.array([1.0, 0.0]), np.array([0.9, 0.2]))
    >>> [(found.predicted, found.observed, found.rows) for found in curve.bins]
    [(0.2, 0.0, 1), (0.9, 1.0, 1)]
    """
    labels, values = np.asarray(y_true, float), confidences(y_pred)
    outcomes = labels if y_pred.ndim == 1 else (metrics.predicted_codes(y_pred) == labels).astype(float)
    histogram = prediction_histogram(version, y_pred)
    bin_of = np.searchsorted(histogram.edges if histogram else (), values)
    found = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        hits, count = int(outcomes[inside].sum()), int(inside.sum())
        low, high = wilson_interval(hits, count)
        found.append(ReliabilityBin(float(values[inside].mean()), hits / count, low, high, count))
    return ReliabilityCurve(version, tuple(found))
