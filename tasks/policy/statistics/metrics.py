"""The metrics by name: their values, their direction, and their row losses if they are means of rows.

All stages share one definition, so training, validation, monitoring and decisions use the same number.
numpy only. Tests compare the values with scikit-learn's (`sklearn.metrics`, model evaluation).

Shapes: `y_true` is (n,). For classes it holds codes 0 … k-1; `y_pred` is P(code 1) of shape (n,) for two classes and
(n, k) probabilities for more. For regression both are (n,) in the label's unit. An undefined value (no rows, the AUC
of a single class) is NaN; callers turn it into None, never into a number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "f1": True,
    "roc_auc": True,
    "log_loss": False,
    "brier": False,
    "mae": False,
    "rmse": False,
    "pinball": False,
}
CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier")
REGRESSION_METRICS = ("mae", "rmse", "pinball")
BOUNDED = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "brier")
"""Metrics between 0 and 1. The others are divided by five times their typical level, to make costs comparable between models."""


LEAST_OF_A_CLASS = 5
"""Labels per class below which a metric that compares classes depends more on single rows than on the model."""


FEW_CLASSES = 10
"""Number of classes up to which a window must hold each of them; with more classes some are always missing."""


class Rule(Protocol):
    """How a metric of the user's own is computed; `custom_metrics.rules` has the classes."""

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def is_regression(self) -> bool: ...

    @property
    def per_row(self) -> bool: ...

    def rows(self, y_true: Floats, y_pred: Floats) -> Floats | None:
        """The value of each row (n,) if the metric is their mean, else None."""

    def value(self, y_true: Floats, y_pred: Floats) -> float:
        """The metric on these rows; NaN where it is undefined."""

    def undefined(self, y_true: NDArray[Any], least: int = LEAST_OF_A_CLASS) -> str | None:
        """Why these labels do not define the metric, else None."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric by name, with the quantile of the pinball loss; `rule` computes one of the user's own."""

    name: str
    quantile: float = 0.5
    rule: Rule | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.rule.higher_is_better if self.rule else HIGHER_IS_BETTER[self.name]


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task: `binary`, `multiclass` or `regression`."""
    return REGRESSION_METRICS if task == "regression" else CLASS_METRICS


def undefined(
    metric: Metric, y_true: ArrayLike, classes: int, least: int = LEAST_OF_A_CLASS, each: bool = False
) -> str | None:
    """Why these labels (codes) do not define the metric, else None. `classes` is the number of classes the model knows.

    F1 needs positives; balanced accuracy and AUC need both of two classes, or at least two of several. With `each`,
    used for comparisons with other rows, all of up to FEW_CLASSES classes are needed: a mean without the hardest class
    is not comparable.

    >>> undefined(Metric("f1"), [0, 0, 0], classes=2)
    'f1 is undefined: 0 of 3 labels are positive, expected at least 5'
    """
    if metric.rule is not None:
        return metric.rule.undefined(np.asarray(y_true), least)
    name = metric.name
    if name not in ("balanced_accuracy", "f1", "roc_auc"):
        return None
    counts = np.bincount(np.asarray(y_true).astype(np.int64), minlength=max(2, classes))
    total = int(counts.sum())
    if classes > 2:
        enough, wanted = int((counts >= least).sum()), classes if each and classes <= FEW_CLASSES else 2
        if enough >= wanted:
            return None
        return f"{name} is undefined: {enough} classes have at least {least} labels, expected {wanted}"
    needed = {"positive": int(counts[1:].sum())} | ({} if name == "f1" else {"negative": int(counts[0])})
    few = next((side for side, count in needed.items() if count < least), None)
    if few is None:
        return None
    return f"{name} is undefined: {needed[few]} of {total} labels are {few}, expected at least {least}"


def as_loss(metric: Metric, value: float) -> float:
    """The metric's value, converted if necessary so that lower is better."""
    if not metric.higher_is_better:
        return value
    return 1 - value if metric.name in BOUNDED else -value


def compute(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """The metric on these rows; NaN if undefined. Raises ValueError for an unknown name or unequal lengths."""
    labels, predictions = _checked(metric, y_true, y_pred)
    if not len(labels):
        return float("nan")
    if metric.rule is not None:
        return metric.rule.value(labels, predictions)
    rows = row_losses(metric, labels, predictions)
    if rows is not None:
        return float(rows.mean())
    if metric.name == "rmse":
        return float(np.sqrt(np.mean((labels - predictions) ** 2)))
    codes = labels.astype(np.int64)
    if undefined(metric, codes, class_count(predictions), least=1):
        return float("nan")
    if metric.name == "roc_auc":
        return _roc_auc(codes, predictions)
    return float(from_confusion(metric.name, confusion(codes, predictions)))


def compute_weighted(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike, weights: ArrayLike) -> float:
    """The metric of rows with weights (n,), not negative; equal to `compute` if the weights are equal. NaN if undefined.

    A metric of the user's own that is no mean of rows is averaged over the groups of rows with the same weight.

    >>> compute_weighted(Metric("rmse"), [1, 2, 9], [0, 2, 4], [1, 1, 0]) == compute(Metric("rmse"), [1, 2], [0, 2])
    True
    """
    labels, predictions = _checked(metric, y_true, y_pred)
    shares = np.asarray(weights, float)
    if not shares.sum() > 0:
        return float("nan")
    rows = row_losses(metric, labels, predictions)
    if rows is not None:
        return float(np.average(rows, weights=shares))
    if metric.rule is not None:
        groups = [shares == weight for weight in np.unique(shares[shares > 0])]
        values = [metric.rule.value(labels[group], predictions[group]) for group in groups]
        return float(np.average(values, weights=[shares[group].sum() for group in groups]))
    if metric.name == "rmse":
        return float(np.sqrt(np.average((labels - predictions) ** 2, weights=shares)))
    codes, classes = labels.astype(np.int64), class_count(predictions)
    if undefined(metric, codes[shares > 0], classes, least=1):
        return float("nan")
    if metric.name == "roc_auc":
        return _roc_auc(codes, predictions, shares)
    classes = max(classes, int(codes.max()) + 1)
    cells = codes * classes + predicted_codes(predictions)
    counts = np.bincount(cells, shares, minlength=classes**2).reshape(classes, classes)
    return float(from_confusion(metric.name, counts))


def class_count(y_pred: ArrayLike) -> int:
    """The number of classes predicted for: 2 for predictions (n,), k for (n, k)."""
    shape = np.shape(y_pred)
    return 2 if len(shape) == 1 else shape[1]


def constant_prediction(metric: Metric, y_true: ArrayLike, classes: int) -> Floats:
    """The best constant prediction for these rows: (n,), or (n, classes) probabilities for more than two classes.

    Regression: median, mean or quantile. Classes: their shares for metrics of probabilities, the most frequent class
    for accuracy, the positive class for F1, and no preference for balanced accuracy and AUC. For a metric of the user's own
    the best of these.
    """
    if metric.rule is not None:
        return _best_constant(metric, y_true, classes)
    labels = np.asarray(y_true, float)
    if metric.name in REGRESSION_METRICS:
        quantile = 0.5 if metric.name == "mae" else metric.quantile
        best = np.mean(labels) if metric.name == "rmse" else np.quantile(labels, quantile)
        return np.full(len(labels), float(best))
    counts = np.bincount(labels.astype(np.int64), minlength=max(2, classes))
    shares = counts / (
        len(labels) + len(counts) - 1
    )  # share of each row's class without that row, with Laplace smoothing: a row must not predict itself
    if metric.name == "accuracy":
        shares = np.eye(len(shares))[shares.argmax()]
    if metric.name == "f1" and len(shares) == 2:
        shares = np.array([0.0, 1.0])
    return np.full(len(labels), shares[1]) if len(shares) == 2 else np.tile(shares, (len(labels), 1))


def _best_constant(metric: Metric, y_true: ArrayLike, classes: int) -> Floats:
    """The constant with the best value: a class, the class shares, or in a regression mean and median."""
    labels = np.asarray(y_true, float)
    if metric.rule is not None and metric.rule.is_regression:
        tried = [np.full(len(labels), float(each)) for each in (labels.mean(), np.median(labels))]
    else:
        tried = [constant_prediction(Metric("log_loss"), labels, classes)]
        for row in np.eye(max(2, classes)):
            tried.append(np.full(len(labels), row[1]) if classes == 2 else np.tile(row, (len(labels), 1)))
    losses = [as_loss(metric, compute(metric, y_true, each)) for each in tried]
    known = [loss if np.isfinite(loss) else np.inf for loss in losses]
    return tried[int(np.argmin(known))]


def row_losses(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike) -> Floats | None:
    """Each row's contribution (n,) to a metric that is a mean of rows, else None: `row_losses(…).mean() == compute(…)`.

    They have the direction of the metric: 1 is a hit for accuracy; for all others lower is better.
    """
    labels, predictions = _checked(metric, y_true, y_pred)
    if metric.rule is not None:
        return metric.rule.rows(labels, predictions) if len(labels) else None
    rule = _ROWS.get(metric.name)
    return None if rule is None else rule(labels, predictions, metric.quantile)


def predicted_codes(y_pred: ArrayLike) -> Codes:
    """Predicted classes from probabilities: P ≥ 0.5 for two classes, the most probable class for more."""
    predictions = np.asarray(y_pred, float)
    return (predictions >= 0.5).astype(np.int64) if predictions.ndim == 1 else predictions.argmax(axis=1)


def confusion(y_true: ArrayLike, y_pred: ArrayLike) -> Codes:
    """Counts (k, k): rows are labels, columns predictions; k is the number of classes predicted for, at least 2."""
    labels, decided = np.asarray(y_true).astype(np.int64), predicted_codes(y_pred)
    classes = max(class_count(y_pred), int(labels.max(initial=0)) + 1)
    return np.bincount(labels * classes + decided, minlength=classes**2).reshape(classes, classes)


def from_confusion(name: str, counts: ArrayLike) -> Floats:
    """Balanced accuracy or F1 from confusion counts of shape (…, k, k), one value per leading index.

    Balanced accuracy is the mean recall over the classes that occur (Brodersen et al. 2010). F1 is that of class 1
    for two classes, else the mean over the classes that occur or were predicted.
    """
    table = np.asarray(counts, float)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    actual, decided = table.sum(-1), table.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "balanced_accuracy":
            return _mean_known(hits / actual)
        f1 = 2 * hits / (actual + decided)
    return f1[..., 1] if table.shape[-1] == 2 else _mean_known(f1)


def _mean_known(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _checked(metric: Metric, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Floats, Floats]:
    """Labels keep the columns that a metric of the user's own reads."""
    name = metric.name
    if metric.rule is None and name not in HIGHER_IS_BETTER:
        raise ValueError(f"metric is {name!r}, expected one of {', '.join(HIGHER_IS_BETTER)}")
    labels, predictions = np.asanyarray(y_true, float), np.asarray(y_pred, float)
    if labels.ndim != 1 or predictions.ndim not in (1, 2) or len(labels) != len(predictions):
        raise ValueError(
            f"{name}: labels have shape {labels.shape} and predictions {predictions.shape}, expected equal lengths"
        )
    if name in CLASS_METRICS and np.isnan(labels).any():
        raise ValueError(
            f"{name}: {int(np.isnan(labels).sum())} of {len(labels)} labels are unknown, expected class codes"
        )
    if predictions.ndim == 2 and name in REGRESSION_METRICS:
        raise ValueError(f"{name}: predictions of shape {predictions.shape}, expected one number per row")
    return labels, predictions


def _hits(y_true: Floats, y_pred: Floats, _: float) -> Floats:
    hits: Floats = (predicted_codes(y_pred) == y_true).astype(float)
    return hits


def _log_losses(y_true: Floats, y_pred: Floats, _: float) -> Floats:
    if y_pred.ndim == 1:
        chosen = np.where(y_true == 1, y_pred, 1 - y_pred)
    else:
        chosen = y_pred[np.arange(len(y_true)), y_true.astype(np.int64)]
    bound = np.finfo(float).eps
    losses: Floats = -np.log(np.clip(chosen, bound, 1 - bound))
    return losses


def _brier(y_true: Floats, y_pred: Floats, _: float) -> Floats:
    """Squared error of P(code 1) for two classes; summed over the classes for more (Brier 1950)."""
    if y_pred.ndim == 1:
        return (y_pred - y_true) ** 2
    actual = np.arange(y_pred.shape[1]) == y_true[:, None]
    squares: Floats = ((y_pred - actual) ** 2).sum(axis=1)
    return squares


def _absolute_errors(y_true: Floats, y_pred: Floats, _: float) -> Floats:
    return np.abs(y_true - y_pred)


def _pinball(y_true: Floats, y_pred: Floats, quantile: float) -> Floats:
    """Pinball loss of Koenker & Bassett (1978): `quantile` per unit below the label, 1 - `quantile` per unit above."""
    gap = y_true - y_pred
    return np.maximum(quantile * gap, (quantile - 1) * gap)


_ROWS: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "accuracy": _hits,
    "log_loss": _log_losses,
    "brier": _brier,
    "mae": _absolute_errors,
    "pinball": _pinball,
}


def _roc_auc(codes: Codes, y_pred: Floats, weights: Floats | None = None) -> float:
    """Two classes: the Mann-Whitney statistic. More: the mean of one-versus-rest AUCs over the classes that occur."""
    if y_pred.ndim == 1:
        return _auc_of(codes == 1, y_pred, weights)
    areas = [_auc_of(codes == code, y_pred[:, code], weights) for code in range(y_pred.shape[1])]
    return float(_mean_known(np.array(areas)))


def _auc_of(positive: NDArray[np.bool_], score: Floats, weights: Floats | None = None) -> float:
    if weights is not None:
        return _weighted_auc(positive, score, weights)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(mid_ranks(score)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _weighted_auc(positive: NDArray[np.bool_], score: Floats, weights: Floats) -> float:
    """The weight of the pairs of a positive and a negative that are in the right order; ties count half."""
    _, where = np.unique(score, return_inverse=True)
    positives, negatives = (np.bincount(where, np.where(side, weights, 0.0)) for side in (positive, ~positive))
    pairs = float(positives.sum() * negatives.sum())
    lower = np.cumsum(negatives) - negatives / 2
    return float(positives @ lower) / pairs if pairs > 0 else float("nan")


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1; ties get the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[where]
    return ranks
