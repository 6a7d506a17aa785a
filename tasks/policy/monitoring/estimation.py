"""Estimate performance before labels arrive, from calibrated probabilities or errors of similar predictions.

CBPE for classes and DLE for regression, after NannyML (Białek et al. 2023, "Estimating model performance under
covariate shift without labels"). Both assume an unchanged concept: they show harm from moved inputs, never from a
changed relationship. The gap between an estimate and the realised value therefore indicates concept drift.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from tasks.policy.records.reports import MetricValue
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER, Floats, Metric, from_confusion, row_losses

LOSS_ESTIMATES = ("mae", "rmse", "pinball")


@dataclass(frozen=True, slots=True)
class Calibration:
    """An increasing curve from predicted to true probability, fitted on labelled rows; linear between its points."""

    predicted: tuple[float, ...]
    true: tuple[float, ...]
    rows: int
    """Labelled rows that it was fitted on."""

    def apply(self, probabilities: ArrayLike) -> Floats:
        """Calibrated probabilities, of the same shape."""
        fixed: Floats = np.interp(np.asarray(probabilities, float), self.predicted, self.true)
        return fixed


def calibrate(y_true: ArrayLike, y_pred: ArrayLike, bins: int = 50) -> Calibration:
    """Isotonic regression of outcomes on predicted probabilities (Zadrozny & Elkan 2002), over bins of equal counts."""
    order = np.argsort(np.asarray(y_pred, float), kind="stable")
    parts = [part for part in np.array_split(order, min(bins, max(1, len(order) // 20))) if len(part)]
    predicted = np.array([np.asarray(y_pred, float)[part].mean() for part in parts])
    shares = np.array([np.asarray(y_true, float)[part].mean() for part in parts])
    fitted = optimize.isotonic_regression(shares, weights=[len(part) for part in parts]).x
    return Calibration(tuple(map(float, predicted)), tuple(map(float, fitted)), len(order))


def estimate_classes(
    y_pred: ArrayLike, calibration: Calibration | None = None, confidence: float = 0.95
) -> tuple[MetricValue, ...]:
    """Expected metrics of two-class predictions (n,), if each row is positive with its calibrated probability.

    Intervals of metrics that are means of rows include the noise of labels and of rows; those of balanced accuracy and
    F1 only that of labels, by Monte Carlo. The calibration adds the uncertainty of the rows that it was fitted on. AUC
    uses the largest possible standard error instead.
    """
    predicted = np.asarray(y_pred, float)
    chance = predicted if calibration is None else calibration.apply(predicted)
    doubt = 1.0 if calibration is None else math.sqrt(1 + len(predicted) / calibration.rows)
    found = []
    for name in ("accuracy", "log_loss", "brier"):
        if_one, if_zero = (_rows(name, np.full(len(predicted), code), predicted) for code in (1.0, 0.0))
        rows = chance * if_one + (1 - chance) * if_zero
        label_noise = chance * (1 - chance) * (if_one - if_zero) ** 2
        error = doubt * math.sqrt(float(label_noise.mean() + rows.var()) / len(rows))
        found.append(_value(name, float(rows.mean()), error, len(rows), confidence))
    decided = predicted >= 0.5
    hit, miss = chance[decided].sum(), chance[~decided].sum()
    table = np.array([[(1 - chance[~decided]).sum(), (1 - chance[decided]).sum()], [miss, hit]])
    draws = _label_draws(chance, decided)
    for name in ("balanced_accuracy", "f1"):
        error = doubt * float(np.nanstd(from_confusion(name, draws)))
        found.append(_value(name, float(from_confusion(name, table)), error, len(chance), confidence))
    found.append(_value("roc_auc", _expected_auc(predicted, chance), _auc_error(chance), len(chance), confidence))
    return tuple(value for value in found if math.isfinite(value.value) and math.isfinite(value.low))


def _rows(name: str, y_true: Floats, y_pred: Floats) -> Floats:
    rows = row_losses(Metric(name), y_true, y_pred)
    if rows is None:
        raise ValueError(f"{name} is not a mean of rows")
    return rows


def _label_draws(chance: Floats, decided: ArrayLike, draws: int = 200, seed: int = 0) -> Floats:
    """Confusion tables (draws, 2, 2) with random labels; sums of Bernoulli rows are approximated as normal."""
    random, chosen = np.random.default_rng(seed), np.asarray(decided, bool)
    tables = np.zeros((draws, 2, 2))
    for column, rows in ((1, chance[chosen]), (0, chance[~chosen])):
        spread = math.sqrt(float((rows * (1 - rows)).sum()))
        positives = np.clip(random.normal(rows.sum(), spread, draws), 0, len(rows))
        tables[:, 1, column], tables[:, 0, column] = positives, len(rows) - positives
    return tables


def _expected_auc(score: Floats, chance: Floats) -> float:
    """Probability that a positive row outranks a negative one, if each row is partly both; self-pairs are excluded."""
    _, where = np.unique(score, return_inverse=True)
    positive, negative = np.bincount(where, chance), np.bincount(where, 1 - chance)
    below = np.cumsum(negative) - negative
    own = float((chance * (1 - chance)).sum()) / 2
    ordered = float((positive * (below + negative / 2)).sum()) - own
    pairs = float(chance.sum() * (1 - chance).sum() - 2 * own)
    return ordered / pairs if pairs > 0 else float("nan")


def _auc_error(chance: Floats) -> float:
    """Largest standard error of an AUC with equal class sizes: Birnbaum & Klose (1957), at A = 1/2."""
    fewer = min(float(chance.sum()), float((1 - chance).sum()))
    return math.sqrt(0.25 / fewer) if fewer > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Mean and spread of the loss by bin of the prediction; bins are quantiles of the labelled reference."""

    metric: str
    edges: tuple[float, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    counts: tuple[int, ...]
    """Rows of the reference in each bin."""


def learn_losses(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike, bins: int = 20) -> LossCurve:
    """Loss of the reference rows by prediction; squared errors for rmse. Raises ValueError for other metrics."""
    labels, predicted = np.asarray(y_true, float), np.asarray(y_pred, float)
    losses = (labels - predicted) ** 2 if metric.name == "rmse" else row_losses(metric, labels, predicted)
    if losses is None or metric.name not in LOSS_ESTIMATES:
        raise ValueError(f"metric is {metric.name!r}, expected one of {', '.join(LOSS_ESTIMATES)}")
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="right")
    counts = np.bincount(place, minlength=len(edges) + 1)
    overall = float(losses.mean())
    means = np.where(counts > 0, np.bincount(place, losses, len(edges) + 1) / np.maximum(counts, 1), overall)
    squares = np.bincount(place, (losses - means[place]) ** 2, len(edges) + 1) / np.maximum(counts, 1)
    spreads = tuple(map(float, np.sqrt(squares)))
    return LossCurve(metric.name, tuple(map(float, edges)), tuple(map(float, means)), spreads, tuple(map(int, counts)))


def estimate_loss(curve: LossCurve, y_pred: ArrayLike, confidence: float = 0.95) -> MetricValue:
    """Expected metric of these predictions, if rows with similar predictions have the errors of the reference.

    The variance includes that of these rows and that of the curve's means in their bins.
    """
    place = np.searchsorted(np.array(curve.edges), np.asarray(y_pred, float), side="right")
    rows, spreads = np.array(curve.means)[place], np.array(curve.spreads)
    shares = np.bincount(place, minlength=len(spreads)) / len(place)
    learned = float((shares**2 * spreads**2 / np.maximum(curve.counts, 1)).sum())
    mean, error = float(rows.mean()), math.sqrt(float((spreads[place] ** 2).mean() + rows.var()) / len(rows) + learned)
    if curve.metric == "rmse":
        mean, error = math.sqrt(mean), error / (2 * math.sqrt(mean)) if mean else 0.0
    return _value(curve.metric, mean, error, len(rows), confidence)


def _value(name: str, value: float, error: float, rows: int, confidence: float) -> MetricValue:
    half = float(stats.norm.ppf((1 + confidence) / 2)) * error
    return MetricValue(
        name, value, value - half, value + half, rows, HIGHER_IS_BETTER[name], confidence, estimated=True
    )
